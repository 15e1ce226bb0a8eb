"""What a fit is worth, in numbers: confidence intervals, correlations, R2, chi-square, AIC, BIC."""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from ._engine.equations import Equations
from ._engine.spread import r2


class Statistics(NamedTuple):
    """How well a curve describes the data; NaN under a robust loss, which has other measures.

    Attributes
    ----------
    dof : float
        Degrees of freedom: rows that count, less parameters.
    chi_square : float
        Weighted sum of squared residuals.
    reduced_chi_square : float
        ``chi_square / dof``: 1 where the curve is right and sigma is that of the noise; without
        sigma the variance of the noise.
    r2 : float
        Coefficient of determination; NaN where it is not known how y scatters.
    aic, bic : float
        Akaike's and the Bayesian information criterion [1]_, up to a constant that is the same for
        all models of the same data.

    References
    ----------
    .. [1] K. P. Burnham, D. R. Anderson, "Model Selection and Multimodel Inference", 2nd edition,
           2002, sections 2.2 and 6.4.1.
    """

    dof: float
    chi_square: float
    reduced_chi_square: float
    r2: float
    aic: float
    bic: float


def statistics(equations: Equations, loss: str, *, absolute_sigma: bool) -> Statistics:
    """Return how well a curve describes the data, from its last normal equations."""
    n_params, n_rows = equations.gradient.size, equations.n_rows
    dof = n_rows - n_params
    if loss != "linear":
        return Statistics(dof, *(5 * [np.nan]))
    chi_square = 2 * equations.cost
    # Minus twice the logarithm of the likelihood, sigma being known or the noise's own.
    deviance = chi_square if absolute_sigma else n_rows * _logarithm(chi_square / n_rows)
    return Statistics(
        dof,
        chi_square,
        chi_square / dof if dof > 0 else np.nan,
        np.nan if equations.spread is None else r2(chi_square, equations.spread),
        deviance + 2 * n_params,
        deviance + _logarithm(n_rows) * n_params,
    )


def _logarithm(value: float) -> float:
    """Return the logarithm; of 0, to which exact data come, minus infinity."""
    if value > 0:
        return math.log(value)
    return -math.inf if value == 0 else math.nan


def correlation(covariance: np.ndarray) -> np.ndarray:
    """Return the correlation matrix; NaN beside parameters that the data do not determine."""
    errors = np.sqrt(covariance.diagonal())
    if all(0 < error < math.inf for error in errors.tolist()):
        correlations = np.asarray(covariance / (errors[:, np.newaxis] * errors), order="C")
        correlations.ravel()[:: errors.size + 1] = 1.0
        return correlations
    is_known = np.isfinite(errors) & (errors > 0)
    known = np.where(is_known, errors, 1.0)
    finite = np.where(np.isfinite(covariance), covariance, 0.0)
    matrix: np.ndarray = finite / np.outer(known, known)
    matrix[~is_known, :] = matrix[:, ~is_known] = np.nan
    np.fill_diagonal(matrix, 1.0)
    return matrix


def half_width(errors: np.ndarray, dof: float, level: float) -> np.ndarray:
    """Return half the lengths of confidence intervals: standard errors times a quantile of t.

    Parameters
    ----------
    errors : ndarray of shape (n_params,)
    dof : float
        Infinite where the errors come from a sigma that is known.
    level : float
        The probability that an interval covers the truth.

    Raises
    ------
    ValueError
        If the level is no probability.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, as 0.95, got {level!r}.")
    tail = 0.5 * (1 + level)
    quantile = special.stdtrit(dof, tail) if np.isfinite(dof) else special.ndtri(tail)
    return np.asarray(np.where(np.isfinite(errors), errors * quantile, np.inf))
