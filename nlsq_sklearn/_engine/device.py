"""Where the compiled programs run."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.backend import get_default_device

_environment = threading.Lock()


def device() -> jax.Device:
    """Return where a program shall run: on JAX's default device, or, of a CPU, on our own client.

    JAX's own CPU client hands each call of more than a few operations to a thread of its own, and
    waking that takes longer than many a chunk: 0.05 to 0.1 ms; what is left for it to do, it
    divides among as many threads as there are cores, which are busy with other chunks. The setting
    that stops the former holds for all JAX code of the process, and so is not ours to change; a
    client of our own, which JAX makes in a millisecond, computes in the thread that calls.
    """
    default: jax.Device = get_default_device()
    return default if default.platform != "cpu" else _own_cpu() or default


@functools.cache
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
    with _environment:
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
