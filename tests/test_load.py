"""Many fits, batches and chunks take no more time and memory at the end than at the start.

The long versions: ``python -m tests.load --full``.
"""

import gc
import weakref
from pathlib import Path

import pytest

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
from nlsq_sklearn._engine import programs
from tests.load import make_model, make_rows, measure

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is read from /proc"
)


@pytest.mark.parametrize(
    ("kind", "n"),
    [
        ("fits", 400),
        ("lambdas", 400),
        ("batches", 2000),
        ("chunks", 20_000),
        ("dask_chunks", 1000),
    ],
)
def test_time_and_memory_stay_flat(kind, n):
    report = measure(kind, n)
    print(kind, report)
    assert report["last_ms"] < 2 * report["first_ms"]
    assert report["growth_mb"] < 20
    assert report["n_compilations"] <= 3
    # Parameters squared, parameters, three sums and how y is spread; nothing that grows.
    assert report.get("state_numbers", [18]) == [18]


def test_models_made_in_a_loop_are_forgotten(monkeypatch):
    # As many as fill the cache would take a minute to compile.
    monkeypatch.setattr(programs, "_MOST_PROGRAMS", 3)
    monkeypatch.setattr(programs, "_cache", programs._ProgramCache())
    x, y = make_rows(200)
    made, traces = [], []
    for i in range(12):
        model = make_model(1 + 0.01 * i)
        made.append(weakref.ref(model))
        AdaptiveHybridStreamingOptimizer(model).fit(x, y, [1, 1, 1])
        gc.collect()
        traces.append(sum(type(thing).__name__ == "Jaxpr" for thing in gc.get_objects()))
    del model
    gc.collect()
    assert traces[-1] == traces[3] > 0  # nor does JAX keep anything of them
    assert len(programs._cache._programs) == 3
    assert programs.n_compilations() == 12
    assert sum(model() is not None for model in made) <= 3
