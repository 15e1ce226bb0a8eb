"""What a user of `scipy.optimize.curve_fit` expects of the optimizer, with SciPy as the oracle."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning, curve_fit

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
from nlsq_sklearn.exceptions import ConvergenceWarning

LOSSES = ["linear", "huber", "soft_l1", "cauchy", "arctan"]
TIGHT = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def decay_numpy(x, a, b, c):
    return a * np.exp(-b * x) + c


def decay_jacobian(x, a, b, c):
    e = np.exp(-b * x)
    return np.stack([e, -a * x * e, np.ones_like(x)], axis=1)


def decay_data(n_rows=5000, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n_rows)
    return x, decay_numpy(x, 2.5, 1.3, 0.5) + rng.normal(0, noise, n_rows)


def scipy_fit(x, y, p0=(1, 1, 1), **options):
    return curve_fit(
        decay_numpy,
        x,
        y,
        p0,
        jac=decay_jacobian,
        method="trf",
        **TIGHT | {"max_nfev": 1000} | options,
    )


def fit(x, y, p0=(1, 1, 1), chunk_size=None, **options):
    return AdaptiveHybridStreamingOptimizer(decay, chunk_size=chunk_size).fit(x, y, p0, **options)


@pytest.mark.parametrize("chunk_size", [None, 999])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_answer_and_its_covariance_are_those_of_curve_fit(loss, chunk_size):
    x, y = decay_data()
    y[::50] += 1.0  # outliers
    options = {"loss": loss, "f_scale": 0.1}
    result = fit(x, y, chunk_size=chunk_size, **options)
    popt, pcov = scipy_fit(x, y, **options)
    np.testing.assert_allclose(result.popt, popt, rtol=1e-7)
    np.testing.assert_allclose(result.pcov, pcov, rtol=1e-6)
    np.testing.assert_allclose(result.perr, np.sqrt(np.diag(pcov)), rtol=1e-6)
    assert result.success


@pytest.mark.parametrize("absolute_sigma", [False, True])
@pytest.mark.parametrize("loss", ["linear", "cauchy"])
def test_sigma_means_what_it_means_in_curve_fit(loss, absolute_sigma):
    x, y = decay_data()
    sigma = 0.02 + 0.05 * x
    options = {"sigma": sigma, "absolute_sigma": absolute_sigma, "loss": loss, "f_scale": 1.5}
    result = fit(x, y, **options)
    popt, pcov = scipy_fit(x, y, **options)
    np.testing.assert_allclose(result.popt, popt, rtol=1e-7)
    np.testing.assert_allclose(result.pcov, pcov, rtol=1e-6)


def test_one_sigma_for_all_rows_scales_the_absolute_covariance():
    x, y = decay_data()
    result = fit(x, y, sigma=0.05, absolute_sigma=True)
    _, pcov = scipy_fit(x, y, sigma=np.full(x.size, 0.05), absolute_sigma=True)
    np.testing.assert_allclose(result.pcov, pcov, rtol=1e-6)


@pytest.mark.parametrize(
    "bounds",
    [
        ([0, 0, 0], [2.0, 5, 5]),
        ([0, 1.5, 0.7], [5, 5, 5]),
        (0, [5, 1.0, 0.2]),
        ([-np.inf, 1.5, -np.inf], np.inf),
    ],
)
def test_active_bounds_are_met_exactly_and_the_rest_is_optimal(bounds):
    x, y = decay_data()
    lower, upper = (np.broadcast_to(b, 3) for b in bounds)
    start = np.clip([1, 1, 1], lower, upper)
    result = fit(x, y, start, bounds=bounds)
    # SciPy's interior method stops short of the bounds: at tight tolerances by about 1e-9.
    popt, _ = scipy_fit(x, y, np.clip(start, lower + 1e-3, upper - 1e-3), bounds=bounds)
    np.testing.assert_allclose(result.popt, popt, rtol=1e-6)
    active = np.isclose(popt, lower, rtol=1e-6) | np.isclose(popt, upper, rtol=1e-6)
    assert active.any()
    assert np.all((result.popt == lower) | (result.popt == upper) | ~active)
    assert result.success


def test_every_trial_point_is_feasible():
    x, y = decay_data()
    result = fit(x, y, [4, 4, 0.9], bounds=([0, 1, 0], [5, 5, 1]))
    points = np.array([entry["params"] for entry in result.history])
    assert np.all(points >= [0, 1, 0])
    assert np.all(points <= [5, 5, 1])


def test_scipy_bounds_are_taken():
    x, y = decay_data()
    result = fit(x, y, bounds=Bounds([0, 0, 0], [2.0, 5, 5]))
    assert result.popt[0] == 2.0


def test_without_p0_the_start_is_that_of_curve_fit():
    x, y = decay_data()
    bounds = ([0, -np.inf, -5], [10, np.inf, np.inf])
    first = fit(x, y, None, bounds=bounds).history[0]["params"]
    assert first == [5.0, 1.0, -4.0]
    assert fit(x, y, None).history[0]["params"] == [1.0, 1.0, 1.0]


def test_several_predictors_come_as_columns_or_as_rows_of_x():
    def plane(xt, a, b, c):
        x, t = xt
        return a * x + b * jnp.exp(-c * t)

    rng = np.random.default_rng(3)
    x, t = rng.uniform(0, 2, (2, 20_000))
    y = 1.5 * x + 2 * np.exp(-0.7 * t) + rng.normal(0, 0.01, x.size)
    optimizer = AdaptiveHybridStreamingOptimizer(plane, chunk_size=4096)
    stacked = optimizer.fit(np.stack([x, t]), y)
    columns = optimizer.fit((x, t), y)
    np.testing.assert_array_equal(stacked.popt, columns.popt)
    np.testing.assert_allclose(stacked.popt, [1.5, 2, 0.7], atol=5 * stacked.perr.max())


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64, np.uint8])
def test_numbers_of_other_types_are_converted_to_float64(dtype):
    x = np.arange(200).astype(dtype)
    y = np.round(100 * np.exp(-0.05 * np.arange(200)) + 20).astype(dtype)
    result = fit(x, y, [50, 0.1, 10])
    popt, _ = scipy_fit(x.astype(float), y.astype(float), [50, 0.1, 10])
    np.testing.assert_allclose(result.popt, popt, rtol=1e-7)


def test_several_starts_find_what_one_start_misses():
    def wave(x, amplitude, frequency, phase):
        return amplitude * jnp.sin(frequency * x + phase)

    rng = np.random.default_rng(5)
    x = np.linspace(0, 10, 2000)
    y = 2 * np.sin(4.4 * x + 0.3) + rng.normal(0, 0.1, x.size)
    bounds = ([0.5, 0.5, -1], [5, 10, 1])
    optimizer = AdaptiveHybridStreamingOptimizer(wave)
    one = optimizer.fit(x, y, [1, 1.2, 0], bounds=bounds)
    many = optimizer.fit(x, y, [1, 1.2, 0], bounds=bounds, n_starts=40)
    assert many.cost < 0.02 * one.cost
    np.testing.assert_allclose(many.popt, [2, 4.4, 0.3], atol=6 * many.perr.max())


def test_reaching_max_iter_warns_and_is_no_success():
    x, y = decay_data()
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = fit(x, y, [30, 20, -10], max_iter=1)
    assert not result.success
    assert result.status == 0
    assert "FAILED" in str(result)


def test_a_parameter_that_the_data_do_not_determine_has_an_infinite_error():
    def model(x, a, b, c):
        return a * x + 0 * b + c

    x = np.linspace(0, 1, 100)
    with pytest.warns(OptimizeWarning, match="do not determine b"):
        result = AdaptiveHybridStreamingOptimizer(model).fit(x, 2 * x + 1 + 0.1 * np.sin(40 * x))
    popt, pcov = curve_fit(lambda x, a, c: a * x + c, x, 2 * x + 1 + 0.1 * np.sin(40 * x))
    assert np.isinf(result.perr[1])
    np.testing.assert_allclose(result.popt[[0, 2]], popt, rtol=1e-6)
    # One degree of freedom less than the fit of two parameters.
    np.testing.assert_allclose(result.pcov[np.ix_([0, 2], [0, 2])], pcov * 98 / 97, rtol=1e-6)


def test_exact_data_are_met_exactly():
    x = np.linspace(0, 5, 1000)
    result = fit(x, decay_numpy(x, 2.5, 1.3, 0.5))
    assert result.success
    np.testing.assert_allclose(result.popt, [2.5, 1.3, 0.5], rtol=1e-13)


def test_a_start_at_the_answer_stays_there():
    x = np.linspace(0, 5, 1000)
    result = fit(x, decay_numpy(x, 2.5, 1.3, 0.5), [2.5, 1.3, 0.5])
    np.testing.assert_array_equal(result.popt, [2.5, 1.3, 0.5])
    assert result.n_passes == 1


def test_as_many_rows_as_parameters_leave_no_error_estimate():
    x = np.array([0.0, 1.0, 3.0])
    with pytest.warns(OptimizeWarning):
        result = fit(x, decay_numpy(x, 2.5, 1.3, 0.5))
    assert np.isinf(result.pcov).all()
    np.testing.assert_allclose(result.popt, [2.5, 1.3, 0.5], rtol=1e-8)


def test_the_result_is_an_optimize_result_with_the_fields_promised():
    result = fit(*decay_data())
    assert isinstance(result, OptimizeResult)
    assert set(result) >= {
        *("popt", "pcov", "perr", "cost", "success", "status", "message", "n_iter", "n_passes"),
        *("history", "x", "n_rows", "param_names", "elapsed"),
    }
    assert len(result.history) == result.n_passes


def test_the_printed_result_tells_name_value_error_and_why_it_stopped():
    result = fit(*decay_data())
    lines = str(result).splitlines()
    assert lines[0].split() == ["parameter", "value", "standard", "error", "relative", "error"]
    for line, name, value, error in zip(lines[1:4], "abc", result.popt, result.perr, strict=True):
        words = line.split()
        assert words[0] == name
        assert float(words[1]) == pytest.approx(value, rel=1e-9)
        assert float(words[2]) == pytest.approx(error, rel=1e-2)
    assert "success: Converged" in lines[5]
    assert "5,000 rows" in lines[6]


def test_jax_settings_stay_as_they_were():
    assert not jax.config.jax_enable_x64
    fit(*decay_data())
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == jnp.float32


def test_a_trial_point_where_the_model_overflows_is_only_rejected():
    def growth(x, a, b):
        return a * jnp.exp(b * x)

    x = np.linspace(0, 100, 500)
    y = 3 * np.exp(0.05 * x) + np.random.default_rng(0).normal(0, 0.1, x.size)
    result = AdaptiveHybridStreamingOptimizer(growth).fit(x, y, [1e-3, 0.2])
    popt, _ = curve_fit(lambda x, a, b: a * np.exp(b * x), x, y, [3, 0.05], xtol=1e-14)
    np.testing.assert_allclose(result.popt, popt, rtol=1e-6)


def test_large_data_need_three_passes_from_a_far_start():
    x, y = decay_data(1_000_000)
    assert fit(x, y).n_passes <= 3


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**40])
def test_powers_of_two_in_y_scale_the_answer_and_change_no_bit(scale):
    x, y = decay_data()
    plain = fit(x, y)
    scaled = fit(x, y * scale, [scale, 1, scale])
    np.testing.assert_array_equal(scaled.popt, plain.popt * [scale, 1, scale])
    np.testing.assert_array_equal(scaled.perr, plain.perr * [scale, 1, scale])


def test_parameters_of_very_different_size_are_no_harder():
    def model(x, a, b):
        return 1e-12 * a * jnp.exp(-1e9 * b * x)

    x, _ = decay_data()
    rng = np.random.default_rng(1)
    y = 2.5 * np.exp(-1.3 * x) + rng.normal(0, 0.01, x.size)
    result = AdaptiveHybridStreamingOptimizer(model).fit(x, y, [1e12, 1e-9])
    popt, _ = curve_fit(lambda x, a, b: a * np.exp(-b * x), x, y, [1, 1], xtol=1e-14, ftol=1e-14)
    np.testing.assert_allclose(result.popt, popt * [1e12, 1e-9], rtol=1e-7)


def test_no_warning_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(*decay_data()).success


def test_rows_that_are_mixed_at_a_later_start_only_are_seen_there():
    def model(x, a, b):
        return a * x + b * jnp.mean(x)

    x = np.linspace(0, 5, 200) ** 2
    optimizer = AdaptiveHybridStreamingOptimizer(model)
    optimizer.fit(x, 2 * x, [1, 0])
    with pytest.raises(ValueError, match="Each row must stand for itself"):
        optimizer.fit(x, 2 * x, [1, 1])
