"""Rows as float64 columns: checked, padded for the kernel. What all streams have in common."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from .._engine.equations import Equations
from .._engine.kernel import BLOCK_ROWS, Chunk, Objective, as_arguments
from .._engine.operands import Operand, aligned_zeros, find_operand, operand, stacked_rows
from .._engine.spread import FEW_ROWS, Spread, sum_of_squares
from ..exceptions import InvalidRowError

if TYPE_CHECKING:
    from .arrays import ArrayStream


class Stream(Protocol):
    """Rows in ordered chunks, wherever they lie.

    Attributes
    ----------
    n_rows, n_features, n_chunks : int
    chunk_size : list of int or int
        How the rows are cut; part of what a checkpoint is tied to.
    """

    n_rows: int
    n_features: int
    n_chunks: int

    @property
    def chunk_size(self) -> int | list[int]:
        """Rows in each chunk: one number, or the list of them where they differ."""

    def equations(
        self, objective: Objective, points: np.ndarray, first: int, stop: int | None = None
    ) -> Iterator[tuple[Equations, ...]]:
        """Yield the equations of each chunk from ``first`` to before ``stop``, in order.

        Those of a chunk are one for each of the points, (n_points, n_params).
        """

    def sample(self, n_rows: int) -> "ArrayStream":
        """Return about ``n_rows`` rows spread evenly over all, in memory."""

    def batches(self) -> Iterator["ArrayStream"]:
        """Yield the rows in memory, in the parts in which they come."""

    def map_rows(self, function: "Callable[[ArrayStream], Any]", key: str) -> Iterator[Any]:
        """Yield a function of all rows, in one or several parts, in order."""

    def token(self, n_chunks: int | None = None, n_sampled: int = 0) -> str:
        """Return a key of the data, which other data don't have.

        Or of their first chunks, and of a sample of so many rows, where the rest need not count.
        """

    def explain_not_finite(self, objective: Objective, point: np.ndarray) -> str:
        """Return which row makes the model infinite or NaN at a point, in words."""


def is_dask(value: Any) -> bool:
    """Return whether a value, or one of a sequence of columns, is a Dask collection."""
    if isinstance(value, (list, tuple)):
        return any(map(is_dask, value))
    return not isinstance(value, np.ndarray) and hasattr(value, "__dask_graph__")


class Rows(NamedTuple):
    """Some rows.

    Attributes
    ----------
    columns : sequence of ndarray of shape (n_rows,)
        The predictors.
    y : ndarray of shape (n_rows,)
    sigma, weight : ndarray of shape (n_rows,) or None
    """

    columns: Sequence[np.ndarray]
    y: np.ndarray
    sigma: np.ndarray | None
    weight: np.ndarray | None

    def spread(self) -> Spread:
        """Return how y scatters about its mean, by the weights that the cost has."""
        weight = self.weight
        if self.sigma is not None:
            with np.errstate(all="ignore"):  # `check` tells of a sigma that is 0
                weight = (1.0 if weight is None else weight) / self.sigma**2
        return Spread.of(self.y, weight)

    def check(self, first: int, x_name: str, spread: Spread | None = None) -> None:
        """Raise for the first value that can't be used.

        Parameters
        ----------
        first : int
            Number of the first row.
        spread : Spread or None
            That of the rows, where it is known: if the mean of y is finite, so are its values.

        Raises
        ------
        InvalidRowError
            If a value is not finite, a sigma not positive or a weight negative.
        """
        if self._is_usable(spread):
            return
        named: list[tuple[str, np.ndarray | None]] = [
            (x_name if len(self.columns) == 1 else f"{x_name}[{i}]", column)
            for i, column in enumerate(self.columns)
        ]
        named += [("y", self.y), ("sigma", self.sigma), ("sample_weight", self.weight)]
        faults = [
            fault
            for name, values in named
            if values is not None
            for fault in (_first_not_finite(name, values), _first_out_of_range(name, values))
            if fault is not None
        ]
        if faults:
            row, what, value, advice = min(faults, key=lambda fault: fault[0])
            raise InvalidRowError(f"{what} is {value} in row {first + row}. {advice}")

    def _is_usable(self, spread: Spread | None) -> bool:
        """Return whether all values can be used, as sums and extremes of them tell."""
        suspects = list(self.columns)
        if spread is None or not (spread.weight > 0 and math.isfinite(spread.mean)):
            suspects.append(self.y)
        if self.sigma is not None:
            suspects.append(self.sigma)
        if self.weight is not None:
            suspects.append(self.weight)
        if not all(map(_is_finite, suspects)):
            return False
        return bool(
            (self.sigma is None or self.sigma.min() > 0)
            and (self.weight is None or self.weight.min() >= 0)
        )

    def padded(
        self, n_rows: int, spread: Spread | None = None, buffers: "Buffers | None" = None
    ) -> Chunk:
        """Return a chunk for programs that take ``n_rows``, in place where memory allows it.

        Else it is copied, and its last block filled up with copies of the last row. Blocks behind
        that are left as they are: most of a small sample, which has the buffers of its stream.
        """
        if self.y.size < n_rows <= BLOCK_ROWS and buffers is None:
            return self._copied(n_rows, spread)
        filled = min(n_rows, -(-self.y.size // BLOCK_ROWS) * BLOCK_ROWS)
        places = Buffers() if buffers is None else buffers
        places.begin()

        def fill(place: np.ndarray, values: np.ndarray) -> None:
            place[: values.size] = values
            # A real row, not zeros: the model may be undefined at 0.
            place[values.size : filled] = values[-1]

        def pad(values: np.ndarray) -> tuple[np.ndarray, Operand | None]:
            if values.size >= min(n_rows, BLOCK_ROWS):
                found = find_operand(values, n_rows)
                if found is not None:
                    return values, found
            place, found = places.take(n_rows)
            fill(place, values)
            return place, found

        if len(self.columns) == 1:
            x, found_x = pad(self.columns[0])
        else:
            x, found_x = places.take(len(self.columns), n_rows)
            for place, column in zip(x, self.columns, strict=True):
                fill(place, column)
        y, found_y = pad(self.y)
        sigma, found_sigma = (None, None) if self.sigma is None else pad(self.sigma)
        weight, found_weight = (None, None) if self.weight is None else pad(self.weight)
        found = (found_x, found_y, found_sigma, found_weight)
        ready = as_arguments(x.shape[:-1], self.y.size, n_rows, found)
        return Chunk(x, y, sigma, weight, self.y.size, n_rows, spread, ready)

    def _copied(self, n_rows: int, spread: Spread | None) -> Chunk:
        """Return the chunk for programs that take ``n_rows``, not more than a block of them."""
        n_features = len(self.columns)
        others = [column for column in (self.y, self.sigma, self.weight) if column is not None]
        memory = stacked_rows([*self.columns, *others], n_rows)
        rest = iter(memory[n_features:])
        x = memory[0] if n_features == 1 else memory[:n_features]
        y = next(rest)
        sigma = None if self.sigma is None else next(rest)
        weight = None if self.weight is None else next(rest)
        found = [None if c is None else Operand(c, 0) for c in (x, y, sigma, weight)]
        ready = as_arguments(x.shape[:-1], self.y.size, n_rows, found)
        return Chunk(
            x[..., :n_rows],
            y[:n_rows],
            None if sigma is None else sigma[:n_rows],
            None if weight is None else weight[:n_rows],
            self.y.size,
            n_rows,
            spread,
            ready,
        )

    def in_place(self, n_rows: int) -> Chunk | None:
        """Return a chunk for programs that take ``n_rows`` where its values lie.

        None if it must be copied, or has less than a block.
        """
        if len(self.columns) > 1 or self.y.size < min(n_rows, BLOCK_ROWS):
            return None
        columns = (self.columns[0], self.y, self.sigma, self.weight)
        found = [None if c is None else find_operand(c, n_rows) for c in columns]
        if any(c is not None and f is None for c, f in zip(columns, found, strict=True)):
            return None
        ready = as_arguments((), self.y.size, n_rows, found)
        return Chunk(*columns, self.y.size, n_rows, ready=ready)


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values are finite; False also where their sum is not."""
    # Either is finite in nearly all cases and much faster than a look at each value.
    if values.size <= FEW_ROWS and math.isfinite(sum_of_squares(values)):
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(values.sum())


class Buffers:
    """Arrays that chunks are copied to, the same ones for each chunk in turn.

    The compiled programs read an array where it is if it is aligned, and else copy it to fresh
    memory. The system clears that page by page, which takes as long as the sums themselves where
    memory is given back at once: so it is in the workers of a Dask cluster.
    """

    def __init__(self) -> None:
        self._arrays: list[tuple[np.ndarray, Operand]] = []
        self._n_taken = 0

    def begin(self) -> None:
        """Take all arrays back: the last chunk is not needed any more."""
        self._n_taken = 0

    def take(self, *shape: int) -> tuple[np.ndarray, Operand]:
        """Return an array of this shape, with zeros or what an earlier chunk left in it.

        Beside it is what the programs take of it.
        """
        index = self._n_taken
        self._n_taken += 1
        if index < len(self._arrays) and self._arrays[index][0].shape == shape:
            return self._arrays[index]
        array = aligned_zeros(*shape)
        self._arrays[index : index + 1] = [(array, operand(array))]
        return self._arrays[index]


class _Fault(NamedTuple):
    """A value that can't be used: its row, what it is, and what to do about it."""

    row: int
    what: str
    value: str
    advice: str


def _first_not_finite(name: str, values: np.ndarray) -> _Fault | None:
    invalid = ~np.isfinite(values)
    if not invalid.any():
        return None
    row = int(np.argmax(invalid))
    advice = "Leave out or mend rows with NaN or infinity."
    return _Fault(row, f"{name} must be finite: {name}", str(values[row]), advice)


def _first_out_of_range(name: str, values: np.ndarray) -> _Fault | None:
    """Return the first sigma that is not positive, or sample_weight that is negative."""
    if name == "sigma":
        is_wrong, what = values <= 0, "sigma must be positive: sigma"
    elif name == "sample_weight":
        is_wrong, what = values < 0, "sample_weight must not be negative: sample_weight"
    else:
        return None
    if not is_wrong.any():
        return None
    row = int(np.argmax(is_wrong))
    advice = "Leave out rows that shall not count."
    if name == "sigma":
        advice = "It is the standard deviation of a row: leave out rows that have none."
    return _Fault(row, what, f"{values[row]:g}", advice)
