"""Fits and searches that note what they are at, and take their time."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import dask.array as da
import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import GridSearchCV

from nlsq_sklearn import JSONCheckpoint, StreamingCurveFitRegressor

N_ROWS, N_CHUNKS = 8000, 20
SENT = "sent"
GRID = {"loss": ["linear", "huber"]}


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def note(what):
    """Note that this process does something, and take some time, until the signal was sent."""
    notes = os.environ.get("TESTS_NOTES")
    if notes is not None and not (Path(notes) / SENT).exists():
        with open(Path(notes) / str(os.getpid()), "ab") as file:
            file.write(b".")
        time.sleep(0.03)
    return what


def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, N_ROWS)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, N_ROWS)
    X = da.from_array(x[:, np.newaxis], chunks=(N_ROWS // N_CHUNKS, 1))
    y = da.from_array(y, chunks=N_ROWS // N_CHUNKS)
    return X, y.map_blocks(note, dtype=float, meta=np.empty(0))


def regressor(directory, interval=np.inf):
    """Return an estimator whose checkpoint holds, by the interval, nothing but its start."""
    checkpoint = None
    if directory is not None:
        checkpoint = JSONCheckpoint(directory, interval=interval, on_save=note)
    return StreamingCurveFitRegressor(
        decay,
        p0=(2, 0.5, 1),
        chunk_size=N_ROWS // N_CHUNKS,
        warm_start=True,
        checkpoint=checkpoint,
    )


def search(directory, n_jobs, interval=np.inf):
    return GridSearchCV(
        regressor(directory, interval), GRID, cv=2, n_jobs=n_jobs, error_score="raise"
    )


def fit_rows(directory):
    """Fit an array, saving each chunk; return the answer, and how often it was resumed."""
    x = np.linspace(0, 5, N_ROWS)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + 0.05 * np.sin(1e4 * x)
    estimator = regressor(directory, interval=0)
    resumed = []
    if directory is not None:
        estimator.checkpoint = replace(estimator.checkpoint, on_resume=resumed.append)
    estimator.fit(x[:, np.newaxis], y)
    return [*estimator.popt_.tolist(), *estimator.pcov_.ravel().tolist()], len(resumed)


def main():
    """Search with two jobs, in a process of its own."""
    search(sys.argv[1], n_jobs=2).fit(*data())
