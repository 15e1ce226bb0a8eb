"""Where the compiled programs run."""

import contextlib
import functools
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.extend.backend import get_default_device

Made = TypeVar("Made")

_lock = threading.RLock()


def _once(function: Callable[[], Made]) -> Callable[[], Made]:
    """Have what a function returns made once, whichever threads ask for it."""
    cached = functools.cache(function)

    @functools.wraps(function)
    def locked() -> Made:
        with _lock:
            return cached()

    locked.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    return locked


def device() -> jax.Device:
    """Return where a program shall run: on JAX's default device, or, of a CPU, on our own client.

    JAX's own CPU client hands each call of more than a few operations to a thread of its own, and
    waking that takes longer than many a chunk: 0.05 to 0.1 ms; and it divides large operations
    among as many threads as there are cores, which are busy with other chunks. The setting that
    stops the former holds for all JAX code of the process, and so is not ours to change; a
    client of our own, which JAX makes in a millisecond, computes in the thread that calls.
    """
    default: jax.Device = get_default_device()
    return default if default.platform != "cpu" else _own_cpu() or default


def known_device() -> jax.Device | None:
    """Return where a program shall run, None as long as JAX has not looked for accelerators."""
    return device() if _search.is_done() else None


def compile_for_device(lower: Callable[[jax.Device], jax.stages.Lowered]) -> Any:
    """Return a program compiled for where it shall run.

    JAX looks for accelerators the first time: through all installed packages, which takes 20 ms of
    Python, and wakes a GPU, which takes seconds. It does so while the program is compiled, which
    takes none of Python's time, for a CPU: most computers have no other. Where there is one, the
    first program is compiled again.
    """
    place = known_device() or _own_cpu() or device()
    with jax.default_device(place), _without_collections():
        lowered = lower(place)
        search = _search.begin()
        program = lowered.compile()
    search.join()
    if device() == place:
        return program
    with jax.default_device(device()), _without_collections():
        return lower(device()).compile()


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Keep Python from looking for garbage: a trace makes many objects, and hardly any cycles.

    For all threads of the process; programs are compiled one at a time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Search:
    """The thread in which JAX finds its devices, begun once a process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Have it begun again."""
        self._thread: threading.Thread | None = None

    def begin(self) -> threading.Thread:
        """Return the thread."""
        with _lock:
            if self._thread is None:
                _own_cpu()  # before JAX makes its own client, which must not see its environment
                thread = threading.Thread(target=self._find, name="nlsq_sklearn-devices")
                thread.start()
                self._thread = thread
            return self._thread

    def is_done(self) -> bool:
        """Return whether it has ended."""
        return self._thread is not None and not self._thread.is_alive()

    @staticmethod
    def _find() -> None:
        with contextlib.suppress(Exception):  # `device` meets the same error, and raises it
            jax.devices()


_search = _Search()


@_once
def _own_cpu() -> jax.Device | None:
    try:
        from jaxlib.xla_client import make_cpu_client
    except ImportError:  # no public name: a later JAX may know it by another
        return None
    try:
        with _one_thread():
            client: Any = make_cpu_client(asynchronous=False, num_devices=1)
    except TypeError:  # a later JAX may name these otherwise
        return None
    own: jax.Device = client.devices()[0]
    return own


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let a client that is made here have one thread; the environment alone says how many."""
    name = "PJRT_NPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
