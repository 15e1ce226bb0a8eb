"""The covariance of the parameters, from the last normal equations."""

from typing import NamedTuple

import numpy as np

from .equations import Equations
from .subproblem import rank_tolerance


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
    norms = equations.column_norms
    unit = np.where(norms > 0, norms, 1.0)
    eigenvalues, vectors = np.linalg.eigh(equations.gram / np.outer(unit, unit))
    is_null = eigenvalues <= rank_tolerance(n_params)
    inverse = (vectors[:, ~is_null] / eigenvalues[~is_null]) @ vectors[:, ~is_null].T
    # A null direction leaves alone the parameters that it has no part of.
    undetermined = np.abs(vectors[:, is_null]).max(axis=1, initial=0.0) > 1e-6
    freedom = equations.n_rows - n_params
    if absolute_sigma:
        variance = 1.0
    else:
        variance = 2 * equations.cost / freedom if freedom > 0 else np.inf
        if freedom <= 0:
            undetermined = np.ones(n_params, dtype=bool)
    matrix = np.where(np.isfinite(variance), variance, 1.0) * inverse / np.outer(unit, unit)
    matrix[undetermined, :] = np.inf
    matrix[:, undetermined] = np.inf
    return Covariance(matrix, undetermined)
