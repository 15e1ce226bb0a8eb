"""The four curves that every solver fits: truth, starts, data, exact Jacobian, and a row in C."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_PIECE_ROWS = 1_000_000
# The near start is off by so much, in turn upwards and downwards.
_NEAR = 0.03
_GRID_ROWS = 20_001  # enough for the sums over rows to be integrals


class Problem(NamedTuple):
    """A curve with everything that is known of it.

    Attributes
    ----------
    name, formula : str
    make_model : callable
        From a namespace (NumPy or ``jax.numpy``) to the model ``f(x, *params)``.
    jacobian : callable
        ``jacobian(x, *params)`` of shape (n_rows, n_params), in NumPy.
    truth, far : tuple of float
        The parameters that the data are made with, and the far start.
    span : tuple of float
        The first and the last ``x``.
    noise : float
        Standard deviation of the noise of each row.
    c_row : str
        C code of one row: from ``x`` and ``p0, p1, ...`` to ``value`` and ``j0, j1, ...``.
    """

    name: str
    formula: str
    make_model: Callable[[Any], Callable[..., Any]]
    jacobian: Callable[..., np.ndarray]
    truth: tuple[float, ...]
    far: tuple[float, ...]
    span: tuple[float, float]
    noise: float
    c_row: str

    @property
    def starts(self) -> dict[str, list[float]]:
        """The starts by name, each of n_params numbers."""
        near = [p * (1 + _NEAR * (-1) ** i) for i, p in enumerate(self.truth)]
        return {"far": list(self.far), "near": near}

    def rows(self, n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return ``x``, evenly spread, and ``y``, each of shape (n_rows,)."""
        rng = np.random.default_rng(seed)
        x, y = np.empty(n_rows), np.empty(n_rows)
        model = self.make_model(np)
        low, high = self.span
        for first in range(0, n_rows, _PIECE_ROWS):  # piece by piece: 10^8 rows fit in memory
            piece = slice(first, min(first + _PIECE_ROWS, n_rows))
            x[piece] = low + np.arange(piece.start, piece.stop) * ((high - low) / (n_rows - 1))
            y[piece] = model(x[piece], *self.truth)
            y[piece] += rng.normal(0, self.noise, piece.stop - piece.start)
        return x, y

    def standard_errors(self, n_rows: int) -> np.ndarray:
        """Return the standard errors of the parameters, (n_params,), from truth and noise."""
        columns = self.jacobian(np.linspace(*self.span, _GRID_ROWS), *self.truth)
        gram = columns.T @ columns * (n_rows / _GRID_ROWS)
        return self.noise * np.sqrt(np.diag(np.linalg.inv(gram)))


def _decay(xp: Any) -> Callable[..., Any]:
    def decay(x, a, b, c):
        return a * xp.exp(-b * x) + c

    return decay


def _decay_jacobian(x: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    e = np.exp(-b * x)
    return np.stack([e, -a * x * e, np.ones_like(x)], axis=1)


def _damped(xp: Any) -> Callable[..., Any]:
    def damped(x, a, b, c, d):
        return a * xp.exp(-b * x) * xp.sin(c * x) + d

    return damped


def _damped_jacobian(x: np.ndarray, a: float, b: float, c: float, d: float) -> np.ndarray:
    e, s, k = np.exp(-b * x), np.sin(c * x), np.cos(c * x)
    return np.stack([e * s, -a * x * e * s, a * x * e * k, np.ones_like(x)], axis=1)


def _peaks(xp: Any) -> Callable[..., Any]:
    def peaks(x, a1, m1, s1, a2, m2, s2, c):
        first = a1 * xp.exp(-0.5 * ((x - m1) / s1) ** 2)
        return first + a2 * xp.exp(-0.5 * ((x - m2) / s2) ** 2) + c

    return peaks


def _peaks_jacobian(x: np.ndarray, *params: float) -> np.ndarray:
    columns = []
    for a, m, s in (params[:3], params[3:6]):
        z = (x - m) / s
        g = np.exp(-0.5 * z**2)
        columns += [g, a * g * z / s, a * g * z**2 / s]
    return np.stack([*columns, np.ones_like(x)], axis=1)


def _logistic(xp: Any) -> Callable[..., Any]:
    def logistic(x, lo, hi, mid, slope, asym):
        return lo + (hi - lo) / (1 + xp.exp(-slope * (x - mid))) ** asym

    return logistic


def _logistic_jacobian(
    x: np.ndarray, lo: float, hi: float, mid: float, slope: float, asym: float
) -> np.ndarray:
    e = np.exp(-slope * (x - mid))
    s = (1 + e) ** -asym
    by_e = -asym * (hi - lo) * s / (1 + e)
    by_asym = -(hi - lo) * s * np.log1p(e)
    return np.stack([1 - s, s, by_e * slope * e, -by_e * (x - mid) * e, by_asym], axis=1)


# cos is a shifted sin: GCC merges sin and cos of one argument into a sincos that is not vectorised.
_DAMPED_C = """
double e = exp(-p1 * x), s = sin(p2 * x), k = sin(p2 * x + 1.5707963267948966);
double es = e * s, value = p0 * es + p3;
double j0 = es, j1 = -p0 * x * es, j2 = p0 * x * e * k, j3 = 1;
"""
_PEAKS_C = """
double z = (x - p1) / p2, w = (x - p4) / p5;
double g = exp(-0.5 * z * z), h = exp(-0.5 * w * w);
double value = p0 * g + p3 * h + p6;
double j0 = g, j1 = p0 * g * z / p2, j2 = j1 * z;
double j3 = h, j4 = p3 * h * w / p5, j5 = j4 * w, j6 = 1;
"""
_LOGISTIC_C = """
double e = exp(-p3 * (x - p2)), l = log(1 + e), s = exp(-p4 * l);
double value = p0 + (p1 - p0) * s, by_e = -p4 * (p1 - p0) * s / (1 + e) * e;
double j0 = 1 - s, j1 = s, j2 = by_e * p3, j3 = -by_e * (x - p2), j4 = -(p1 - p0) * s * l;
"""

PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem(
            "decay",
            "a exp(-b x) + c",
            _decay,
            _decay_jacobian,
            truth=(2.5, 1.3, 0.5),
            far=(1, 1, 1),
            span=(0, 5),
            noise=0.05,
            c_row="double e = exp(-p1 * x), value = p0 * e + p2;\n"
            "double j0 = e, j1 = -p0 * x * e, j2 = 1;",
        ),
        Problem(
            "damped",
            "a exp(-b x) sin(c x) + d",
            _damped,
            _damped_jacobian,
            truth=(2.0, 0.02, 0.5, 1.0),
            far=(1.5, 0.03, 0.48, 0.5),
            span=(0, 100),
            noise=0.1,
            c_row=_DAMPED_C,
        ),
        Problem(
            "peaks",
            "a1 exp(-((x - m1) / s1)^2 / 2) + a2 exp(-((x - m2) / s2)^2 / 2) + c",
            _peaks,
            _peaks_jacobian,
            truth=(3.0, 3.0, 0.6, 2.0, 6.0, 0.9, 0.5),
            far=(1, 2.5, 1, 1, 6.5, 1, 0),
            span=(0, 10),
            noise=0.1,
            c_row=_PEAKS_C,
        ),
        Problem(
            "logistic",
            "lo + (hi - lo) / (1 + exp(-slope (x - mid)))^asym",
            _logistic,
            _logistic_jacobian,
            truth=(0.5, 4.0, 1.0, 0.9, 1.5),
            far=(0, 3, 0, 0.5, 1),
            span=(-10, 10),
            noise=0.1,
            c_row=_LOGISTIC_C,
        ),
    )
}
"""The problems by name."""
