"""Searches that resume: each fit has its own folder, and a finished one is never done twice."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.array as da
import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from nlsq_sklearn import StreamingCurveFitRegressor
from nlsq_sklearn._engine import programs
from nlsq_sklearn._streams.threads import n_threads
from tests import killed_search

ROOT = Path(__file__).parents[1]


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def decay_data(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n_rows)
    return x[:, np.newaxis], 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, n_rows)


def resumable(directory, model=decay, p0=(1, 1, 1), **options):
    return StreamingCurveFitRegressor(
        model, p0=p0, warm_start=True, checkpoint=directory, **options
    )


def search(directory, cv, **options):
    grid = {"streamingcurvefitregressor__loss": ["linear", "huber"]}
    pipeline = make_pipeline(FunctionTransformer(), resumable(directory))
    return GridSearchCV(pipeline, grid, cv=cv, scoring="neg_mean_squared_error", **options)


def folders(directory):
    return [path.name for path in Path(directory).iterdir()]


@pytest.mark.parametrize("is_dask", [False, True])
def test_a_search_done_again_computes_nothing_again(tmp_path, evaluations, is_dask):
    X, y = decay_data(2000)
    if is_dask:
        X, y = da.from_array(X, chunks=(500, 1)), da.from_array(y, chunks=500)
    first = search(tmp_path, cv=3).fit(X, y)
    assert len(folders(tmp_path)) == 2 * 3 + 1
    evaluations.clear()
    again = search(tmp_path, cv=3).fit(X, y)
    assert evaluations == []
    np.testing.assert_array_equal(
        first.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"]
    )
    fitted, restored = (s.best_estimator_[-1] for s in (first, again))
    assert fitted.popt_.tolist() == restored.popt_.tolist()
    assert fitted.pcov_.tolist() == restored.pcov_.tolist()
    assert fitted.history_ == restored.history_


def test_fifty_folds_have_fifty_folders(tmp_path):
    X, y = decay_data(500)
    search(tmp_path, cv=KFold(50)).fit(X, y)
    assert len(folders(tmp_path)) == 2 * 50 + 1


def test_leave_one_out_never_shares_a_folder(tmp_path):
    X, y = decay_data(40)
    plain = search(None, cv=LeaveOneOut()).fit(X, y).cv_results_["mean_test_score"]
    saved = search(tmp_path, cv=LeaveOneOut()).fit(X, y).cv_results_["mean_test_score"]
    again = search(tmp_path, cv=LeaveOneOut()).fit(X, y).cv_results_["mean_test_score"]
    assert len(folders(tmp_path)) == 2 * 40 + 1
    np.testing.assert_array_equal(plain, saved)
    np.testing.assert_array_equal(plain, again)


def shifted_decay(shift):
    def model(x, a, b, c):
        return a * jnp.exp(-b * (x - shift)) + c

    return model


@pytest.mark.parametrize(
    "change",
    [
        {"model": shifted_decay(np.nextafter(0.5, 1))},
        {"p0": (1, 1, 2)},
        {"loss": "cauchy"},
        {"f_scale": 2.0, "loss": "huber"},
        {"bounds": (0, 10)},
        {"chunk_size": 100},
        {"ftol": 1e-9},
        {"gtol": 1e-9},
        {"xtol": 1e-9},
        {"n_starts": 2, "bounds": (0, 10)},
        {"n_starts": 2, "bounds": (0, 10), "random_state": 0},
    ],
    ids=str,
)
def test_what_changes_the_answer_changes_the_folder(tmp_path, change):
    X, y = decay_data(500)
    resumable(tmp_path, shifted_decay(0.5)).fit(X, y)
    resumable(tmp_path, **{"model": shifted_decay(0.5), **change}).fit(X, y)
    assert len(folders(tmp_path)) == 2


@pytest.mark.parametrize("part", ["X", "y", "weight", "order"])
def test_one_changed_number_in_the_data_changes_the_folder(tmp_path, part):
    X, y = decay_data(500)
    data = {"X": X, "y": y, "weight": np.ones(500)}
    resumable(tmp_path).fit(data["X"], data["y"], data["weight"])
    if part == "order":
        data["X"], data["y"] = X[::-1], y[::-1]
    else:
        data[part] = data[part].copy()
        data[part][317] = np.nextafter(data[part][317], 9)
    resumable(tmp_path).fit(data["X"], data["y"], data["weight"])
    assert len(folders(tmp_path)) == 2


def test_a_memory_map_is_known_by_its_file_and_the_time_of_it(tmp_path):
    X, y = decay_data(500)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y)

    def mapped(rows=slice(None)):
        return (np.load(tmp_path / f"{name}.npy", mmap_mode="r")[rows] for name in "Xy")

    resumable(tmp_path / "ckpt").fit(*mapped())
    resumable(tmp_path / "ckpt").fit(*mapped())
    assert len(folders(tmp_path / "ckpt")) == 1
    resumable(tmp_path / "ckpt").fit(*mapped(slice(1, None)))
    resumable(tmp_path / "ckpt").fit(*mapped(slice(0, -1)))
    assert len(folders(tmp_path / "ckpt")) == 3
    os.utime(tmp_path / "X.npy", ns=(1, 1))
    resumable(tmp_path / "ckpt").fit(*mapped())
    assert len(folders(tmp_path / "ckpt")) == 4


def test_an_equal_model_made_again_finds_its_folder(tmp_path, evaluations):
    X, y = decay_data(500)
    resumable(tmp_path, shifted_decay(0.5)).fit(X, y)
    evaluations.clear()
    resumable(tmp_path, shifted_decay(0.5)).fit(X, y)
    assert evaluations == []


def test_without_warm_start_a_fit_is_done_anew(tmp_path, evaluations):
    X, y = decay_data(500)
    resumable(tmp_path).fit(X, y)
    evaluations.clear()
    resumable(tmp_path).set_params(warm_start=False).fit(X, y)
    assert evaluations


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_jobs_side_by_side_give_the_scores_of_one(tmp_path, backend):
    X, y = decay_data(2000)
    one = search(None, cv=4).fit(X, y)
    with joblib.parallel_config(backend=backend):
        two = search(tmp_path, cv=4, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"]
    )


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_jobs_side_by_side_share_the_cores(backend):
    with joblib.parallel_config(backend=backend):
        threads = joblib.Parallel(n_jobs=2)(joblib.delayed(n_threads)() for _ in range(4))
    assert 2 * max(threads) <= max(2, joblib.cpu_count())


def test_two_searches_at_once_in_one_directory_do_no_harm(tmp_path):
    alone = start_search(tmp_path / "alone")
    alone.communicate()
    expected = pickle.loads((tmp_path / "alone" / "result.pickle").read_bytes())
    both = [start_search(tmp_path / "together") for _ in range(2)]
    for child in both:
        child.communicate()
    assert [child.returncode for child in both] == [0, 0]
    result = pickle.loads((tmp_path / "together" / "result.pickle").read_bytes())
    np.testing.assert_array_equal(result["scores"], expected["scores"])
    assert result["popt"] == expected["popt"]


def test_a_search_of_one_model_compiles_once_for_fits_and_once_for_predictions():
    def model(x, a, b, c):
        return a * jnp.exp(-b * x) + c * 1.125

    X, y = decay_data(3000)
    grid = {"f_scale": np.linspace(0.1, 1, 5), "p0": [[1, 1, 1], [2, 1, 0]]}
    before = programs.n_compilations()
    GridSearchCV(StreamingCurveFitRegressor(model, loss="huber"), grid, cv=5).fit(X, y)
    # 2400 rows are padded to 4096 as 3000 are; scoring looks at 600 and so at 1024.
    assert programs.n_compilations() - before == 2


def start_search(directory):
    command = [sys.executable, "-m", "tests.killed_search", str(directory)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_search_killed_ten_times_ends_like_one_never_killed(tmp_path):
    child = start_search(tmp_path / "undisturbed")
    assert child.stdout.readline() == "ready\n"
    started_at = time.monotonic()
    child.communicate()
    seconds = time.monotonic() - started_at
    expected = pickle.loads((tmp_path / "undisturbed" / "result.pickle").read_bytes())

    rng = np.random.default_rng(0)
    n_kills = n_searches = 0
    while n_kills < 10:
        directory = tmp_path / f"killed {n_searches}"
        n_kills_before = n_kills
        while not (directory / "result.pickle").exists():
            child = start_search(directory)
            assert child.stdout.readline() == "ready\n"
            if n_kills < 10:
                time.sleep(rng.uniform(0.02, 0.1) * seconds)
                n_kills += child.poll() is None
                os.kill(child.pid, signal.SIGKILL)
            child.communicate()
        assert_done_once(directory, expected, n_kills - n_kills_before)
        n_searches += 1


def assert_done_once(directory, expected, n_kills):
    """Check the result of a search that was killed, and that no finished fit began again."""
    result = pickle.loads((directory / "result.pickle").read_bytes())
    np.testing.assert_array_equal(result["scores"], expected["scores"])
    assert result["best"] == expected["best"]
    assert result["popt"] == expected["popt"]
    seen, finished = set(), set()
    for line in (directory / "log").read_text().splitlines():
        entry = json.loads(line)
        seen.add(entry["fit"])
        if entry["event"] == "finished":
            finished.add(entry["fit"])
        else:
            assert entry["fit"] not in finished
    # A kill may come when a fit has been saved, and before that was noted here.
    assert len(seen) == killed_search.N_FITS
    assert len(finished) >= killed_search.N_FITS - n_kills
