"""Arrays in memory and memory maps -> ordered chunks of rows, and samples of them."""

import operator
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from .._engine import kernel
from .._engine.equations import Equations
from .._engine.kernel import BLOCK_ROWS, Chunk, Objective, padded_rows
from .._engine.prediction import predict
from .._engine.spread import Spread
from .content import Content
from .memory_maps import identity, is_mapped, read, release, take, view
from .rows import Buffers, Rows
from .threads import map_chunks, n_threads

DEFAULT_CHUNK_ROWS = 262_144
"""Rows in a chunk: enough to make the cost of a call vanish, few enough to save often."""

# A sample reads short runs of rows at so many places: larger ones get longer runs, not more places,
# so that of a memory map only few pages are read.
SAMPLE_PLACES = 8192
_GOLDEN = (5**0.5 - 1) / 2

Result = TypeVar("Result")


class ArrayStream:
    """Rows of NumPy arrays and memory maps, chunk by chunk.

    Parameters
    ----------
    x : array-like
        Of shape (n_rows,) or (n_features, n_rows) or a sequence of n_features columns; with
        ``is_table`` of shape (n_rows,) or (n_rows, n_features).
    y : array-like of shape (n_rows,)
    sigma : array-like of shape (n_rows,), float or None
        Standard deviation of each row.
    weight : array-like of shape (n_rows,) or None
        How much each row counts.
    chunk_size : int or None
        Rows in a chunk.
    buffer_rows : int or None
        Rows that a chunk is padded to, for a stream that shall use another one's programs.
    is_table : bool
        Whether ``x`` is laid out as scikit-learn does it.
    x_name : str
        Name of the predictors in messages.
    first_row : int
        Number of the first row, for messages about a part of larger data.
    buffers : Buffers or None
        Where chunks are padded, if each is done with before the next one is asked for.

    Raises
    ------
    TypeError
        If an array does not hold real numbers.
    ValueError
        If shapes don't fit, or there are no rows.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        sigma: Any = None,
        weight: Any = None,
        *,
        chunk_size: int | None = None,
        buffer_rows: int | None = None,
        is_table: bool = False,
        x_name: str = "x",
        first_row: int = 0,
        buffers: Buffers | None = None,
    ) -> None:
        self._y = _as_real(y, "y")
        if self._y.ndim != 1:
            raise ValueError(
                f"y must have one dimension, (n_rows,), got shape {self._y.shape}."
                + (" Give y[:, 0]." if self._y.shape[1:] == (1,) else "")
            )
        self.n_rows = self._y.size
        if self.n_rows == 0:
            raise ValueError("y is empty: there is nothing to fit.")
        self._is_table = is_table
        self._x_name = x_name
        self._x = [_as_real(x, x_name)] if is_table else _as_columns(x, self.n_rows)
        if len(self._x[0]) != self.n_rows:
            raise ValueError(
                f"{x_name} has {len(self._x[0])} rows and y has {self.n_rows}; they must have the "
                "same."
            )
        self._sigma = None if sigma is None else _as_vector(sigma, self.n_rows, "sigma")
        self._weight = None if weight is None else _as_vector(weight, self.n_rows, "sample_weight")
        if is_table:
            self.n_features = 1 if self._x[0].ndim == 1 else self._x[0].shape[1]
        else:
            self.n_features = len(self._x)
        self.chunk_rows = min(as_chunk_size(chunk_size), self.n_rows)
        self.n_chunks = -(-self.n_rows // self.chunk_rows)
        self._buffer_rows = buffer_rows or padded_rows(self.chunk_rows)
        self._first_row = first_row
        self._is_trusted = False
        # A row for each chunk, NaN until it is checked. A single chunk is often looked at once.
        self._spreads: np.ndarray | None = None if self.n_chunks == 1 else self._no_spreads()
        self._buffers = buffers
        self._resident: Chunk | None = None
        self._content: Content | None = None
        self._sample_tokens: dict[int, str] = {}

    @property
    def chunk_size(self) -> int:
        """Rows in each chunk but the last."""
        return self.chunk_rows

    def rows_of(self, index: int) -> tuple[int, int]:
        """Return the first row of a chunk and the one after its last."""
        first = index * self.chunk_rows
        return first, min(first + self.chunk_rows, self.n_rows)

    def chunk(self, index: int) -> Chunk:
        """Return a chunk, padded for the kernel.

        Raises
        ------
        ValueError
            If a value in it can't be used; the message names the row.
        """
        if self._resident is None:
            return self._checked(index, self.rows(*self.rows_of(index)))
        if self._resident.spread is None and not self._is_trusted:
            spread = self._known_spread(index) or self._look(index, self.rows())
            self._resident = self._resident._replace(spread=spread)
        return self._resident

    def _checked(self, index: int, rows: Rows) -> Chunk:
        """Return the chunk that these rows are, which are looked at if they were not before."""
        spread = known = self._known_spread(index)
        if known is None and not self._is_trusted:
            spread = self._look(index, rows)
        chunk = rows.padded(self._buffer_rows, spread, self._buffers)
        if self.n_chunks == 1 and self._buffers is None:
            # Few rows are as soon there with each call.
            self._resident = chunk.to_device() if self.n_rows > BLOCK_ROWS else chunk
            return self._resident
        if known is None and spread is not None:
            self._remember_spread(index, spread)
        return chunk

    def _look(self, index: int, rows: Rows) -> Spread:
        """Return how y scatters in the rows of a chunk, and raise if a value can't be used."""
        spread = rows.spread()
        rows.check(self._first_row + index * self.chunk_rows, self._x_name, spread)
        if self._content is not None:
            self._content.read(index)
        return spread

    def keep_in_place(self) -> bool:
        """Make the only chunk ready, its values not looked at; return False if it must be copied.

        Threads then have less to do that only one of them can do at a time.
        """
        chunk = self.rows().in_place(self._buffer_rows) if self.n_chunks == 1 else None
        if chunk is not None:
            self._resident = chunk
            self._buffers = None  # needed no more, and others have them
        return chunk is not None

    def _known_spread(self, index: int) -> Spread | None:
        if self._spreads is None or np.isnan(self._spreads[index, 0]):
            return None
        return Spread(*self._spreads[index].tolist())

    def _is_checked(self) -> bool:
        """Return whether all chunks were looked at."""
        if self._resident is not None:
            return self._resident.spread is not None
        return self._spreads is not None and not np.isnan(self._spreads[:, 0]).any()

    def _remember_spread(self, index: int, spread: Spread) -> None:
        if self._spreads is None:
            self._spreads = self._no_spreads()
        self._spreads[index] = spread

    def _no_spreads(self) -> np.ndarray:
        return np.full((self.n_chunks, len(Spread._fields)), np.nan)

    def rows(self, first: int = 0, stop: int | None = None) -> Rows:
        """Return rows as they are, unchecked; all of them by default."""
        return self._rows(first, self.n_rows if stop is None else stop, read)

    def _rows(
        self, first: int, stop: int, get: Callable[[np.ndarray, int, int], np.ndarray]
    ) -> Rows:
        return Rows(
            [column for x in self._x for column in _columns_of(get(x, first, stop))],
            get(self._y, first, stop),
            None if self._sigma is None else get(self._sigma, first, stop),
            None if self._weight is None else get(self._weight, first, stop),
        )

    def equations(
        self, objective: Objective, points: np.ndarray, first: int, stop: int | None = None
    ) -> Iterator[tuple[Equations, ...]]:
        """Yield the equations of each chunk from ``first`` to before ``stop``, in order.

        Those of a chunk are one for each of the points, (n_points, n_params).
        """

        def equations_of(chunk: Chunk) -> tuple[Equations, ...]:
            return tuple([kernel.evaluate(objective, chunk, point) for point in points])

        return self.map_chunks(equations_of, first, stop)

    def map_chunks(
        self, function: Callable[[Chunk], Result], first: int = 0, stop: int | None = None
    ) -> Iterator[Result]:
        """Yield a function of each chunk from ``first`` to before ``stop``, in order.

        They are computed by threads, unless all are copied to the same buffers.
        """
        stop = self.n_chunks if stop is None else stop
        if stop - first == 1:
            yield function(self.chunk(first))
            return
        mapped = [
            array
            for array in (*self._x, self._y, self._sigma, self._weight)
            if array is not None and is_mapped(array)
        ]

        def of_chunk(index: int) -> Result:
            if not mapped:
                return function(self.chunk(index))
            rows = self.rows_of(index)
            try:
                return function(self._checked(index, self._rows(*rows, view)))
            finally:
                for array in mapped:
                    release(array[slice(*rows)])

        try:
            yield from map_chunks(
                of_chunk, range(first, stop), n_threads() if self._buffers is None else 1
            )
        finally:
            # The system maps pages in groups, and some beside the rows of a chunk come back.
            for array in mapped:
                release(array)

    def sample(self, n_rows: int, n_places: int = SAMPLE_PLACES) -> "ArrayStream":
        """Return about ``n_rows`` rows spread evenly over all, by a rule without randomness.

        The rows come in runs, one in each of equal strata, shifted within its stratum by
        multiples of the golden ratio: a constant stride would meet a periodic ``x``, such as the
        columns of an image, always in the same phase.

        Parameters
        ----------
        n_places : int
            Most runs: a larger sample has longer ones.
        """
        return self.take(*_sample_runs(self.n_rows, min(n_rows, self.n_rows), n_places))

    def take(self, firsts: np.ndarray, run_rows: int = 1) -> "ArrayStream":
        """Return runs of rows, copied into memory, as a stream with the same size of chunks.

        Raises
        ------
        ValueError
            If there is a row that can't be used; the message names the first of all.
        """
        columns = [take(x, firsts, run_rows) for x in self._x]
        taken = ArrayStream(
            columns[0] if self._is_table else columns,
            take(self._y, firsts, run_rows),
            None if self._sigma is None else take(self._sigma, firsts, run_rows),
            None if self._weight is None else take(self._weight, firsts, run_rows),
            chunk_size=self.chunk_rows,
            buffer_rows=self._buffer_rows,
            is_table=self._is_table,
            x_name=self._x_name,
        )
        if self._is_trusted or self._is_checked():
            taken.trust()
            return taken
        try:
            taken.check()
        except ValueError:
            self.check()
            raise
        return taken

    def trust(self) -> None:
        """Take all values as usable: they were looked at before."""
        self._is_trusted = True

    def check(self) -> None:
        """Look through all rows in order, and raise for the first that can't be used."""
        for index in range(self.n_chunks):
            if self._known_spread(index) is None:
                rows = self.rows(*self.rows_of(index))
                self._remember_spread(index, self._look(index, rows))

    def behind(self, earlier: Rows) -> "ArrayStream":
        """Return these rows behind some earlier ones."""
        own = self.rows()
        weight = None
        if own.weight is not None or earlier.weight is not None:
            weight = np.concatenate(
                [np.ones(r.y.size) if r.weight is None else r.weight for r in (earlier, own)]
            )
        columns = map(np.concatenate, zip(earlier.columns, own.columns, strict=True))
        return ArrayStream(
            list(columns), np.concatenate([earlier.y, own.y]), None, weight, x_name=self._x_name
        )

    def batches(self) -> Iterator["ArrayStream"]:
        """Yield all rows at once."""
        yield self

    def map_rows(self, function: Callable[["ArrayStream"], Any], key: str) -> Iterator[Any]:
        """Yield a function of all rows."""
        yield function(self)

    def token(self, n_chunks: int | None = None, n_sampled: int = 0) -> str:
        """Return a key of the data: content of arrays in memory, file and time of memory maps.

        From the first call on chunks are hashed as they are looked at.

        Parameters
        ----------
        n_chunks : int or None
            The first chunks, whose content counts; with None all.
        n_sampled : int
            Rows of a sample, whose content counts too.
        """
        if self._content is None:
            parts = [*self._x, self._y, self._sigma, self._weight]
            known = [None if part is None else identity(part) for part in parts]
            self._content = Content(known, self.n_rows, self.chunk_rows)
        if n_chunks is None or n_sampled >= self.n_rows or not self._content.is_hashed:
            return self._content.token(self.n_chunks)
        if not n_sampled:
            return self._content.token(n_chunks)
        if n_sampled not in self._sample_tokens:
            self._sample_tokens[n_sampled] = self.sample(n_sampled).token()
        return f"{self._content.token(n_chunks)}-{self._sample_tokens[n_sampled]}"

    def explain_not_finite(self, objective: Objective, point: np.ndarray) -> str:
        """Return which row makes the model infinite or NaN at a point, in words."""
        names = objective.model.param_names
        at = ", ".join(f"{name}={value:g}" for name, value in zip(names, point, strict=True))
        for index in range(self.n_chunks):
            chunk = self.chunk(index)
            first, stop = (self._first_row + row for row in self.rows_of(index))
            values = predict(objective.model, chunk, point)
            if not np.isfinite(values).all():
                row = int(np.argmin(np.isfinite(values)))
                x = np.asarray(chunk.x)[..., row]
                return (
                    f"The model is {values[row]} at the start p0 ({at}), first in row "
                    f"{first + row} (x = {x}). Choose a p0 at which it is finite."
                )
            if not np.isfinite(kernel.evaluate(objective, chunk, point).gram).all():
                return (
                    f"The derivative of the model is not finite at the start p0 ({at}), somewhere "
                    f"in rows {first} to {stop - 1}. A square root or a power at 0, or a branch "
                    "of jnp.where that is infinite where it is not taken, does that. Choose "
                    "another p0."
                )
        return f"The sum of squares overflows at the start p0 ({at}): scale y, or change p0."


def sample_rows(n_rows: int, n_sample: int) -> np.ndarray:
    """Return the numbers of ``n_sample`` of ``n_rows`` rows; see `ArrayStream.sample`."""
    firsts, run_rows = _sample_runs(n_rows, n_sample)
    return np.ravel(firsts[:, np.newaxis] + np.arange(run_rows))


def _sample_runs(
    n_rows: int, n_sample: int, n_places: int = SAMPLE_PLACES
) -> tuple[np.ndarray, int]:
    """Return the first row of each run of a sample, and the rows of a run."""
    n_runs = min(n_sample, n_places)
    run_rows = n_sample // n_runs
    runs = np.arange(n_runs + 1)
    bounds = runs * n_rows // n_runs
    room = np.diff(bounds) - run_rows + 1  # places for the run in its stratum
    return bounds[:-1] + ((runs[:-1] * _GOLDEN) % 1.0 * room).astype(np.int64), run_rows


def _as_real(values: Any, name: str) -> np.ndarray:
    """Return an array (a memory map as it is), if it holds real numbers."""
    array: np.ndarray = np.asanyarray(values)
    refuse_masked(array, name)
    if array.dtype.kind not in "fiub":
        raise TypeError(no_real_numbers(name, array.dtype, values))
    return array


def refuse_masked(values: Any, name: str, x_name: str = "x") -> None:
    """Raise for a masked array, whose mask checks of shape and type would drop without a word."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array: leave the masked rows out, in all arrays alike "
            f"({x_name}[~mask], y[~mask])."
        )


def no_real_numbers(name: str, dtype: np.dtype, values: Any = None) -> str:
    """Return what is said of data that are no real numbers, and what to do about them."""
    advice = "Convert it first, for instance by .astype(float)."
    if callable(values):
        return f"{name} must hold real numbers, got a function: fit takes the data alone."
    if isinstance(values, (str, os.PathLike)):
        return (
            f"{name} must hold real numbers, got {values!r}. Read the file first, for instance by "
            "numpy.load(path, mmap_mode='r')."
        )
    if dtype.kind in "mM":
        advice = "Convert times to numbers: (t - t[0]) / numpy.timedelta64(1, 's')."
    elif dtype.kind == "c":
        advice = "Fit the real and the imaginary part, one after the other along the rows."
    return f"{name} must hold real numbers, got an array of {dtype}. {advice}"


def _as_columns(x: Any, n_rows: int) -> list[np.ndarray]:
    """Return the predictors, each of shape (n_rows,), without copying the whole."""
    if isinstance(x, (list, tuple)) and all(isinstance(c, np.ndarray) for c in x):
        columns = [_as_real(column, f"x[{i}]") for i, column in enumerate(x)]
        if columns and all(column.ndim == 0 for column in columns):
            columns = [_as_real(x, "x")]
    else:
        array = _as_real(x, "x")
        if array.ndim not in (1, 2):
            raise ValueError(
                "x must have the shape (n_rows,), or (n_features, n_rows) with several "
                f"predictors, got {array.shape}."
            )
        columns = [array] if array.ndim == 1 else list(array)
        if array.ndim == 2 and array.shape[1] != n_rows and array.shape[0] == n_rows:
            raise ValueError(
                f"x has the shape {array.shape}, and y has {n_rows} rows. Predictors come first, "
                "as in scipy.optimize.curve_fit: pass x.T."
            )
    if not columns:
        raise ValueError("x is empty: there is no predictor.")
    for i, column in enumerate(columns):
        name = "x" if len(columns) == 1 else f"x[{i}]"
        if column.ndim != 1:
            raise ValueError(f"{name} must have one dimension, got shape {column.shape}.")
        if column.size != n_rows:
            raise ValueError(
                f"{name} has {column.size} rows and y has {n_rows}; they must have the same."
            )
    return columns


def _as_vector(values: Any, n_rows: int, name: str) -> np.ndarray:
    """Return one number for each row."""
    array = _as_real(values, name)
    if array.ndim == 0:
        return np.broadcast_to(array, (n_rows,))
    if array.ndim == 2 and name == "sigma":
        raise ValueError(
            f"sigma has the shape {array.shape}: a covariance matrix of the rows is not "
            f"supported. Give the standard deviation of each row, shape ({n_rows},)."
        )
    if array.shape != (n_rows,):
        raise ValueError(f"{name} has the shape {array.shape}, expected ({n_rows},) as y has.")
    return array


def as_chunk_size(chunk_size: int | None) -> int:
    """Return the rows in a chunk, checked."""
    if chunk_size is None:
        return DEFAULT_CHUNK_ROWS
    try:
        size = operator.index(chunk_size)
    except TypeError:
        raise TypeError(
            f"chunk_size must be a number of rows or None, got {chunk_size!r}."
        ) from None
    if size < 1:
        raise ValueError(f"chunk_size must be at least 1 row, got {size}.")
    return size


def _columns_of(array: np.ndarray) -> list[np.ndarray]:
    """Return the columns of rows, each contiguous."""
    return [array] if array.ndim == 1 else list(np.ascontiguousarray(array.T))
