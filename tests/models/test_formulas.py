"""The curves are those of the textbooks, and fits of them those of SciPy."""

import inspect

import jax
import numpy as np
import pytest
from scipy import constants, optimize, special, stats

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, models
from tests.models.random_problems import MODELS, random_problem

ORACLES = {
    "exponential_decay": lambda x, a, k, c: a * np.exp(-k * x) + c,
    "biexponential": lambda x, a, k, b, m, c: a * np.exp(-k * x) + b * np.exp(-m * x) + c,
    # The survival function of the Weibull distribution.
    "stretched_exponential": lambda x, a, t, b, c: a * stats.weibull_min.sf(x, b, scale=t) + c,
    "damped_sine": lambda x, a, k, f, p, c: (
        a * np.imag(np.exp((2j * np.pi * f - k) * x + 1j * p)) + c
    ),
    "gaussian": lambda x, a, m, s, c: a * stats.norm.pdf(x, m, s) * s * np.sqrt(2 * np.pi) + c,
    "lorentzian": lambda x, a, m, g, c: a * stats.cauchy.pdf(x, m, g) * np.pi * g + c,
    "pseudo_voigt": lambda x, a, m, w, f, c: (
        a * f * stats.cauchy.pdf(x, m, w / 2) / stats.cauchy.pdf(m, m, w / 2)
        + a * (1 - f) * 2.0 ** -(((x - m) / (w / 2)) ** 2)
        + c
    ),
    "logistic4": lambda x, b, t, m, s: b + (t - b) * special.expit(s * (x - m)),
    "logistic5": lambda x, b, t, m, s, g: b + (t - b) * stats.genlogistic.cdf(s * (x - m), g),
    "michaelis_menten": lambda x, v, k: v / (1 + k / x),
    "hill": lambda x, b, a, k, n: b + a * stats.fisk.cdf(x, n, scale=k),
    "power_law": lambda x, a, k: a * np.power(x, k),
    "arrhenius": lambda x, a, e: a * np.exp(-e / (constants.R * x)),
}


def parameters(model):
    return list(inspect.signature(model).parameters)[1:]


@pytest.mark.parametrize("model", MODELS)
def test_the_curve_is_that_of_the_closed_form(model):
    oracle = ORACLES[model.__name__]
    for number in range(20):
        problem = random_problem(model, number, is_noisy=False)
        is_inside = problem.x > 0 if model.__name__ in ("hill", "michaelis_menten") else slice(None)
        expected = oracle(problem.x[is_inside], *problem.truth)
        scale = np.abs(problem.truth).max() + np.abs(expected).max()
        np.testing.assert_allclose(problem.y[is_inside], expected, rtol=1e-11, atol=1e-14 * scale)


@pytest.mark.parametrize("model", MODELS)
def test_the_fit_is_that_of_scipy(model):
    problem = random_problem(model, 0)
    optimizer = AdaptiveHybridStreamingOptimizer(model)
    result = optimizer.fit(problem.x, problem.y, "auto", ftol=1e-12, xtol=1e-12, gtol=1e-12)

    def jacobian(x, *params):
        with jax.enable_x64(True):
            return np.asarray(jax.jacfwd(lambda p: model(x, *p))(np.array(params)))

    popt, pcov = optimize.curve_fit(
        ORACLES[model.__name__],
        np.where(problem.x == 0, 1e-100, problem.x),  # oracles divide by it
        problem.y,
        result.popt * (1 + 1e-5),
        jac=jacobian,
        ftol=1e-15,
        xtol=1e-15,
        gtol=0,
    )
    np.testing.assert_allclose(result.popt, popt, atol=1e-5 * result.perr.min(), rtol=1e-8)
    np.testing.assert_allclose(result.perr, np.sqrt(np.diag(pcov)), rtol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_a_ready_model_is_a_plain_function_with_what_it_knows_of_itself(model):
    assert inspect.isfunction(model)
    lower, upper = (
        np.broadcast_to(b, len(parameters(model)))
        for b in getattr(model, "bounds", (-np.inf, np.inf))
    )
    assert (lower < upper).all()
    assert callable(model.guess)
    assert all(name in model.formula for name in parameters(model))
    assert model.__doc__.count(" : float") >= len(parameters(model)) - 2
    assert "References" in model.__doc__
    assert model.__name__ in models.__all__


@pytest.mark.parametrize("model", MODELS)
def test_the_formula_can_be_computed_as_it_is_written(model):
    problem = random_problem(model, 1, is_noisy=False)
    formula, _, where = model.formula.partition(", u = ")
    names = {"exp": np.exp, "log": np.log, "sin": np.sin, "pi": np.pi, "x": problem.x}
    names |= dict(zip(parameters(model), problem.truth, strict=True))
    if where:
        names["u"] = eval(where, names)
    scale = np.abs(problem.truth).max() + np.abs(problem.y).max()
    np.testing.assert_allclose(eval(formula, names), problem.y, rtol=1e-9, atol=1e-13 * scale)


@pytest.mark.parametrize("name", ["hill", "stretched_exponential"])
def test_curves_of_positive_x_and_their_slopes_are_finite_at_0_and_nan_below(name):
    model = getattr(models, name)
    params = random_problem(model, 0).truth
    with jax.enable_x64(True):
        jacobian = jax.jacfwd(lambda p: model(np.array([0.0, 1.0]), *p))(params)
        assert np.isfinite(jacobian).all()
        assert np.isnan(model(np.array([-1.0]), *params)).all()


def test_steep_curves_do_not_overflow():
    with jax.enable_x64(True):
        x = np.array([1e-3, 1.0, 1e3])
        np.testing.assert_array_equal(models.hill(x, 0.0, 1.0, 1.0, 500.0), [0, 0.5, 1])
        np.testing.assert_array_equal(models.logistic4(x, 0.0, 1.0, 1.0, 1e6), [0, 0.5, 1])
        jacobian = jax.jacfwd(lambda p: models.logistic5(x, *p))(np.array([0, 1, 1, 1e6, 0.5]))
        assert np.isfinite(jacobian).all()
