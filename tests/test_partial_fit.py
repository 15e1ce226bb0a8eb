"""partial_fit: one look at each batch, as good as a fit of all."""

import os
import socket

import dask.array as da
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from nlsq_sklearn import (
    CheckpointNotFoundError,
    IncompatibleCheckpointError,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._engine import programs


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def decay_data(n_rows, seed=0, truth=(2.5, 1.3, 0.5)):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n_rows)
    y = truth[0] * np.exp(-truth[1] * x) + truth[2] + rng.normal(0, 0.05, n_rows)
    return x[:, np.newaxis], y


def regressor(**options):
    return StreamingCurveFitRegressor(decay, **{"p0": [1, 1, 1], **options})


def feed(estimator, X, y, size, weight=None):
    for first in range(0, len(y), size):
        rows = slice(first, first + size)
        estimator.partial_fit(X[rows], y[rows], None if weight is None else weight[rows])
    return estimator


def assert_as_good_as(estimator, reference, share=0.25, ratio=0.05):
    assert np.all(np.abs(estimator.popt_ - reference.popt_) < share * reference.perr_)
    np.testing.assert_allclose(estimator.perr_, reference.perr_, rtol=ratio)


def test_one_sweep_over_a_million_rows_is_as_good_as_a_fit():
    X, y = decay_data(1_000_000)
    estimator = feed(regressor(), X, y, 10_000)
    assert_as_good_as(estimator, regressor().fit(X, y))
    assert estimator.n_samples_seen_ == 1_000_000
    assert estimator.n_batches_seen_ == 100


@pytest.mark.parametrize("p0", [[1, 1, 1], [2, 0.3, 0.1]])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_batches_smaller_than_the_number_of_parameters_and_of_one_row(size, p0):
    X, y = decay_data(1500)
    assert_as_good_as(feed(regressor(p0=p0), X, y, size), regressor().fit(X, y))


def test_weights_count_as_in_fit():
    X, y = decay_data(50_000)
    weight = np.random.default_rng(1).uniform(0.1, 3, y.size)
    estimator = feed(regressor(), X, y, 1000, weight)
    assert_as_good_as(estimator, regressor().fit(X, y, weight))


def test_bounds_hold_after_every_batch():
    X, y = decay_data(20_000)
    estimator = regressor(bounds=([0, 0, 0], [2.0, 5, 5]))
    for first in range(0, 20_000, 500):
        estimator.partial_fit(X[first : first + 500], y[first : first + 500])
        assert estimator.popt_[0] <= 2.0
    reference = regressor(bounds=([0, 0, 0], [2.0, 5, 5])).fit(X, y)
    np.testing.assert_allclose(estimator.popt_, reference.popt_, rtol=0.02)
    assert estimator.popt_[0] == 2.0


def test_a_straight_line_needs_no_second_look():
    # Linear models are the recursive least squares, whose answer is that of all rows at once.
    rng = np.random.default_rng(2)
    X = rng.normal(size=(3000, 4))
    y = X @ [1, -2, 3, 0.5] + 7 + rng.normal(0, 0.1, 3000)
    estimator = feed(StreamingCurveFitRegressor(), X, y, 100)
    exact = LinearRegression().fit(X, y)
    np.testing.assert_allclose(estimator.popt_[1:], exact.coef_, rtol=1e-9)
    assert estimator.popt_[0] == pytest.approx(exact.intercept_, rel=1e-9)


def test_forgetting_follows_a_drift():
    batches = [decay_data(500, seed, (2.5, 1.3 + 0.01 * seed, 0.5)) for seed in range(100)]
    follower, keeper = regressor(forgetting=0.8), regressor()
    for X, y in batches:
        follower.partial_fit(X, y)
        keeper.partial_fit(X, y)
    rate = 1.3 + 0.01 * 99
    assert abs(follower.popt_[1] - rate) < 0.1
    assert abs(keeper.popt_[1] - rate) > 0.3
    assert np.all(follower.perr_ > keeper.perr_)


def test_batches_of_changing_size_are_compiled_few_times():
    def model(x, a, b, c):
        return a * jnp.exp(-b * x) + c * 1.25

    X, y = decay_data(40_000)
    estimator = StreamingCurveFitRegressor(model, p0=[1, 1, 1])
    before = programs.n_compilations()
    first = 0
    for size in np.random.default_rng(0).integers(300, 1000, 60):
        estimator.partial_fit(X[first : first + size], y[first : first + size])
        first += size
    assert programs.n_compilations() - before <= 2  # 512 and 1024 rows


def test_after_fit_batches_add_to_it():
    X, y = decay_data(60_000)
    estimator = regressor().fit(X[:30_000], y[:30_000])
    feed(estimator, X[30_000:], y[30_000:], 5000)
    assert_as_good_as(estimator, regressor().fit(X, y), share=0.05)
    assert estimator.n_samples_seen_ == 60_000


def test_another_number_of_features_is_refused():
    X, y = decay_data(100)
    estimator = regressor().partial_fit(X, y)
    with pytest.raises(ValueError, match="2 features"):
        estimator.partial_fit(np.hstack([X, X]), y)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_stream_that_was_killed_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path, size):
    X, y = decay_data(200 * size)
    checkpoint = JSONCheckpoint(tmp_path, interval=0)
    reference = feed(regressor(), X, y, size)
    feed(regressor(checkpoint=checkpoint), X[: 117 * size], y[: 117 * size], size)
    resumed = regressor(checkpoint=checkpoint).load_checkpoint(tmp_path)
    assert resumed.n_samples_seen_ == 117 * size
    assert resumed.n_batches_seen_ == 117
    feed(resumed, X[117 * size :], y[117 * size :], size)
    assert resumed.popt_.tolist() == reference.popt_.tolist()
    assert resumed.pcov_.tolist() == reference.pcov_.tolist()
    assert resumed.n_batches_seen_ == 200


def test_a_checkpoint_that_is_set_after_some_batches_saves_the_next(tmp_path):
    X, y = decay_data(2000)
    estimator = regressor().partial_fit(X[:1000], y[:1000])
    estimator.set_params(checkpoint=tmp_path).partial_fit(X[1000:], y[1000:])
    resumed = regressor(checkpoint=tmp_path).load_checkpoint(tmp_path)
    assert resumed.n_batches_seen_ == 2
    assert resumed.popt_.tolist() == estimator.popt_.tolist()


def test_loading_sweeps_what_a_killed_writer_left(tmp_path):
    X, y = decay_data(1000)
    regressor(checkpoint=tmp_path).partial_fit(X, y)
    names = sorted(os.listdir(tmp_path))
    left = tmp_path / f".nlsq_sklearn-{socket.gethostname()}-{2**22 + 1}-01234567"
    left.write_bytes(b"{")
    regressor().load_checkpoint(tmp_path)
    assert sorted(os.listdir(tmp_path)) == names


def test_a_batch_that_is_refused_saves_those_before_it(tmp_path):
    X, y = decay_data(3000)
    estimator = regressor(checkpoint=tmp_path)  # saves once a minute
    for first in (0, 1000):
        estimator.partial_fit(X[first : first + 1000], y[first : first + 1000])
    y[2000] = np.nan
    with pytest.raises(ValueError, match="row 0"):
        estimator.partial_fit(X[2000:], y[2000:])
    assert regressor().load_checkpoint(tmp_path).n_batches_seen_ == 2


def test_a_checkpoint_of_another_model_or_setting_is_refused(tmp_path):
    X, y = decay_data(1000)
    regressor(checkpoint=tmp_path).partial_fit(X, y)
    with pytest.raises(IncompatibleCheckpointError, match="forgetting"):
        regressor(forgetting=0.5).load_checkpoint(tmp_path)
    other = StreamingCurveFitRegressor(lambda x, a, b, c: a * x + b * x + c, p0=[1, 1, 1])
    with pytest.raises(IncompatibleCheckpointError, match="model structure"):
        other.load_checkpoint(tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        regressor().load_checkpoint(tmp_path / "none")


def test_dask_mls_wrappers_take_the_estimator():
    wrappers = pytest.importorskip("dask_ml.wrappers")
    X, y = decay_data(20_000)
    Xd, yd = da.from_array(X, chunks=(2000, 1)), da.from_array(y, chunks=2000)
    incremental = wrappers.Incremental(regressor(), shuffle_blocks=False).fit(Xd, yd)
    assert_as_good_as(incremental.estimator_, regressor().fit(X, y), share=0.05)
    incremental.partial_fit(Xd, yd)
    np.testing.assert_allclose(
        incremental.predict(Xd).compute(), incremental.estimator_.predict(X), rtol=1e-12
    )
    parallel = wrappers.ParallelPostFit(regressor()).fit(X, y)
    np.testing.assert_allclose(
        parallel.predict(Xd).compute(), regressor().fit(X, y).predict(X), rtol=1e-12
    )
    model_selection = pytest.importorskip("dask_ml.model_selection")
    search = model_selection.GridSearchCV(regressor(), {"loss": ["linear", "arctan"]}, cv=3)
    assert search.fit(Xd, yd).best_score_ > 0.9
