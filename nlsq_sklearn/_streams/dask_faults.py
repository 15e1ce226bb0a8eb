"""Chunks that can't be computed: which one it was, its rows, and how to go on."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..exceptions import ChunkError, InvalidRowError, SchedulerLostError


def compute_chunks(
    results: Any, indices: Sequence[int], firsts: np.ndarray, sizes: Sequence[int]
) -> Any:
    """Compute the results of some chunks that have rows, and say which of them can't be.

    Parameters
    ----------
    results : Dask array of shape (n_chunks,)
        One object a chunk.
    indices : sequence of int
        The chunks that are wanted.
    firsts : ndarray of shape (n_chunks,)
        First row of each chunk of all.
    sizes : sequence of int
        Rows of each.

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
        return results.blocks[list(indices)].compute()
    except Exception as error:
        if client is not None and client.status != "running":
            raise SchedulerLostError(
                f"The connection to the Dask scheduler {_address(client)} was lost while "
                f"{_describe(indices, firsts, sizes)} were computed ({_words(error)}). Connect a "
                "new Client and fit again; with a checkpoint directory the fit goes on from what "
                "was summed so far (resume=True of the optimizer, warm_start=True of the "
                "estimator)."
            ) from error
        if type(error).__name__ == "KilledWorker":
            # Asking for the chunks one by one would kill as many workers again.
            raise ChunkError(
                f"Workers died while {_describe(indices, firsts, sizes)} were computed: "
                f"{_words(error)} Often their memory did not suffice: make the chunks smaller."
            ) from error
        failure = _first_failure(results, indices)
        if failure is None:
            raise ChunkError(
                f"A task of {_describe(indices, firsts, sizes)} raised {_words(error)}. Asked for "
                "one by one they could be computed: run the fit again."
            ) from error
        index, cause = failure
    if isinstance(cause, InvalidRowError):
        raise cause  # it names the row
    first, last = firsts[index], firsts[index] + sizes[index] - 1
    raise ChunkError(
        f"Chunk {index} (rows {first} to {last}) could not be computed: {_words(cause)}"
    ) from cause


def _first_failure(results: Any, indices: Sequence[int]) -> tuple[int, Exception] | None:
    """Compute chunks one by one and return the first that raises, and what it raised.

    Of tasks computed side by side the scheduler raises the error that it meets first, without a
    word of its chunk: that may be another one at each run.
    """
    for index in indices:
        try:
            results.blocks[[index]].compute()
        except Exception as error:
            return index, error
    return None


def _client() -> Any:
    """Return the distributed client that computes, None where it is another scheduler."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    import dask

    if dask.config.get("scheduler", None) not in (None, "distributed", "dask.distributed"):
        return None
    try:
        return distributed.default_client()
    except ValueError:  # there is none
        return None


def _address(client: Any) -> str:
    return str(getattr(client.scheduler, "address", "of the client"))


def _describe(indices: Sequence[int], firsts: np.ndarray, sizes: Sequence[int]) -> str:
    """Return which chunks and rows these are, in words."""
    last = indices[-1]
    rows = f"rows {firsts[indices[0]]} to {firsts[last] + sizes[last] - 1}"
    return f"chunks {indices[0]} to {last} ({rows})"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
