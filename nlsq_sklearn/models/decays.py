"""Decays: exponential, of two exponentials, stretched, and oscillating."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .._streams import Profile
from ._attributes import curve_model
from ._search import Products, best_fit, grid, require_x_from, spacing, span, sums

_INF = np.inf


def _rates(profile: Profile, number: int) -> np.ndarray:
    """Return rates from nearly straight lines to decays between two bins."""
    return np.geomspace(0.1 / span(profile), 3.0 / spacing(profile), number)


def _guess_decay(profile: Profile) -> np.ndarray:
    rates = _rates(profile, 100)
    start = profile.x_range[0]
    found = best_fit(profile, np.exp(-rates[:, np.newaxis] * (profile.x - start)))
    rate = rates[found.candidate]
    return np.array([found.factors[0] * np.exp(rate * start), rate, found.offset])


@curve_model(
    bounds=([-_INF, 0, -_INF], _INF),
    guess=_guess_decay,
    formula="amplitude * exp(-rate * x) + offset",
)
def exponential_decay(x: Any, amplitude: Any, rate: Any, offset: Any) -> Any:
    r"""Return an exponential decay to a constant.

    .. math:: f(x) = A\,e^{-kx} + C

    Parameters
    ----------
    x : array of shape (n_rows,)
        Often a time.
    amplitude : float
        :math:`A`, what decays, at x = 0; in the unit of y. Negative for a rise to the constant.
    rate : float
        :math:`k \ge 0`, in 1 / unit of x: the lifetime is 1 / rate, the half-life log(2) / rate.
    offset : float
        :math:`C`, the value that is left, in the unit of y.

    Returns
    -------
    array of shape (n_rows,)

    Notes
    -----
    Where x is far from 0 against 1 / rate, as in years, ``amplitude`` is far outside the data:
    subtract the first x before the fit.

    References
    ----------
    .. [1] A. A. Istratov, O. F. Vyvenko, "Exponential analysis in physical phenomena", Review of
           Scientific Instruments 70, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import exponential_decay
    >>> x = np.linspace(0, 5, 500)
    >>> y = np.asarray(exponential_decay(x, 2.5, 1.3, 0.5))
    >>> result = AdaptiveHybridStreamingOptimizer(exponential_decay).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [2.5 1.3 0.5]
    """
    return amplitude * jnp.exp(-rate * x) + offset


def _guess_biexponential(profile: Profile) -> np.ndarray:
    rates = _rates(profile, 40)
    start = profile.x_range[0]
    first, second = np.triu_indices(rates.size, 2)  # neighbours are hardly two terms
    curves = np.exp(-rates[:, np.newaxis] * (profile.x - start))
    found = best_fit(profile, curves[second], curves[first])
    fast, slow = rates[second[found.candidate]], rates[first[found.candidate]]
    factors = np.array(found.factors) * np.exp(np.array([fast, slow]) * start)
    return np.array([factors[0], fast, factors[1], slow, found.offset])


@curve_model(
    bounds=([-_INF, 0, -_INF, 0, -_INF], _INF),
    guess=_guess_biexponential,
    formula="amplitude1 * exp(-rate1 * x) + amplitude2 * exp(-rate2 * x) + offset",
)
def biexponential(
    x: Any, amplitude1: Any, rate1: Any, amplitude2: Any, rate2: Any, offset: Any
) -> Any:
    r"""Return the sum of two exponential decays and a constant.

    .. math:: f(x) = A_1 e^{-k_1 x} + A_2 e^{-k_2 x} + C

    Parameters
    ----------
    x : array of shape (n_rows,)
        Often a time.
    amplitude1 : float
        :math:`A_1`, what decays at the first rate, at x = 0; in the unit of y.
    rate1 : float
        :math:`k_1 \ge 0`, in 1 / unit of x.
    amplitude2 : float
        :math:`A_2`, what decays at the second rate.
    rate2 : float
        :math:`k_2 \ge 0`.
    offset : float
        :math:`C`, the value that is left, in the unit of y.

    Returns
    -------
    array of shape (n_rows,)

    Notes
    -----
    The two terms may change places without changing the curve: which of them is the first is
    decided by the start. That of ``p0="auto"`` has the faster one first, rate1 > rate2.

    Rates that differ by less than a factor of two or three, or a slow decay that does not end
    within the data, are hard to tell apart [1]_: their standard errors say so.

    References
    ----------
    .. [1] A. A. Istratov, O. F. Vyvenko, "Exponential analysis in physical phenomena", Review of
           Scientific Instruments 70, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import biexponential
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(biexponential(x, 2.0, 3.0, 1.0, 0.4, 0.1))
    >>> result = AdaptiveHybridStreamingOptimizer(biexponential).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [2.  3.  1.  0.4 0.1]
    """
    return amplitude1 * jnp.exp(-rate1 * x) + amplitude2 * jnp.exp(-rate2 * x) + offset


def _guess_stretched(profile: Profile) -> np.ndarray:
    require_x_from(0, profile, "stretched_exponential")
    times = np.geomspace(spacing(profile) / 3, 3 * profile.x_range[1] or 1.0, 40)
    taus, betas = grid(times, np.geomspace(0.2, 3, 12))
    found = best_fit(profile, np.exp(-((profile.x / taus) ** betas)))
    tau, beta = taus[found.candidate, 0], betas[found.candidate, 0]
    return np.array([found.factors[0], tau, beta, found.offset])


@curve_model(
    bounds=([-_INF, 0, 0, -_INF], _INF),
    guess=_guess_stretched,
    formula="amplitude * exp(-(x / tau)**beta) + offset",
)
def stretched_exponential(x: Any, amplitude: Any, tau: Any, beta: Any, offset: Any) -> Any:
    r"""Return a stretched exponential, the function of Kohlrausch, Williams and Watts.

    .. math:: f(x) = A\,e^{-(x/\tau)^\beta} + C, \qquad x \ge 0

    Parameters
    ----------
    x : array of shape (n_rows,)
        Often a time; 0 or more, NaN is returned below.
    amplitude : float
        :math:`A`, what decays, in the unit of y.
    tau : float
        :math:`\tau > 0`, when all but 1/e of it has decayed, in the unit of x.
    beta : float
        :math:`\beta > 0`, without unit: below 1 the decay is stretched, above 1 compressed; 1 is
        the exponential and 2 a Gaussian.
    offset : float
        :math:`C`, the value that is left, in the unit of y.

    Returns
    -------
    array of shape (n_rows,)

    References
    ----------
    .. [1] G. Williams, D. C. Watts, "Non-symmetrical dielectric relaxation behaviour arising from
           a simple empirical decay function", Transactions of the Faraday Society 66, 1970.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import stretched_exponential
    >>> x = np.linspace(0, 20, 500)
    >>> y = np.asarray(stretched_exponential(x, 2.0, 1.5, 0.6, 0.3))
    >>> result = AdaptiveHybridStreamingOptimizer(stretched_exponential).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [2.  1.5 0.6 0.3]
    """
    # (x / tau)**beta has the slope 0 * inf in tau at x = 0.
    is_later = x > 0
    logarithm = jnp.log(jnp.where(is_later, x, 1.0)) - jnp.log(tau)
    exponent = jnp.where(is_later, jnp.exp(beta * logarithm), jnp.where(x < 0, jnp.nan, 0.0))
    return amplitude * jnp.exp(-exponent) + offset


def _guess_damped_sine(profile: Profile) -> np.ndarray:
    length, start = span(profile), profile.x_range[0]
    time = profile.x - start
    # Four frequencies for each that the data tell apart, up to two bins a period.
    frequencies = np.arange(1, max(2 * profile.x.size, 9)) * (0.25 / length)
    angles = 2 * np.pi * frequencies[:, np.newaxis] * time
    sine, cosine = np.sin(angles), np.cos(angles)
    rates = np.concatenate([[0.0], np.geomspace(0.5, 64, 8)]) / length
    gain, factors, offset = _project_oscillations(profile, sine, cosine, rates, time)
    row, column = np.unravel_index(int(np.argmax(gain)), gain.shape)
    along, across = factors[0][row, column], factors[1][row, column]
    frequency, rate = frequencies[row], rates[column]
    phase = np.arctan2(across, along) - 2 * np.pi * frequency * start
    amplitude = np.hypot(along, across) * np.exp(rate * start)
    phase = np.pi - (np.pi - phase) % (2 * np.pi)  # in (-pi, pi]
    return np.array([amplitude, rate, frequency, phase, offset[row, column]])


def _project_oscillations(
    profile: Profile, sine: np.ndarray, cosine: np.ndarray, rates: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return gain, factors of sine and cosine, and constant, each (n_frequencies, n_rates)."""
    weight = profile.weight / profile.weight.sum()
    unit = np.abs(profile.y).max() or 1.0
    y = profile.y / unit
    mean_y = float((weight * y).sum())
    decay = np.exp(-rates[:, np.newaxis] * time)

    def over_bins(waves: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return sums(waves[:, np.newaxis], weight)

    means = [over_bins(wave, weight * decay) for wave in (sine, cosine)]
    squares = weight * decay**2
    sine_squares, cosine_squares, mixed = (
        over_bins(product, squares) for product in (sine**2, cosine**2, sine * cosine)
    )
    mixed -= means[0] * means[1]
    products = Products(
        [[sine_squares - means[0] ** 2, mixed], [mixed, cosine_squares - means[1] ** 2]],
        [over_bins(wave, weight * decay * (y - mean_y)) for wave in (sine, cosine)],
    )
    gain, factors = products.solve(means)
    offset = mean_y - sum(f * mean for f, mean in zip(factors, means, strict=True))
    return gain, [unit * factor for factor in factors], unit * offset


@curve_model(
    bounds=([-_INF, 0, 0, -_INF, -_INF], _INF),
    guess=_guess_damped_sine,
    formula="amplitude * exp(-rate * x) * sin(2 * pi * frequency * x + phase) + offset",
)
def damped_sine(x: Any, amplitude: Any, rate: Any, frequency: Any, phase: Any, offset: Any) -> Any:
    r"""Return an oscillation that decays exponentially, about a constant.

    .. math:: f(x) = A\,e^{-kx} \sin(2\pi\nu x + \varphi) + C

    Parameters
    ----------
    x : array of shape (n_rows,)
        Often a time.
    amplitude : float
        :math:`A`, at x = 0, in the unit of y.
    rate : float
        :math:`k \ge 0`, in 1 / unit of x.
    frequency : float
        :math:`\nu \ge 0`, in periods / unit of x (hertz, where x is in seconds).
    phase : float
        :math:`\varphi`, at x = 0, in radians.
    offset : float
        :math:`C`, about which it oscillates, in the unit of y.

    Returns
    -------
    array of shape (n_rows,)

    Notes
    -----
    The curve does not change when the phase grows by :math:`2\pi`, nor when it grows by
    :math:`\pi` and the amplitude changes its sign. The start of ``p0="auto"`` has a positive
    amplitude and a phase in :math:`(-\pi, \pi]`; it finds up to 250 periods evenly over the rows,
    and at least two rows a period.

    References
    ----------
    .. [1] A. P. French, "Vibrations and Waves", 1971, chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import damped_sine
    >>> x = np.linspace(0, 10, 500)
    >>> y = np.asarray(damped_sine(x, 2.0, 0.3, 1.7, 0.5, 1.0))
    >>> result = AdaptiveHybridStreamingOptimizer(damped_sine).fit(x, y, p0="auto")
    >>> print(result.popt.round(3))
    [2.  0.3 1.7 0.5 1. ]
    """
    wave = jnp.sin(2 * jnp.pi * frequency * x + phase)
    return amplitude * jnp.exp(-rate * x) * wave + offset
