"""Kill a grid search, run it again, and see it do only what was not done.

Run it as ``python examples/resumable_grid_search.py``. The search runs in a child process, which
is killed by SIGKILL after some of its fits.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from nlsq_sklearn import StreamingCurveFitRegressor


def decay(x, a, b, c):
    """Exponential decay."""
    return a * jnp.exp(-b * x) + c


def gompertz(x, a, b, c):
    """Gompertz curve."""
    return a * jnp.exp(-b * jnp.exp(-c * x))


def search(directory, n_rows):
    """Search for the better of two models under two losses."""
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 5, (n_rows, 1))
    y = 2.5 * np.exp(-1.3 * X[:, 0]) + 0.5 + rng.normal(0, 0.05, n_rows)
    regressor = StreamingCurveFitRegressor(warm_start=True, checkpoint=directory)
    grid = {
        "streamingcurvefitregressor__model": [decay, gompertz],
        "streamingcurvefitregressor__loss": ["linear", "huber"],
    }
    started_at = time.perf_counter()
    fitted = GridSearchCV(make_pipeline(FunctionTransformer(), regressor), grid, cv=5).fit(X, y)
    best = fitted.best_params_["streamingcurvefitregressor__model"].__name__
    seconds = time.perf_counter() - started_at
    print(f"best: {best}, R2 {fitted.best_score_:.4f}, {seconds:.1f} s", flush=True)


def main(n_rows):
    """Start the search, kill it, start it again twice."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, "--rows", str(n_rows), "--directory", directory]
        print("1. A search that is killed after about eight of its 21 fits")
        child = subprocess.Popen(command)
        while child.poll() is None and len(list(Path(directory).iterdir())) < 9:
            time.sleep(0.01)
        child.kill()
        child.wait()
        print(f"   killed; {len(list(Path(directory).iterdir()))} fits have a folder")
        print("2. The same search again")
        subprocess.run(command, check=True)
        print("3. And again, with all fits done")
        subprocess.run(command, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--directory", help="used by the child processes")
    arguments = parser.parse_args()
    if arguments.directory:
        search(arguments.directory, arguments.rows)
    else:
        main(arguments.rows)
