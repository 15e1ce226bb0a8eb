"""Laws that are straight lines in other axes: the power law, and that of Arrhenius."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._streams import Profile
from ._attributes import curve_model
from ._search import best_fit, require_x_from

_INF = np.inf

GAS_CONSTANT = 8.31446261815324
"""Molar gas constant in J / (mol K), exact since 2019."""


def _best_exponential(
    profile: Profile, coordinate: np.ndarray, slopes: np.ndarray
) -> tuple[float, float]:
    """Return factor and slope of the nearest ``factor * exp(slope * coordinate)``.

    A coarse search is followed by finer ones: factor and slope are hard to tell apart where the
    coordinate is far from 0.
    """
    middle = float(np.average(coordinate, weights=profile.n_rows))
    for _ in range(3):
        with np.errstate(over="ignore"):
            curves = np.exp(slopes[:, np.newaxis] * (coordinate - middle))
        found = best_fit(profile, curves, has_offset=False)
        nearest = np.arange(slopes.size)[max(found.candidate - 1, 0) : found.candidate + 2]
        best = slopes[found.candidate]
        slopes = np.linspace(slopes[nearest[0]], slopes[nearest[-1]], 41)
    with np.errstate(over="ignore"):
        return found.factors[0] * float(np.exp(-best * middle)), float(best)


def _guess_power_law(profile: Profile) -> np.ndarray:
    require_x_from(0, profile, "power_law")
    is_positive = profile.x > 0
    if not is_positive.any():
        return np.array([1.0, 1.0])
    bins = profile._replace(
        x=profile.x[is_positive],
        y=profile.y[is_positive],
        weight=profile.weight[is_positive],
        n_rows=profile.n_rows[is_positive],
    )
    logarithm = np.log(bins.x)
    steps = np.linspace(-20, 20, 161)
    exponents = np.concatenate([steps / 2, steps / (np.ptp(logarithm) or 1.0)])
    return np.array(_best_exponential(bins, logarithm, np.unique(exponents)))


@curve_model(guess=_guess_power_law, formula="amplitude * x**exponent")
def power_law(x: Any, amplitude: Any, exponent: Any) -> Any:
    r"""Return a power of x.

    .. math:: f(x) = A\,x^k, \qquad x \ge 0

    Parameters
    ----------
    x : array of shape (n_rows,)
        Above 0; 0 too where the exponent is positive.
    amplitude : float
        :math:`A`, the value at x = 1, in the unit of y.
    exponent : float
        :math:`k`, without unit.

    Returns
    -------
    array of shape (n_rows,)

    Notes
    -----
    The fit minimises residuals of y, not of its logarithm: with noise that is proportional to y
    give it as ``sigma`` (or the weight 1 / sigma**2), else the small values hardly count.

    References
    ----------
    .. [1] D. A. Ratkowsky, "Handbook of Nonlinear Regression Models", 1990, chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import power_law
    >>> x = np.geomspace(1, 1000, 500)
    >>> y = np.asarray(power_law(x, 2.0, -1.5))
    >>> result = AdaptiveHybridStreamingOptimizer(power_law).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [ 2.  -1.5]
    """
    return amplitude * x**exponent


def _guess_arrhenius(profile: Profile) -> np.ndarray:
    require_x_from(0, profile, "arrhenius")
    inverse = 1 / np.maximum(profile.x, np.finfo(float).tiny)
    temperatures = np.linspace(-20, 60, 321) / (np.ptp(inverse) or 1 / profile.x_range[1])
    factor, slope = _best_exponential(profile, inverse, -temperatures)
    return np.array([factor, -slope * GAS_CONSTANT])


@curve_model(
    bounds=([0, -_INF], _INF),
    guess=_guess_arrhenius,
    formula="prefactor * exp(-activation_energy / (8.314462618 * x))",
)
def arrhenius(x: Any, prefactor: Any, activation_energy: Any) -> Any:
    r"""Return the rate of a reaction by its temperature.

    .. math:: k(T) = A\,e^{-E_a / (R T)}, \qquad R = 8.314462618\ \mathrm{J/(mol\,K)}

    Parameters
    ----------
    x : array of shape (n_rows,)
        The temperature :math:`T` in kelvin, above 0.
    prefactor : float
        :math:`A \ge 0`, in the unit of y.
    activation_energy : float
        :math:`E_a` in J/mol.

    Returns
    -------
    array of shape (n_rows,)

    Notes
    -----
    Over a narrow range of temperatures the two parameters are hard to tell apart (a correlation
    of 0.999 is common): their standard errors are large, the curve is well determined.

    The fit minimises residuals of the rate, not of its logarithm: with noise that is proportional
    to the rate give it as ``sigma`` (or the weight 1 / sigma**2), else the cold rows hardly count.

    References
    ----------
    .. [1] K. J. Laidler, "The development of the Arrhenius equation", Journal of Chemical
           Education 61, 1984.
    .. [2] E. Tiesinga et al., "CODATA recommended values of the fundamental physical constants:
           2018", Reviews of Modern Physics 93, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import arrhenius
    >>> x = np.linspace(280, 360, 500)
    >>> y = np.asarray(arrhenius(x, 1e10, 55_000.0))
    >>> result = AdaptiveHybridStreamingOptimizer(arrhenius).fit(x, y, p0="auto")
    >>> print(f"{result.popt[0]:.4g}, {result.popt[1]:.6g}")
    1e+10, 55000
    """
    return prefactor * jnp.exp(-activation_energy / (GAS_CONSTANT * x))
