"""Dask arrays: the same fit, chunk by chunk, on whatever scheduler is active."""

import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, StreamingCurveFitRegressor

N_ROWS = 100_000
START = [1.0, 1.0, 1.0]


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, N_ROWS)
    return x[:, np.newaxis], 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, N_ROWS)


def lazy(data, chunk=7000):
    return da.from_array(data[0], chunks=(chunk, 1)), da.from_array(data[1], chunks=chunk)


def regressor(**options):
    # Samples of the same rows differ by the layout; at tight tolerances the answers don't.
    tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
    return StreamingCurveFitRegressor(decay, p0=START, **tight, **options)


def test_a_dask_array_gives_the_answer_of_the_array(data):
    fitted = regressor().fit(*lazy(data))
    reference = regressor().fit(*data)
    np.testing.assert_allclose(fitted.popt_, reference.popt_, rtol=1e-10)
    np.testing.assert_allclose(fitted.pcov_, reference.pcov_, rtol=1e-8)
    assert fitted.n_samples_seen_ == N_ROWS


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_all_schedulers_give_the_same_bits(data, scheduler):
    X, y = lazy(data)
    reference = regressor().fit(X, y).popt_.tolist()
    with dask.config.set(scheduler=scheduler):
        assert regressor().fit(X, y).popt_.tolist() == reference


def test_some_columns_of_several_parquet_files_are_taken(data, tmp_path):
    table = pd.DataFrame({"x": data[0][:, 0], "y": data[1], "other": 0.0})
    for number, rows in enumerate(np.array_split(np.arange(len(table)), 5)):
        table.iloc[rows].to_parquet(tmp_path / f"{number}.parquet")
    frame = dd.read_parquet(tmp_path)
    fitted = regressor().fit(frame[["x"]], frame["y"])
    np.testing.assert_allclose(fitted.popt_, regressor().fit(*data).popt_, rtol=1e-12)
    assert fitted.n_samples_seen_ == len(table)


def test_frames_and_series_are_taken(data):
    frame = dd.from_pandas(pd.DataFrame({"x": data[0][:, 0], "y": data[1]}), npartitions=5)
    fitted = regressor().fit(frame[["x"]], frame["y"])
    np.testing.assert_allclose(fitted.popt_, regressor().fit(*data).popt_, rtol=1e-10)
    assert list(fitted.feature_names_in_) == ["x"]


def test_targets_and_weights_are_cut_as_the_predictors_are(data):
    X, y = lazy(data)
    weight = np.random.default_rng(1).uniform(0, 2, N_ROWS)
    fitted = regressor().fit(X, y.rechunk(9999), sample_weight=weight)
    reference = regressor().fit(*data, sample_weight=weight)
    np.testing.assert_allclose(fitted.popt_, reference.popt_, rtol=1e-10)


def test_several_features_in_one_or_several_column_blocks():
    def product(xt, a, b):
        x, t = xt
        return a * x * jnp.exp(-b * t)

    rng = np.random.default_rng(1)
    X = rng.uniform(0, 2, (10_000, 2))
    y = 3 * X[:, 0] * np.exp(-0.5 * X[:, 1]) + rng.normal(0, 0.01, 10_000)
    popt = [
        StreamingCurveFitRegressor(product)
        .fit(da.from_array(X, chunks=chunks), da.from_array(y, chunks=2000))
        .popt_.tolist()
        for chunks in ((2000, 2), (2000, 1))
    ]
    assert popt[0] == popt[1]


def test_float32_is_computed_in_float64(data):
    X, y = (a.astype(np.float32) for a in data)
    fitted = regressor().fit(*lazy((X, y)))
    reference = regressor().fit(X.astype(float), y.astype(float))
    np.testing.assert_allclose(fitted.popt_, reference.popt_, rtol=1e-10)


def test_chunks_without_rows_are_no_hindrance(data):
    X, y = lazy(data, 20_000)
    chunks = (0, 30_000, 0, 0, 70_000, 0)
    fitted = regressor().fit(X.rechunk((chunks, 1)), y.rechunk((chunks,)))
    np.testing.assert_allclose(fitted.popt_, regressor().fit(*data).popt_, rtol=1e-10)


def test_unknown_chunk_sizes_are_told_how_to_be_mended(data):
    X, y = lazy(data)
    unknown = X[y > 0]
    with pytest.raises(ValueError, match=r"X.compute_chunk_sizes\(\)"):
        regressor().fit(unknown, y[y > 0])


def test_wrong_lengths_are_named(data):
    X, y = lazy(data)
    with pytest.raises(ValueError, match=r"y has the shape \(99999,\), expected \(100000,\)"):
        regressor().fit(X, y[:-1])


@pytest.mark.parametrize("row", [0, 54_321])
def test_the_first_bad_row_is_named(data, row):
    X, y = data[0], data[1].copy()
    y[row:] = np.nan
    with pytest.raises(ValueError, match=f"y is nan in row {row}"):
        regressor().fit(*lazy((X, y)))


def test_predictions_are_lazy_and_right(data):
    X, y = lazy(data)
    fitted = regressor().fit(X, y)
    prediction, std = fitted.predict(X, return_std=True)
    assert isinstance(prediction, da.Array)
    assert isinstance(std, da.Array)
    expected, expected_std = fitted.predict(data[0], return_std=True)
    np.testing.assert_array_equal(prediction.compute(), expected)
    np.testing.assert_array_equal(std.compute(), expected_std)


def test_the_score_is_r2_in_one_pass(data):
    X, y = lazy(data)
    fitted = regressor().fit(X, y)
    score = fitted.score(X, y)
    assert isinstance(score, float)
    assert score == pytest.approx(r2_score(data[1], fitted.predict(data[0])), rel=1e-12)


def test_the_optimizer_takes_dask_arrays_of_any_layout(data):
    X, y = lazy(data)
    optimizer = AdaptiveHybridStreamingOptimizer(decay)
    one = optimizer.fit(X[:, 0], y, START).popt.tolist()
    assert optimizer.fit((X[:, 0],), y, START).popt.tolist() == one
    assert optimizer.fit(X.T, y, START).popt.tolist() == one
    sigma = optimizer.fit(X[:, 0], y, START, sigma=0.05, absolute_sigma=True)
    np.testing.assert_allclose(sigma.popt, one, rtol=1e-7)


def test_partial_fit_takes_a_dask_array_chunk_by_chunk(data):
    X, y = lazy(data, 10_000)
    fitted = regressor().partial_fit(X, y)
    assert fitted.n_batches_seen_ == 10
    reference = regressor()
    for first in range(0, N_ROWS, 10_000):
        reference.partial_fit(data[0][first : first + 10_000], data[1][first : first + 10_000])
    np.testing.assert_array_equal(fitted.popt_, reference.popt_)


@pytest.mark.parametrize("sizes", [(10,) * 3000, (9, 11) * 1500])
def test_a_checkpoint_is_small_however_many_chunks_there_are(data, tmp_path, sizes):
    X, y = (a[: sum(sizes)].rechunk({0: sizes}) for a in lazy(data))
    regressor(checkpoint=tmp_path).fit(X, y)
    [latest] = tmp_path.rglob("checkpoint_latest.json")
    assert latest.stat().st_size < 4000


# Its memory is read from /proc: getrusage knows the parent's, which a new process inherits.
_LARGE = """
import dask.array as da, jax.numpy as jnp, numpy as np
from nlsq_sklearn import StreamingCurveFitRegressor
from tests.measured_fit import memory_mb

def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c

jnp.zeros(1).block_until_ready()
n = {n_rows}
x = da.arange(n, chunks=1_000_000, dtype=float) * (5 / n)
y = 2.5 * da.exp(-1.3 * x) + 0.5
y = y + da.random.default_rng(0).normal(0, 0.05, n, chunks=1_000_000)
X = x[:, None]
fitted = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(X, y)
assert fitted.converged_
assert np.all(np.abs(fitted.popt_ - [2.5, 1.3, 0.5]) < 5 * fitted.perr_), fitted.popt_
assert fitted.score(X, y) > 0.9
assert fitted.predict(X)[-5:].compute().shape == (5,)
fitted.partial_fit(X[: n // 10], y[: n // 10])
assert memory_mb("VmHWM") < {limit_mb}, memory_mb("VmHWM")
"""


def test_an_array_larger_than_the_memory_allowed_is_fitted_scored_and_predicted():
    # x and y have 1,600 MB.
    code = _LARGE.format(n_rows=100_000_000, limit_mb=1200)
    root = Path(__file__).parents[1]
    print(subprocess.run([sys.executable, "-c", code], check=True, cwd=root, text=True).stdout)
