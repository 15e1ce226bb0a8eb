"""What `tests.fork_server` does in forks that are killed: a fit, and a save."""

import os
import signal
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, JSONCheckpoint
from tests.fork_server import bits

N_ROWS, CHUNK_ROWS = 400_000, 8192
N_CHUNKS = 49


def model(x, a, b, c, d):
    return a * jnp.exp(-b * x) * jnp.sin(c * x) + d


def fit(directory):
    """Fit as the page of the specification does: resume where there is something to resume."""
    x = np.linspace(0, 100, N_ROWS)
    y = 2 * np.exp(-0.02 * x) * np.sin(0.5 * x) + 1
    y += np.random.default_rng(42).normal(0, 0.1, N_ROWS)
    optimizer = AdaptiveHybridStreamingOptimizer(
        model,
        checkpoint_dir=directory,
        checkpoint_interval=0,
        checkpoint_compression=True,
        chunk_size=CHUNK_ROWS,
    )
    resume = directory is not None and (Path(directory) / "checkpoint_latest.json").exists()
    result = optimizer.fit(x, y, p0=[1.5, 0.03, 0.45, 0.5], resume=resume)
    return {
        "bits": bits(result.popt, result.pcov, result.cost),
        "history": result.history,
        "success": result.success,
    }


def save(directory, iteration, n_calls):
    """Save a checkpoint, and die before the call of this number that may touch a file.

    These are all calls of functions and methods written in C, less those that only compute.
    """
    calls = iter(range(1, n_calls))

    def count(frame, event, function):
        if event != "c_call":
            return
        home = getattr(function, "__module__", None) or type(function.__self__).__module__
        if home in {"posix", "io", "_io"} and next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint = JSONCheckpoint(directory, max_checkpoints=2, compression=True)
    sys.setprofile(count)
    checkpoint.save({"iteration": iteration, "params": [iteration / 3] * 2000})
    sys.setprofile(None)
    return n_calls
