"""A process whose children fit, or save, until they are killed: ``python -m tests.killed_fit``.

It reads tasks from standard input, one JSON object a line, and answers each with a line. Each task
is done by a fork of its own, so that the time to import JAX is spent once; JAX itself starts in
the fork, as in a process of its own.
"""

import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, JSONCheckpoint

N_ROWS, CHUNK_ROWS = 400_000, 8192
N_CHUNKS = 49
_LONGEST_SECONDS = 60


def model(x, a, b, c, d):
    return a * jnp.exp(-b * x) * jnp.sin(c * x) + d


def fit(directory):
    """Fit as the page of the specification does: resume where there is something to resume."""
    x = np.linspace(0, 100, N_ROWS)
    y = 2 * np.exp(-0.02 * x) * np.sin(0.5 * x) + 1
    y += np.random.default_rng(42).normal(0, 0.1, N_ROWS)
    optimizer = AdaptiveHybridStreamingOptimizer(
        model,
        checkpoint_dir=directory,
        checkpoint_interval=0,
        checkpoint_compression=True,
        chunk_size=CHUNK_ROWS,
    )
    resume = directory is not None and (Path(directory) / "checkpoint_latest.json").exists()
    result = optimizer.fit(x, y, p0=[1.5, 0.03, 0.45, 0.5], resume=resume)
    return {
        "bits": [float(v).hex() for v in (*result.popt, *result.pcov.ravel(), result.cost)],
        "history": result.history,
        "success": result.success,
    }


def save(directory, iteration, n_calls):
    """Save a checkpoint, and die before the call of this number that may touch a file.

    These are all calls of functions and methods written in C, less those that only compute.
    """
    calls = iter(range(1, n_calls))

    def count(frame, event, function):
        if event != "c_call":
            return
        home = getattr(function, "__module__", None) or type(function.__self__).__module__
        if home in {"posix", "io", "_io"} and next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint = JSONCheckpoint(directory, max_checkpoints=2, compression=True)
    sys.setprofile(count)
    checkpoint.save({"iteration": iteration, "params": [iteration / 3] * 2000})
    sys.setprofile(None)
    return n_calls


def _fork(task):
    """Do a task in a fork, and kill it after a while; return what it answered, None if killed."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The one other thread that there may be is jemalloc's, which knows how to be forked.
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(reader)
        _answer(task, writer)
    os.close(writer)
    is_limited = task["kill_after"] is not None
    # It becomes readable when the fork answers or ends.
    select.select([reader], [], [], task["kill_after"] if is_limited else _LONGEST_SECONDS)
    if is_limited or not select.select([reader], [], [], 0)[0]:
        os.kill(pid, signal.SIGKILL)  # harmless if it has ended: it is not waited for yet
    with os.fdopen(reader) as file:
        answer = file.read()
    _, status = os.waitpid(pid, 0)
    was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if answer or (was_killed and (is_limited or task["do"] == "save")):
        return json.loads(answer) if answer else None
    raise RuntimeError("the fork failed, or took too long; its error stands above")


def _answer(task, writer):
    """Do a task, write its answer and end the process."""
    status = 1
    try:
        warnings.simplefilter("error")
        answer = json.dumps({"fit": fit, "save": save}[task["do"]](*task["arguments"]))
        os.write(writer, answer.encode())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _main():
    print("ready", flush=True)
    for line in sys.stdin:
        started_at = time.monotonic()
        answer = _fork(json.loads(line))
        seconds = time.monotonic() - started_at
        print(json.dumps({"answer": answer, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    _main()
