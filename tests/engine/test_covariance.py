"""The covariance is that of curve_fit where that has one, and infinite only where it must be."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from nlsq_sklearn._engine import kernel
from nlsq_sklearn._engine.covariance import covariance
from nlsq_sklearn._engine.loss import LOSS_NAMES

from . import DECAY, equations_of, objective, padded_chunk


def _decay_data(n_rows=200):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 4, n_rows)
    sigma = rng.uniform(0.5, 2, n_rows)
    return x, DECAY.values(x, 2.5, 1.3, 0.5) + 0.1 * sigma * rng.standard_t(3, n_rows), sigma


@pytest.mark.parametrize("absolute_sigma", [False, True])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_covariance_is_that_of_curve_fit(loss, absolute_sigma):
    x, y, sigma = _decay_data()
    popt, pcov = curve_fit(
        DECAY.values,
        x,
        y,
        [2.0, 1.0, 0.0],
        sigma,
        absolute_sigma,
        method="trf",
        jac=DECAY.jacobian,
        loss=loss,
        f_scale=0.1,
        ftol=1e-12,
        xtol=1e-12,
        gtol=1e-12,
    )
    equations = kernel.evaluate(
        objective(DECAY.model, loss=loss, f_scale=0.1), padded_chunk(x, y, sigma=sigma), popt
    )
    matrix, undetermined = covariance(equations, absolute_sigma=absolute_sigma)
    # The curvature of an outlier that is cut off at 0 is sensitive to the last bits.
    np.testing.assert_allclose(matrix, pcov, rtol=1e-9)
    assert not undetermined.any()


def _random(n_rows=30, n_params=3, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n_rows), rng.normal(size=(n_rows, n_params))


def _scaled_inverse(residual, jacobian):
    """Return the covariance by NumPy's QR, the reduced chi-square being 1."""
    _, r = np.linalg.qr(jacobian)
    inverse = np.linalg.inv(r)
    n_rows, n_params = jacobian.shape
    return inverse @ inverse.T * (residual @ residual) / (n_rows - n_params)


def test_without_absolute_sigma_the_reduced_chi_square_is_one():
    residual, jacobian = _random()
    matrix, _ = covariance(equations_of(residual, jacobian), absolute_sigma=False)
    np.testing.assert_allclose(matrix, _scaled_inverse(residual, jacobian), rtol=1e-12)


def test_a_parameter_without_effect_is_infinite_and_the_others_keep_their_variance():
    residual, jacobian = _random()
    jacobian[:, 1] = 0
    matrix, undetermined = covariance(equations_of(residual, jacobian), absolute_sigma=True)
    assert undetermined.tolist() == [False, True, False]
    assert np.isinf(matrix[1]).all()
    assert np.isinf(matrix[:, 1]).all()
    rest = jacobian[:, [0, 2]]
    np.testing.assert_allclose(
        matrix[np.ix_([0, 2], [0, 2])], np.linalg.inv(rest.T @ rest), rtol=1e-12
    )


@pytest.mark.parametrize("unit", [1e-100, 1e-6, 1.0, 1e100])
def test_two_collinear_parameters_are_infinite_and_the_third_keeps_its_variance(unit):
    residual, jacobian = _random()
    jacobian[:, 2] = -3 * unit * jacobian[:, 0]
    matrix, undetermined = covariance(equations_of(residual, jacobian), absolute_sigma=True)
    assert undetermined.tolist() == [True, False, True]
    assert np.isinf(matrix[undetermined]).all()
    # Seber and Wild: an estimable parameter has the variance of any generalised inverse, and of
    # the model without one of the collinear two.
    rest = jacobian[:, :2]
    assert matrix[1, 1] == pytest.approx(np.linalg.inv(rest.T @ rest)[1, 1], rel=1e-10)


def test_three_parameters_that_only_add_up_are_all_infinite():
    residual, jacobian = _random(n_params=4)
    jacobian[:, 3] = jacobian[:, 0] + jacobian[:, 1]
    _, undetermined = covariance(equations_of(residual, jacobian), absolute_sigma=True)
    assert undetermined.tolist() == [True, True, False, True]


def test_a_jacobian_of_zeros_determines_nothing():
    matrix, undetermined = covariance(
        equations_of(np.ones(5), np.zeros((5, 2))), absolute_sigma=True
    )
    assert undetermined.all()
    assert np.isinf(matrix).all()


def test_strongly_correlated_parameters_that_float64_can_tell_apart_are_finite():
    residual, jacobian = _random()
    jacobian[:, 2] = jacobian[:, 0] + 1e-5 * jacobian[:, 2]
    matrix, undetermined = covariance(equations_of(residual, jacobian), absolute_sigma=False)
    assert not undetermined.any()
    # The condition of the Gram matrix is 10^10 or more: six digits are left.
    np.testing.assert_allclose(matrix, _scaled_inverse(residual, jacobian), rtol=1e-4)


@pytest.mark.parametrize("n_rows", [2, 3])
def test_as_many_parameters_as_rows_or_more_leave_no_variance_as_in_curve_fit(n_rows):
    residual, jacobian = _random(n_rows=n_rows)
    matrix, undetermined = covariance(equations_of(residual, jacobian), absolute_sigma=False)
    assert np.isinf(matrix).all()
    assert undetermined.all()


def test_with_absolute_sigma_as_many_parameters_as_rows_have_a_variance_as_in_curve_fit():
    x = np.array([0.3, 1.0, 2.5])
    y = DECAY.values(x, 2.5, 1.3, 0.5)
    popt, pcov = curve_fit(
        DECAY.values, x, y, [2.4, 1.2, 0.4], np.ones(3), True, jac=DECAY.jacobian
    )
    equations = kernel.evaluate(objective(DECAY.model), padded_chunk(x, y), popt)
    matrix, undetermined = covariance(equations, absolute_sigma=True)
    np.testing.assert_allclose(matrix, pcov, rtol=1e-8)
    assert not undetermined.any()


@pytest.mark.parametrize("unit", [1e-140, 1e-10, 1e10, 1e140])
def test_the_covariance_follows_the_unit_of_a_parameter(unit):
    residual, jacobian = _random()
    units = np.array([1.0, unit, 1.0])
    plain, _ = covariance(equations_of(residual, jacobian), absolute_sigma=False)
    scaled, _ = covariance(equations_of(residual, jacobian * units), absolute_sigma=False)
    np.testing.assert_allclose(scaled, plain / np.outer(units, units), rtol=1e-10)


def test_the_covariance_is_symmetric_and_its_variances_positive():
    residual, jacobian = _random(n_params=6)
    matrix, _ = covariance(equations_of(residual, jacobian), absolute_sigma=False)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)
    assert (np.diag(matrix) > 0).all()
