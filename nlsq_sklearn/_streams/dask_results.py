"""Results of the chunks of Dask arrays, and which chunk it was where one can't be computed."""

import sys
from collections.abc import Sequence
from typing import Any

import dask
import numpy as np
from dask.base import get_scheduler, optimize
from dask.optimization import cull
from dask.utils import ensure_dict

from ..exceptions import ChunkError, InvalidRowError, SchedulerLostError


class ChunkResults:
    """One object for each chunk of Dask arrays, computed some chunks at a time.

    The graph is optimized once: asking the array for some of its blocks would do it each time, for
    all chunks, which takes the square of their number.

    Parameters
    ----------
    results : Dask array of shape (n_chunks,)
        One object a chunk.
    firsts : ndarray of shape (n_chunks,)
        First row of each chunk.
    sizes : sequence of int
        Rows of each.
    """

    def __init__(self, results: Any, firsts: np.ndarray, sizes: Sequence[int]) -> None:
        (optimized,) = optimize(results)
        self._graph = ensure_dict(optimized.__dask_graph__())
        self._keys = optimized.__dask_keys__()
        self._schedule = get_scheduler(collections=[results])
        self._firsts = firsts
        self._sizes = sizes

    def _compute(self, indices: Sequence[int]) -> list[Any]:
        keys = [self._keys[index] for index in indices]
        graph, _ = cull(self._graph, keys)
        return [result[0] for result in self._schedule(graph, keys)]

    def compute(self, indices: Sequence[int]) -> list[Any]:
        """Compute the results of some chunks that have rows, and say which of them can't be.

        Raises
        ------
        InvalidRowError
            If a value can't be used: for the first row of all that has one.
        ChunkError
            If a chunk's task raises; the cause is its error.
        SchedulerLostError
            If the cluster's scheduler is gone.
        """
        client = _client()
        try:
            return self._compute(indices)
        except Exception as error:
            if client is not None and client.status != "running":
                raise SchedulerLostError(
                    f"The connection to the Dask scheduler {_address(client)} was lost while "
                    f"{self._describe(indices)} were computed ({_words(error)}). Connect a new "
                    "Client and fit again; with a checkpoint directory the fit goes on from what "
                    "was summed so far (resume=True of the optimizer, warm_start=True of the "
                    "estimator)."
                ) from error
            if type(error).__name__ == "KilledWorker":
                # Asking for the chunks one by one would kill as many workers again.
                raise ChunkError(
                    f"Workers died while {self._describe(indices)} were computed: "
                    f"{_words(error)} Often their memory did not suffice: make the chunks smaller."
                ) from error
            failure = self._first_failure(indices)
            if failure is None:
                raise ChunkError(
                    f"A task of {self._describe(indices)} raised {_words(error)}. Asked for one "
                    "by one they could be computed: run the fit again."
                ) from error
            index, cause = failure
        if isinstance(cause, InvalidRowError):
            raise cause  # it names the row
        first, last = self._firsts[index], self._firsts[index] + self._sizes[index] - 1
        raise ChunkError(
            f"Chunk {index} (rows {first} to {last}) could not be computed: {_words(cause)}"
        ) from cause

    def _first_failure(self, indices: Sequence[int]) -> tuple[int, Exception] | None:
        """Compute chunks one by one and return the first that raises, and what it raised.

        Of tasks computed side by side the scheduler raises the error that it meets first, without
        a word of its chunk: that may be another one at each run.
        """
        for index in indices:
            try:
                self._compute([index])
            except Exception as error:
                return index, error
        return None

    def _describe(self, indices: Sequence[int]) -> str:
        """Return which chunks and rows these are, in words."""
        last = indices[-1]
        rows = f"rows {self._firsts[indices[0]]} to {self._firsts[last] + self._sizes[last] - 1}"
        return f"chunks {indices[0]} to {last} ({rows})"


def _client() -> Any:
    """Return the distributed client that computes, None where it is another scheduler."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    if dask.config.get("scheduler", None) not in (None, "distributed", "dask.distributed"):
        return None
    try:
        return distributed.default_client()
    except ValueError:  # there is none
        return None


def _address(client: Any) -> str:
    return str(getattr(client.scheduler, "address", "of the client"))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
