"""The covariance of the parameters, from the last normal equations."""

import math
from typing import NamedTuple

import numpy as np

from .equations import Equations
from .subproblem import factor_of_full_rank, inverse_of_factored, rank_tolerance


class Covariance(NamedTuple):
    """``matrix`` of shape (n_params, n_params); ``undetermined`` is a mask of shape (n_params,)."""

    matrix: np.ndarray
    undetermined: np.ndarray


def covariance(equations: Equations, *, absolute_sigma: bool) -> Covariance:
    """Return the covariance of the estimates in the linear approximation.

    Parameters that the data do not determine, alone or because they are collinear with others,
    get an infinite variance; those that stay determined keep theirs.

    Parameters
    ----------
    equations : Equations
        At the estimate.
    absolute_sigma : bool
        Whether the standard deviations of the rows are taken as they are, or scaled so that the
        reduced chi-square is 1.

    References
    ----------
    .. [1] G. A. F. Seber, C. J. Wild, "Nonlinear Regression", 1989, section 2.1.
    """
    n_params = equations.gradient.size
    unit = equations.column_norms
    if not unit.all():
        unit[unit == 0] = 1.0
    units = unit[:, np.newaxis] * unit
    matrix, undetermined = _inverse(equations.gram / units)
    freedom = equations.n_rows - n_params
    if absolute_sigma:
        variance = 1.0
    else:
        variance = 2 * equations.cost / freedom if freedom > 0 else np.inf
        if freedom <= 0:
            undetermined = np.ones(n_params, dtype=bool)
    if math.isfinite(variance):
        matrix *= variance
    matrix /= units
    if undetermined is None:
        return Covariance(matrix, np.zeros(n_params, dtype=bool))
    matrix[undetermined, :] = np.inf
    matrix[:, undetermined] = np.inf
    return Covariance(matrix, undetermined)


def _inverse(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the pseudoinverse of a Gram matrix of unit columns, and what is undetermined.

    None instead of a mask says that nothing is.
    """
    factor = factor_of_full_rank(gram)
    if factor is not None:
        return inverse_of_factored(factor), None
    n_params = len(gram)
    eigenvalues, vectors = np.linalg.eigh(gram)
    is_null = eigenvalues <= rank_tolerance(n_params)
    inverse = (vectors[:, ~is_null] / eigenvalues[~is_null]) @ vectors[:, ~is_null].T
    # A null direction leaves alone the parameters that it has no part of.
    return inverse, np.abs(vectors[:, is_null]).max(axis=1, initial=0.0) > 1e-6
