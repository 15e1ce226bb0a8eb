"""Where the compiled programs run."""

import functools
from typing import Any

import jax
from jax.extend.backend import get_default_device


@functools.cache
def device() -> jax.Device:
    """Return the device of all programs: JAX's default, or, of a CPU, one that does not hand over.

    JAX's own CPU device hands each call of more than a few operations to a thread of its own, and
    waking that takes longer than many a chunk: 0.05 to 0.1 ms. The setting that stops it holds for
    all JAX code of the process, and so is not ours to change; a client of our own, which JAX makes
    in a millisecond, computes in the thread that calls.
    """
    default: jax.Device = get_default_device()
    if default.platform != "cpu":
        return default
    try:
        from jaxlib.xla_client import make_cpu_client

        client: Any = make_cpu_client(asynchronous=False, num_devices=1)
    except (ImportError, TypeError):  # no public name: a later JAX may know it by another
        return default
    own: jax.Device = client.devices()[0]
    return own
