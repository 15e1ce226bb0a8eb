"""Many fits, batches or chunks in one process: what each takes at the end and at the start.

``python -m tests.load --full`` runs the long versions, for about an hour, and prints a table;
``python -m tests.load KIND N`` runs one, and prints what it took as JSON.
"""

import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, StreamingCurveFitRegressor
from nlsq_sklearn._engine import programs
from nlsq_sklearn._engine.kernel import Objective
from nlsq_sklearn._engine.model import trace_model
from nlsq_sklearn._engine.state import FitState
from nlsq_sklearn._streams import ArrayStream, open_stream
from tests.measured_fit import memory_mb

ROOT = Path(__file__).parents[1]
FULL = {
    "fits": 10_000,
    "lambdas": 10_000,
    "models": 1_000,
    "batches": 1_000_000,
    "chunks": 100_000,
    "dask_chunks": 100_000,
}
# A report compares the medians of the first and the last third: noise of other programs falls out.
_PARTS = 3


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def make_model(constant):
    """Return a model that no other constant makes."""
    return lambda x, a, b, c: a * jnp.exp(-constant * b * x) + c


def make_rows(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n_rows)
    return x, 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, n_rows)


class Meter:
    """Takes time and memory of each of many equal pieces of work."""

    def __init__(self, n_pieces):
        self._n_warm = n_pieces // 5
        self._seconds = []
        self._memory = []
        self._last = time.perf_counter()

    def tick(self):
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        if len(self._seconds) % max(1, self._n_warm // 4) == 0:
            gc.collect()
            self._memory.append(memory_mb("VmRSS"))
        self._last = time.perf_counter()

    def report(self):
        part = max(1, (len(self._seconds) - self._n_warm) // _PARTS)
        warm = self._memory[4:]
        return {
            "first_ms": 1e3 * statistics.median(self._seconds[self._n_warm : self._n_warm + part]),
            "last_ms": 1e3 * statistics.median(self._seconds[-part:]),
            "growth_mb": max(warm) - warm[0],
            "n_compilations": programs.n_compilations(),
            "n_programs": len(programs._cache._programs),
        }


def fits(n):
    """Fit the same model again and again."""
    x, y = make_rows(200)
    optimizer = AdaptiveHybridStreamingOptimizer(decay)
    meter = Meter(n)
    for _ in range(n):
        optimizer.fit(x, y, [1, 1, 1])
        meter.tick()
    return meter.report()


def lambdas(n):
    """Make the same model anew for each fit."""
    x, y = make_rows(200)
    meter = Meter(n)
    for _ in range(n):
        model = lambda x, a, b, c: a * jnp.exp(-b * x) + c  # noqa: E731
        AdaptiveHybridStreamingOptimizer(model).fit(x, y, [1, 1, 1])
        meter.tick()
    return meter.report()


def models(n):
    """Make another model for each fit: each has a constant of its own."""
    x, y = make_rows(200)
    meter = Meter(n)
    for i in range(n):
        AdaptiveHybridStreamingOptimizer(make_model(1 + 1e-6 * i)).fit(x, y, [1, 1, 1])
        meter.tick()
    return meter.report()


def batches(n):
    """Update an estimate by one batch after the other."""
    x, y = make_rows(10_000)
    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    meter = Meter(n)
    sizes = set()
    for i in range(n):
        rows = slice(100 * (i % 100), 100 * (i % 100) + 100)
        regressor.partial_fit(x[rows, np.newaxis], y[rows])
        if i >= 10:  # the first rows are kept until there are enough of them
            sizes.add(sum(np.size(part) for part in regressor._batch_state.equations))
            sizes.add(regressor._batch_state.kept)
        meter.tick()
    assert regressor.n_batches_seen_ == n
    return meter.report() | {"state_numbers": [size for size in sizes if size is not None]}


def chunks(n):
    """Sum the equations of many small chunks of an array."""
    x, y = make_rows(100 * n)
    return _sum(ArrayStream(x, y, chunk_size=100), n)


def dask_chunks(n):
    """Sum the equations of many small chunks of a Dask array, in threads."""
    import dask
    import dask.array as da

    x = da.arange(10 * n, chunks=10, dtype=float) * (5 / (10 * n))
    with dask.config.set(scheduler="threads"):
        return _sum(open_stream(x, 2.5 * da.exp(-1.3 * x) + 0.5), n)


def _sum(stream, n):
    pieces = 50
    assert stream.n_chunks == n
    objective = Objective(trace_model(decay, ("a", "b", "c"), 1), "linear", 1.0)
    state = FitState.start(np.array([[1.0, 1.0, 1.0]]))
    meter = Meter(pieces)
    for equations in stream.equations(objective, state.points, 0):
        state = state.add_chunk(equations)
        if state.next_chunk % (n // pieces) == 0:
            meter.tick()
    assert state.next_chunk == n
    assert state.partial[0].n_rows == stream.n_rows
    return meter.report()


KINDS = {kind.__name__: kind for kind in (fits, lambdas, models, batches, chunks, dask_chunks)}


def measure(kind, n):
    """Run one kind in a process of its own and return its report."""
    command = [sys.executable, "-m", "tests.load", kind, str(n)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return json.loads(output.splitlines()[-1])


def main(arguments):
    if arguments != ["--full"]:
        kind, n = arguments
        print(json.dumps(KINDS[kind](int(n))))
        return
    print(f"{'':12} {'number':>9} {'first ms':>9} {'last ms':>9} {'growth MB':>10} {'programs':>9}")
    for kind, n in FULL.items():
        report = measure(kind, n)
        print(
            f"{kind:12} {n:9,} {report['first_ms']:9.3f} {report['last_ms']:9.3f} "
            f"{report['growth_mb']:10.1f} {report['n_programs']:9}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
