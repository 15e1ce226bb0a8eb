"""What pictures of many rows show of them: the part that is visible, the scale, the quantiles."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from .._histogram import Histogram

_QQ_POINTS = 201
# Between the quartiles of a normal distribution lie so many standard deviations.
_QUARTILES = 2 * float(ndtri(0.75))
# A picture of many rows ends where so many robust standard deviations of their residuals do: of
# normal ones, two in 10^9 lie beyond.
_WIDEST = 6.0


class Scale(NamedTuple):
    """The standard deviation of residuals, and how it was found, in words."""

    value: float
    words: str


def scale_of(residual: Histogram, squares: float, n_params: int, *, is_robust: bool) -> Scale:
    """Return the standard deviation of the residuals.

    After a robust fit it is told by the quartiles, which outliers don't move.
    """
    if is_robust:
        return Scale(_quartile_scale(residual)[1], "from quartiles")
    n_rows = residual.n_points
    freedom = n_rows - n_params if n_rows > n_params else n_rows
    return Scale(float(np.sqrt(squares / freedom)), "fitted")


def visible_residuals(residual: Histogram) -> tuple[float, float]:
    """Return the range of residuals to show: all, unless outliers would hide the others."""
    middle, scale = _quartile_scale(residual)
    full = _extent(residual)
    if scale == 0:
        return full
    return max(full[0], middle - _WIDEST * scale), min(full[1], middle + _WIDEST * scale)


def visible_data(data: Histogram, curve: np.ndarray) -> tuple[float, float]:
    """Return the range of ``y`` to show: all, unless outliers would hide the others.

    Parameters
    ----------
    curve : ndarray
        Values of the curve; what lies far from all data is not shown.
    """
    low, high = data.quantiles(np.array([0.05, 0.95]))
    full = _extent(data)
    if high > low:
        span = high - low
        full = max(full[0], low - 0.5 * span), min(full[1], high + 0.5 * span)
    reach = full[1] - full[0]
    finite = curve[np.isfinite(curve)]
    if finite.size == 0:
        return full
    return (
        max(min(full[0], float(finite.min())), full[0] - 0.5 * reach),
        min(max(full[1], float(finite.max())), full[1] + 0.5 * reach),
    )


def _extent(histogram: Histogram) -> tuple[float, float]:
    """Return where the rows of cells begin, and where the last of them does."""
    return float(histogram.y_edges[0]), float(histogram.y_edges[-1])


def _quartile_scale(residual: Histogram) -> tuple[float, float]:
    """Return the median, and the standard deviation of a normal distribution with the quartiles."""
    lower, middle, upper = residual.quantiles(np.array([0.25, 0.5, 0.75]))
    return float(middle), float(upper - lower) / _QUARTILES


def ordered_against_normal(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles of the standard normal distribution and the ordered values.

    Parameters
    ----------
    values : ndarray of shape (n_values,)

    Returns
    -------
    normal, ordered : ndarray of shape (n_values,)
        The medians of the order statistics, as J. J. Filliben estimates them [1]_.

    References
    ----------
    .. [1] J. J. Filliben, "The probability plot correlation coefficient test for normality",
           Technometrics 17, 1975.
    """
    n_values = values.size
    levels = (np.arange(1, n_values + 1) - 0.3175) / (n_values + 0.365)
    levels[-1] = 0.5 ** (1 / n_values)
    levels[0] = 1 - levels[-1]
    return ndtri(levels), np.sort(values)


def quantiles_against_normal(
    residual: Histogram, extremes: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same from a histogram, at evenly spaced normal quantiles.

    The smallest and the largest value are exact, the others to the width of a cell.
    """
    n_rows = residual.n_points
    furthest = float(ndtri(0.5 ** (1 / n_rows)))
    normal = np.linspace(-furthest, furthest, _QQ_POINTS)
    # The same plotting positions as of ordered values; one of them stands for its middle.
    rank = ndtr(normal) * (n_rows + 0.365) + 0.3175 - 0.5
    values = residual.quantiles(np.clip(rank / n_rows, 0, 1))
    values[0], values[-1] = extremes
    return normal, values


def n_bars(n_rows: int) -> int:
    """Return how many bars a histogram of so many rows has at most, twice Rice's number."""
    return int(np.clip(4 * n_rows ** (1 / 3), 8, 160))
