"""Work on chunks by several threads, its results in the order of the chunks."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import joblib

Result = TypeVar("Result")

# So many results may wait for the one before them: to wait for it, and to be woken, takes a thread
# longer than many a chunk. They are small; no chunk stays in memory for them.
_MOST_WAITING = 8


def map_chunks(
    function: Callable[[int], Result], indices: range, n_threads: int
) -> Iterator[Result]:
    """Yield ``function(index)`` in the order of the indices, computed by several threads.

    The thread that asks is one of them.
    """
    if n_threads == 1 or len(indices) == 1:
        yield from map(function, indices)
        return
    work = _Work(function, indices, n_threads + _MOST_WAITING)
    pool = _helpers.pool()
    helpers = [pool.submit(work.help) for _ in range(min(n_threads, len(indices)) - 1)]
    try:
        for position in range(len(indices)):
            yield work.result(position)
    finally:
        work.stop()
        for helper in helpers:
            helper.cancel()
        wait(helpers)


class _Work(Generic[Result]):
    """Chunks to be computed, each by the thread that comes next."""

    def __init__(self, function: Callable[[int], Result], indices: range, ahead: int) -> None:
        self._function = function
        self._indices = indices
        self._ahead = ahead
        self._n_begun = 0
        self._n_returned = 0
        self._done: dict[int, tuple[Result | None, BaseException | None]] = {}
        self._is_stopped = False
        self._changed = threading.Condition()

    def result(self, position: int) -> Result:
        """Return a result, those before it having been returned, and compute others meanwhile."""
        while True:
            with self._changed:
                if position in self._done:
                    result, error = self._done.pop(position)
                    self._n_returned += 1
                    self._changed.notify_all()
                    break
                own = self._begin_next()
                if own is None:
                    self._changed.wait()
                    continue
            self._compute(own)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def help(self) -> None:
        """Compute what is left until there is no more."""
        while True:
            with self._changed:
                position = self._begin_next()
                while position is None and not self._is_stopped and self._is_left:
                    self._changed.wait()
                    position = self._begin_next()
            if position is None:
                return
            self._compute(position)

    def stop(self) -> None:
        """Have the helpers end after the chunks that they are at."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    @property
    def _is_left(self) -> bool:
        return self._n_begun < len(self._indices)

    def _begin_next(self) -> int | None:
        """Return what to compute now, None if there is nothing or too much waits already."""
        is_near = self._n_begun < self._n_returned + self._ahead
        if self._is_stopped or not self._is_left or not is_near:
            return None
        self._n_begun += 1
        return self._n_begun - 1

    def _compute(self, position: int) -> None:
        result: Result | None = None
        error: BaseException | None = None
        try:
            result = self._function(self._indices[position])
        except BaseException as raised:  # in a helper too: its turn comes in `result`
            error = raised
            if not isinstance(error, Exception):
                raise  # an interrupt, now
        finally:
            with self._changed:
                self._done[position] = result, error
                self._changed.notify_all()


class _Helpers:
    """Threads that wait for work; to start one takes as long as several chunks."""

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
