"""Curves of plain arithmetic are compiled to one machine function, and others as well as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn._engine import kernel, one_function, programs
from nlsq_sklearn._engine.model import trace_model
from nlsq_sklearn._streams import ArrayStream

_MATRIX = np.array([[2.0, 0.5], [0.5, 1.0]])

_PLAIN = {
    "decay": lambda x, a, b: a * jnp.exp(-b * x),
    "damped": lambda x, a, b: a * jnp.exp(-x) * jnp.sin(b * x),
    "branches": lambda x, a, b: jnp.where(x > 0.5, a * x, b * x**2),
    "power": lambda x, a, b: a * x**b,
    "error function": lambda x, a, b: a * jax.scipy.special.erf(b * x),
    "own derivative": lambda x, a, b: a * jax.nn.softplus(b * x),
    "another jit": lambda x, a, b: a * jax.jit(jnp.tanh)(b * x),
    "complex": lambda x, a, b: jnp.abs(a / (1 + 1j * b * x)),
    "no x": lambda x, a, b: a * jnp.exp(-b),
    "no parameter": lambda x, a, b: jnp.zeros_like(x),
}
_OTHERS = {
    "matrix product": lambda x, a, b: jnp.stack([x, x**2], axis=1) @ jnp.stack([a, b]),
    "solution": lambda x, a, b: x * jnp.linalg.solve(_MATRIX, jnp.stack([a, b]))[0],
    "sort": lambda x, a, b: x * jnp.sort(jnp.stack([a, b]))[0],
    "Fourier": lambda x, a, b: x * jnp.fft.fft(jnp.stack([a, b])).real[0],
    "loop": lambda x, a, b: jax.lax.fori_loop(0, 3, lambda _, v: v * b + x, a * x),
    "sum": lambda x, a, b: (a * jnp.exp(-b * jnp.outer(x, jnp.arange(30.0)))).sum(axis=1),
}


def _sums(name, **changes):
    """Return the equations of a few rows, and the program that was compiled for them."""
    model = trace_model({**_PLAIN, **_OTHERS}[name], ("a", "b"), 1)._replace(**changes)
    x = np.linspace(0.1, 1.5, 700)
    before = set(programs._cache._programs)
    chunk = ArrayStream(x, np.cos(x)).chunk(0)
    equations = kernel.evaluate(kernel.Objective(model, "linear", 1.0), chunk, np.array([0.8, 1.3]))
    [key] = set(programs._cache._programs) - before
    return equations, programs._cache._programs[key].as_text()


def _entry(text):
    """Return the part of a compiled program that is run first."""
    return text[text.index("\nENTRY ") :].partition("\n}")[0]


def _assert_close(equations, expected):
    for got, wanted in zip(equations[:4], expected[:4], strict=True):
        scale = np.abs(expected.cost) + expected.model_norm
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14 * scale)


@pytest.fixture(autouse=True)
def _no_programs(monkeypatch):
    monkeypatch.setattr(programs, "_cache", programs._ProgramCache())


@pytest.mark.parametrize("name", _PLAIN)
def test_a_program_of_plain_arithmetic_is_a_single_call(name):
    equations, text = _sums(name)
    operations = [line for line in _entry(text).splitlines() if " = " in line]
    [call] = [line for line in operations if " parameter(" not in line and " copy(" not in line]
    assert "ROOT" in call
    assert 'xla_cpu_small_call="true"' in call
    _assert_close(equations, _sums(name, is_plain=False, fingerprint=f"{name} in pieces")[0])


@pytest.mark.parametrize("name", _OTHERS)
def test_what_such_a_call_can_not_hold_is_compiled_in_pieces(name):
    equations, text = _sums(name)
    assert "inlineable" not in _entry(text)  # XLA itself marks small loops
    x = np.linspace(0.1, 1.5, 700)
    with jax.enable_x64(True):
        params = [jnp.float64(0.8), jnp.float64(1.3)]
        value = _OTHERS[name](x, *params)
        columns = jax.jacfwd(_OTHERS[name], argnums=(1, 2))(x, *params)
    residual, jacobian = np.asarray(value) - np.cos(x), np.stack(columns, axis=1)
    np.testing.assert_allclose(equations.gram, jacobian.T @ jacobian, rtol=1e-12)
    np.testing.assert_allclose(equations.gradient, jacobian.T @ residual, rtol=1e-12)
    np.testing.assert_allclose(equations.cost, 0.5 * residual @ residual, rtol=1e-12)


@pytest.mark.parametrize("name", ["solution", "sort", "Fourier"])
def test_where_xla_can_not_after_all_it_is_compiled_in_pieces(name):
    equations, _ = _sums(name, is_plain=True)
    _assert_close(equations, _sums(name, fingerprint=f"{name} in pieces")[0])


def test_several_points_share_the_call():
    model = trace_model(_PLAIN["decay"], ("a", "b"), 1)
    chunk = ArrayStream(np.linspace(0, 1, 100), np.zeros(100)).chunk(0)
    goal = kernel.Objective(model, "linear", 1.0)
    points = np.array([[1.0, 1.0], [2.0, 0.5], [0.5, 3.0]])
    for equations, point in zip(kernel.evaluate_many(goal, chunk, points), points, strict=True):
        _assert_close(equations, kernel.evaluate(goal, chunk, point))
    texts = [program.as_text() for program in programs._cache._programs.values()]
    assert all("xla_cpu_small_call" in text for text in texts)


def test_a_version_of_jax_that_was_not_tried_compiles_in_pieces(monkeypatch):
    monkeypatch.setattr(one_function, "_IS_KNOWN", False)
    assert not trace_model(_PLAIN["decay"], ("a", "b"), 1).is_plain
