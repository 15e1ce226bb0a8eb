"""Value and Jacobian, whose elementary functions are replaced, against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn._engine import curve, elementary, kernel
from nlsq_sklearn._engine.model import parameter_names, trace_model

from . import objective, padded_chunk


@jax.custom_jvp
def _clipped_exp(x):
    return jnp.exp(jnp.minimum(x, 50.0))


_clipped_exp.defjvps(lambda tangent, value, x: 2.0 * tangent * value)  # not its true derivative


def _loop(x, a, b):
    return jax.lax.fori_loop(0, 3, lambda _, total: jnp.sin(total + b), a * x)


MODELS = {
    "decay": lambda x, a, b, c: a * jnp.exp(-b * x) + c,
    "damped": lambda x, a, b, c, d: a * jnp.exp(-b * x) * jnp.sin(c * x) + d,
    "cosines": lambda x, a, b: jnp.cos(a * x) * jnp.cos(b + x) + jnp.tan(0.1 * a * x),
    "logistic": lambda x, a, b, c: a / (1 + jnp.exp(-b * x)) ** c,
    "powers": lambda x, a, b: (x + 3.0) ** a + a ** (0.1 * x) + x**2 + (x + 3) ** 0.5 * b**1.5,
    "hill": lambda x, a, b: x**a / (b**a + x**a),
    "logarithms": lambda x, a, b: jnp.log(a + x * x) + jnp.log1p(b * x * x) + jnp.expm1(-a * x),
    "sigmoids": lambda x, a, b: (
        jnp.tanh(a * x) + jax.nn.sigmoid(b * x) + jax.scipy.special.erf(x * a)
    ),
    "nested": lambda x, a, b: jnp.sin(jnp.exp(-a * x)) + jnp.exp(jnp.sin(b * x)),
    "inner jit": lambda x, a, b: jax.jit(lambda u: jnp.exp(-a * u) * jnp.sin(b * u))(x),
    "branches": lambda x, a, b: jnp.where(x < 1, a * jnp.exp(-x), b * jnp.sin(x)),
    "own derivative": lambda x, a, b: b * _clipped_exp(a * x),
    "loop": _loop,
    "few parameters in functions": lambda x, a, b: jnp.exp(jnp.sin(b)) * x + jnp.cos(a),
    "constant": lambda x, a, b: a + b,
    "lower precision": lambda x, a, b: jnp.exp((-a * x).astype(jnp.float32)) + b,
}
_PARAMS = [1.3, 0.7, 1.6, 0.4]


def _evaluate(model, x, params, **options):
    options = {"any_angle": False, **options}
    traced = trace_model(model, parameter_names(model, None), 1)
    with jax.enable_x64(True):
        jacobian = jax.jit(
            lambda x, params, yes: curve.evaluate(traced, x, list(params), yes, **options)
        )(x, jnp.asarray(params), jnp.asarray(True))
        return jax.tree.map(np.asarray, jacobian)


def _expected(model, x, params):
    with jax.enable_x64(True):
        x, params = jnp.asarray(x), jnp.asarray(params)

        def values(params):
            value = jnp.broadcast_to(model(x, *params), x.shape)
            return value.astype(jnp.float64)

        def column(index):
            # One at a time: jacfwd multiplies what does not depend on a parameter by 0.
            def moved(param):
                return values([*params[:index], param, *params[index + 1 :]])

            return jax.jvp(moved, (params[index],), (jnp.ones(()),))[1]

        columns = [column(index) for index in range(len(params))]
        return np.asarray(values(params)), np.stack(columns, axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_value_and_columns_are_those_that_jax_finds(name):
    model = MODELS[name]
    x = np.linspace(0.0, 4.0, 64)  # with the 0, where powers have their special cases
    params = _PARAMS[: len(parameter_names(model, None))]
    value, columns, _ = _evaluate(model, x, params)
    expected, jacobian = _expected(model, x, params)
    rtol = 1e-6 if name == "lower precision" else 1e-13
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(np.stack(columns, axis=1), jacobian, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5, 2.0, -1.0])
@pytest.mark.parametrize("base", [0.0, 0.3, -0.3])
def test_derivatives_of_powers_are_those_of_jax_at_0_and_below(base, exponent):
    def model(x, a, b):
        return (a * x) ** b

    x = np.full(8, base)
    value, columns, _ = _evaluate(model, x, [1.0, exponent])
    expected, jacobian = _expected(model, x, [1.0, exponent])
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    if base == exponent == 0:  # JAX has NaN
        np.testing.assert_array_equal(columns[0], 0.0)
    else:
        np.testing.assert_allclose(columns[0], jacobian[:, 0], rtol=1e-14)
    # By the exponent, JAX has 0 or NaN at base 0, and neither is wrong: 0 log 0.
    if base > 0:
        np.testing.assert_allclose(columns[1], jacobian[:, 1], rtol=1e-14)


def test_angles_that_are_too_large_are_told():
    x = np.array([0.0, 1.0, elementary.LARGEST_ANGLE * 2, np.inf])
    _, _, is_out_of_range = _evaluate(lambda x, a: jnp.sin(a * x), x, [1.0])
    np.testing.assert_array_equal(is_out_of_range, [False, False, True, False])
    assert _evaluate(lambda x, a: jnp.exp(-a * x), x, [1.0]).is_out_of_range is None


@pytest.mark.parametrize(
    "model",
    [
        lambda x, a: jnp.sin(a * jnp.outer(x, jnp.arange(1.0, 4.0))).sum(axis=1) + jnp.cos(x),
        lambda x, a: jnp.sin(a * jnp.outer(jnp.arange(1.0, 4.0), x)).sum(axis=0) + jnp.cos(x),
    ],
    ids=["rows first", "rows last"],
)
def test_a_row_is_told_that_has_a_large_angle_among_several(model):
    x = np.array([0.0, 1.0, elementary.LARGEST_ANGLE * 0.4, elementary.LARGEST_ANGLE * 2, np.inf])
    _, _, is_out_of_range = _evaluate(model, x, [1.0])
    np.testing.assert_array_equal(is_out_of_range, [False, False, True, True, False])


@pytest.mark.parametrize(("size", "is_large"), [(0.1, False), (1.0, True)])
def test_a_table_of_large_angles_is_told_in_all_rows(size, is_large):
    table = size * np.array([0.5, elementary.LARGEST_ANGLE * 2])
    told = _evaluate(lambda x, a: a * jnp.sin(table)[0] * jnp.cos(x), np.ones(4), [1.0])
    np.testing.assert_array_equal(told.is_out_of_range, [is_large] * 4)


@pytest.mark.parametrize("n_points", [1, 3])
def test_the_kernel_is_right_for_angles_of_any_size(n_points):
    def model(x, a, b):
        return a * jnp.sin(b * x)

    x = np.linspace(1e9, 1e9 + 100, 1000)
    y = np.zeros_like(x)
    points = np.array([[1.5, 1.0], [0.5, 2.0], [2.5, 0.3]])[:n_points]
    found = kernel.evaluate_many(objective(model), padded_chunk(x, y), points)
    for equations, (a, b) in zip(found, points, strict=True):
        columns = np.stack([np.sin(b * x), a * x * np.cos(b * x)], axis=1)
        np.testing.assert_allclose(
            equations.cost, 0.5 * np.sum((a * columns[:, 0]) ** 2), rtol=1e-12
        )
        np.testing.assert_allclose(equations.gram, columns.T @ columns, rtol=1e-11)


def test_a_block_with_many_parameters_tells_large_angles_too():
    def model(x, *params):
        return sum(param * jnp.sin(k * 1e8 * x) for k, param in enumerate(params, 1))

    x, params = np.linspace(1.0, 2.0, 100), np.ones(12)
    names = parameter_names(model, 12)
    many = kernel.Objective(trace_model(model, names, 1), "linear", 1.0)
    found = kernel.evaluate(many, padded_chunk(x, np.zeros_like(x)), params)
    columns = np.stack([np.sin(k * 1e8 * x) for k in range(1, 13)], axis=1)
    np.testing.assert_allclose(found.gram, columns.T @ columns, rtol=1e-10, atol=1e-11)
