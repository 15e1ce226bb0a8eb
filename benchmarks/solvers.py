"""The solvers that are compared, each as its documentation says to call it."""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .problems import Problem


class Answer(NamedTuple):
    """What a fit found.

    Attributes
    ----------
    params : ndarray of shape (n_params,)
    n_passes : int or None
        Full passes over the data, where the solver counts them.
    """

    params: np.ndarray
    n_passes: int | None = None


Fit = Callable[[np.ndarray, np.ndarray, list[float]], Answer]


class Solver(NamedTuple):
    """A solver: the library that it needs, its imports, and one call of it.

    ``load(problem)`` does the imports and returns ``fit(x, y, p0)``.
    """

    title: str
    library: str
    load: Callable[[Problem], Fit]

    @property
    def is_installed(self) -> bool:
        """Whether the library can be imported."""
        return importlib.util.find_spec(self.library) is not None


def _load_scipy_lm(problem: Problem) -> Fit:
    from scipy.optimize import curve_fit

    model = problem.make_model(np)
    return lambda x, y, p0: Answer(curve_fit(model, x, y, p0)[0])


def _load_scipy_trf(problem: Problem) -> Fit:
    from scipy.optimize import curve_fit

    model = problem.make_model(np)
    return lambda x, y, p0: Answer(
        curve_fit(model, x, y, p0, method="trf", jac=problem.jacobian)[0]
    )


def _load_lmfit(problem: Problem) -> Fit:
    import lmfit

    model = lmfit.Model(problem.make_model(np))

    def fit(x: np.ndarray, y: np.ndarray, p0: list[float]) -> Answer:
        start = model.make_params(**dict(zip(model.param_names, p0, strict=True)))
        values = model.fit(y, start, x=x).best_values
        return Answer(np.array([values[name] for name in model.param_names]))

    return fit


def _load_nlsq(problem: Problem) -> Fit:
    import jax.numpy as jnp
    import nlsq

    model = problem.make_model(jnp)

    def fit(x: np.ndarray, y: np.ndarray, p0: list[float]) -> Answer:
        params, _ = nlsq.curve_fit(model, x, y, p0=p0)
        return Answer(np.asarray(params))

    return fit


def _load_nlsq_large(problem: Problem) -> Fit:
    import jax.numpy as jnp
    import nlsq

    model = problem.make_model(jnp)

    def fit(x: np.ndarray, y: np.ndarray, p0: list[float]) -> Answer:
        params, _ = nlsq.curve_fit_large(model, x, y, p0=p0)
        return Answer(np.asarray(params))

    return fit


def _load_optimistix(problem: Problem) -> Fit:
    import jax
    import jax.numpy as jnp
    import optimistix

    jax.config.update("jax_enable_x64", True)
    model = problem.make_model(jnp)
    solver = optimistix.LevenbergMarquardt(rtol=1e-8, atol=1e-8)

    def residual(params, rows):
        x, y = rows
        return model(x, *params) - y

    def fit(x: np.ndarray, y: np.ndarray, p0: list[float]) -> Answer:
        start, rows = jnp.asarray(p0, dtype=float), (jnp.asarray(x), jnp.asarray(y))
        solution = optimistix.least_squares(residual, solver, start, args=rows, max_steps=1000)
        return Answer(np.asarray(solution.value))

    return fit


def _load_ours(problem: Problem) -> Fit:
    import jax.numpy as jnp

    from nlsq_sklearn import AdaptiveHybridStreamingOptimizer

    optimizer = AdaptiveHybridStreamingOptimizer(problem.make_model(jnp))

    def fit(x: np.ndarray, y: np.ndarray, p0: list[float]) -> Answer:
        result = optimizer.fit(x, y, p0)
        return Answer(result.popt, result.n_passes)

    return fit


OURS = "nlsq_sklearn"
SOLVERS = {
    OURS: Solver("nlsq_sklearn", "nlsq_sklearn", _load_ours),
    "scipy-lm": Solver("SciPy curve_fit, lm", "scipy", _load_scipy_lm),
    "scipy-trf": Solver("SciPy curve_fit, trf, exact Jacobian", "scipy", _load_scipy_trf),
    "lmfit": Solver("lmfit", "lmfit", _load_lmfit),
    "nlsq": Solver("NLSQ curve_fit", "nlsq", _load_nlsq),
    "nlsq-large": Solver("NLSQ curve_fit_large", "nlsq", _load_nlsq_large),
    "optimistix": Solver("Optimistix LevenbergMarquardt", "optimistix", _load_optimistix),
}
"""The solvers by name, ours first."""
