"""The 27 nonlinear problems of NIST, with their certified answers and the score NIST uses."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

_NIST_FOLDER = Path(__file__).parent / "data" / "nist_strd"
_FIRST_PARAMETER_LINE = 40
_FIRST_DATA_LINE = 60


class Problem(NamedTuple):
    """A curve to fit, and what a fit of it must find.

    Attributes
    ----------
    name : str
        Name of the problem in its source.
    model : callable
        ``model(x, b1, b2, ...)``, traceable by JAX and elementwise in the rows of ``x``.
    x : ndarray of shape (n,) or (k, n)
        One predictor, or k of them.
    y : ndarray of shape (n,)
        Observations; a residual is model - y.
    starts : tuple of tuples of float
        Start values, each of length p.
    popt : ndarray of shape (p,) or None
        The global minimiser, which a fit that ends in one of ``other_costs`` does not find;
        None where it is not unique.
    perr : ndarray of shape (p,) or None
        Standard errors of ``popt``; None where they mean nothing (an exact fit, as many
        parameters as rows, a singular Jacobian).
    cost : float
        Half the sum of squared residuals at the global minimum.
    bounds : tuple of (lower, upper)
        Open in all problems of the tables.
    other_costs : tuple of float
        Costs of other known minima in which a descent method may rightly end.
    """

    name: str
    model: Callable
    x: np.ndarray
    y: np.ndarray
    starts: tuple[tuple[float, ...], ...]
    popt: np.ndarray | None
    perr: np.ndarray | None
    cost: float
    bounds: tuple = (-np.inf, np.inf)
    other_costs: tuple[float, ...] = ()


def bennett5(x, b1, b2, b3):
    """Return the shifted power law of Bennett5."""
    return b1 * (b2 + x) ** (-1 / b3)


def saturation(x, b1, b2):
    """Return the exponential saturation of BoxBOD and Misra1a."""
    return b1 * (1 - jnp.exp(-b2 * x))


def chwirut(x, b1, b2, b3):
    """Return the damped hyperbola of Chwirut1 and Chwirut2."""
    return jnp.exp(-b1 * x) / (b2 + b3 * x)


def danwood(x, b1, b2):
    """Return the power law of DanWood."""
    return b1 * x**b2


def enso(x, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    """Return the yearly cycle and two more of unknown period of ENSO."""
    angle = 2 * jnp.pi * x
    yearly = b2 * jnp.cos(angle / 12) + b3 * jnp.sin(angle / 12)
    first = b5 * jnp.cos(angle / b4) + b6 * jnp.sin(angle / b4)
    second = b8 * jnp.cos(angle / b7) + b9 * jnp.sin(angle / b7)
    return b1 + yearly + first + second


def eckerle4(x, b1, b2, b3):
    """Return the Gaussian of Eckerle4, b1 its area up to a constant."""
    return b1 / b2 * jnp.exp(-0.5 * ((x - b3) / b2) ** 2)


def gauss(x, b1, b2, b3, b4, b5, b6, b7, b8):
    """Return the two Gaussians on a decay of Gauss1, Gauss2 and Gauss3."""
    first = b3 * jnp.exp(-((x - b4) ** 2) / b5**2)
    second = b6 * jnp.exp(-((x - b7) ** 2) / b8**2)
    return b1 * jnp.exp(-b2 * x) + first + second


def cubic_ratio(x, b1, b2, b3, b4, b5, b6, b7):
    """Return the quotient of cubic polynomials of Hahn1 and Thurber."""
    return (b1 + b2 * x + b3 * x**2 + b4 * x**3) / (1 + b5 * x + b6 * x**2 + b7 * x**3)


def kirby2(x, b1, b2, b3, b4, b5):
    """Return the quotient of quadratic polynomials of Kirby2."""
    return (b1 + b2 * x + b3 * x**2) / (1 + b4 * x + b5 * x**2)


def lanczos(x, b1, b2, b3, b4, b5, b6):
    """Return the three decays of Lanczos1, Lanczos2 and Lanczos3."""
    return b1 * jnp.exp(-b2 * x) + b3 * jnp.exp(-b4 * x) + b5 * jnp.exp(-b6 * x)


def mgh09(x, b1, b2, b3, b4):
    """Return the rational function of Kowalik and Osborne."""
    return b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4)


def mgh10(x, b1, b2, b3):
    """Return the thermistor curve of Meyer."""
    return b1 * jnp.exp(b2 / (x + b3))


def mgh17(x, b1, b2, b3, b4, b5):
    """Return the two decays and a constant of Osborne."""
    return b1 + b2 * jnp.exp(-x * b4) + b3 * jnp.exp(-x * b5)


def misra1b(x, b1, b2):
    """Return the saturation of Misra1b."""
    return b1 * (1 - (1 + b2 * x / 2) ** -2)


def misra1c(x, b1, b2):
    """Return the saturation of Misra1c."""
    return b1 * (1 - (1 + 2 * b2 * x) ** -0.5)


def misra1d(x, b1, b2):
    """Return the saturation of Misra1d."""
    return b1 * b2 * x / (1 + b2 * x)


def nelson(x, b1, b2, b3):
    """Return the logarithm of the breakdown voltage of Nelson, from time and temperature."""
    time, temperature = x
    return b1 - b2 * time * jnp.exp(-b3 * temperature)


def rat42(x, b1, b2, b3):
    """Return the logistic growth of Rat42."""
    return b1 / (1 + jnp.exp(b2 - b3 * x))


def rat43(x, b1, b2, b3, b4):
    """Return the generalised logistic growth of Rat43."""
    return b1 / (1 + jnp.exp(b2 - b3 * x)) ** (1 / b4)


def roszman1(x, b1, b2, b3, b4):
    """Return the quantum defects of Roszman1."""
    # arctan2(b3, x - b4) would put b1 one unit off wherever x < b4: NIST certified arctan.
    return b1 - b2 * x - jnp.arctan(b3 / (x - b4)) / jnp.pi


_NIST_MODELS = {
    "Bennett5": bennett5,
    "BoxBOD": saturation,
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "DanWood": danwood,
    "ENSO": enso,
    "Eckerle4": eckerle4,
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "Hahn1": cubic_ratio,
    "Kirby2": kirby2,
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "MGH09": mgh09,
    "MGH10": mgh10,
    "MGH17": mgh17,
    "Misra1a": saturation,
    "Misra1b": misra1b,
    "Misra1c": misra1c,
    "Misra1d": misra1d,
    "Nelson": nelson,
    "Rat42": rat42,
    "Rat43": rat43,
    "Roszman1": roszman1,
    "Thurber": cubic_ratio,
}

# Positions of the parameters of each term, where terms of one form are added: they may change
# places without changing the curve.
_EXCHANGEABLE_TERMS = {
    "ENSO": ((3, 4, 5), (6, 7, 8)),
    "Gauss1": ((2, 3, 4), (5, 6, 7)),
    "Gauss2": ((2, 3, 4), (5, 6, 7)),
    "Gauss3": ((2, 3, 4), (5, 6, 7)),
    "Lanczos1": ((0, 1), (2, 3), (4, 5)),
    "Lanczos2": ((0, 1), (2, 3), (4, 5)),
    "Lanczos3": ((0, 1), (2, 3), (4, 5)),
    "MGH17": ((1, 3), (2, 4)),
}

# Positions of the parameters that may change sign together without changing the curve.
_FREE_SIGNS = {
    "Eckerle4": ((0, 1),),
    "Gauss1": ((4,), (7,)),
    "Gauss2": ((4,), (7,)),
    "Gauss3": ((4,), (7,)),
}


def nist_problems() -> list[Problem]:
    """Return the 27 problems in the order of their names."""
    return [_read(name) for name in _NIST_MODELS]


def _read(name):
    """Return the problem in the file of that name."""
    lines = (_NIST_FOLDER / f"{name}.dat").read_text().splitlines()
    # A line is "b1 = start1 start2 certified standard_deviation"; a blank one ends the table.
    rows = itertools.takewhile(str.strip, lines[_FIRST_PARAMETER_LINE:])
    first, second, certified, deviations = np.array([row.split()[2:] for row in rows], float).T
    (rss,) = (line.split()[-1] for line in lines if line.startswith("Residual Sum of Squares"))
    y, *predictors = np.loadtxt(lines[_FIRST_DATA_LINE:]).T
    return Problem(
        name=name,
        model=_NIST_MODELS[name],
        x=predictors[0] if len(predictors) == 1 else np.stack(predictors),
        y=np.log(y) if name == "Nelson" else y,
        starts=(tuple(first.tolist()), tuple(second.tolist())),
        popt=certified,
        perr=deviations,
        cost=float(rss) / 2,
    )


def log_relative_error(estimate, certified) -> float:
    """Return the number of correct digits of the worst parameter, at most 11.

    Where the certified value is 0 the error is absolute, as NIST has it. An estimate that is
    not finite scores -inf, below every finite one, so that no threshold can let it pass.
    """
    estimate, certified = np.asarray(estimate, float), np.asarray(certified, float)
    scale = np.where(certified == 0, 1.0, np.abs(certified))
    # The certified values have 11 digits. np.maximum and np.max hand nan on.
    worst = np.max(np.maximum(np.abs(estimate - certified) / scale, 1e-11))
    return float(-np.log10(worst)) if np.isfinite(worst) else -np.inf


def canonical(name, popt, perr):
    """Return the estimates under the equivalent labelling nearest to the certified one.

    Only what leaves the curve as it is may change: terms trade places (Lanczos, Gauss, MGH17,
    ENSO), or signs flip (b5 and b8 of Gauss; b1 with b2 in Eckerle4). Elsewhere nothing does.
    """
    popt, perr = np.asarray(popt, float), np.asarray(perr, float)
    certified = _read(name).popt
    order, sign = min(
        _equivalent_labellings(name, popt.size),
        key=lambda labelling: np.max(np.abs(labelling[1] * popt[labelling[0]] / certified - 1)),
    )
    return sign * popt[order], perr[order]


def _equivalent_labellings(name, n_params):
    """Yield (order, sign), each of shape (n_params,), the identity first."""
    terms = _EXCHANGEABLE_TERMS.get(name, ())
    groups = _FREE_SIGNS.get(name, ())
    for arrangement in itertools.permutations(terms):
        order = np.arange(n_params)
        for place, term in zip(terms, arrangement, strict=True):
            order[list(place)] = term
        for signs in itertools.product((1.0, -1.0), repeat=len(groups)):
            sign = np.ones(n_params)
            for group, value in zip(groups, signs, strict=True):
                sign[list(group)] = value
            yield order, sign
