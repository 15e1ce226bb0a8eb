"""What a picture of a fit needs to know of the rows, from one look at them in any order."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

from .._engine.kernel import Chunk
from .._engine.model import TracedModel
from .._engine.prediction import predict
from .._histogram import FINEST, Grid, Histogram, Limits
from .arrays import ArrayStream
from .rows import Stream

# Columns and rows of a density image: as many as a screen shows apart, times what outliers take.
_IMAGE = Limits(columns=256, filled=2048)
# Residuals alone: quantiles of a normal distribution are known to a thousandth of its width.
_LINE = Limits(columns=1, filled=16_384)


# Residuals are folded from so many standard deviations of the fit on.
_KNEE = 8.0


class View(NamedTuple):
    """How rows are looked at.

    Attributes
    ----------
    is_log : bool
        Whether the axis of ``x`` is logarithmic.
    most_points : int
        Rows up to this number are kept as points.
    knee : float
        Residuals beyond it are folded: of each octave is left as much as of the stretch from 0 to
        the knee. Few cells then hold the farthest outliers, and all others stay fine. A power of
        two, so that cells below the knee are evenly wide; infinite where nothing is folded.
    """

    is_log: bool
    most_points: int
    knee: float

    @classmethod
    def of(cls, std: float, *, is_log: bool, most_points: int) -> Self:
        """Return the view for residuals of this standard deviation, if it is one."""
        is_known = np.isfinite(std) and std > 0
        knee = float(np.exp2(np.ceil(np.log2(_KNEE * std)))) if is_known else np.inf
        return cls(is_log, most_points, knee)

    def fold(self, residual: np.ndarray) -> np.ndarray:
        """Return residuals, folded beyond the knee."""
        size = np.abs(residual)
        is_far = size > self.knee
        if not is_far.any():
            return residual
        folded = self.knee * (
            1 + np.log2(size, where=is_far, out=np.ones_like(size)) - np.log2(self.knee)
        )
        return np.where(is_far, np.copysign(folded, residual), residual)

    def unfold(self, folded: np.ndarray) -> np.ndarray:
        """Return the residuals that `fold` makes these of."""
        if not np.isfinite(self.knee):
            return folded
        beyond = np.maximum(np.abs(folded) / self.knee - 1, 0)
        residual = self.knee * np.exp2(beyond)
        return np.where(beyond > 0, np.copysign(residual, folded), folded)


class Points(NamedTuple):
    """Rows as they are drawn one by one, each of shape (n_rows,).

    ``residual`` is data minus curve, times the root of the weight and over sigma.
    """

    x: np.ndarray
    y: np.ndarray
    residual: np.ndarray

    def __add__(self, other: "Points") -> "Points":  # type: ignore[override]
        """Return the points of both, in this order."""
        return Points(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))


class Picture(NamedTuple):
    """Rows as a picture shows them.

    Attributes
    ----------
    n_rows : int
        Rows that count: those of weight 0 don't.
    n_left_out : int
        Rows among them that have no place: where the curve is not finite, or the logarithm of
        ``x`` does not exist.
    x_range, residual_range : tuple of float
        The smallest and the largest.
    squares : float
        Sum of the squares of the residuals.
    data, residuals : Histogram
        Of ``y`` and of the folded residual against ``x``; on a logarithmic axis, against its
        binary logarithm.
    residual : Histogram
        Of the residual alone.
    points : Points or None
        The rows themselves, if there are few.
    """

    n_rows: int
    n_left_out: int
    x_range: tuple[float, float]
    residual_range: tuple[float, float]
    squares: float
    data: Histogram
    residuals: Histogram
    residual: Histogram
    points: Points | None

    @classmethod
    def of(cls, points: Points, n_left_out: int, grids: list[Grid], view: View) -> Self:
        """Return the picture of some points, of which there is one at least."""
        x, y, residual = points
        place = np.log2(x) if view.is_log else x
        return cls(
            x.size + n_left_out,
            n_left_out,
            (float(x.min()), float(x.max())),
            (float(residual.min()), float(residual.max())),
            float(np.sum(residual**2)),
            Histogram.of(place, y, _IMAGE, grids[0]),
            Histogram.of(place, view.fold(residual), _IMAGE, grids[1]),
            Histogram.of(np.zeros(x.size), residual, _LINE, grids[2]),
            points,
        )

    @property
    def grids(self) -> list[Grid]:
        """Those of the three histograms."""
        return [self.data.grid, self.residuals.grid, self.residual.grid]

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        """Return the picture of both."""
        points = None
        if self.points is not None and other.points is not None:
            points = self.points + other.points
        return self._replace(
            n_rows=self.n_rows + other.n_rows,
            n_left_out=self.n_left_out + other.n_left_out,
            x_range=_hull(self.x_range, other.x_range),
            residual_range=_hull(self.residual_range, other.residual_range),
            squares=self.squares + other.squares,
            data=self.data + other.data,
            residuals=self.residuals + other.residuals,
            residual=self.residual + other.residual,
            points=points,
        )

    def packed(self) -> Self:
        """Return the same in little memory, for a travel."""
        data, residuals, residual = (h.packed() for h in (self.data, self.residuals, self.residual))
        return self._replace(data=data, residuals=residuals, residual=residual)


def take_picture(
    stream: Stream, model: TracedModel, params: np.ndarray, view: View
) -> Picture | None:
    """Return the picture of the rows and of a curve, in one pass; None if no row has a place.

    With several predictors ``x`` is the curve's value.
    """
    has_points = stream.n_rows <= view.most_points

    def picture_of(rows: ArrayStream) -> tuple[int, Picture | None]:
        n_lost, picture = 0, None

        def part(chunk: Chunk) -> tuple[int, Picture | None]:
            # The grid so far, whichever it is, spares work and changes no result.
            grids = [FINEST] * 3 if picture is None else picture.grids
            points, n_left_out = _points_of(chunk, model, params, view)
            if points.x.size == 0:
                return n_left_out, None
            seen = Picture.of(points, n_left_out, grids, view)
            return 0, seen if has_points else seen._replace(points=None)

        for lost, seen in rows.map_chunks(part):
            n_lost, picture = n_lost + lost, _sum(picture, seen)
        return n_lost, None if picture is None else picture.packed()

    key = f"picture-{model.fingerprint}-{params.tobytes().hex()}-{view}"
    return _total(stream.map_rows(picture_of, key))


def _total(parts: Iterator[tuple[int, Picture | None]]) -> Picture | None:
    """Return the picture of all parts; each is a count of rows without a place, and the others."""
    n_lost, total = 0, None
    for lost, picture in parts:
        n_lost, total = n_lost + lost, _sum(total, picture)
    if total is None:
        return None
    return total._replace(n_rows=total.n_rows + n_lost, n_left_out=total.n_left_out + n_lost)


def _sum(a: Picture | None, b: Picture | None) -> Picture | None:
    return (b if a is None else a) if a is None or b is None else a + b


def _hull(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return min(a[0], b[0]), max(a[1], b[1])


def _points_of(
    chunk: Chunk, model: TracedModel, params: np.ndarray, view: View
) -> tuple[Points, int]:
    """Return the rows of a chunk that have a place, and the number of those that have none."""
    n_rows = chunk.n_rows
    curve = predict(model, chunk, params)
    x = np.asarray(chunk.x)
    x = x[:n_rows] if x.ndim == 1 else curve
    y = np.asarray(chunk.y)[:n_rows]
    with np.errstate(invalid="ignore", over="ignore"):
        residual = y - curve
        if chunk.weight is not None:
            residual = residual * np.sqrt(np.asarray(chunk.weight)[:n_rows])
        if chunk.sigma is not None:
            residual = residual / np.asarray(chunk.sigma)[:n_rows]
    has_place = np.isfinite(residual) & (x > 0 if view.is_log else np.isfinite(x))
    if chunk.weight is not None:
        counts = np.asarray(chunk.weight)[:n_rows] > 0
        n_left_out = int(np.count_nonzero(counts & ~has_place))
        has_place &= counts
    else:
        n_left_out = n_rows - int(np.count_nonzero(has_place))
    return Points(x[has_place], y[has_place], residual[has_place]), n_left_out
