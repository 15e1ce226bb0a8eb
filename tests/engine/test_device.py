"""Where programs run: in the thread that calls, without a change to JAX's own devices."""

import subprocess
import sys

import jax
import jaxlib.xla_client
import pytest

from nlsq_sklearn._engine.device import device


def test_programs_of_a_cpu_have_a_client_of_their_own():
    assert jax.devices()[0].platform == "cpu"  # else this test tells nothing
    assert device().platform == "cpu"
    assert device().client is not jax.devices()[0].client
    assert device() is device()


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


@pytest.fixture
def _forgotten():
    device.cache_clear()
    yield
    device.cache_clear()


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
