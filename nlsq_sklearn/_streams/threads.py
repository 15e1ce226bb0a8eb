"""Work on chunks by several threads, its results in the order of the chunks."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import joblib

Result = TypeVar("Result")


def map_chunks(
    function: Callable[[int], Result], indices: range, n_threads: int
) -> Iterator[Result]:
    """Yield ``function(index)`` in the order of the indices, computed by several threads."""
    if n_threads == 1 or len(indices) == 1:
        yield from map(function, indices)
        return
    with ThreadPoolExecutor(n_threads, thread_name_prefix="nlsq_sklearn") as pool:
        pending: list[Future[Result]] = []
        try:
            for index in indices:
                pending.append(pool.submit(function, index))
                # One chunk more than threads: nobody waits, and memory stays at a few chunks.
                if len(pending) > n_threads:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            for future in pending:
                future.cancel()


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
