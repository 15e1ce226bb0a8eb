"""Results of the chunks of Dask arrays, and which chunk it was where one can't be computed."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from dask import config, local, threaded
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.system import CPU_COUNT

from ..exceptions import ChunkError, InvalidRowError, SchedulerLostError
from .arrays import ArrayStream
from .dask_graph import ChunkGraph
from .dask_tasks import Travelling
from .rows import Buffers
from .threads import map_chunks

# Tasks asked of the scheduler at once: many more than workers, so that few of them wait for the
# last, and few enough that a checkpoint is not far. Where they are done in no time, asking takes
# longer than waiting, and more are asked for.
_TASKS_AT_ONCE = 64
_MOST_TASKS_AT_ONCE = 1024
_SHORT_SECONDS = 0.25
# A cluster is asked for the next tasks while it works on these: nobody waits.
_REQUESTS_AHEAD = 4


class ChunkResults:
    """One object for each chunk of Dask arrays, by the scheduler that is active.

    Parameters
    ----------
    graph : ChunkGraph
        How the chunks are computed.
    function : callable
        What is wanted of the rows of each.
    name : str
        Of the results; no others have it.
    firsts : ndarray of shape (n_chunks,)
        First row of each chunk.
    sizes : sequence of int
        Rows of each.
    """

    def __init__(
        self,
        graph: ChunkGraph,
        function: Callable[[ArrayStream], Any],
        name: str,
        firsts: np.ndarray,
        sizes: Sequence[int],
    ) -> None:
        self._graph = graph
        self._function = Travelling(function)
        self._name = name
        self._firsts = firsts
        self._sizes = sizes
        self._schedule = get_scheduler(collections=graph.arrays)
        self._client = _client_of(self._schedule)

    def compute(self, indices: Sequence[int], *, one_by_one: bool = False) -> Iterator[Any]:
        """Yield the result of each of some chunks that have rows, in order.

        Parameters
        ----------
        indices : sequence of int
        one_by_one : bool
            Whether a chunk is asked for when the result of the one before was taken; else as many
            as keep the workers busy.

        Raises
        ------
        InvalidRowError
            If a value can't be used: for the first row of all that has one.
        ChunkError
            If a chunk's task raises; the cause is its error.
        SchedulerLostError
            If the cluster's scheduler is gone.
        """
        if one_by_one:
            for result in self._request_by_request([[index] for index in indices], 1):
                yield from result
            return
        is_asked_ahead = self._client is not None and not _is_within_a_task()
        if is_asked_ahead and self._graph.is_held_by_cluster:
            groups = self._groups_by_place(indices)
        elif self._graph.is_in_memory and (n_threads := _threads_of(self._schedule)):
            yield from self._by_threads(indices, n_threads)
            return
        else:
            groups = self._graph.groups(indices)
        computed = self._ahead(groups) if is_asked_ahead else self._request_by_request(groups, None)
        yield from _in_order(indices, groups, computed)

    def _by_threads(self, indices: Sequence[int], n_threads: int) -> Iterator[Any]:
        """Have arrays in memory reduced as they lie: nothing is left for a scheduler to do."""
        # By one thread before the others begin, and then some together: threads would wait for each
        # other all the time.
        self._graph.open_in_memory(indices)
        buffers = threading.local()

        def reduce(group: Sequence[int]) -> tuple[list[Any], tuple[int, Exception] | None]:
            """Return the results of chunks, up to the first that can't be reduced."""
            if not hasattr(buffers, "own"):
                buffers.own = Buffers()
            results = []
            for index in group:
                try:
                    results.append(
                        self._graph.reduce_in_memory(self._function.function, index, buffers.own)
                    )
                except Exception as error:
                    return results, (index, error)
            return results, None

        for results, failure in map_chunks(reduce, self._graph.groups(indices), n_threads):
            yield from results
            if failure is not None:
                self._raise_failure(*failure)

    def _groups_by_place(self, indices: Sequence[int]) -> list[list[int]]:
        try:
            places = self._client.who_has(self._graph.arrays)
            return self._graph.groups_by_place(indices, places, self._n_threads())
        except Exception as error:
            self._raise_if_lost(indices, error)
            raise

    def _n_threads(self) -> int:
        return int(sum(self._client.nthreads().values()))

    def _request_by_request(
        self, groups: Sequence[Sequence[int]], at_once: int | None
    ) -> Iterator[tuple[Any, ...]]:
        n_tasks = at_once or _TASKS_AT_ONCE
        start = 0
        while start < len(groups):
            request = groups[start : start + n_tasks]
            started_at = time.perf_counter()
            try:
                results = self._compute(request)
            except Exception as error:
                self._raise(request, error)
            start += len(request)
            if at_once is None and time.perf_counter() - started_at < _SHORT_SECONDS:
                n_tasks = min(2 * n_tasks, _MOST_TASKS_AT_ONCE)
            yield from results

    def _ahead(self, groups: Sequence[Sequence[int]]) -> Iterator[tuple[Any, ...]]:
        """Have several requests in work on a cluster."""
        pending: deque[tuple[Sequence[Sequence[int]], list[Any]]] = deque()
        try:
            n_tasks = max(_TASKS_AT_ONCE, 2 * self._n_threads())
            at_once = n_tasks // _REQUESTS_AHEAD
            for start in range(0, len(groups), at_once):
                request = groups[start : start + at_once]
                pending.append((request, self._submit(request)))
                if len(pending) == _REQUESTS_AHEAD:
                    yield from self._gather(*pending[0])
                    pending.popleft()
            while pending:
                yield from self._gather(*pending[0])
                pending.popleft()
        finally:
            for _, futures in pending:
                for future in futures:
                    future.release()

    def _submit(self, groups: Sequence[Sequence[int]]) -> list[Any]:
        graph, keys = self._graph.tasks(self._function, self._name, groups)
        # Without a time each request comes behind those before it.
        return list(self._schedule(graph, keys, sync=False, fifo_timeout="0s"))

    def _gather(self, groups: Sequence[Sequence[int]], futures: list[Any]) -> Any:
        try:
            return self._client.gather(futures)
        except Exception as error:
            self._raise(groups, error)

    def _compute(self, groups: Sequence[Sequence[int]]) -> Sequence[tuple[Any, ...]]:
        graph, keys = self._graph.tasks(self._function, self._name, groups)
        results: Sequence[tuple[Any, ...]] = self._schedule(graph, keys)
        return results

    def _raise(self, groups: Sequence[Sequence[int]], error: Exception) -> None:
        """Say which chunk it is that can't be computed."""
        indices = sorted(chain.from_iterable(groups))
        self._raise_if_lost(indices, error)
        if type(error).__name__ == "KilledWorker":
            # Asking for the chunks again would kill as many workers again.
            raise ChunkError(
                f"Workers died while {self._describe(indices)} were computed: "
                f"{_words(error)} Often their memory did not suffice: make the chunks smaller."
            ) from error
        failure = self._first_failure(indices)
        if failure is None:
            raise ChunkError(
                f"A task of {self._describe(indices)} raised {_words(error)}. Asked for again "
                "they could be computed: run the fit again."
            ) from error
        self._raise_failure(*failure)

    def _raise_failure(self, index: int, cause: Exception) -> NoReturn:
        """Say of a chunk why it can't be computed."""
        if isinstance(cause, InvalidRowError):
            raise cause  # it names the row
        first, last = self._firsts[index], self._firsts[index] + self._sizes[index] - 1
        raise ChunkError(
            f"Chunk {index} (rows {first} to {last}) could not be computed: {_words(cause)}"
        ) from cause

    def _raise_if_lost(self, indices: Sequence[int], error: Exception) -> None:
        client = self._client
        if client is not None and client.status != "running":
            raise SchedulerLostError(
                f"The connection to the Dask scheduler {_address(client)} was lost while "
                f"{self._describe(indices)} were computed ({_words(error)}). Connect a new "
                "Client and fit again; with a checkpoint directory the fit goes on from what "
                "was summed so far (resume=True of the optimizer, warm_start=True of the "
                "estimator)."
            ) from error

    def _first_failure(self, indices: list[int]) -> tuple[int, Exception] | None:
        """Return the first chunk that raises, and what it raises, by computing halves again.

        Of tasks computed side by side the scheduler raises the error that it meets first, without
        a word of its chunk: that may be another one at each run.
        """
        while indices:
            half = indices[: (len(indices) + 1) // 2]
            try:
                self._compute([[index] for index in half])
            except Exception as error:
                if len(half) == 1:
                    return half[0], error
                indices = half
            else:
                indices = indices[len(half) :]
        return None

    def _describe(self, indices: Sequence[int]) -> str:
        """Return which chunks and rows these are, in words."""
        last = indices[-1]
        rows = f"rows {self._firsts[indices[0]]} to {self._firsts[last] + self._sizes[last] - 1}"
        return f"chunks {indices[0]} to {last} ({rows})"


def _in_order(
    indices: Sequence[int],
    groups: Sequence[Sequence[int]],
    computed: Iterator[tuple[Any, ...]],
) -> Iterator[Any]:
    """Yield the result of each chunk, in the order of the indices, whatever that of the groups."""
    waiting: dict[int, Any] = {}
    missing = deque(indices)
    for group, results in zip(groups, computed, strict=True):
        waiting.update(zip(group, results, strict=True))
        while missing and missing[0] in waiting:
            yield waiting.pop(missing.popleft())


def _threads_of(schedule: Any) -> int | None:
    """Return the threads of a scheduler of this process that does what Dask's own would do.

    None where it is another one, or where the user's own pool, or callbacks, would miss the tasks.
    """
    if Callback.active or config.get("pool", None) is not None:
        return None
    if schedule is local.get_sync:
        return 1
    return int(config.get("num_workers", None) or CPU_COUNT) if schedule is threaded.get else None


def _client_of(schedule: Any) -> Any:
    """Return the distributed client whose ``get`` schedules, None where it is another scheduler."""
    client = getattr(schedule, "__self__", None)
    return client if hasattr(client, "gather") else None


def _is_within_a_task() -> bool:
    """Return whether this runs on a worker of a cluster, whose place Dask must give to others."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _address(client: Any) -> str:
    return str(getattr(client.scheduler, "address", "of the client"))


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
