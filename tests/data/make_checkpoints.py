"""Make one checkpoint of each kind, to keep: ``python -m tests.data.make_checkpoints DIRECTORY``.

It is run once for each schema, with the version that first writes files of it. They stay as they
are: later versions must load or upgrade them.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)

P0 = (1.0, 1.0, 1.0)


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def data():
    """Return the data: no random numbers, whose bits might change with NumPy's version."""
    x = np.arange(1000) / 200
    return x, 2.5 * np.exp(-1.3 * x) + 0.5 + 0.05 * np.sin(1234.5 * np.arange(1000))


def optimizer(directory):
    return AdaptiveHybridStreamingOptimizer(
        decay,
        checkpoint_dir=directory,
        checkpoint_interval=0,
        max_checkpoints=1000,
        chunk_size=100,
    )


def regressor(directory=None):
    checkpoint = None if directory is None else JSONCheckpoint(directory, interval=0)
    return StreamingCurveFitRegressor(decay, p0=P0, checkpoint=checkpoint)


def main(target):
    x, y = data()
    with tempfile.TemporaryDirectory() as directory:
        optimizer(directory).fit(x, y, P0)
        checkpoint = JSONCheckpoint(directory)
        shutil.copy(Path(directory) / "checkpoint_latest.json", target / "finished.json")
        mid_pass = next(
            path
            for path in sorted(Path(directory).glob("checkpoint_2*"))
            if '"chunk": [4, 10]' in path.read_text() and '"step": {' in path.read_text()
        )
        shutil.copy(mid_pass, target / "mid_pass.json")
        assert checkpoint.load()["phase"] == "finished"
    with tempfile.TemporaryDirectory() as directory:
        stream = regressor(directory)
        for start in range(0, 500, 50):
            stream.partial_fit(x[start : start + 50, np.newaxis], y[start : start + 50])
        shutil.copy(Path(directory) / "checkpoint_latest.json", target / "partial_fit.json")
    with tempfile.TemporaryDirectory() as directory:
        regressor(directory).partial_fit(x[:50, np.newaxis], y[:50])
        shutil.copy(
            Path(directory) / "checkpoint_latest.json", target / "partial_fit_few_rows.json"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
