"""Random problems of each ready model: truths over a broad range, spacings, levels of noise."""

from typing import NamedTuple

import jax
import numpy as np

from nlsq_sklearn import models

N_PROBLEMS = 200


class Problem(NamedTuple):
    """A curve with known parameters, and rows of it in any order."""

    x: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    noise: float


def random_problem(model, number, *, is_noisy=True):
    """Return a problem of a model; the same for the same number."""
    rng = np.random.default_rng([_NAMES.index(model.__name__), number])
    draw = _DRAWS[model.__name__]
    n_rows = int(rng.choice([150, 200, 250, 300, 350]))  # JAX compiles for each number
    x, truth = draw(rng, n_rows)
    truth = np.array(truth, dtype=float)
    scale = _log_uniform(rng, 1e-3, 1e3)  # the unit of y is anybody's
    for name in _LEVELS & set(_names(model)):
        truth[_names(model).index(name)] *= scale
    x = rng.permutation(x)
    with jax.enable_x64(True):
        y = np.asarray(model(x, *truth))
    noise = np.ptp(y) * _log_uniform(rng, 1e-3, 0.05) if is_noisy else 0.0
    return Problem(x, y + noise * rng.standard_normal(n_rows), truth, noise)


_LEVELS = {
    *("amplitude", "amplitude1", "amplitude2", "offset", "bottom", "top", "baseline"),
    *("vmax", "prefactor"),
}


def _names(model):
    return model.__code__.co_varnames[1 : model.__code__.co_argcount]


def _log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sign(rng):
    return float(rng.choice([-1.0, 1.0]))


def _spaced(rng, n_rows, low, high):
    """Return x from low to high: evenly, at random, or in clusters."""
    kind = rng.integers(3)
    if kind == 0:
        return np.linspace(low, high, n_rows)
    if kind == 1:
        return rng.uniform(low, high, n_rows)
    return low + (high - low) * rng.beta(0.7, 0.7, n_rows)


def _log_spaced(rng, n_rows, low, high):
    """Return positive x from low to high: in equal ratios, at random ones, or evenly."""
    kind = rng.integers(3)
    if kind == 0:
        return np.geomspace(low, high, n_rows)
    if kind == 1:
        return np.exp(rng.uniform(np.log(low), np.log(high), n_rows))
    return np.linspace(low, high, n_rows)


def _exponential_decay(rng, n_rows):
    length = _log_uniform(rng, 1e-3, 1e3)
    x = _spaced(rng, n_rows, 0, length)
    return x, [_sign(rng), _log_uniform(rng, 1, 30) / length, rng.uniform(-2, 2)]


def _biexponential(rng, n_rows):
    length = _log_uniform(rng, 1e-3, 1e3)
    slow = _log_uniform(rng, 2, 6)
    fast = slow * _log_uniform(rng, 4, 20)
    x = length * rng.beta(0.5, 1.0, n_rows)  # fast decays are measured densely at their beginning
    ratio = _log_uniform(rng, 0.3, 3) * _sign(rng)
    return x, [1.0, fast / length, ratio, slow / length, rng.uniform(-2, 2)]


def _stretched_exponential(rng, n_rows):
    length = _log_uniform(rng, 1e-3, 1e3)
    beta = rng.uniform(0.4, 1.6)
    tau = length * _log_uniform(rng, 0.03, 0.2)
    x = length * np.concatenate([[0.0], rng.beta(0.5, 1.0, n_rows - 1)])
    return x, [_sign(rng), tau, beta, rng.uniform(-2, 2)]


def _damped_sine(rng, n_rows):
    length = _log_uniform(rng, 1e-3, 1e3)
    start = rng.choice([0.0, rng.uniform(-2, 2)])
    x = start * length + _spaced(rng, n_rows, 0, length)
    periods = _log_uniform(rng, 1.5, 40)
    rate = rng.choice([0.0, _log_uniform(rng, 0.3, min(10, periods))])
    return x, [
        np.exp(rate * start),
        rate / length,
        periods / length,
        rng.uniform(-np.pi, np.pi),
        rng.uniform(-2, 2),
    ]


def _peak(rng, n_rows):
    length, start = _log_uniform(rng, 1e-3, 1e3), rng.uniform(-3, 3)
    x = start * length + _spaced(rng, n_rows, 0, length)
    center = length * (start + rng.uniform(0.15, 0.85))
    width = length * _log_uniform(rng, 0.02, 0.15)
    return x, _sign(rng), center, width, rng.uniform(-2, 2)


def _gaussian(rng, n_rows):
    x, *truth = _peak(rng, n_rows)
    return x, truth


def _pseudo_voigt(rng, n_rows):
    x, amplitude, center, width, offset = _peak(rng, n_rows)
    return x, [amplitude, center, 2 * width, rng.uniform(0.05, 0.95), offset]


def _logistic4(rng, n_rows):
    length, start = _log_uniform(rng, 1e-3, 1e3), rng.uniform(-3, 3)
    x = length * (start + _spaced(rng, n_rows, 0, 1))
    midpoint = length * (start + rng.uniform(0.25, 0.75))
    bottom = rng.uniform(-2, 2)
    slope = _sign(rng) * _log_uniform(rng, 10, 100) / length
    return x, [bottom, bottom + 1, midpoint, slope]


def _logistic5(rng, n_rows):
    x, [bottom, top, midpoint, slope] = _logistic4(rng, n_rows)
    return x, [bottom, top, midpoint, 2 * slope, _log_uniform(rng, 0.4, 2.5)]


def _michaelis_menten(rng, n_rows):
    km = _log_uniform(rng, 1e-6, 1e3)
    x = _log_spaced(rng, n_rows, km * _log_uniform(rng, 0.01, 0.3), km * _log_uniform(rng, 1, 100))
    return x, [1.0, km]


def _hill(rng, n_rows):
    half, coefficient = _log_uniform(rng, 1e-6, 1e3), _log_uniform(rng, 0.5, 5)
    margin = 30 ** (1 / coefficient)
    x = _log_spaced(rng, n_rows - 20, half / margin, half * margin)
    x = np.concatenate([np.zeros(20), x])  # controls
    return x, [rng.uniform(-2, 2), _sign(rng), half, coefficient]


def _power_law(rng, n_rows):
    exponent = rng.uniform(-4, 4)
    low = _log_uniform(rng, 1e-3, 1e2)
    x = _log_spaced(rng, n_rows, low, low * _log_uniform(rng, 3, 1000))
    return x, [_sign(rng) / low**exponent, exponent]


def _arrhenius(rng, n_rows):
    low = rng.uniform(200, 800)
    x = _spaced(rng, n_rows, low, low + rng.uniform(30, 300))
    energy = rng.uniform(10e3, 200e3)
    return x, [np.exp(energy / (models.GAS_CONSTANT * low)), energy]


_DRAWS = {
    "exponential_decay": _exponential_decay,
    "biexponential": _biexponential,
    "gaussian": _gaussian,
    "lorentzian": _gaussian,
    "pseudo_voigt": _pseudo_voigt,
    "damped_sine": _damped_sine,
    "logistic4": _logistic4,
    "logistic5": _logistic5,
    "michaelis_menten": _michaelis_menten,
    "hill": _hill,
    "power_law": _power_law,
    "arrhenius": _arrhenius,
    "stretched_exponential": _stretched_exponential,
}
_NAMES = list(_DRAWS)
MODELS = [getattr(models, name) for name in _NAMES]
