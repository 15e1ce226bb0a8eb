"""Where the compiled programs run."""

import functools
from typing import Any

import jax
from jax.extend.backend import get_default_device


def device() -> jax.Device:
    """Return where a program shall run: on JAX's default device, or, of a CPU, on our own client.

    JAX's own CPU client hands each call of more than a few operations to a thread of its own, and
    waking that takes longer than many a chunk: 0.05 to 0.1 ms. The setting that stops it holds for
    all JAX code of the process, and so is not ours to change; a client of our own, which JAX makes
    in a millisecond, computes in the thread that calls.
    """
    default: jax.Device = get_default_device()
    return default if default.platform != "cpu" else _own_cpu() or default


@functools.cache
def _own_cpu() -> jax.Device | None:
    try:
        from jaxlib.xla_client import make_cpu_client

        client: Any = make_cpu_client(asynchronous=False, num_devices=1)
    except (ImportError, TypeError):  # no public name: a later JAX may know it by another
        return None
    own: jax.Device = client.devices()[0]
    return own
