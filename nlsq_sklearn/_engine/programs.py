"""The compiled programs of this process: each compiled once for its key, and run in float64."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .device import compile_for_device
from .one_function import as_one_function

_logger = logging.getLogger("nlsq_sklearn")

_MOST_PROGRAMS = 128


class ProgramKey(NamedTuple):
    """All that a compiled program depends on; models count by structure, not by identity."""

    fingerprint: str
    n_params: int
    purpose: str
    x_shape: tuple[int, ...]
    has_sigma: bool = False
    has_weight: bool = False
    n_points: int | None = None
    any_angle: bool = False


class _ProgramCache:
    """The compiled programs in use, least recently used first."""

    def __init__(self) -> None:
        self._programs: OrderedDict[ProgramKey, Any] = OrderedDict()
        self._lock = threading.Lock()
        self.n_compilations = 0

    def get(self, key: ProgramKey, compile_program: Callable[[], Any]) -> Any:
        # The lock is held while compiling: two threads in need of one program compile it once.
        with self._lock:
            program = self._programs.get(key)
            if program is None:
                program = compile_program()
                self.n_compilations += 1
                self._programs[key] = program
                if len(self._programs) > _MOST_PROGRAMS:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(key)
            return program


_cache = _ProgramCache()


def n_compilations() -> int:
    """Return how many programs this process has compiled."""
    return _cache.n_compilations


def run_program(
    key: ProgramKey,
    build: Callable[[], Callable[..., Any]],
    arguments: tuple[Any, ...],
    *,
    is_one_function: bool = False,
) -> np.ndarray:
    """Run a function of arrays in float64, compiled once for each key.

    Parameters
    ----------
    is_one_function : bool
        Whether it is compiled for a CPU as `one_function` does it.
    """
    with jax.enable_x64(True):
        program = _cache.get(key, lambda: _compiled(build, arguments, is_one_function))
        return np.asarray(program(*arguments))


def _compiled(
    build: Callable[[], Callable[..., Any]], arguments: tuple[Any, ...], is_one_function: bool
) -> Any:
    """Return the program, as one function where it shall and can be."""

    def lower(device: jax.Device) -> jax.stages.Lowered:
        return jax.jit(build()).lower(*map(_abstract, arguments))

    def lower_one_function(device: jax.Device) -> jax.stages.Lowered:
        if device.platform != "cpu":
            return lower(device)
        return jax.jit(as_one_function(build())).lower(*map(_abstract, arguments))

    if is_one_function:
        try:
            return compile_for_device(lower_one_function)
        except jax.errors.JaxRuntimeError as error:  # something that XLA can't do there
            _logger.debug("a program is compiled in pieces: %s", error)
    return compile_for_device(lower)


def _abstract(array: Any) -> Any:
    if array is None:
        return None
    return jax.ShapeDtypeStruct(np.shape(array), np.dtype(array.dtype))
