"""What is read from a model: names, whether JAX can trace it, and its fingerprint."""

import functools
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn._engine.model import parameter_names, trace_model


def _fingerprint(model, n_features=1):
    return trace_model(model, parameter_names(model, None), n_features).fingerprint


def _line(x, slope, offset):
    return slope * x + offset


class _Callable:
    def __call__(self, x, height, width):
        return height * jnp.exp(-((x / width) ** 2))

    def method(self, x, height):
        return height * x


def _positional_only(x, a, /, b):
    return a * x + b


def _keyword_only(x, a, *, power=2):
    return a * x**power


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (_line, ("slope", "offset")),
        (lambda x, a, b=2.0: a * x + b, ("a", "b")),
        (functools.partial(_line, offset=1.0), ("slope",)),
        (_Callable(), ("height", "width")),
        (_Callable().method, ("height",)),
        (_positional_only, ("a", "b")),
        (_keyword_only, ("a",)),
        (jax.jit(_line), ("slope", "offset")),
    ],
)
def test_the_names_of_the_parameters_are_those_of_the_signature(model, names):
    assert parameter_names(model, None) == names
    assert parameter_names(model, len(names)) == names
    assert trace_model(model, names, 1).n_params == len(names)


def test_parameters_behind_a_star_are_numbered():
    assert parameter_names(lambda x, *params: x, 3) == ("p0", "p1", "p2")
    assert parameter_names(lambda *everything: 1.0, 2) == ("p0", "p1")


def test_parameters_before_a_star_keep_their_names():
    assert parameter_names(lambda x, a, *rest: x, 3) == ("a", "p1", "p2")


def test_no_two_parameters_share_a_name():
    names = parameter_names(lambda x, p1, *rest: x, 3)
    assert len(set(names)) == 3
    assert names[0] == "p1"


@pytest.mark.parametrize("model", [3, None, "a * x", [1.0]])
def test_a_model_that_is_not_callable_is_refused(model):
    with pytest.raises(TypeError, match="must be a function model"):
        parameter_names(model, None)


def test_a_star_without_a_number_of_parameters_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="Give n_params, or p0"):
        parameter_names(lambda x, *params: x, None)


def test_another_number_of_parameters_than_the_signature_has_is_refused():
    with pytest.raises(ValueError, match=r"n_params is 3, but the model takes 2.*slope, offset"):
        parameter_names(_line, 3)


@pytest.mark.parametrize("model", [lambda x: x, lambda: 1.0])
def test_a_model_without_parameters_is_refused(model):
    with pytest.raises(ValueError, match="takes no parameter"):
        parameter_names(model, None)


@pytest.mark.parametrize("n_params", [0, -1])
def test_a_star_with_no_parameters_is_refused(n_params):
    with pytest.raises(ValueError, match="param"):
        parameter_names(lambda x, *params: x, n_params)


def test_fewer_parameters_than_stand_before_a_star_are_refused():
    def model(x, a, b, *rest):
        return a * x + b

    with pytest.raises((TypeError, ValueError), match="param"):
        trace_model(model, parameter_names(model, 1), 1)


def _branch(x, a):
    return a * x if a > 0 else x


def _mask(x, a):
    return a * x[x > 0]


@pytest.mark.parametrize(
    ("model", "way_out"),
    [
        (lambda x, a: np.exp(a * x), "jax.numpy"),
        (lambda x, a: math.exp(a) * x, "jax.numpy"),
        (lambda x, a: x * float(a), "jax.numpy"),
        (lambda x, a: x[int(a)], "jax.numpy"),
        (_branch, "jnp.where"),
        (_mask, "jnp.where"),
    ],
)
def test_a_model_that_jax_cannot_trace_is_refused_with_the_way_out(model, way_out):
    with pytest.raises(TypeError, match=f"(?s)can't be traced.*{way_out}"):
        trace_model(model, ("a",), 1)


def test_a_model_that_cannot_be_called_says_with_how_many_parameters():
    with pytest.raises(TypeError, match=r"could not be called with x of shape .* 3 parameters"):
        trace_model(_line, ("a", "b", "c"), 1)


def test_an_error_inside_the_model_keeps_its_own_words():
    def model(x, a):
        return a * undefined_name * x  # noqa: F821

    with pytest.raises(NameError, match="undefined_name"):
        trace_model(model, ("a",), 1)


@pytest.mark.parametrize("value", [None, (1.0, 2.0), [1.0], {"y": 1.0}])
def test_a_model_that_returns_no_array_is_refused(value):
    with pytest.raises(ValueError, match="must return one array"):
        trace_model(lambda x, a: value, ("a",), 1)


@pytest.mark.parametrize(
    "model",
    [
        lambda x, a: a * jnp.ones(3),
        lambda x, a: a * x[:-1],
        lambda x, a: a * x[:, jnp.newaxis],
        lambda x, a: jnp.stack([a, a]),
    ],
)
def test_a_model_that_does_not_return_one_value_a_row_is_refused(model):
    with pytest.raises(ValueError, match=r"returns an array of shape .* one value for each row"):
        trace_model(model, ("a",), 1)


def test_a_model_that_forgets_to_unpack_its_predictors_is_told_their_shape():
    with pytest.raises(ValueError, match="x1, x2 = x"):
        trace_model(lambda x, a: a * x, ("a",), 2)


def test_a_complex_model_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"complex128.*real and imaginary parts"):
        trace_model(lambda x, a: jnp.exp(1j * a * x), ("a",), 1)


def test_a_model_of_truth_values_is_refused():
    with pytest.raises(ValueError, match="bool values; expected real numbers"):
        trace_model(lambda x, a: x > a, ("a",), 1)


def test_a_model_is_traced_in_double_precision():
    seen = []

    def model(x, a):
        seen.append((x.dtype, a.dtype))
        return a * x

    trace_model(model, ("a",), 1)
    assert set(seen) == {(np.dtype(np.float64), np.dtype(np.float64))}
    assert jax.config.jax_enable_x64 is False


def test_the_model_stays_the_function_that_was_given():
    traced = trace_model(_line, ("slope", "offset"), 1)
    assert traced.function is _line
    assert traced.param_names == ("slope", "offset")


# Each makes a model from a constant. Tables are closed over by plain and by compiled functions.
def _with_float(constant):
    return lambda x, a: a * jnp.exp(-constant * x)


def _with_numpy_array(constant):
    table = np.array([1.0, constant, 3.0])
    return lambda x, a: a * jnp.interp(x, jnp.arange(3.0), table)


def _with_device_array(constant):
    with jax.enable_x64(True):
        table = jnp.array([1.0, constant, 3.0])
    return lambda x, a: a * jnp.interp(x, jnp.arange(3.0), table)


def _in_a_compiled_function(constant):
    return jax.jit(_with_numpy_array(constant))


def _in_a_nested_compiled_function(constant):
    inner = jax.jit(_with_device_array(constant))
    return jax.jit(lambda x, a: inner(x, a) + 1.0)


def _in_a_branch(constant):
    inner = _with_numpy_array(constant)
    return lambda x, a: jax.lax.cond(a > 0, lambda: inner(x, a), lambda: x)


def _in_a_compiled_function_in_a_loop(constant):
    inner = jax.jit(_with_numpy_array(constant))
    return lambda x, a: jax.lax.fori_loop(0, 3, lambda i, total: total + inner(x, a), x)


def _in_the_derivative_only(constant):
    @jax.custom_jvp
    def curve(x, a):
        return a * x

    @curve.defjvp
    def _(primals, tangents):
        (x, a), (_, da) = primals, tangents
        return curve(x, a), constant * x * da

    return lambda x, a: curve(x, a)


def _beside_a_function_with_its_own_derivative(constant):
    # Not differentiated itself, it stays a call in the traced program, with functions in it.
    @jax.custom_jvp
    def curve(x):
        return x**2

    @curve.defjvp
    def _(primals, tangents):
        return curve(*primals), 2 * primals[0] * tangents[0]

    return lambda x, a: constant * a * curve(x)


_MAKERS = [
    _with_float,
    _with_numpy_array,
    _with_device_array,
    _in_a_compiled_function,
    _in_a_nested_compiled_function,
    _in_a_branch,
    _in_a_compiled_function_in_a_loop,
    _in_the_derivative_only,
    _beside_a_function_with_its_own_derivative,
]


@pytest.mark.parametrize("make", _MAKERS)
def test_a_model_that_is_made_again_has_the_same_fingerprint(make):
    assert _fingerprint(make(2.1)) == _fingerprint(make(2.1))


@pytest.mark.parametrize("make", _MAKERS)
def test_a_constant_that_differs_by_one_ulp_changes_the_fingerprint(make):
    assert _fingerprint(make(2.1)) != _fingerprint(make(np.nextafter(2.1, 3.0)))


def test_models_that_call_back_to_different_python_functions_are_told_apart_or_refused():
    def calling_back(constant):
        def on_the_host(x):
            return constant * np.asarray(x)

        def model(x, a):
            shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
            return a * jax.pure_callback(on_the_host, shape, x)

        return model

    try:
        fingerprints = {_fingerprint(calling_back(constant)) for constant in (2.0, 3.0)}
    except (TypeError, ValueError):
        return
    assert len(fingerprints) == 2


def test_the_fingerprint_depends_on_what_is_computed():
    models = [
        lambda x, a, b: a * x + b,
        lambda x, a, b: b * x + a,
        lambda x, a, b: a * x - b,
        lambda x, a, b: a * x + b * x,
        lambda x, a, b: (a * x + b).astype(jnp.float32),
    ]
    assert len({_fingerprint(model) for model in models}) == len(models)


def test_the_names_of_the_parameters_are_no_part_of_the_fingerprint():
    assert _fingerprint(lambda x, a, b: a * x + b) == _fingerprint(lambda x, c, d: c * x + d)


def test_the_fingerprint_depends_on_the_number_of_predictors():
    def model(x, a):
        return a * x.sum() * jnp.ones(13)

    assert _fingerprint(model, 1) != _fingerprint(model, 2)


def test_other_processes_find_the_same_fingerprints():
    code = (
        "from tests.engine import test_model as t\n"
        "print(*(t._fingerprint(make(2.1)) for make in t._MAKERS))\n"
    )
    here = [_fingerprint(make(2.1)) for make in _MAKERS]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        there = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert there.stdout.split() == here


def test_a_predictor_that_is_not_there_is_refused_though_jax_takes_the_last_one():
    def model(x, a, b):
        return a * x[0] + b * x[2]

    with pytest.raises(IndexError, match=r"beyond the 2 that X has, which are x\[0\] to x\[1\]"):
        _fingerprint(model, n_features=2)
    assert _fingerprint(model, n_features=3)


@pytest.mark.parametrize(
    "model",
    [
        lambda x, a: a * x[-1],
        lambda x, a: a * x[:2].sum(axis=0),
        lambda x, a: a * x.shape[1] + x[1],
        lambda x, a: a * jnp.linalg.norm(x, axis=0),
    ],
)
def test_predictors_may_be_used_as_one_array(model):
    assert _fingerprint(model, n_features=2)


def test_a_column_of_a_single_predictor_is_told_as_what_it_is():
    with pytest.raises(TypeError, match=r"write x for x\[:, 0\]"):
        trace_model(lambda x, a, b: a * x[:, 0] + b, ("a", "b"), 1)
