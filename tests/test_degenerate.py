"""Fits at the edge of what data determine, and models at the edge of float64."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import OptimizeWarning, curve_fit

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, StreamingCurveFitRegressor
from nlsq_sklearn.exceptions import ConvergenceWarning

TIGHT = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def line(x, a, b):
    return a + b * x


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, 400)
    return x, 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, 400)


def fit(model, x, y, p0, **options):
    return AdaptiveHybridStreamingOptimizer(model).fit(x, y, p0, **options)


def reference(x, y, p0):
    """Return SciPy's answer for `decay`, at the tightest tolerances it takes."""

    def curve(x, a, b, c):
        return a * np.exp(-b * x) + c

    def jacobian(x, a, b, c):
        return np.stack([np.exp(-b * x), -a * x * np.exp(-b * x), np.ones_like(x)], axis=1)

    return curve_fit(curve, x, y, p0, jac=jacobian, xtol=1e-15, ftol=1e-15, gtol=1e-15)


def test_one_row_more_than_parameters_gives_the_errors_of_curve_fit(data):
    x, y = (a[:4] for a in data)
    result = fit(decay, x, y, [1, 1, 1], **TIGHT)
    popt, pcov = reference(x, y, result.popt)
    assert result.success
    np.testing.assert_allclose(result.popt, popt, rtol=1e-7)
    np.testing.assert_allclose(result.pcov, pcov, rtol=1e-6)


def test_as_many_rows_as_parameters_give_infinite_errors_and_a_warning(data):
    x, y = (a[:3] for a in data)
    with pytest.warns(OptimizeWarning, match="do not determine a, b, c"):
        result = fit(decay, x, y, [1, 1, 1])
    with pytest.warns(OptimizeWarning):
        popt, pcov = reference(x, y, [1, 1, 1])
    assert result.success
    np.testing.assert_allclose(result.popt, popt, rtol=1e-9)
    assert np.isinf(result.pcov).all()
    assert np.isinf(pcov).all()


def test_as_many_rows_as_parameters_with_absolute_sigma_have_finite_errors(data):
    x, y = (a[:3] for a in data)
    result = fit(decay, x, y, [1, 1, 1], sigma=0.05, absolute_sigma=True)
    jacobian = np.stack(
        [
            np.exp(-result.popt[1] * x),
            -result.popt[0] * x * np.exp(-result.popt[1] * x),
            np.ones(3),
        ]
    ).T
    expected = 0.05 * np.linalg.norm(np.linalg.inv(jacobian), axis=1)
    np.testing.assert_allclose(result.perr, expected, rtol=1e-6)


def test_fewer_distinct_x_than_parameters_are_told_and_meet_the_means():
    x = np.repeat([1.0, 2.0], 50)
    y = 3 - x + np.random.default_rng(0).normal(0, 0.1, 100)
    with pytest.warns(OptimizeWarning, match="do not determine a, b, c"):
        result = fit(decay, x, y, [1, 1, 1], **TIGHT)
    assert result.success
    a, b, c = result.popt
    means = y[:50].mean(), y[50:].mean()
    np.testing.assert_allclose(a * np.exp(-b * np.array([1, 2])) + c, means, rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "free"),
    [
        (lambda x, a, b, c: (a + b) * jnp.exp(-c * x), "a, b"),
        (lambda x, a, b, c: a * b * jnp.exp(-c * x), "a, b"),
        (lambda x, a, b, c: a * jnp.exp(-(b + c) * x), "b, c"),
        (lambda x, a, b, c: a * jnp.exp(-c * x) + 0 * b, "b"),
    ],
)
@pytest.mark.parametrize("loss", ["linear", "soft_l1"])
def test_collinear_parameters_have_infinite_errors_and_the_others_theirs(model, free, loss):
    x = np.random.default_rng(0).uniform(0, 5, 400)
    y = 2.5 * np.exp(-1.3 * x) + np.random.default_rng(1).normal(0, 0.05, 400)
    with pytest.warns(OptimizeWarning, match=f"do not determine {free}:"):
        result = fit(model, x, y, [1, 1, 1], loss=loss)
    assert result.success
    two = fit(lambda x, a, c: a * jnp.exp(-c * x), x, y, [1, 1], loss=loss)
    assert result.cost == pytest.approx(two.cost, rel=1e-9)
    determined = np.isfinite(result.perr)
    assert ", ".join(np.array(["a", "b", "c"])[~determined]) == free
    kept = [i for i in (0, 2) if determined[i]]
    freedom = np.sqrt(397 / 398)  # one parameter more
    for i in kept:
        expected = two.perr[i // 2]
        assert result.perr[i] * freedom == pytest.approx(expected, rel=1e-5)


def test_collinear_parameters_within_bounds_are_found_and_told():
    x = np.linspace(0, 5, 400)
    y = 2.5 * np.exp(-1.3 * x) + np.random.default_rng(1).normal(0, 0.05, 400)
    with pytest.warns(OptimizeWarning, match="do not determine a, b:"):
        result = fit(
            lambda x, a, b, c: (a + b) * jnp.exp(-c * x),
            x,
            y,
            [1, 0.5, 1],
            bounds=([0, 0, 0], [2, 1, 9]),
        )
    two = fit(lambda x, a, c: a * jnp.exp(-c * x), x, y, [1, 1])
    assert result.success
    assert result.cost == pytest.approx(two.cost, rel=1e-9)
    assert result.popt[0] + result.popt[1] == pytest.approx(two.popt[0], rel=1e-6)


def test_exact_data_are_met_to_rounding(data):
    x, _ = data
    result = fit(decay, x, 2.5 * np.exp(-1.3 * x) + 0.5, [1, 1, 1], **TIGHT)
    assert result.success
    np.testing.assert_allclose(result.popt, [2.5, 1.3, 0.5], rtol=1e-13)
    assert np.all(result.perr < 1e-13)


def test_a_start_at_the_exact_answer_stays_there_in_all_bits():
    x = np.arange(10.0)
    result = fit(line, x, 1 + 2 * x, [1, 2])
    assert result.success
    assert result.popt.tolist() == [1.0, 2.0]
    assert result.perr.tolist() == [0.0, 0.0]
    assert result.n_passes == 1


@pytest.mark.parametrize("p0", [[1, 1], [1e6, -1e-6]])
def test_data_that_are_all_zero_are_met(p0):
    x = np.arange(1.0, 11.0)
    result = fit(line, x, np.zeros(10), p0)
    assert result.success
    np.testing.assert_allclose(result.popt, 0, atol=1e-14)


def test_tiny_data_are_met_from_a_far_start():
    x = np.arange(1.0, 11.0)
    result = fit(line, x, 1e-100 * (1 + 2 * x), [1, 1], **TIGHT)
    assert result.success
    np.testing.assert_allclose(result.popt, [1e-100, 2e-100], rtol=1e-10)


def test_a_model_that_overflows_far_from_the_answer_is_fitted():
    x = np.linspace(0, 100, 1000)
    noise = np.random.default_rng(0).normal(0, 1e-3, 1000)

    def growth(x, a, b):
        return jnp.where(a * x > 50, jnp.inf, jnp.exp(a * x)) + b

    # A full step from here leads to where a * x is beyond 100.
    result = fit(growth, x, np.exp(0.05 * x) + noise, [-0.02, 0])
    assert result.success
    assert np.all(np.abs(result.popt - [0.05, 0]) < 5 * result.perr)
    assert any(entry["cost"] is None for entry in result.history)


def test_a_desert_far_from_the_answer_is_told_without_overflow():
    x = np.linspace(0, 100, 1000)
    # From here the cost falls towards a = -inf, as it does for SciPy.
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        result = fit(lambda x, a, b: jnp.exp(a * x) + b, x, np.exp(0.05 * x), [-0.5, 1])
    assert not result.success
    assert result.popt[0] < -500


def test_noise_too_small_for_its_squares_is_no_success():
    x = np.arange(1.0, 11.0)
    with pytest.warns(ConvergenceWarning, match="leave the range of float64"):
        result = fit(line, x, 1e-170 * (x + np.sin(x)), [1, 1])
    assert not result.success


def test_a_batch_of_weight_0_changes_no_bit_of_a_stream(data):
    x, y = data
    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).partial_fit(x[:, None], y)
    before = regressor.popt_.tolist(), regressor.pcov_.tolist(), regressor.cost_
    regressor.partial_fit(x[:50, None], 1e6 * y[:50], np.zeros(50))
    assert before == (regressor.popt_.tolist(), regressor.pcov_.tolist(), regressor.cost_)


def test_rows_of_weight_0_do_not_make_a_batch_large_enough_to_start_from(data):
    x, y = data
    weight = np.ones(400)
    weight[:300] = 0
    weight[:8] = 1
    padded = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    bare = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    for rows in (slice(0, 300), slice(300, 400)):
        counts = weight[rows] > 0
        padded.partial_fit(x[rows, None], y[rows], weight[rows])
        bare.partial_fit(x[rows][counts, None], y[rows][counts])
    np.testing.assert_allclose(padded.popt_, bare.popt_, rtol=1e-6)


def test_a_stream_may_start_with_a_batch_of_weight_0(data):
    x, y = data
    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    regressor.partial_fit(x[:50, None], y[:50], np.zeros(50)).partial_fit(x[:, None], y)
    reference = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).partial_fit(x[:, None], y)
    np.testing.assert_allclose(regressor.popt_, reference.popt_, rtol=1e-6)
    assert regressor.n_samples_seen_ == 450


def test_a_stream_of_batches_smaller_than_the_parameters_ends_as_fit_does(data):
    x, y = data
    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in range(len(x)):
            regressor.partial_fit(x[row : row + 1, None], y[row : row + 1])
    fitted = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(x[:, None], y)
    assert np.all(np.abs(regressor.popt_ - fitted.popt_) < 0.1 * fitted.perr_)
    np.testing.assert_allclose(regressor.perr_, fitted.perr_, rtol=0.05)
