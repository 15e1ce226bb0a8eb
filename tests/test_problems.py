"""The table of problems is right: its answers solve its problems, and its scores are NIST's."""

import functools

import jax
import numpy as np
import pytest
from scipy.optimize import least_squares

from tests.problems import canonical, log_relative_error, nist_problems
from tests.problems_mgh import more_garbow_hillstrom

_NIST = {problem.name: problem for problem in nist_problems()}
_MGH = {problem.name: problem for problem in more_garbow_hillstrom()}
_ALL = _NIST | _MGH
# Its residuals are rounding errors, so its sum of squares and what is derived from it are too.
_REPRODUCIBLE = [name for name in _NIST if name != "Lanczos1"]
_MGH_WITH_POPT = [name for name, problem in _MGH.items() if problem.popt is not None]
_MGH_WITH_PERR = [name for name, problem in _MGH.items() if problem.perr is not None]


@functools.cache
def _compiled(name):
    """Return a compiled function of x and the parameters: model values and Jacobian."""
    model = _ALL[name].model

    def evaluate(x, params):
        return model(x, *params), jax.jacfwd(lambda p: model(x, *p))(params)

    return jax.jit(evaluate)


def _evaluate(name, params, x=None):
    """Return model values (n,) and Jacobian (n, p) in float64, at the rows of the problem or x."""
    with jax.enable_x64(True):
        values, jacobian = _compiled(name)(_ALL[name].x if x is None else x, np.asarray(params))
        return np.asarray(values), np.asarray(jacobian)


def _residual_and_jacobian(name, params):
    """Return residuals (n,) and Jacobian (n, p)."""
    values, jacobian = _evaluate(name, params)
    return values - _ALL[name].y, jacobian


def test_there_are_27_nist_problems_in_the_order_of_their_names():
    assert len(_NIST) == 27
    assert list(_NIST) == sorted(_NIST)


def test_no_two_problems_share_a_name():
    assert len(_ALL) == len(nist_problems()) + len(more_garbow_hillstrom())


def test_the_rows_of_a_file_are_read_whole():
    problem = _NIST["Misra1a"]
    assert problem.starts == ((500.0, 0.0001), (250.0, 0.0005))
    assert problem.popt.tolist() == [2.3894212918e02, 5.5015643181e-04]
    assert problem.perr.tolist() == [2.7070075241e00, 7.2668688436e-06]
    assert problem.cost == 1.2455138894e-01 / 2
    assert (problem.x[0], problem.y[0], problem.x[-1], problem.y[-1]) == (77.6, 10.07, 760.0, 81.78)


def test_nelson_has_two_predictors_and_the_logarithm_of_y():
    problem = _NIST["Nelson"]
    assert problem.x.shape == (2, 128)
    assert problem.x[:, 0].tolist() == [1.0, 180.0]
    assert problem.y[0] == np.log(15.0)


@pytest.mark.parametrize("name", _REPRODUCIBLE)
def test_certified_parameters_reproduce_the_printed_residual_sum_of_squares(name):
    problem = _NIST[name]
    residual, _ = _residual_and_jacobian(name, problem.popt)
    assert residual @ residual == pytest.approx(2 * problem.cost, rel=2e-10, abs=0)


def test_lanczos1_fits_to_the_last_certified_digit():
    residual, _ = _residual_and_jacobian("Lanczos1", _NIST["Lanczos1"].popt)
    assert np.abs(residual).max() < 1e-10


@pytest.mark.parametrize("name", _MGH_WITH_POPT)
def test_known_minimisers_reproduce_the_recorded_cost(name):
    problem = _MGH[name]
    residual, _ = _residual_and_jacobian(name, problem.popt)
    assert residual @ residual / 2 == pytest.approx(problem.cost, rel=1e-9, abs=1e-20)


@pytest.mark.parametrize("name", [*_REPRODUCIBLE, *_MGH_WITH_POPT])
def test_the_gradient_vanishes_at_known_minimisers(name):
    problem = _ALL[name]
    residual, jacobian = _residual_and_jacobian(name, problem.popt)
    # Digits lost to rounding popt are seen in the Gauss-Newton step, which is 0 where the
    # gradient is, and does not depend on the scale of y or of a parameter.
    scale = np.linalg.norm(jacobian, axis=0)
    scale[scale == 0] = 1.0
    step = np.linalg.lstsq(jacobian / scale, -residual, rcond=1e-12)[0] / scale
    assert log_relative_error(problem.popt + step, problem.popt) > 8.5


@pytest.mark.parametrize("name", [*_REPRODUCIBLE, *_MGH_WITH_PERR])
def test_standard_errors_follow_from_the_jacobian(name):
    problem = _ALL[name]
    residual, jacobian = _residual_and_jacobian(name, problem.popt)
    n_rows, n_params = jacobian.shape
    # J'J = R'R, so its inverse has the squared row norms of inv(R) on the diagonal.
    scale = np.linalg.norm(jacobian, axis=0)
    inverse = np.linalg.inv(np.linalg.qr(jacobian / scale, mode="r"))
    variance = residual @ residual / (n_rows - n_params)
    perr = np.sqrt(variance) * np.linalg.norm(inverse, axis=1) / scale
    assert log_relative_error(perr, problem.perr) > 7


@pytest.mark.parametrize("name", _MGH)
def test_scipy_reaches_a_recorded_cost_from_the_standard_start(name):
    problem = _MGH[name]
    fit = least_squares(
        lambda params: _residual_and_jacobian(name, params)[0],
        problem.starts[0],
        jac=lambda params: _residual_and_jacobian(name, params)[1],
        method="lm",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    costs = np.array([problem.cost, *problem.other_costs])
    assert np.isclose(fit.cost, costs, rtol=1e-8, atol=1e-15).any()


@pytest.mark.parametrize("name", _ALL)
def test_shapes_belong_together(name):
    problem = _ALL[name]
    n_params = len(problem.starts[0])
    assert problem.x.dtype == problem.y.dtype == np.float64
    assert problem.y.shape == (problem.x.shape[-1],)
    assert {len(start) for start in problem.starts} == {n_params}
    for answer in (problem.popt, problem.perr):
        assert answer is None or answer.shape == (n_params,)


@pytest.mark.parametrize("name", _ALL)
def test_values_and_derivatives_are_finite_at_every_start(name):
    for start in _ALL[name].starts:
        values, jacobian = _evaluate(name, start)
        assert np.isfinite(values).all()
        assert np.isfinite(jacobian).all()


@pytest.mark.parametrize("name", _ALL)
def test_a_row_of_the_model_depends_on_that_row_of_x_alone(name):
    problem = _ALL[name]
    params = problem.starts[0]
    whole, _ = _evaluate(name, params)
    for row in (0, -1):
        copies = np.broadcast_to(problem.x[..., row, None], problem.x.shape)
        values, _ = _evaluate(name, params, copies)
        np.testing.assert_allclose(values, whole[row], rtol=1e-13)


@pytest.mark.parametrize(
    ("estimate", "certified", "digits"),
    [
        ([1.1], [1.0], 1.0),
        ([-200.02], [-200.0], 4.0),
        ([1.0, 2.0002], [1.0, 2.0], 4.0),
        ([3.0, -5.0], [3.0, -5.0], 11.0),
        ([1.0 + 1e-13], [1.0], 11.0),
        ([1e-5, 1.0], [0.0, 1.0], 5.0),
        ([-1e7], [1e7], -np.log10(2)),
        ([1e7 + 1], [1.0], -7.0),
    ],
)
def test_log_relative_error_counts_the_correct_digits_of_the_worst_parameter(
    estimate, certified, digits
):
    assert log_relative_error(estimate, certified) == pytest.approx(digits, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_log_relative_error_of_an_estimate_that_is_not_finite_is_below_every_other(bad):
    assert log_relative_error([1.0, bad], [1.0, 2.0]) == -np.inf


@pytest.mark.parametrize(
    ("name", "order", "sign"),
    [
        ("Lanczos1", [4, 5, 0, 1, 2, 3], [1, 1, 1, 1, 1, 1]),
        ("Gauss2", [0, 1, 5, 6, 7, 2, 3, 4], [1, 1, 1, 1, -1, 1, 1, 1]),
        ("Gauss3", [0, 1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, -1, 1, 1, -1]),
        ("MGH17", [0, 2, 1, 4, 3], [1, 1, 1, 1, 1]),
        ("ENSO", [0, 1, 2, 6, 7, 8, 3, 4, 5], [1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("Eckerle4", [0, 1, 2], [-1, -1, 1]),
    ],
)
def test_canonical_undoes_what_leaves_the_curve_unchanged(name, order, sign):
    problem = _NIST[name]
    disguised = np.array(sign) * problem.popt[order]
    np.testing.assert_allclose(
        _evaluate(name, disguised)[0], _evaluate(name, problem.popt)[0], rtol=1e-10
    )
    popt, perr = canonical(name, disguised, problem.perr[order])
    assert popt.tolist() == problem.popt.tolist()
    assert perr.tolist() == problem.perr.tolist()


@pytest.mark.parametrize("name", _NIST)
def test_canonical_keeps_every_sign_that_changes_the_curve(name):
    problem = _NIST[name]
    at_answer, _ = _evaluate(name, problem.popt)
    for position in range(problem.popt.size):
        flipped = problem.popt.copy()
        flipped[position] *= -1
        values, _ = _evaluate(name, flipped)
        popt, _ = canonical(name, flipped, problem.perr)
        same_curve = np.allclose(values, at_answer, rtol=1e-10)
        assert (log_relative_error(popt, problem.popt) == 11) == same_curve


def test_canonical_does_not_hide_an_estimate_that_is_not_finite():
    problem = _NIST["Gauss1"]
    popt, perr = canonical("Gauss1", np.full(8, np.nan), problem.perr)
    assert np.isnan(popt).all()
    assert perr.tolist() == problem.perr.tolist()
