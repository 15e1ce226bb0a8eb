"""Where programs run: in the thread that calls, without a change to JAX's own devices."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import jaxlib.xla_client
import numpy as np
import pytest

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
from nlsq_sklearn._engine import device as module
from nlsq_sklearn._engine import kernel, programs
from nlsq_sklearn._engine.device import _own_cpu, _search, compile_for_device, device, known_device
from nlsq_sklearn._engine.model import trace_model
from nlsq_sklearn._engine.prediction import predict
from nlsq_sklearn._streams import ArrayStream


@pytest.fixture
def _forgotten():
    for forget in (_own_cpu.cache_clear, _search.forget):
        forget()
    yield
    for forget in (_own_cpu.cache_clear, _search.forget):
        forget()


class Lowered:
    """Stands for a lowered program."""

    def __init__(self, compile_program):
        self.compile = compile_program


def test_programs_of_a_cpu_have_a_client_of_their_own():
    assert jax.devices()[0].platform == "cpu"  # else this test tells nothing
    assert device().platform == "cpu"
    assert device().client is not jax.devices()[0].client
    assert device() is device()


def test_programs_run_there(monkeypatch):
    used = []

    class Cache(programs._ProgramCache):
        def get(self, key, compile_program):
            used.append(super().get(key, compile_program))
            return used[-1]

    monkeypatch.setattr(programs, "_cache", Cache())
    model = trace_model(lambda x, a: a * x, ("a",), 1)
    chunk = ArrayStream(np.arange(3.0), np.arange(3.0)).chunk(0)
    np.testing.assert_array_equal(predict(model, chunk, np.array([2.0])), [0.0, 2.0, 4.0])
    with jax.enable_x64(True):
        output = used[0](np.array([2.0]), np.asarray(chunk.x))
    assert output.devices() == {device()}


def test_a_fit_within_a_mesh_of_the_users_is_the_same():
    x = np.linspace(0, 1, 1000)
    optimizer = AdaptiveHybridStreamingOptimizer(lambda x, a, b: a * x + b)
    alone = optimizer.fit(x, np.sin(x)).popt
    with jax.set_mesh(jax.make_mesh((1,), ("rows",))):
        within = AdaptiveHybridStreamingOptimizer(lambda x, a, b: b + a * x).fit(x, np.sin(x)).popt
    np.testing.assert_allclose(within, alone, rtol=1e-12)


def test_jax_keeps_its_devices_and_settings():
    code = """
import jax, numpy as np
before = dict(jax.config.values)
from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
x = np.linspace(0, 1, 100)
AdaptiveHybridStreamingOptimizer(lambda x, a, b: a * x + b).fit(x, 2 * x + 1)
assert dict(jax.config.values) == before
assert jax.device_count() == 1
assert jax.numpy.ones(3).devices() == {jax.devices()[0]}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("_forgotten")
def test_a_client_of_ours_leaves_the_environment_as_it_was(monkeypatch):
    for value in (None, "7"):
        if value is None:
            monkeypatch.delenv("PJRT_NPROC", raising=False)
        else:
            monkeypatch.setenv("PJRT_NPROC", value)
        _own_cpu.cache_clear()
        assert device().client is not jax.devices()[0].client
        assert os.environ.get("PJRT_NPROC") == value


@pytest.mark.parametrize("n_rows", [1000, 20_000])
def test_a_call_wakes_no_other_thread(n_rows, monkeypatch):
    def two_peaks(x, a, b, c, d, e, f, g):
        return a * jnp.exp(-(((x - b) / c) ** 2)) + d * jnp.exp(-(((x - e) / f) ** 2)) + g

    monkeypatch.setattr(programs, "_cache", programs._ProgramCache())
    model = trace_model(two_peaks, tuple("abcdefg"), 1)
    x = np.linspace(0, 10, n_rows)
    point = np.array([2, 3, 0.6, 1.5, 6, 0.9, 0.3])
    kernel.evaluate(
        kernel.Objective(model, "linear", 1.0), ArrayStream(x, np.sin(x)).chunk(0), point
    )
    [program] = programs._cache._programs.values()
    text = program.as_text()
    assert "outer_dimension_partitions" not in text  # an operation divided among threads
    _, _, entry = text.partition("\nENTRY ")
    free = "parameter(", "constant(", "get-tuple-element(", "bitcast(", " tuple("
    operations = [
        line for line in entry.splitlines() if " = " in line and not any(w in line for w in free)
    ]
    assert len(operations) <= 8, entry  # XLA runs more side by side


@pytest.mark.usefixtures("_forgotten")
def test_where_jax_makes_no_such_client_its_default_device_is_taken(monkeypatch):
    monkeypatch.delattr(jaxlib.xla_client, "make_cpu_client")
    assert device() is jax.devices()[0]


@pytest.mark.usefixtures("_forgotten")
def test_another_default_device_is_taken_as_it_is(monkeypatch):
    class Accelerator:
        platform = "gpu"

    accelerator = Accelerator()
    monkeypatch.setattr("nlsq_sklearn._engine.device.get_default_device", lambda: accelerator)
    assert device() is accelerator


@pytest.mark.usefixtures("_forgotten")
def test_a_program_is_compiled_while_jax_looks_for_devices(monkeypatch):
    found = threading.Event()
    is_searching = threading.Event()
    places = []

    def search():
        is_searching.set()
        found.wait(60)

    def lower(place):
        assert not is_searching.is_set(), "both would take Python's time"
        places.append(jax.config.jax_default_device)
        return Lowered(compile_program)

    def compile_program():
        assert is_searching.wait(60), "the search goes on while the program is compiled"
        assert known_device() is None
        places.append(jax.config.jax_default_device)
        found.set()
        return "program"

    monkeypatch.setattr(jax, "devices", search)
    assert known_device() is None
    assert compile_for_device(lower) == "program"
    assert places == [_own_cpu()] * 2
    assert known_device() is _own_cpu()


@pytest.mark.usefixtures("_forgotten")
def test_where_jax_finds_another_device_it_is_compiled_again(monkeypatch):
    other = jaxlib.xla_client.make_cpu_client(num_devices=1).devices()[0]
    places = []

    def lower(place):
        places.append(jax.config.jax_default_device)
        return Lowered(lambda: f"program for {places[-1].client is other.client}")

    monkeypatch.setattr(module, "known_device", lambda: None)
    monkeypatch.setattr(module, "device", lambda: other)
    assert compile_for_device(lower) == "program for True"
    assert places == [_own_cpu(), other]


@pytest.mark.usefixtures("_forgotten")
def test_a_search_that_could_not_begin_is_begun_again(monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    def compile_one():
        return compile_for_device(lambda place: Lowered(lambda: "program"))

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            compile_one()
    assert compile_one() == "program"


@pytest.mark.usefixtures("_forgotten")
def test_an_error_of_the_search_for_devices_is_seen(monkeypatch):
    def fail():
        raise RuntimeError("no backend")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(module, "get_default_device", fail)
    with pytest.raises(RuntimeError, match="no backend"):
        compile_for_device(lambda place: Lowered(lambda: "program"))


@pytest.mark.usefixtures("_forgotten")
def test_threads_that_begin_together_share_a_client():
    with ThreadPoolExecutor(8) as pool:
        clients = set(pool.map(lambda _: _own_cpu().client, range(8)))
    assert len(clients) == 1
