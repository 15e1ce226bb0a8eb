"""Work on chunks by several threads, its results in the order of the chunks."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import joblib

Item = TypeVar("Item")
Result = TypeVar("Result")

# So many results may wait for the one before them: to wait for it, and to be woken, takes a thread
# longer than many a chunk. They are small; no chunk stays in memory for them.
_MOST_WAITING = 8


def map_chunks(
    function: Callable[[Item], Result], items: Sequence[Item], n_threads: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of the items, computed by several threads.

    The thread that asks is one of them. An exception comes in the place of its chunk's result, but
    one that is no `Exception`, such as an interrupt, at once.
    """
    if n_threads == 1 or len(items) == 1:
        yield from map(function, items)
        return
    work = _Work(function, items, n_threads)
    try:
        for position in range(len(items)):
            yield work.result(position)
    finally:
        work.stop()


class _Work(Generic[Item, Result]):
    """Chunks to be computed, each by the thread that comes next.

    No helper ever waits: one that finds nothing to do ends, and another is called when there is.
    So nothing is left to hang on where a caller never comes back.
    """

    def __init__(
        self, function: Callable[[Item], Result], items: Sequence[Item], n_threads: int
    ) -> None:
        self._function = function
        self._items = items
        self._most_ahead = n_threads + _MOST_WAITING
        self._most_helpers = n_threads - 1
        self._helpers: set[Future[None]] = set()
        self._n_begun = 0
        self._n_returned = 0
        self._done: dict[int, tuple[Result | None, BaseException | None]] = {}
        self._is_stopped = False
        self._changed = threading.Condition()
        self._process = os.getpid()

    def result(self, position: int) -> Result:
        """Return a result, those before it having been returned, and compute others meanwhile."""
        self._call_helpers()
        while True:
            with self._changed:
                if position in self._done:
                    result, error = self._done.pop(position)
                    self._n_returned += 1
                    break
                own = self._begin_next()
                if own is None:
                    self._changed.wait()
                    continue
            self._compute(own)
        if error is None:
            return result  # type: ignore[return-value]
        try:
            raise error
        finally:
            del error  # it holds this frame

    def stop(self) -> None:
        """Wait for the helpers to end after the chunks that they are at."""
        with self._changed:
            self._is_stopped = True
        if os.getpid() == self._process:  # a forked child has none of them
            for helper in self._helpers:
                helper.cancel()
            wait(self._helpers)

    def _call_helpers(self) -> None:
        """Have as many threads help as may, if there is something to do for them."""
        self._helpers = {helper for helper in self._helpers if not helper.done()}
        n_left = min(len(self._items), self._n_returned + self._most_ahead) - self._n_begun
        missing = min(self._most_helpers - len(self._helpers), n_left - 1)
        # Where the system gives no more threads, or ends, the work is done without.
        with contextlib.suppress(RuntimeError):
            for _ in range(missing):
                self._helpers.add(_helpers.pool().submit(self._help))

    def _help(self) -> None:
        while True:
            with self._changed:
                position = self._begin_next()
            if position is None:
                return
            self._compute(position)

    def _begin_next(self) -> int | None:
        """Return what to compute now, None if there is nothing or too much waits already."""
        is_near = self._n_begun < self._n_returned + self._most_ahead
        if self._is_stopped or self._n_begun == len(self._items) or not is_near:
            return None
        self._n_begun += 1
        return self._n_begun - 1

    def _compute(self, position: int) -> None:
        result: Result | None = None
        error: BaseException | None = None
        try:
            result = self._function(self._items[position])
        except BaseException as raised:  # in a helper too: its turn comes in `result`
            error = raised
            if not isinstance(error, Exception):
                raise  # an interrupt, now
        finally:
            with self._changed:
                self._done[position] = result, error
                self._changed.notify_all()
            del error  # it holds this frame


class _Helpers:
    """Threads that stay from pass to pass; to start one takes as long as several chunks."""

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Have new ones made: a child process has none of its parent's threads."""
        self._pool: ThreadPoolExecutor | None = None

    def pool(self) -> ThreadPoolExecutor:
        """Return the pool, which starts a thread where none is idle."""
        if self._pool is None:
            most = max(32, os.cpu_count() or 1)
            self._pool = ThreadPoolExecutor(most, thread_name_prefix="nlsq_sklearn")
        return self._pool


_helpers = _Helpers()


def n_threads() -> int:
    """Return the threads that a fit may use, so that fits side by side don't use more than cores.

    In a thread that is not the main one somebody else spreads the work already (joblib, Dask).
    joblib's processes, and many clusters, say by ``OMP_NUM_THREADS`` what each may use.
    """
    if threading.current_thread() is not threading.main_thread():
        return 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(joblib.cpu_count())
    return max(1, min(cores, int(limit)) if limit.isdecimal() else cores)
