"""A process that fits beside others in one directory: ``python -m tests.concurrent_fits``."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from tests.fork_server import bits

N_ROWS = 8000


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def data(seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, N_ROWS)
    return x, 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, N_ROWS)


def fit_regressor(directory, seed):
    """Fit in the folder that belongs to the fit, resuming what another process may have left."""
    x, y = data(seed)
    checkpoint = None
    if directory is not None:
        checkpoint = JSONCheckpoint(
            directory, interval=0, max_checkpoints=2, compression=bool(seed % 2)
        )
    regressor = StreamingCurveFitRegressor(
        decay, p0=[1, 1, 1], chunk_size=500, warm_start=True, checkpoint=checkpoint
    )
    regressor.fit(x[:, np.newaxis], y)
    return bits(regressor.popt_, regressor.pcov_, regressor.cost_)


def fit_optimizer(directory, seed):
    """Fit in the directory itself, which other fits use too."""
    optimizer = AdaptiveHybridStreamingOptimizer(
        decay,
        checkpoint_dir=directory,
        checkpoint_interval=0,
        max_checkpoints=3,
        checkpoint_compression=bool(seed % 2),
        chunk_size=500,
    )
    result = optimizer.fit(*data(seed), [1, 1, 1])
    return bits(result.popt, result.pcov, result.cost)


FITS = {"regressor": fit_regressor, "optimizer": fit_optimizer}


def fit_all(kind, directory, seeds):
    """Return the bits of fits in as many threads as there are seeds."""
    with ThreadPoolExecutor(len(seeds)) as pool:
        return list(pool.map(lambda seed: FITS[kind](directory, seed), seeds))


if __name__ == "__main__":
    kind, directory, *seeds = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(fit_all(kind, directory, [int(seed) for seed in seeds])))
