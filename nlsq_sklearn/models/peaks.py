"""Peaks on a constant background: gaussian, lorentzian, and between the two."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._streams import Profile
from ._attributes import curve_model
from ._search import best_fit, spacing, span

_INF = np.inf
_N_WIDTHS = 18
_LOG_2 = float(np.log(2))


class _Peak(NamedTuple):
    amplitude: float
    center: float
    width: float
    offset: float
    gain: float


def _best_peak(profile: Profile, shape: Callable[[np.ndarray], np.ndarray]) -> _Peak:
    """Return the peak of a shape, a function of (x - center) / width, that is nearest."""
    peaks = []
    for width in np.geomspace(0.5 * spacing(profile), 0.7 * span(profile), _N_WIDTHS):
        # Centers a width apart, at bins; at all bins where those are farther apart.
        n_wanted = span(profile) / width + 1
        if n_wanted < profile.x.size:
            wanted = profile.x_range[0] + width * np.arange(n_wanted)
            places = np.unique(np.searchsorted(profile.x, wanted).clip(max=profile.x.size - 1))
            centers = profile.x[places]
        else:
            centers = profile.x
        found = best_fit(profile, shape((profile.x - centers[:, np.newaxis]) / width))
        center = float(centers[found.candidate])
        peaks.append(_Peak(found.factors[0], center, float(width), found.offset, found.gain))
    return max(peaks, key=lambda peak: peak.gain)


def _guess_gaussian(profile: Profile) -> np.ndarray:
    return np.array(_best_peak(profile, lambda u: np.exp(-0.5 * u**2))[:4])


@curve_model(
    bounds=([-_INF, -_INF, 0, -_INF], _INF),
    guess=_guess_gaussian,
    formula="amplitude * exp(-(x - center)**2 / (2 * sigma**2)) + offset",
)
def gaussian(x: Any, amplitude: Any, center: Any, sigma: Any, offset: Any) -> Any:
    r"""Return a Gaussian peak on a constant.

    .. math:: f(x) = A \exp\left(-\frac{(x - x_0)^2}{2 \sigma^2}\right) + C

    Parameters
    ----------
    x : array of shape (n_rows,)
    amplitude : float
        :math:`A`, the height over the constant, in the unit of y; negative for a dip. The area
        is :math:`\sqrt{2\pi} A \sigma`.
    center : float
        :math:`x_0`, in the unit of x.
    sigma : float
        :math:`\sigma > 0`, the standard deviation, in the unit of x: the full width at half
        maximum is :math:`2\sqrt{2 \log 2}\,\sigma \approx 2.355\,\sigma`.
    offset : float
        :math:`C`, the background, in the unit of y.

    Returns
    -------
    array of shape (n_rows,)

    References
    ----------
    .. [1] NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.6.1.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import gaussian
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(gaussian(x, 3.0, 4.0, 0.7, 1.0))
    >>> result = AdaptiveHybridStreamingOptimizer(gaussian).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [3.  4.  0.7 1. ]
    """
    return amplitude * jnp.exp(-0.5 * ((x - center) / sigma) ** 2) + offset


def _guess_lorentzian(profile: Profile) -> np.ndarray:
    return np.array(_best_peak(profile, lambda u: 1 / (1 + u**2))[:4])


@curve_model(
    bounds=([-_INF, -_INF, 0, -_INF], _INF),
    guess=_guess_lorentzian,
    formula="amplitude / (1 + ((x - center) / gamma)**2) + offset",
)
def lorentzian(x: Any, amplitude: Any, center: Any, gamma: Any, offset: Any) -> Any:
    r"""Return a Lorentzian peak on a constant.

    .. math:: f(x) = \frac{A}{1 + \left((x - x_0) / \gamma\right)^2} + C

    Parameters
    ----------
    x : array of shape (n_rows,)
    amplitude : float
        :math:`A`, the height over the constant, in the unit of y; negative for a dip. The area
        is :math:`\pi A \gamma`.
    center : float
        :math:`x_0`, in the unit of x.
    gamma : float
        :math:`\gamma > 0`, half the full width at half maximum, in the unit of x.
    offset : float
        :math:`C`, the background, in the unit of y.

    Returns
    -------
    array of shape (n_rows,)

    References
    ----------
    .. [1] NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.6.3.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import lorentzian
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(lorentzian(x, -3.0, 4.0, 0.5, 1.0))
    >>> result = AdaptiveHybridStreamingOptimizer(lorentzian).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [-3.   4.   0.5  1. ]
    """
    return amplitude / (1 + ((x - center) / gamma) ** 2) + offset


def _guess_pseudo_voigt(profile: Profile) -> np.ndarray:
    peak = _best_peak(profile, lambda u: 0.5 / (1 + u**2) + 0.5 * np.exp(-_LOG_2 * u**2))
    return np.array([peak.amplitude, peak.center, 2 * peak.width, 0.5, peak.offset])


@curve_model(
    bounds=([-_INF, -_INF, 0, 0, -_INF], [_INF, _INF, _INF, 1, _INF]),
    guess=_guess_pseudo_voigt,
    formula=(
        "amplitude * (fraction / (1 + u**2) + (1 - fraction) * exp(-log(2) * u**2)) + offset, "
        "u = 2 * (x - center) / fwhm"
    ),
)
def pseudo_voigt(x: Any, amplitude: Any, center: Any, fwhm: Any, fraction: Any, offset: Any) -> Any:
    r"""Return a pseudo-Voigt peak on a constant: a Lorentzian and a Gaussian of the same width.

    .. math::

        f(x) = A \left[\frac{\eta}{1 + u^2} + (1 - \eta)\,e^{-u^2 \log 2}\right] + C,
        \qquad u = \frac{x - x_0}{\Gamma / 2}

    Parameters
    ----------
    x : array of shape (n_rows,)
    amplitude : float
        :math:`A`, the height over the constant, in the unit of y; negative for a dip. The area is
        :math:`A \frac{\Gamma}{2} \left(\eta\pi + (1 - \eta) \sqrt{\pi / \log 2}\right)`.
    center : float
        :math:`x_0`, in the unit of x.
    fwhm : float
        :math:`\Gamma > 0`, the full width at half maximum of both parts, in the unit of x.
    fraction : float
        :math:`\eta`, from 0 (Gaussian) to 1 (Lorentzian): the Lorentzian's part of the height.
    offset : float
        :math:`C`, the background, in the unit of y.

    Returns
    -------
    array of shape (n_rows,)

    References
    ----------
    .. [1] P. Thompson, D. E. Cox, J. B. Hastings, "Rietveld refinement of Debye-Scherrer
           synchrotron X-ray data from Al2O3", Journal of Applied Crystallography 20, 1987. (There
           the fraction is one of the area.)

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import pseudo_voigt
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(pseudo_voigt(x, 3.0, 4.0, 0.9, 0.4, 1.0))
    >>> result = AdaptiveHybridStreamingOptimizer(pseudo_voigt).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [3.  4.  0.9 0.4 1. ]
    """
    square = (2 * (x - center) / fwhm) ** 2
    shape = fraction / (1 + square) + (1 - fraction) * jnp.exp(-_LOG_2 * square)
    return amplitude * shape + offset
