"""A trace is used again only where nothing that the model reaches has changed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn import models
from nlsq_sklearn._engine import remembered
from nlsq_sklearn._engine.model import parameter_names, trace_model

SCALE = 2.0
TABLE = np.array([1.0, 2.0])


def helper(x):
    return SCALE * x


def plain(x, a):
    return a * x


def with_global(x, a):
    return a * SCALE * x


def with_helper(x, a):
    return a * helper(x)


def with_inner_function(x, a):
    return (lambda u: SCALE * u)(a * x)


def with_array(x, a):
    return a * x + TABLE[1]


def with_keyword(x, a, *, offset=1.0):
    return a * x + offset


def recursive(x, a, depth=2):
    return a * x if depth == 0 else recursive(x, a, depth - 1) + SCALE


def with_own_attribute(x, a):
    return a * with_own_attribute.scale * x


with_own_attribute.scale = 1.0


def with_inner_import(x, a):
    import json

    return a * len(json.__name__) * x


def with_globals(x, a):
    return a * globals()["SCALE"] * x


def in_a_closure(value):
    def model(x, a):
        return a * x + value

    return model


@pytest.fixture
def n_traces(monkeypatch):
    """Count the traces that are made."""
    made = []

    def counted(*arguments):
        made.append(arguments)
        return trace_model(*arguments)

    monkeypatch.setattr(remembered, "trace_model", counted)
    monkeypatch.setattr(remembered, "_traces", type(remembered._traces)())
    monkeypatch.setattr(remembered, "_last", type(remembered._last)())
    return lambda: len(made)


def _traced(model, names=("a",)):
    return remembered.traced(model, names, 1)


MODELS_THAT_KNOW = [
    model for model in map(models.__dict__.get, models.__all__) if hasattr(model, "guess")
]
MODELS = [plain, with_global, with_helper, with_inner_function, with_array, with_keyword]


@pytest.mark.parametrize("model", MODELS)
def test_the_same_function_is_traced_once(model, n_traces):
    first = _traced(model)
    assert _traced(model) == first
    assert first.fingerprint == trace_model(model, ("a",), 1).fingerprint
    assert n_traces() == 1


def test_functions_with_the_same_code_share_a_trace(n_traces):
    models = [in_a_closure(1.0), in_a_closure(1.0)]
    found = [_traced(model) for model in models]
    assert n_traces() == 1
    assert [traced.function for traced in found] == models


@pytest.mark.parametrize("model", [with_global, with_helper, with_inner_function])
def test_a_constant_that_changed_makes_another_model(model, n_traces, monkeypatch):
    before = _traced(model)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert _traced(model).fingerprint != before.fingerprint
    assert n_traces() == 2


def test_a_helper_that_was_defined_anew_makes_another_model(n_traces, monkeypatch):
    before = _traced(with_helper)
    monkeypatch.setitem(globals(), "helper", lambda x: x + 5.0)
    assert _traced(with_helper).fingerprint != before.fingerprint


def test_an_array_that_was_written_to_makes_another_model(n_traces, monkeypatch):
    monkeypatch.setitem(globals(), "TABLE", np.array([1.0, 2.0]))
    before = _traced(with_array)
    TABLE[1] = 7.0
    assert _traced(with_array).fingerprint != before.fingerprint


def test_defaults_count(n_traces, monkeypatch):
    before = _traced(with_keyword)
    monkeypatch.setattr(with_keyword, "__kwdefaults__", {"offset": 4.0})
    assert _traced(with_keyword).fingerprint != before.fingerprint


@pytest.mark.parametrize(("one", "other"), [(1.0, 2.0), (0.0, -0.0), (1, 1.0), (True, 1)])
def test_closures_over_other_values_are_told_apart(one, other, n_traces):
    _traced(in_a_closure(one))
    _traced(in_a_closure(other))
    assert n_traces() == 2


def test_an_attribute_of_the_function_that_changed_makes_another_model(monkeypatch):
    before = _traced(with_own_attribute)
    monkeypatch.setattr(with_own_attribute, "scale", 2.0)
    assert _traced(with_own_attribute).fingerprint != before.fingerprint


def test_a_global_may_have_the_name_of_a_builtin(n_traces, monkeypatch):
    def model(x, a):
        return a * x + pow

    monkeypatch.setitem(globals(), "pow", 1.0)
    before = _traced(model)
    monkeypatch.setitem(globals(), "pow", 2.0)
    assert _traced(model).fingerprint != before.fingerprint


def with_bounds(x, a):
    return a * x


with_bounds.bounds, with_bounds.guess, with_bounds.formula = (0, np.inf), plain, "a * x"


def with_own_bounds_in_its_code(x, a):
    return a * x + with_bounds.bounds[0]


def with_own_bounds_by_name(x, a):
    return a * x + getattr(with_bounds, "bounds")[0]  # noqa: B009


def test_what_a_model_knows_of_itself_is_no_part_of_its_trace(n_traces, monkeypatch):
    before = _traced(with_bounds)
    monkeypatch.setattr(with_bounds, "bounds", (-1, 1))
    assert _traced(with_bounds) == before
    assert n_traces() == 1


@pytest.mark.parametrize("model", MODELS_THAT_KNOW, ids=lambda model: model.__name__)
def test_ready_models_are_remembered(model, n_traces):
    names = parameter_names(model, None)
    assert _traced(model, names) == _traced(model, names)
    assert n_traces() == 1


class _Callable:
    scale = 1.0

    def __call__(self, x, a):
        return self.scale * a * x


class _Holder:
    scale = 1.0


@pytest.mark.parametrize(
    "model",
    [
        _Callable(),
        with_own_attribute,
        with_inner_import,
        with_globals,
        with_own_bounds_in_its_code,
        with_own_bounds_by_name,
        functools.partial(with_keyword, offset=2.0),
        jax.jit(plain),
        in_a_closure(_Holder()),
        in_a_closure([1.0]),
        in_a_closure(np.zeros(20_000)),
        in_a_closure(np.random.default_rng(0)),
        in_a_closure(jnp.ones(3)),
    ],
    ids=[
        "object",
        "own attribute",
        "inner import",
        "globals",
        "own bounds",
        "own bounds by name",
        "partial",
        "jit",
        "holder",
        "list",
        "large array",
        "generator",
        "jax array",
    ],
)
def test_what_may_change_unseen_is_never_remembered(model):
    with pytest.raises(remembered._CannotTellError):
        remembered._function_key(model, ())


def test_a_function_that_calls_itself_is_remembered(n_traces):
    def shallow(x, a):
        return recursive(x, a, 1)

    _traced(shallow)
    _traced(shallow)
    assert n_traces() == 1


def test_few_traces_are_kept(n_traces):
    for value in range(2 * remembered._MOST_TRACES):
        _traced(in_a_closure(float(value)))
    assert len(remembered._traces) == remembered._MOST_TRACES
