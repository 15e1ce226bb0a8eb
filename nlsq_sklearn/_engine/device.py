"""Where the compiled programs run."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax.extend.backend import get_default_device

Made = TypeVar("Made")
Program = TypeVar("Program")

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
    """Return where a program shall run, None as long as JAX still looks for accelerators.

    The first time, it begins to. It looks through all installed packages, which takes 20 ms, and
    wakes a GPU, which takes seconds.
    """
    return None if _search().is_alive() else device()


def compile_for_device(compile_program: Callable[[], Program]) -> Program:
    """Return a program compiled for where it shall run.

    While JAX looks for accelerators, it is compiled for a CPU: most computers have no other.
    """
    place = known_device() or _own_cpu() or device()
    with jax.default_device(place):
        program = compile_program()
    _search().join()
    if device() == place:
        return program
    with jax.default_device(device()):
        return compile_program()


@_once
def _search() -> threading.Thread:
    """Return the thread in which JAX finds its devices, begun once a process."""
    _own_cpu()  # before JAX makes its own client, which shall not see the environment of ours

    def find() -> None:
        with contextlib.suppress(Exception):  # `device` meets the same error, and raises it
            jax.devices()

    thread = threading.Thread(target=find, name="nlsq_sklearn-devices")
    thread.start()
    return thread


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
