"""Dask arrays -> ordered chunks of rows. Imported when Dask collections are given.

A chunk of the stream is a chunk of the arrays. Its task loads it and reduces it to its normal
equations, so that nothing larger than those travels; they are summed in the order of the chunks,
whoever computed them, and that makes the sum the same on every scheduler.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from .._engine.equations import Equations
from .._engine.kernel import Objective
from ..exceptions import InvalidRowError
from .arrays import SAMPLE_PLACES, ArrayStream, no_real_numbers, sample_rows
from .dask_graph import ChunkGraph
from .dask_results import ChunkResults
from .dask_tasks import Layout, sum_rows
from .rows import Rows

# A sample comes from few chunks, whole; reading a row of each would compute all of the data.
_SAMPLE_CHUNKS = 32
# As much as the warm-up asks for: a sixteenth of the rows, within limits.
_SAMPLE_SHARE = 1 / 16
_LEAST_SAMPLE_ROWS = 131_072
_MOST_SAMPLE_ROWS = 524_288


class DaskStream:
    """Rows of Dask arrays, chunk by chunk, computed by the scheduler that is active.

    Parameters
    ----------
    x, y, sigma, weight : Dask arrays, series or data frames, or arrays
        As for `ArrayStream`; those that are no Dask collection are cut as ``y`` is.
    is_table : bool
        Whether ``x`` is laid out as scikit-learn does it, (n_rows, n_features).

    Raises
    ------
    ValueError
        If shapes don't fit, or the sizes of chunks are unknown.
    """

    def __init__(
        self, x: Any, y: Any, sigma: Any = None, weight: Any = None, *, is_table: bool = False
    ) -> None:
        self._x = _as_table(x, is_table=is_table)
        if not is_table and np.shape(y) and self._x.ndim == 2 and self._x.shape[1] == len(y):
            raise ValueError(
                f"x has the shape {self._x.shape[::-1]}, and y has {len(y)} rows. Predictors come "
                "first, as in scipy.optimize.curve_fit: pass x.T."
            )
        n_rows = self._x.shape[0]
        self._x_name = "X" if is_table else "x"
        chunks = (self._x.chunks[0],)
        self._y = _as_column(y, "y", n_rows, chunks)
        self._sigma = None if sigma is None else _as_column(sigma, "sigma", n_rows, chunks)
        self._weight = (
            None if weight is None else _as_column(weight, "sample_weight", n_rows, chunks)
        )
        if n_rows == 0:
            raise ValueError("y is empty: there is nothing to fit.")
        self.n_rows = int(n_rows)
        self.n_features = 1 if self._x.ndim == 1 else int(self._x.shape[1])
        self._sizes = [int(size) for size in self._x.chunks[0]]
        self._firsts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        self.n_chunks = len(self._sizes)
        self._pool: ArrayStream | None = None
        self._token: str | None = None
        self._graph: ChunkGraph | None = None
        self._n_checked = 0

    @property
    def chunk_size(self) -> list[int]:
        """Rows in each chunk."""
        return self._sizes

    def equations(
        self, objective: Objective, points: np.ndarray, first: int, stop: int | None = None
    ) -> Iterator[tuple[Equations, ...]]:
        """Yield the equations of each chunk from ``first`` to before ``stop``, in order.

        Those of a chunk are one for each of the points, (n_points, n_params).
        """
        is_checked = self._n_checked == self.n_chunks
        summed = partial(sum_rows, objective=objective, points=points, is_checked=is_checked)
        key = tokenize(self.token(), objective.model.fingerprint, objective[1:], points, is_checked)
        # A chunk without rows counts as one, so that chunks keep their numbers.
        nothing = tuple(Equations.zero(points.shape[1]) for _ in points)
        stop = self.n_chunks if stop is None else stop
        yield from self._map(summed, range(first, stop), f"equations-{key}", nothing)
        if first <= self._n_checked:
            self._n_checked = max(self._n_checked, stop)

    def sample(self, n_rows: int) -> ArrayStream:
        """Return about ``n_rows`` rows of some chunks spread evenly over all, in memory."""
        if self._pool is None:
            self._pool = self._read_pool()
        return self._pool.sample(n_rows) if n_rows < self._pool.n_rows else self._pool

    def _read_pool(self) -> ArrayStream:
        """Compute a sample of rows as large as any that is asked for."""
        filled = np.flatnonzero(self._sizes)
        wanted = np.clip(_SAMPLE_SHARE * self.n_rows, _LEAST_SAMPLE_ROWS, _MOST_SAMPLE_ROWS)
        n_chosen = max(_SAMPLE_CHUNKS, int(wanted * filled.size / self.n_rows))
        chosen = filled[sample_rows(filled.size, min(filled.size, n_chosen))]
        n_read = sum(self._sizes[i] for i in chosen)
        share = min(1.0, wanted / n_read)

        # Runs as long as those of an array in memory: to take rows one by one takes longer.
        run_rows = max(1, int(share * n_read) // SAMPLE_PLACES)

        def rows_of(rows: ArrayStream) -> Rows:
            n_rows = max(1, int(share * rows.n_rows))
            return rows.sample(n_rows, max(1, n_rows // run_rows)).rows()

        try:
            parts = list(self._map(rows_of, chosen.tolist(), f"sample-{self.token()}", None))
        except InvalidRowError:
            self._raise_first_invalid()
            raise
        columns = [np.concatenate(c) for c in zip(*(part.columns for part in parts), strict=True)]
        y, sigma, weight = (
            None if values[0] is None else np.concatenate(values)
            for values in zip(*(part[1:] for part in parts), strict=True)
        )
        return ArrayStream(columns, y, sigma, weight)

    def _raise_first_invalid(self) -> None:
        """Look through all rows and raise for the first that can't be used."""

        def error_of(rows: ArrayStream) -> InvalidRowError | None:
            # Returned, not raised: the scheduler would raise the one that it meets first.
            try:
                rows.check()
            except InvalidRowError as error:
                return error
            return None

        for error in self.map_rows(error_of, "check"):
            if error is not None:
                raise error

    def token(self, n_chunks: int | None = None, n_sampled: int = 0) -> str:
        """Return a key of the data: that of the graph which computes them, all of it."""
        if self._token is None:
            self._token = str(tokenize(self._x, self._y, self._sigma, self._weight))
        return self._token

    def explain_not_finite(self, objective: Objective, point: np.ndarray) -> str:
        """Return which row makes the model infinite or NaN at a point, in words."""

        def explain(rows: ArrayStream) -> tuple[bool, str]:
            [equations] = sum_rows(rows, objective, point[np.newaxis], is_checked=False)
            is_finite = equations.is_finite
            return is_finite, rows.explain_not_finite(objective, point)

        key = tokenize(self.token(), objective.model.fingerprint, point)
        words = ""
        for is_finite, words in self._map(
            explain, range(self.n_chunks), f"explain-{key}", (True, "")
        ):
            if not is_finite:
                return str(words)
        return words

    def map_rows(self, function: Callable[[ArrayStream], Any], key: str) -> Iterator[Any]:
        """Yield a function of the rows of each chunk that has any, in order."""
        filled = np.flatnonzero(self._sizes).tolist()
        return self._map(function, filled, f"{key}-{self.token()}", None)

    def batches(self) -> Iterator[ArrayStream]:
        """Yield the rows of each chunk in memory, one after the other."""
        filled = np.flatnonzero(self._sizes).tolist()
        parts = self._map(ArrayStream.rows, filled, f"rows-{self.token()}", None, one_by_one=True)
        for index, rows in zip(filled, parts, strict=True):
            yield ArrayStream(
                rows.columns, *rows[1:], x_name=self._x_name, first_row=int(self._firsts[index])
            )

    def _map(
        self,
        function: Callable[[ArrayStream], Any],
        indices: Sequence[int],
        key: str,
        of_empty: Any,
        *,
        one_by_one: bool = False,
    ) -> Iterator[Any]:
        """Yield a function of the rows of chunks, in order, and what stands for one without any."""
        if self._graph is None:
            self._graph = self._make_graph()
        results = ChunkResults(
            self._graph, function, f"nlsq_sklearn-{key}", self._firsts, self._sizes
        )
        filled = [index for index in indices if self._sizes[index]]
        computed = results.compute(filled, one_by_one=one_by_one)
        yield from (next(computed) if self._sizes[index] else of_empty for index in indices)

    def _make_graph(self) -> ChunkGraph:
        layout = Layout(
            self._x_name,
            self.n_features,
            self._sigma is not None,
            self._weight is not None,
            Counter(self._sizes).most_common(1)[0][0],
        )
        arrays = [a for a in (self._x, self._y, self._sigma, self._weight) if a is not None]
        return ChunkGraph(arrays, layout, self._firsts, self._sizes)


def map_table(function: Callable[[np.ndarray], np.ndarray], x: Any, *, name: str) -> Any:
    """Return the lazy array of a function of the rows of ``x``, (n_rows, n_features)."""
    return _as_table(x, is_table=True).map_blocks(
        function, dtype=np.float64, drop_axis=1, name=name, meta=np.empty(0, dtype=np.float64)
    )


def _as_array(values: Any, name: str) -> Any:
    """Return a Dask array of real numbers with chunks of known size."""
    if hasattr(values, "to_dask_array"):
        # Not by lengths=True: of Parquet files from which few columns are read Dask joins some,
        # after it has counted them, and then finds fewer chunks than it expects.
        values = values.to_dask_array().compute_chunk_sizes()
    array = values if isinstance(values, da.Array) else da.from_array(np.asarray(values))
    if array.dtype.kind not in "fiub":
        raise TypeError(no_real_numbers(name, array.dtype))
    if any(np.isnan(size) for size in array.shape):
        raise ValueError(
            f"The chunks of {name} have unknown sizes. Call {name}.compute_chunk_sizes() before, "
            "or make the array by to_dask_array(lengths=True)."
        )
    return array


def _as_table(x: Any, *, is_table: bool) -> Any:
    """Return the predictors as (n_rows,) or (n_rows, n_features) with whole rows in each chunk."""
    if isinstance(x, (list, tuple)):
        columns = [_as_array(column, f"x[{i}]") for i, column in enumerate(x)]
        array = da.stack([c.rechunk((columns[0].chunks[0],)) for c in columns], axis=1)
    else:
        array = _as_array(x, "X" if is_table else "x")
        if array.ndim == 2 and not is_table:
            array = array.T
    if array.ndim not in (1, 2):
        raise ValueError(f"x must have one or two dimensions, got the shape {array.shape}.")
    return array.rechunk({1: -1}) if array.ndim == 2 else array


def _as_column(values: Any, name: str, n_rows: int, chunks: Any) -> Any:
    """Return one number for each row, cut into the same chunks as the predictors."""
    if np.ndim(values) == 0 and not hasattr(values, "dask"):
        return da.full(n_rows, float(values), chunks=chunks)
    array = _as_array(values, name)
    if array.ndim == 2 and array.shape[1] == 1 and hasattr(values, "to_dask_array"):
        array = array[:, 0]  # a data frame with one column
    if array.shape != (n_rows,):
        hint = f" Give {name}[:, 0]." if array.shape == (n_rows, 1) else ""
        raise ValueError(
            f"{name} has the shape {array.shape}, expected ({n_rows},): one number for each row "
            f"of the predictors.{hint}"
        )
    return array if array.chunks == chunks else array.rechunk(chunks)
