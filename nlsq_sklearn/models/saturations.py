"""Curves between two levels: logistic ones, and the binding curves of biochemistry."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from .._streams import Profile
from ._attributes import curve_model
from ._search import best_fit, grid, require_x_from, spacing, span

_INF = np.inf


def _midpoints_and_slopes(profile: Profile, *numbers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places of a step, even in x and even in rows, and its slopes from flat to steep."""
    n_midpoints, n_slopes = numbers
    parts = np.linspace(0, 1, n_midpoints)
    midpoints = [np.quantile(profile.x, parts), profile.x_range[0] + parts * span(profile)]
    slopes = np.geomspace(2 / span(profile), 4 / spacing(profile), n_slopes)
    return np.unique(np.concatenate(midpoints)), slopes


def _guess_logistic4(profile: Profile) -> np.ndarray:
    midpoints, slopes = grid(*_midpoints_and_slopes(profile, 25, 24))
    found = best_fit(profile, expit(slopes * (profile.x - midpoints)))
    [height], midpoint, slope = (
        found.factors,
        midpoints[found.candidate, 0],
        slopes[found.candidate, 0],
    )
    if height >= 0:
        return np.array([found.offset, found.offset + height, midpoint, slope])
    return np.array([found.offset + height, found.offset, midpoint, -slope])


@curve_model(
    guess=_guess_logistic4,
    formula="bottom + (top - bottom) / (1 + exp(-slope * (x - midpoint)))",
)
def logistic4(x: Any, bottom: Any, top: Any, midpoint: Any, slope: Any) -> Any:
    r"""Return a logistic curve of four parameters, symmetric about its midpoint.

    .. math:: f(x) = B + \frac{T - B}{1 + e^{-s (x - m)}}

    Parameters
    ----------
    x : array of shape (n_rows,)
        Often the logarithm of a dose, or a time; for the dose itself take `hill`.
    bottom, top : float
        :math:`B, T`, the levels between which it goes, in the unit of y.
    midpoint : float
        :math:`m`, where it is half-way between them, in the unit of x.
    slope : float
        :math:`s`, in 1 / unit of x; negative where the curve falls from top to bottom.

    Returns
    -------
    array of shape (n_rows,)

    Notes
    -----
    The curve does not change when bottom and top change places and the slope its sign. The start
    of ``p0="auto"`` has the larger level as top.

    References
    ----------
    .. [1] D. A. Ratkowsky, "Handbook of Nonlinear Regression Models", 1990, chapter 5.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import logistic4
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(logistic4(x, 0.5, 3.0, 4.0, -1.5))
    >>> result = AdaptiveHybridStreamingOptimizer(logistic4).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [ 0.5  3.   4.  -1.5]
    """
    return bottom + (top - bottom) * jax.nn.sigmoid(slope * (x - midpoint))


def _guess_logistic5(profile: Profile) -> np.ndarray:
    places, sizes = _midpoints_and_slopes(profile, 16, 14)
    margin = 0.3 * span(profile)  # an asymmetric step is not at its midpoint
    places = np.concatenate([[places[0] - margin], places, [places[-1] + margin]])
    signed = np.concatenate([-sizes, sizes])
    midpoints, slopes, powers = grid(places, signed, np.array([0.25, 0.5, 1.0, 2.0, 4.0]))
    steps = expit(slopes * (profile.x - midpoints)) ** powers
    found = best_fit(profile, steps, is_positive=True)
    rest = [column[found.candidate, 0] for column in (midpoints, slopes, powers)]
    return np.array([found.offset, found.offset + found.factors[0], *rest])


@curve_model(
    bounds=([-_INF, -_INF, -_INF, -_INF, 0], _INF),
    guess=_guess_logistic5,
    formula="bottom + (top - bottom) / (1 + exp(-slope * (x - midpoint)))**asymmetry",
)
def logistic5(x: Any, bottom: Any, top: Any, midpoint: Any, slope: Any, asymmetry: Any) -> Any:
    r"""Return a logistic curve of five parameters, which nears its two levels at two rates.

    .. math:: f(x) = B + \frac{T - B}{\left(1 + e^{-s (x - m)}\right)^g}

    Parameters
    ----------
    x : array of shape (n_rows,)
        Often the logarithm of a dose, or a time.
    bottom, top : float
        :math:`B, T`, the levels between which it goes, in the unit of y.
    midpoint : float
        :math:`m`, in the unit of x: where :math:`2^{-g}` of the step is done, which is half-way
        for g = 1 only.
    slope : float
        :math:`s`, in 1 / unit of x; negative where the curve falls from top to bottom.
    asymmetry : float
        :math:`g > 0`, without unit; 1 is `logistic4`.

    Returns
    -------
    array of shape (n_rows,)

    Notes
    -----
    A step with bottom above top is another curve, not this one in other words; the start of
    ``p0="auto"`` has bottom below top. Where the data do not show both levels, or the noise hides
    how they are neared, ``midpoint``, ``slope`` and ``asymmetry`` are hard to tell apart: their
    standard errors say so.

    References
    ----------
    .. [1] F. J. Richards, "A flexible growth function for empirical use", Journal of Experimental
           Botany 10, 1959.
    .. [2] P. G. Gottschalk, J. R. Dunn, "The five-parameter logistic: a characterization and
           comparison with the four-parameter logistic", Analytical Biochemistry 343, 2005.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import logistic5
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(logistic5(x, 0.5, 3.0, 4.0, 1.5, 0.5))
    >>> result = AdaptiveHybridStreamingOptimizer(logistic5).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [0.5 3.  4.  1.5 0.5]
    """
    # By its logarithm: the power of a step that underflows to 0 has no slope.
    step = jnp.exp(asymmetry * jax.nn.log_sigmoid(slope * (x - midpoint)))
    return bottom + (top - bottom) * step


def _positive_range(profile: Profile) -> tuple[float, float]:
    """Return the smallest x above 0 and the largest x; 1 where there is none."""
    positive = profile.x[profile.x > 0]
    return (float(positive[0]), float(positive[-1])) if positive.size else (1.0, 1.0)


def _guess_michaelis_menten(profile: Profile) -> np.ndarray:
    require_x_from(0, profile, "michaelis_menten")
    lowest, highest = _positive_range(profile)
    constants = np.geomspace(lowest / 30, 30 * highest, 100)
    curves = profile.x / (constants[:, np.newaxis] + profile.x)
    found = best_fit(profile, curves, has_offset=False, is_positive=True)
    return np.array([found.factors[0], constants[found.candidate]])


@curve_model(bounds=([0, 0], _INF), guess=_guess_michaelis_menten, formula="vmax * x / (km + x)")
def michaelis_menten(x: Any, vmax: Any, km: Any) -> Any:
    r"""Return the rate of an enzyme's reaction by the concentration of its substrate.

    .. math:: v(x) = \frac{v_\mathrm{max}\,x}{K_m + x}, \qquad x \ge 0

    Parameters
    ----------
    x : array of shape (n_rows,)
        The concentration.
    vmax : float
        :math:`v_\mathrm{max} \ge 0`, the rate at saturation, in the unit of y.
    km : float
        :math:`K_m > 0`, the concentration at half of that rate, in the unit of x.

    Returns
    -------
    array of shape (n_rows,)

    References
    ----------
    .. [1] K. A. Johnson, R. S. Goody, "The original Michaelis constant: translation of the 1913
           Michaelis-Menten paper", Biochemistry 50, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import michaelis_menten
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(michaelis_menten(x, 3.0, 2.0))
    >>> result = AdaptiveHybridStreamingOptimizer(michaelis_menten).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [3. 2.]
    """
    return vmax * x / (km + x)


def _guess_hill(profile: Profile) -> np.ndarray:
    require_x_from(0, profile, "hill")
    lowest, highest = _positive_range(profile)
    halves, powers = grid(np.geomspace(lowest, 3 * highest, 40), np.geomspace(0.3, 12, 16))
    logarithm = np.log(np.where(profile.x > 0, profile.x, 1.0))
    bound = np.where(profile.x > 0, expit(powers * (logarithm - np.log(halves))), 0.0)
    found = best_fit(profile, bound)
    rest = halves[found.candidate, 0], powers[found.candidate, 0]
    return np.array([found.offset, found.factors[0], *rest])


@curve_model(
    bounds=([-_INF, -_INF, 0, 0], _INF),
    guess=_guess_hill,
    formula="baseline + amplitude * x**coefficient / (half**coefficient + x**coefficient)",
)
def hill(x: Any, baseline: Any, amplitude: Any, half: Any, coefficient: Any) -> Any:
    r"""Return a Hill curve: cooperative binding, and the effect of a dose.

    .. math:: f(x) = B + A\,\frac{x^n}{K^n + x^n}, \qquad x \ge 0

    Parameters
    ----------
    x : array of shape (n_rows,)
        The concentration or dose; 0 or more, NaN is returned below.
    baseline : float
        :math:`B`, the value at x = 0, in the unit of y.
    amplitude : float
        :math:`A`, what saturation adds to it, in the unit of y; negative for an inhibition.
    half : float
        :math:`K > 0`, where half of that is reached (EC50, IC50), in the unit of x.
    coefficient : float
        :math:`n > 0`, the Hill coefficient, without unit.

    Returns
    -------
    array of shape (n_rows,)

    References
    ----------
    .. [1] S. Goutelle et al., "The Hill equation: a review of its capabilities in pharmacological
           modelling", Fundamental & Clinical Pharmacology 22, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import hill
    >>> x = np.geomspace(0.01, 100, 500)
    >>> y = np.asarray(hill(x, 1.0, -0.9, 2.0, 1.4))
    >>> result = AdaptiveHybridStreamingOptimizer(hill).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [ 1.  -0.9  2.   1.4]
    """
    # By logarithms: powers of x overflow, and those of 0 have no slope.
    is_dose = x > 0
    logarithm = jnp.log(jnp.where(is_dose, x, 1.0)) - jnp.log(half)
    bound = jax.nn.sigmoid(coefficient * logarithm)
    return baseline + amplitude * jnp.where(is_dose, bound, jnp.where(x < 0, jnp.nan, 0.0))
