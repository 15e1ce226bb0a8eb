"""The fits that are killed. Each runs in a fork, resumes what it finds, and answers its bits."""

import os
from pathlib import Path

import dask.array as da
import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import GridSearchCV

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
    _resume,
)
from tests.chaos.injection import arm
from tests.fork_server import bits, note

P0 = (2, 0.5, 1)
LATEST = "checkpoint_latest.json"
KINDS = ("optimizer", "dask", "search", "stream")


def model(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def _data(n_rows):
    rng = np.random.default_rng(42)
    x = rng.uniform(0, 5, n_rows)
    return x, 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, n_rows)


def _dask_data(n_rows, n_chunks):
    x, y = _data(n_rows)
    size = n_rows // n_chunks
    return da.from_array(x[:, np.newaxis], chunks=(size, 1)), da.from_array(y, chunks=size)


def run(kind, directory, settings, injection=None):
    """Fit, with a checkpoint where there is a directory; return the bits of the answer.

    Parameters
    ----------
    settings : dict
        Interval, compression and number of files of the checkpoint.
    injection : dict or None
        Where to be killed; see `tests.chaos.injection.arm`.

    Returns
    -------
    dict
        The bits, and the number of calls at which a kill could have been injected.
    """
    checkpoint = None if directory is None else JSONCheckpoint(directory, **settings)
    _note_progress()
    counts = arm(directory, **(injection or {}))
    fit = {"optimizer": _optimizer, "dask": _dask, "search": _search, "stream": _stream}[kind]
    return {"bits": fit(directory, settings, checkpoint), "counts": counts}


def _note_progress():
    """Note the place of a fit that a save on its way out must not fall behind."""
    on_chunk = _resume.Keeper.on_chunk
    store_batch = StreamingCurveFitRegressor._store_batch

    def noted_on_chunk(keeper, state):
        on_chunk(keeper, state)
        folder = Path(keeper._saver._checkpoint.directory).name
        note([folder, state.n_passes, state.next_chunk])

    def noted_store_batch(regressor, state, fitted, problem):
        store_batch(regressor, state, fitted, problem)
        if regressor.checkpoint is not None:
            note([Path(regressor.checkpoint.directory).name, state.n_batches, 0])

    _resume.Keeper.on_chunk = noted_on_chunk
    StreamingCurveFitRegressor._store_batch = noted_store_batch


def _optimizer(directory, settings, checkpoint):
    x, y = _data(40_000)
    options = {}
    if checkpoint is not None:
        options = {
            "checkpoint_dir": directory,
            "checkpoint_interval": settings["interval"],
            "checkpoint_compression": settings["compression"],
            "max_checkpoints": settings["max_checkpoints"],
        }
    resume = directory is not None and _has_checkpoint(directory)
    optimizer = AdaptiveHybridStreamingOptimizer(model, chunk_size=2048, **options)
    result = optimizer.fit(x, y, P0, resume=resume)
    return bits(result.popt, result.pcov, result.cost, result.n_passes)


def _dask(directory, settings, checkpoint):
    X, y = _dask_data(32_000, 10)
    regressor = StreamingCurveFitRegressor(model, p0=P0, warm_start=True, checkpoint=checkpoint)
    return _bits(regressor.fit(X, y))


def _search(directory, settings, checkpoint):
    X, y = _dask_data(6_000, 4)
    regressor = StreamingCurveFitRegressor(model, p0=P0, warm_start=True, checkpoint=checkpoint)
    search = GridSearchCV(regressor, {"loss": ["linear", "huber"]}, cv=2).fit(X, y)
    scores = [search.cv_results_[f"split{i}_test_score"] for i in range(2)]
    return [*bits(*scores), search.best_params_["loss"], *_bits(search.best_estimator_)]


def _stream(directory, settings, checkpoint):
    X, y = _dask_data(16_000, 16)
    regressor = StreamingCurveFitRegressor(model, p0=P0, checkpoint=checkpoint)
    if directory is not None and _has_checkpoint(directory):
        regressor.load_checkpoint(directory)
    seen = getattr(regressor, "n_samples_seen_", 0)
    if seen < len(y):
        regressor.partial_fit(X[seen:], y[seen:])
    # A stream has no end that would be saved: what is asked is the state after its last batch.
    return bits(regressor.popt_, regressor.pcov_, regressor.cost_, regressor.n_batches_seen_)


def _has_checkpoint(directory):
    return Path(directory).is_dir() and any(not n.startswith(".") for n in os.listdir(directory))


def _bits(regressor):
    return bits(regressor.popt_, regressor.pcov_, regressor.cost_, regressor.n_passes_)
