"""The search that is killed: 2 models x 2 losses x 5 folds over a Dask array."""

import json
import os
import pickle
import sys
from pathlib import Path

import dask.array as da
import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from nlsq_sklearn import JSONCheckpoint, StreamingCurveFitRegressor, _resume

N_FITS = 2 * 2 * 5 + 1


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def biexponential(x, a, b, c, d):
    return a * jnp.exp(-b * x) + c * jnp.exp(-d * x)


def log(directory, **entry):
    """Append a line, whole even if the process is killed right behind it."""
    with open(directory / "log", "ab", buffering=0) as file:
        file.write((json.dumps(entry) + "\n").encode())


def main(directory):
    directory.mkdir(parents=True, exist_ok=True)
    original = _resume.run

    def run(problem, stream, observers, state):
        fit = stream.token() + problem.objective.model.fingerprint + problem.objective.loss
        log(directory, event="started", fit=fit)
        return original(problem, stream, observers, state)

    finish = _resume.Keeper.finish

    def logged_finish(keeper, state):
        finish(keeper, state)
        identity = keeper._identity
        fit = identity["data"]["content"] + identity["model"]["structure"]
        log(directory, event="finished", fit=fit + identity["settings"]["loss"])

    _resume.run = run
    _resume.Keeper.finish = logged_finish

    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, 60_000)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, x.size)
    X = da.from_array(x[:, np.newaxis], chunks=(6000, 1))
    y = da.from_array(y, chunks=6000)
    estimator = StreamingCurveFitRegressor(
        warm_start=True, checkpoint=JSONCheckpoint(directory / "ckpt", interval=0)
    )
    grid = [
        {
            "streamingcurvefitregressor__model": [model],
            "streamingcurvefitregressor__p0": [p0],
            "streamingcurvefitregressor__loss": ["linear", "huber"],
        }
        for model, p0 in ((decay, (2, 0.5, 0.3)), (biexponential, (2, 1, 0.5, 0.1)))
    ]
    search = GridSearchCV(make_pipeline(FunctionTransformer(), estimator), grid, cv=5)
    print("ready", flush=True)
    search.fit(X, y)
    best = search.best_params_
    result = {
        "scores": search.cv_results_["mean_test_score"],
        "best": {k: getattr(v, "__name__", v) for k, v in best.items()},
        "popt": search.best_estimator_[-1].popt_.tolist(),
    }
    temporary = directory / f"temporary-{os.getpid()}"
    temporary.write_bytes(pickle.dumps(result))
    temporary.replace(directory / "result.pickle")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
