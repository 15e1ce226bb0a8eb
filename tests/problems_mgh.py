"""Least-squares problems of Moré, Garbow and Hillstrom (1981), as curves to fit.

J. J. Moré, B. S. Garbow, K. E. Hillstrom, "Testing unconstrained optimization software", ACM
Transactions on Mathematical Software 7 (1981) 17-41; the numbers in brackets are theirs. They
print six digits; the answers here have more, from Newton's method in 80-digit arithmetic.

A start is the standard one, or 10 or 100 times that. Those are kept from which at least two of
the three methods of SciPy's `least_squares` reach a recorded cost; a comment says why others
are left out.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tests.problems import Problem, nist_problems

_PROBLEMS = []

# Three of the problems are among the 27 of NIST, which certified them; only starts are new.
_NIST = {problem.name: problem for problem in nist_problems()}


class Answer(NamedTuple):
    """What is known of the minima; the fields are those of `Problem`."""

    popt: np.ndarray | None = None
    perr: np.ndarray | None = None
    cost: float = 0.0
    other_costs: tuple[float, ...] = ()


def more_garbow_hillstrom() -> list[Problem]:
    """Return the problems in the order of the paper."""
    return list(_PROBLEMS)


def _case(name, starts, data, answer):
    """Return a decorator that enters the model below it, with all this, into the table."""

    def enter(model):
        x, y = (np.asarray(values, dtype=float) for values in data)
        _PROBLEMS.append(Problem(name, model, x, y, starts, **answer._asdict()))
        return model

    return enter


def _starts(*standard, factors=(1, 10, 100)):
    """Return the multiples of the standard start."""
    return tuple(tuple(float(factor * value) for value in standard) for factor in factors)


def _numbers(text):
    """Return the numbers in a text."""
    return np.array(text.split(), dtype=float)


def _rows(count):
    """Return the row numbers 1, 2, ..., count."""
    return np.arange(1.0, count + 1)


def _pick(x, *values):
    """Return ``values[i - 1]`` in the rows where ``x`` is ``i``."""
    # Every row evaluates all values. They depend on the parameters alone, so one that is not
    # finite spoils the row that picks it anyhow; no row gets a nan gradient from the others only.
    return jnp.select([x == row for row in range(1, len(values) + 1)], values)


@_case("Rosenbrock", _starts(-1.2, 1.0), (_rows(2), [0.0, 1.0]), Answer(np.ones(2)))
def rosenbrock(x, b1, b2):
    """Return the curved valley [1]."""
    return _pick(x, 10 * (b2 - b1**2), b1)


# From all three starts the methods end in the local minimum.
@_case(
    "Freudenstein-Roth",
    _starts(0.5, -2.0),
    (_rows(2), [13.0, 29.0]),
    Answer(np.array([5.0, 4.0]), other_costs=(24.49212683962001,)),
)
def freudenstein_roth(x, b1, b2):
    """Return the two cubic curves [2]."""
    return _pick(x, b1 + ((5 - b2) * b2 - 2) * b2, b1 + ((b2 + 1) * b2 - 14) * b2)


# The parameters may be exchanged. At 100 times the start exp(-100) leaves nothing to descend.
@_case(
    "Powell badly scaled",
    _starts(0.0, 1.0, factors=(1, 10)),
    (_rows(2), [1.0, 1.0001]),
    Answer(),
)
def powell_badly_scaled(x, b1, b2):
    """Return a product of order 1 of factors of order 1e-5 and 10 [3]."""
    return _pick(x, 1e4 * b1 * b2, jnp.exp(-b1) + jnp.exp(-b2))


@_case(
    "Brown badly scaled",
    _starts(1.0, 1.0),
    (_rows(3), [1e6, 2e-6, 2.0]),
    Answer(np.array([1e6, 2e-6])),
)
def brown_badly_scaled(x, b1, b2):
    """Return parameters of order 1e6 and 1e-6, and their product [4]."""
    return _pick(x, b1, b2, b1 * b2)


# From farther starts the way leads along b2 = 1 to b1 = -inf, where the cost creeps to 0.226.
@_case(
    "Beale",
    _starts(1.0, 1.0, factors=(1,)),
    (_rows(3), [1.5, 2.25, 2.625]),
    Answer(np.array([3.0, 0.5])),
)
def beale(x, b1, b2):
    """Return the product of Beale, whose residuals have one narrow valley [5]."""
    return b1 * (1 - b2**x)


# Both columns of the Jacobian are equal at the answer. The farther starts, with exp(40) and
# exp(400), end wherever the first step throws them.
@_case(
    "Jennrich-Sampson",
    _starts(0.3, 0.4, factors=(1,)),
    (_rows(10), 2 + 2 * _rows(10)),
    Answer(np.full(2, 0.2578252136703641), cost=62.18109117780743),
)
def jennrich_sampson(x, b1, b2):
    """Return two growing exponentials, fitted to a straight line [6]."""
    return jnp.exp(x * b1) + jnp.exp(x * b2)


@_case(
    "Helical valley",
    _starts(-1.0, 0.0, 0.0),
    (_rows(3), [0.0, 10.0, 0.0]),
    Answer(np.array([1.0, 0.0, 0.0])),
)
def helical_valley(x, b1, b2, b3):
    """Return the valley that winds around the third axis [7]."""
    # The angle runs from -1/4 to 3/4 of a turn, as in the paper: arctan2(b2, b1) would have its
    # cut at the start, at half a turn.
    turns = 0.25 + jnp.arctan2(-b1, b2) / (2 * jnp.pi)
    return _pick(x, 10 * (b3 - 10 * turns), 10 * jnp.sqrt(b1**2 + b2**2), b3)


_BARD_X = np.stack([_rows(15), 16 - _rows(15), np.minimum(_rows(15), 16 - _rows(15))])
_BARD_Y = _numbers("0.14 0.18 0.22 0.25 0.29 0.32 0.35 0.39 0.37 0.58 0.73 0.96 1.34 2.1 4.39")


# With b2 and b3 infinite a constant is left: of all rows, or, with a pole on the fourth, of the
# fourteen others.
@_case(
    "Bard",
    _starts(1.0, 1.0, 1.0),
    (_BARD_X, _BARD_Y),
    Answer(
        _numbers("0.08241055974979 1.133036092030 2.343695178643"),
        _numbers("0.0123741630086 0.307899949578 0.29627790183"),
        cost=0.004107438653289487,
        other_costs=(8.714346666666667, 8.527442857142857),
    ),
)
def bard(x, b1, b2, b3):
    """Return the rational function of three predictors of Bard [8]."""
    u, v, w = x
    return b1 + u / (b2 * v + b3 * w)


_BELL = _numbers("0.0009 0.0044 0.0175 0.054 0.1295 0.242 0.3521 0.3989")


# The other minimum is a spike through two of the points.
@_case(
    "Gaussian",
    _starts(0.4, 1.0, 0.0),
    ((8 - _rows(15)) / 2, np.append(_BELL, _BELL[-2::-1])),
    Answer(
        _numbers("0.3989561378388 1.000019084488 0"),
        _numbers("1.99433540128e-05 0.00011544775695 5.77213848389e-05"),
        cost=5.63966384809324e-09,
        other_costs=(0.140563875,),
    ),
)
def gaussian(x, b1, b2, b3):
    """Return the Gaussian bell [9]."""
    return b1 * jnp.exp(-b2 * (x - b3) ** 2 / 2)


_PROBLEMS.append(_NIST["MGH10"]._replace(name="Meyer", starts=_starts(0.02, 4000.0, 250.0)))  # [10]


_GULF_Y = _rows(99) / 100


# 10 times the start is the answer: a fit must stay there. At 100 times it all gradients are 0.
@_case(
    "Gulf",
    _starts(5.0, 2.5, 0.15, factors=(1, 10)),
    (25 + (-50 * np.log(_GULF_Y)) ** (2 / 3), _GULF_Y),
    Answer(np.array([50.0, 25.0, 1.5])),
)
def gulf(x, b1, b2, b3):
    """Return the stretched exponential of Gulf Research and Development [11]."""
    # The paper prints "mi" for the minus sign between the abscissa and b2.
    return jnp.exp(-(jnp.abs(x - b2) ** b3) / b1)


# The cost is 0 at (1, 10, 1), at (10, 1, -1) and wherever b1 = b2 and b3 = 0; the other minimum
# has b2 infinite.
@_case(
    "Box 3-D",
    _starts(0.0, 10.0, 20.0),
    (_rows(10) / 10, np.zeros(10)),
    Answer(other_costs=(0.0377943703774987,)),
)
def box3d(x, b1, b2, b3):
    """Return the difference of exponentials of Box [12]."""
    return jnp.exp(-x * b1) - jnp.exp(-x * b2) - b3 * (jnp.exp(-x) - jnp.exp(-10 * x))


# The cost grows with the fourth power of the error: popt cannot be found to many digits.
@_case(
    "Powell singular",
    _starts(3.0, -1.0, 0.0, 1.0),
    (_rows(4), np.zeros(4)),
    Answer(np.zeros(4)),
)
def powell_singular(x, b1, b2, b3, b4):
    """Return the function whose Jacobian has rank 2 at the answer [13]."""
    squares = (b2 - 2 * b3) ** 2, 10**0.5 * (b1 - b4) ** 2
    return _pick(x, b1 + 10 * b2, 5**0.5 * (b3 - b4), *squares)


@_case(
    "Wood",
    _starts(-3.0, -1.0, -3.0, -1.0),
    (_rows(6), [0.0, 1.0, 0.0, 1.0, 2 * 10**0.5, 0.0]),
    Answer(np.ones(4)),
)
def wood(x, b1, b2, b3, b4):
    """Return two coupled curved valleys [14]."""
    first, second = 10 * (b2 - b1**2), 90**0.5 * (b4 - b3**2)
    return _pick(x, first, b1, second, b3, 10**0.5 * (b2 + b4), (b2 - b4) / 10**0.5)


# The first of the other costs has b1 infinite (the paper lists it), the second has a pole
# between two abscissae.
_PROBLEMS.append(
    _NIST["MGH09"]._replace(
        name="Kowalik-Osborne",  # [15]
        starts=_starts(0.25, 0.39, 0.415, 0.39),
        other_costs=(0.0005136715243477289, 0.0002118373132349172),
    )
)


@_case(
    "Brown-Dennis",
    _starts(25.0, 5.0, -5.0, -1.0),
    (_rows(20) / 5, np.zeros(20)),
    Answer(
        _numbers("-11.59443990476 13.20363005121 -0.4034394881769 0.2367787744557"),
        _numbers("4.01737942092 1.23083326495 28.0842528995 39.7899518245"),
        cost=42911.10081317817,
    ),
)
def brown_dennis(x, b1, b2, b3, b4):
    """Return the sum of two squared errors of Brown and Dennis, large at its best [16]."""
    return (b1 + x * b2 - jnp.exp(x)) ** 2 + (b3 + b4 * jnp.sin(x) - jnp.cos(x)) ** 2


# At 10 times the start both decays are over at the second abscissa; 100 times it is with NIST.
_PROBLEMS.append(
    _NIST["MGH17"]._replace(
        name="Osborne 1",  # [17]
        starts=_starts(0.5, 1.5, -1.0, 0.01, 0.02, factors=(1,)),
    )
)


_BIGGS_X = _rows(13) / 10
_BIGGS_Y = np.exp(-_BIGGS_X) - 5 * np.exp(-10 * _BIGGS_X) + 3 * np.exp(-4 * _BIGGS_X)


# The first and third terms may trade places. The minimum of the paper has b2 or b5 infinite,
# so that two terms are left. At 100 times the start all but one term are.
@_case(
    "Biggs EXP6",
    _starts(1.0, 2.0, 1.0, 1.0, 1.0, 1.0, factors=(1, 10)),
    (_BIGGS_X, _BIGGS_Y),
    Answer(other_costs=(0.002827824962749965,)),
)
def biggs_exp6(x, b1, b2, b3, b4, b5, b6):
    """Return the three exponentials of Biggs [18]."""
    return b3 * jnp.exp(-x * b1) - b4 * jnp.exp(-x * b2) + b6 * jnp.exp(-x * b5)


_PEAKS_Y = """1.366 1.191 1.112 1.013 0.991 0.885 0.831 0.847 0.786 0.725 0.746 0.679 0.608 0.655
    0.616 0.606 0.602 0.626 0.651 0.724 0.649 0.649 0.694 0.644 0.624 0.661 0.612 0.558 0.533
    0.495 0.500 0.423 0.395 0.375 0.372 0.391 0.396 0.405 0.428 0.429 0.523 0.562 0.607 0.653
    0.672 0.708 0.633 0.668 0.645 0.632 0.591 0.559 0.597 0.625 0.739 0.710 0.729 0.720 0.636
    0.581 0.428 0.292 0.162 0.098 0.054"""


# The peaks at 2, 4.5 and 5.5 keep their order from here; 10 times farther they are off the data.
@_case(
    "Osborne 2",
    _starts(1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5, factors=(1,)),
    ((_rows(65) - 1) / 10, _numbers(_PEAKS_Y)),
    Answer(
        _numbers(
            "1.309977154627 0.4315537946030 0.6336616989607 0.5994305347859 0.7541832263280 "
            "0.9042885798596 1.365811835237 4.823698817227 2.398684866132 4.568874597668 "
            "5.675341470581"
        ),
        _numbers(
            "0.0184147618357 0.0234734016752 0.0131204809364 0.035592152371 0.0515231711127 "
            "0.136771689724 0.183276233248 0.47094880097 0.031328134499 0.0288879745116 "
            "0.0163499567582"
        ),
        cost=0.02006886814677387,
    ),
)
def osborne2(x, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11):
    """Return the decay and three Gaussians of Osborne [19]."""
    first = b2 * jnp.exp(-((x - b9) ** 2) * b6)
    second = b3 * jnp.exp(-((x - b10) ** 2) * b7)
    third = b4 * jnp.exp(-((x - b11) ** 2) * b8)
    return b1 * jnp.exp(-x * b5) + first + second + third


_WATSON_Y = [1.0] * 29 + [0.0, 1.0]


def _watson(x, *b):
    """Return u' - u^2 of a polynomial u on 29 points of [0, 1], and two side conditions."""
    t = x / 29
    value, slope = b[-1], 0.0
    for coefficient in reversed(b[:-1]):
        slope = value + t * slope
        value = coefficient + t * value
    return jnp.select([x <= 29, x == 30], [slope - value**2, b[0]], b[1] - b[0] ** 2)


# The standard start is 0; the farther ones are those of MINPACK's own tests.
@_case(
    "Watson 6",
    ((0.0,) * 6, (10.0,) * 6, (100.0,) * 6),
    (_rows(31), _WATSON_Y),
    Answer(
        _numbers(
            "-0.01572508640146 1.012434869369 -0.2329916259567 1.260430087800 -1.513728922722 "
            "0.9929964324311"
        ),
        _numbers(
            "0.00903391365147 0.00727492525173 0.0517473539699 0.154989604436 0.186395677186 "
            "0.0859362295241"
        ),
        cost=0.001143835026776218,
    ),
)
def watson6(x, b1, b2, b3, b4, b5, b6):
    """Return the differential equation of Watson for a polynomial of degree 5 [20]."""
    return _watson(x, b1, b2, b3, b4, b5, b6)


@_case(
    "Watson 9",
    ((0.0,) * 9, (10.0,) * 9, (100.0,) * 9),
    (_rows(31), _WATSON_Y),
    Answer(
        _numbers(
            "-1.530703652139e-05 0.9997897039319 0.01476396369356 0.1463423282994 "
            "1.000821103005 -2.617731140519 4.104403164479 -3.143612278556 1.052626408010"
        ),
        _numbers(
            "0.000252219757509 0.000237741899799 0.0048420938613 0.0407548180116 "
            "0.164600334213 0.355792884662 0.422632966585 0.260139586707 0.0648517296924"
        ),
        cost=6.9988006904951e-07,
    ),
)
def watson9(x, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    """Return the differential equation of Watson for a polynomial of degree 8 [20]."""
    return _watson(x, b1, b2, b3, b4, b5, b6, b7, b8, b9)


@_case(
    "Extended Rosenbrock",
    _starts(*[-1.2, 1.0] * 5),
    (_rows(10), [0.0, 1.0] * 5),
    Answer(np.ones(10)),
)
def extended_rosenbrock(x, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10):
    """Return five separate curved valleys [21]."""
    pairs = ((b1, b2), (b3, b4), (b5, b6), (b7, b8), (b9, b10))
    return _pick(x, *(value for p, q in pairs for value in (10 * (q - p**2), p)))


_WEAK = 1e-5**0.5


_PENALTY2_SUMS = [_WEAK * (np.exp(i / 10) + np.exp((i - 1) / 10)) for i in (2, 3, 4)]


@_case(
    "Penalty II",
    _starts(0.5, 0.5, 0.5, 0.5),
    (_rows(8), [0.2, *_PENALTY2_SUMS, *[_WEAK * np.exp(-0.1)] * 3, 1.0]),
    Answer(
        _numbers("0.1999993333504 0.1913167009928 0.4801014853326 0.5188454043902"),
        _numbers("0.0015310365029 2.79361470424 2.58505214893 3.44171353931"),
        cost=4.688146503677721e-06,
    ),
)
def penalty2(x, b1, b2, b3, b4):
    """Return weak exponentials, and a weighted squared norm [24]."""
    e1, e2, e3, e4 = (_WEAK * jnp.exp(b / 10) for b in (b1, b2, b3, b4))
    norm = 4 * b1**2 + 3 * b2**2 + 2 * b3**2 + b4**2
    return _pick(x, b1, e2 + e1, e3 + e2, e4 + e3, e2, e3, e4, norm)


@_case(
    "Variably dimensioned",
    _starts(*(1 - _rows(10) / 10)),
    (_rows(12), [1.0] * 10 + [55.0, 0.0]),
    Answer(np.ones(10)),
)
def variably_dimensioned(x, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10):
    """Return the parameters, a weighted sum of them, and its squared error [25]."""
    b = (b1, b2, b3, b4, b5, b6, b7, b8, b9, b10)
    total = sum(i * value for i, value in enumerate(b, start=1))
    return _pick(x, *b, total, (total - 55) ** 2)


# Two minimisers are near each other, with b1 = ... = b9 = 1 or 0.9794; the other cost has all
# these 0 and b10 = 11.
@_case(
    "Brown almost-linear",
    _starts(*[0.5] * 10),
    (_rows(10), [11.0] * 9 + [1.0]),
    Answer(other_costs=(0.5,)),
)
def brown_almost_linear(x, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10):
    """Return nine sums and one product [27]."""
    total = b1 + b2 + b3 + b4 + b5 + b6 + b7 + b8 + b9 + b10
    sums = [total + b for b in (b1, b2, b3, b4, b5, b6, b7, b8, b9)]
    return _pick(x, *sums, b1 * b2 * b3 * b4 * b5 * b6 * b7 * b8 * b9 * b10)


@_case(
    "Broyden tridiagonal",
    _starts(*[-1.0] * 10),
    (_rows(10), np.full(10, -1.0)),
    Answer(
        _numbers(
            "-0.5707221320112 -0.6818069499843 -0.7022100760177 -0.7055106298951 "
            "-0.7049061557287 -0.7014966070299 -0.6918893223548 -0.6657965144059 "
            "-0.5960351090264 -0.4164122575287"
        )
    ),
)
def broyden_tridiagonal(x, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10):
    """Return quadratics coupled to their neighbours [30]."""
    b = (b1, b2, b3, b4, b5, b6, b7, b8, b9, b10)
    before, after = (0.0, *b[:-1]), (*b[1:], 0.0)
    triples = zip(before, b, after, strict=True)
    return _pick(x, *((3 - 2 * u) * u - p - 2 * q for p, u, q in triples))


@_case(
    "Linear full rank",
    _starts(*[1.0] * 5),
    (_rows(10), np.ones(10)),
    Answer(np.full(5, -1.0), np.ones(5), cost=2.5),
)
def linear_full_rank(x, b1, b2, b3, b4, b5):
    """Return each parameter less a fifth of the sum of all, then only that [32]."""
    return _pick(x, b1, b2, b3, b4, b5) - (b1 + b2 + b3 + b4 + b5) / 5


@_case(
    "Linear rank 1",
    _starts(*[1.0] * 5),
    (_rows(10), np.ones(10)),
    Answer(cost=15 / 14),
)
def linear_rank1(x, b1, b2, b3, b4, b5):
    """Return a line through 0, of which the data determine the slope alone [33]."""
    return x * (b1 + 2 * b2 + 3 * b3 + 4 * b4 + 5 * b5)


@_case(
    "Linear rank 1 with zeros",
    _starts(*[1.0] * 5),
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 0], np.ones(10)),
    Answer(cost=31 / 17),
)
def linear_rank1_with_zeros(x, b1, b2, b3, b4, b5):
    """Return such a line with two rows at 0, and two parameters without effect [34]."""
    return x * (2 * b2 + 3 * b3 + 4 * b4)


# The parameters may be exchanged.
@_case(
    "Chebyquad",
    _starts(*(_rows(8) / 9)),
    (_rows(8), [0, -1 / 3, 0, -1 / 15, 0, -1 / 35, 0, -1 / 63]),
    Answer(cost=0.001758436862838966),
)
def chebyquad(x, b1, b2, b3, b4, b5, b6, b7, b8):
    """Return the means of eight shifted Chebyshev polynomials over eight points [35]."""
    points = 2 * jnp.stack([b1, b2, b3, b4, b5, b6, b7, b8]) - 1
    polynomials = [jnp.ones(8), points]
    for _ in range(7):
        polynomials.append(2 * points * polynomials[-1] - polynomials[-2])
    return _pick(x, *(jnp.mean(polynomial) for polynomial in polynomials[1:]))
