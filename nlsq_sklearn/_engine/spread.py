"""How data scatter about their mean: what R2 compares the residuals with."""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import ddot

FEW_ROWS = 4096
"""Up to here the BLAS takes no threads for a product."""

# The BLAS spreads longer products over threads, and then sums them in another order.
_BLOCK_ROWS = 8192
# Squares that are so many times larger than those about the mean lose too many digits with it.
_MOST_LOST = 1e5


class Spread(NamedTuple):
    """Weighted sums over some rows.

    Attributes
    ----------
    weight : float
        Sum of the weights.
    mean : float
        Weighted mean of y.
    squares : float
        Weighted sum of squares of y about that mean.
    """

    weight: float
    mean: float
    squares: float

    @classmethod
    def of(cls, y: np.ndarray, weight: np.ndarray | None = None) -> "Spread":
        """Return the spread of some rows, ``y`` and ``weight`` of shape (n_rows,)."""
        if weight is None and y.size <= FEW_ROWS:
            squares = sum_of_squares(y)
            if math.isfinite(squares):  # then nothing else overflows, either
                mean = float(y.sum()) / y.size
                about_mean = squares - y.size * (mean * mean)
                if squares <= _MOST_LOST * about_mean:
                    return cls(float(y.size), mean, about_mean)
        with np.errstate(all="ignore"):  # what overflows is not finite here as in the cost
            total = float(y.size if weight is None else weight.sum())
            if total == 0:
                return NO_SPREAD
            mean = float((y.sum() if weight is None else _product(weight, y)) / total)
            squares = _product(y if weight is None else weight * y, y)
            # Products, since a power of Python's floats raises where it overflows.
            about_mean = squares - total * (mean * mean)
            if not squares <= _MOST_LOST * about_mean:
                about_mean = _squares_about(mean, y, weight)
        return cls(total, mean, about_mean)

    def __add__(self, other: "Spread") -> "Spread":  # type: ignore[override]
        """Return the spread of both sets of rows, by the update that cancels no digits.

        References
        ----------
        .. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample
               variance", The American Statistician 37, 1983.
        """
        weight = self.weight + other.weight
        if weight == 0:
            return self
        gap, share = other.mean - self.mean, other.weight / weight
        squares = self.squares + other.squares + gap * gap * (self.weight * share)
        return Spread(weight, self.mean + gap * share, squares)

    def scaled(self, factor: float) -> "Spread":
        """Return the spread of the rows with weights that are larger by a factor."""
        return Spread(factor * self.weight, self.mean, factor * self.squares)


NO_SPREAD = Spread(0.0, 0.0, 0.0)
"""That of no rows."""


def sum_of_squares(values: np.ndarray) -> float:
    """Return the sum of squares of ``FEW_ROWS`` or less, of float64; infinite where it overflows.

    That takes NumPy several times as long, with its warnings.
    """
    return float(ddot(values, values))


def r2(residual_squares: float, spread: Spread) -> float:
    """Return the coefficient of determination: 1 for no residuals, 0 for those of the mean.

    Of data that do not scatter it is 1 where there are no residuals either, else 0.
    """
    if spread.squares == 0:
        return 1.0 if residual_squares == 0 else 0.0
    return 1.0 - residual_squares / spread.squares


def _squares_about(mean: float, y: np.ndarray, weight: np.ndarray | None) -> float:
    """Return the weighted sum of squares about a mean, slowly."""
    total = 0.0
    for first in range(0, y.size, _BLOCK_ROWS):  # long arrays of differences are slow to allocate
        rows = slice(first, first + _BLOCK_ROWS)
        offset = y[rows] - mean
        total += float(np.vecdot(offset if weight is None else weight[rows] * offset, offset))
    return total


def _product(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of products, in blocks of equal size and the few rows that remain."""
    n_blocks = max(1, -(-a.size // _BLOCK_ROWS))
    rows = a.size // n_blocks
    whole = n_blocks * rows
    total = np.vecdot(a[:whole].reshape(n_blocks, rows), b[:whole].reshape(n_blocks, rows)).sum()
    # No second `vecdot`, which lets another thread in however short it is: to wait for it takes
    # longer than the sum.
    return float(total if whole == a.size else total + (a[whole:] * b[whole:]).sum())
