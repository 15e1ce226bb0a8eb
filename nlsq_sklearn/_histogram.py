"""Histograms that grow with the data, and whose parts add up exactly in any order.

The edges of the cells are the multiples of a power of two. A cell then lies within one cell of the
next coarser grid, so counts on a fine grid become those on a coarse one without a look at the
data, and the grid that fits all rows need not be known before they were read.
"""

import math
from typing import NamedTuple, Self

import numpy as np

# Cells are as fine as the last bit of the largest value, and no finer than that of subnormals.
_BITS = 52
_FINEST = -1000
# Cells that span no more than this are looked up in a table, others by a search.
_TABLE_CELLS = 2**20


class Limits(NamedTuple):
    """How many columns of cells ``x`` may span, and how many rows of cells ``y`` may fill."""

    columns: int
    filled: int


class Grid(NamedTuple):
    """The widths of the cells: 2 to these powers."""

    x_exponent: int = _FINEST
    y_exponent: int = _FINEST


FINEST = Grid()


class Histogram(NamedTuple):
    """Numbers of points of a plane in cells of it.

    The cells are the finest for which ``x`` spans, and ``y`` fills, no more of them than the
    limits say. Both follow from the set of the points alone: neither the order of the points nor
    the parts in which they come change a count. What counts in ``y`` are the cells that hold
    something, so that outliers leave the cells of the others fine, unless they are so far that
    float64 could not tell the others apart beside them.

    Attributes
    ----------
    limits : Limits
    grid : Grid
    x_first : int
        The first column holds ``x_first <= x / 2**x_exponent < x_first + 1``.
    y_cells : ndarray of shape (n_filled,)
        Whole numbers, ascending: row ``j`` holds ``y_cells[j] <= y / 2**y_exponent <
        y_cells[j] + 1``.
    counts : ndarray of shape (n_columns, n_filled)
    """

    limits: Limits
    grid: Grid
    x_first: int
    y_cells: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, limits: Limits, grid: Grid = FINEST) -> Self:
        """Return the histogram of points with finite coordinates.

        Parameters
        ----------
        x, y : ndarray of shape (n_points,)
            At least one.
        grid : Grid
            Cells shall not be finer than these. That saves time where the points are to be added
            to others.
        """
        x_range, y_range = (float(x.min()), float(x.max())), (float(y.min()), float(y.max()))
        grid = Grid(
            _exponent(x_range, limits.columns, grid.x_exponent),
            max(_last_bit(y_range), grid.y_exponent),
        )
        column, cell = (_cells(v, e) for v, e in zip((x, y), grid, strict=True))
        lookup = _Lookup.of(cell)
        steps = _steps(lookup.filled, limits.filled)
        if steps:
            grid, cell = Grid(grid.x_exponent, grid.y_exponent + steps), cell >> steps
            lookup = lookup.coarser(steps)
        first = int(column.min())
        column -= first
        n_columns = int(column.max()) + 1
        n_filled = lookup.filled.size
        place = column * n_filled + lookup.places(cell)
        counts = np.bincount(place, minlength=n_columns * n_filled)
        return cls(limits, grid, first, lookup.filled, counts.reshape(n_columns, n_filled))

    @property
    def n_points(self) -> int:
        """The points counted."""
        return int(self.counts.sum())

    @property
    def x_edges(self) -> np.ndarray:
        """Edges of the columns, of shape (n_columns + 1,)."""
        edges: np.ndarray = np.ldexp(
            self.x_first + np.arange(len(self.counts) + 1.0), self.grid.x_exponent
        )
        return edges

    @property
    def y_width(self) -> float:
        """Width of the rows of cells."""
        return math.ldexp(1.0, self.grid.y_exponent)

    @property
    def y_edges(self) -> np.ndarray:
        """Lower edges of the rows that hold something, of shape (n_filled,)."""
        edges: np.ndarray = np.ldexp(self.y_cells.astype(float), self.grid.y_exponent)
        return edges

    def packed(self) -> Self:
        """Return the same with its counts in the smallest type, for a travel."""
        return self._replace(counts=self.counts.astype(np.min_scalar_type(self.counts.max())))

    def __add__(self, other: Self) -> Self:  # type: ignore[override]
        """Return the histogram of the points of both."""
        grid = self._common_grid(other)
        a, b = self.coarser(grid), other.coarser(grid)
        filled = _union(a.y_cells, b.y_cells)
        first = min(a.x_first, b.x_first)
        stop = max(part.x_first + len(part.counts) for part in (a, b))
        counts = np.zeros((stop - first, filled.size), dtype=np.int64)
        for part in (a, b):
            columns = slice(part.x_first - first, part.x_first - first + len(part.counts))
            if part.y_cells.size == filled.size:
                counts[columns] += part.counts
            else:
                counts[columns, np.searchsorted(filled, part.y_cells)] += part.counts
        return self._replace(grid=grid, x_first=first, y_cells=filled, counts=counts)

    def _common_grid(self, other: Self) -> Grid:
        """Return the grid of the points of both."""
        grid = Grid(*map(max, self.grid, other.grid))
        spans = [
            (h.x_first, h.x_first + len(h.counts) - 1, grid.x_exponent - h.grid.x_exponent)
            for h in (self, other)
        ]
        more = 0
        while _n_columns(spans, more) > self.limits.columns:
            more += 1
        cells = (h.y_cells >> (grid.y_exponent - h.grid.y_exponent) for h in (self, other))
        filled = _union(*map(_distinct, cells))
        return Grid(grid.x_exponent + more, grid.y_exponent + _steps(filled, self.limits.filled))

    def coarser(self, grid: Grid) -> Self:
        """Return the histogram on a grid that is not finer."""
        x_steps, y_steps = (new - old for new, old in zip(grid, self.grid, strict=True))
        if not x_steps and not y_steps:
            return self
        columns = (self.x_first + np.arange(len(self.counts))) >> x_steps
        cells = self.y_cells >> y_steps
        counts = self.counts.astype(np.int64)
        counts = np.add.reduceat(counts, np.flatnonzero(np.diff(columns, prepend=np.nan)), axis=0)
        starts = np.flatnonzero(np.diff(cells, prepend=np.nan))
        counts = np.add.reduceat(counts, starts, axis=1)
        return self._replace(
            grid=grid, x_first=int(columns[0]), y_cells=cells[starts], counts=counts
        )

    def window(self, low: float, high: float, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return edges and counts of evenly spaced rows that cover ``low`` to ``high``.

        Parameters
        ----------
        most : int
            The most rows to return, at least 2.

        Returns
        -------
        edges : ndarray of shape (n_rows + 1,)
        counts : ndarray of shape (n_columns, n_rows)
        """
        exponent = _exponent((low, high), most, self.grid.y_exponent)
        coarse = self.coarser(Grid(self.grid.x_exponent, exponent))
        first, last = (math.floor(math.ldexp(v, -exponent)) for v in (low, high))
        is_inside = (coarse.y_cells >= first) & (coarse.y_cells <= last)
        counts = np.zeros((len(self.counts), last - first + 1), dtype=np.int64)
        counts[:, coarse.y_cells[is_inside] - first] = coarse.counts[:, is_inside]
        return np.ldexp(np.arange(first, last + 2.0), exponent), counts

    def quantiles(self, levels: np.ndarray) -> np.ndarray:
        """Return the quantiles of ``y`` at these levels, off by at most the width of a row.

        Within a row the points are taken to lie evenly.
        """
        rows = self.counts.sum(axis=0)
        behind = np.cumsum(rows)
        rank = np.asarray(levels, dtype=float) * behind[-1]
        row = np.minimum(np.searchsorted(behind, rank), rows.size - 1)
        within = (rank - (behind[row] - rows[row])) / np.maximum(rows[row], 1)
        values: np.ndarray = self.y_edges[row] + np.clip(within, 0, 1) * self.y_width
        return values


def _cells(values: np.ndarray, exponent: int) -> np.ndarray:
    """Return the numbers of the cells that hold the values."""
    cells: np.ndarray = np.floor(np.ldexp(values, -exponent)).astype(np.int64)
    return cells


def _last_bit(extent: tuple[float, float]) -> int:
    """Return the exponent of the finest cells, whose numbers are exact in float64 and int64."""
    largest = max(map(abs, extent))
    return max(math.frexp(largest)[1] - _BITS, _FINEST) if largest else _FINEST


def _exponent(extent: tuple[float, float], most: int, least: int) -> int:
    """Return the smallest exponent for which an extent spans at most so many cells."""
    exponent = max(_last_bit(extent), least)
    while True:
        first, last = (math.floor(math.ldexp(v, -exponent)) for v in extent)
        if last - first < most:
            return exponent
        exponent += 1


def _n_columns(spans: list[tuple[int, int, int]], more: int) -> int:
    """Return the columns that spans (first, last, steps) cover, coarser by some more steps."""
    first = min(first >> (steps + more) for first, _, steps in spans)
    return max(last >> (steps + more) for _, last, steps in spans) - first + 1


class _Lookup(NamedTuple):
    """The cells that are filled, and where most of them are found without a search."""

    filled: np.ndarray
    first: int

    @classmethod
    def of(cls, cells: np.ndarray) -> Self:
        """Return the lookup of all cells that occur in an array."""
        # Around the middle of some of them: where it lies changes the time, not the result.
        first = int(np.median(cells[:: max(1, cells.size // 64)])) - _TABLE_CELLS // 2
        is_filled = np.zeros(_TABLE_CELLS, dtype=bool)
        is_near = _is_near(cells, first)
        is_filled[(cells if is_near is None else cells[is_near]) - first] = True
        near = np.flatnonzero(is_filled) + first
        if is_near is None:
            return cls(near, first)
        far = _distinct(np.sort(cells[~is_near]))
        split = np.searchsorted(far, first)
        return cls(np.concatenate([far[:split], near, far[split:]]), first)

    def coarser(self, steps: int) -> Self:
        """Return the lookup of cells whose widths doubled so often."""
        middle = (self.first + _TABLE_CELLS // 2) >> steps
        return type(self)(_distinct(self.filled >> steps), middle - _TABLE_CELLS // 2)

    def places(self, cells: np.ndarray) -> np.ndarray:
        """Return the place of each cell among the filled ones."""
        start, stop = np.searchsorted(self.filled, (self.first, self.first + _TABLE_CELLS))
        table = np.zeros(_TABLE_CELLS, dtype=np.int32)
        table[self.filled[start:stop] - self.first] = np.arange(start, stop)
        is_near = _is_near(cells, self.first)
        places: np.ndarray = np.empty(cells.size, dtype=np.int32)
        if is_near is None:
            return np.take(table, cells - self.first, out=places)
        places[is_near] = table[cells[is_near] - self.first]
        places[~is_near] = np.searchsorted(self.filled, cells[~is_near])
        return places


def _is_near(cells: np.ndarray, first: int) -> np.ndarray | None:
    """Return which cells a table holds that starts with one; None for all of them."""
    if cells.min() >= first and cells.max() < first + _TABLE_CELLS:
        return None
    return (cells >= first) & (cells < first + _TABLE_CELLS)


def _distinct(ascending: np.ndarray) -> np.ndarray:
    """Return the different numbers of an ascending array; `numpy.unique` takes far longer."""
    different: np.ndarray = ascending[np.diff(ascending, prepend=ascending[:1] - 1) != 0]
    return different


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the different numbers of two ascending arrays, ascending."""
    for more, less in ((a, b), (b, a)):
        place = np.minimum(np.searchsorted(more, less), more.size - 1)
        if np.array_equal(more[place], less):
            return more
    return _distinct(np.sort(np.concatenate([a, b]), kind="stable"))  # it finds the two runs


def _steps(filled: np.ndarray, most: int) -> int:
    """Return how often the width must double until at most so many cells are filled.

    Two neighbours fall into one cell when all bits in which they differ are gone, so the widths at
    which each pair does are known without trying them.
    """
    if filled.size <= most:
        return 0
    differing = filled[1:] ^ filled[:-1]
    # Cells on both sides of 0 never meet: the sign bit stays.
    bits = np.where(differing < 0, 64, np.frexp(differing.astype(float))[1])
    return int(np.sort(bits)[-most])
