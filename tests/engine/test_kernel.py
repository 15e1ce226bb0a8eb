"""The kernel against Jacobians written down by hand, and what it promises of its programs."""

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from nlsq_sklearn._engine import kernel, prediction, programs
from nlsq_sklearn._engine.loss import LOSS_NAMES, ROBUST_LOSSES

from . import DECAY, assert_equal_up_to_rounding, equations_of, objective, padded_chunk

_PARAMS = np.array([2.5, 1.3, 0.5])


def _decay_data(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 4, n_rows)
    return x, DECAY.values(x, 2.4, 1.2, 0.4) + 0.1 * rng.normal(size=n_rows)


def _expected(curve, params, x, y, sigma=1.0, weight=None):
    """Return the equations by NumPy; a row counts ``weight`` times."""
    values, jacobian = curve.values(x, *params), curve.jacobian(x, *params)
    root = np.sqrt(np.ones(y.size) if weight is None else weight) / sigma
    equations = equations_of(root * (values - y), root[:, np.newaxis] * jacobian, root * values)
    return equations._replace(n_rows=y.size)


def _cosines(x, *params):
    return sum(param * jnp.cos(k * x) for k, param in enumerate(params))


def _bits(equations):
    return (
        equations.gram.tobytes(),
        equations.gradient.tobytes(),
        equations.cost,
        equations.model_norm,
        equations.n_rows,
    )


@pytest.mark.parametrize("n_rows", [1, 7, 64, 65, 1000, 4096, 4097, 10_000])
def test_the_equations_are_those_of_the_jacobian_for_any_number_of_rows(n_rows):
    x, y = _decay_data(n_rows)
    equations = kernel.evaluate(objective(DECAY.model), padded_chunk(x, y), _PARAMS)
    assert_equal_up_to_rounding(equations, _expected(DECAY, _PARAMS, x, y))


def test_two_predictors_come_as_two_rows_of_x():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1, (2, 5000)), rng.normal(size=5000)
    a, b = 1.5, -0.7

    def model(xt, a, b):
        x, t = xt
        return a * x * jnp.exp(b * t)

    jacobian = np.stack([x[0] * np.exp(b * x[1]), a * x[0] * x[1] * np.exp(b * x[1])], axis=1)
    values = a * x[0] * np.exp(b * x[1])
    equations = kernel.evaluate(
        objective(model, n_features=2), padded_chunk(x, y), np.array([a, b])
    )
    assert_equal_up_to_rounding(equations, equations_of(values - y, jacobian, values))


def test_a_model_that_returns_one_number_is_constant_over_the_rows():
    x, y = _decay_data(100)
    equations = kernel.evaluate(objective(lambda x, c: c), padded_chunk(x, y), np.array([0.7]))
    expected = equations_of(0.7 - y, np.ones((100, 1)), np.full(100, 0.7))
    assert_equal_up_to_rounding(equations, expected)


def test_a_parameter_that_the_model_ignores_has_a_column_of_zeros():
    x, y = _decay_data(100)
    equations = kernel.evaluate(
        objective(lambda x, a, unused: a * x), padded_chunk(x, y), np.ones(2)
    )
    assert equations.gram[1].tolist() == [0, 0]
    assert equations.gradient[1] == 0


@pytest.mark.parametrize("n_params", [1, 2, 9, 10, 11, 12])
def test_the_equations_are_right_on_both_sides_of_the_switch_to_a_matrix_product(n_params):
    x, y = _decay_data(5000, seed=n_params)
    params = np.linspace(1, 2, n_params)
    jacobian = np.cos(np.arange(n_params) * x[:, np.newaxis])
    values = jacobian @ params
    equations = kernel.evaluate(objective(_cosines, n_params=n_params), padded_chunk(x, y), params)
    assert_equal_up_to_rounding(equations, equations_of(values - y, jacobian, values))


@pytest.mark.parametrize("f_scale", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_a_loss_weighs_jacobian_and_residuals_as_least_squares_does(loss, f_scale):
    x, y = _decay_data(200)
    y[::10] += 5  # residuals far beyond the scale, and far below
    sigma = np.linspace(0.5, 2, x.size)

    def residual(params):
        return (DECAY.values(x, *params) - y) / sigma

    def jacobian(params):
        return DECAY.jacobian(x, *params) / sigma[:, np.newaxis]

    oracle = least_squares(residual, _PARAMS, jacobian, loss=loss, f_scale=f_scale, max_nfev=1)
    np.testing.assert_array_equal(oracle.x, _PARAMS)
    equations = kernel.evaluate(
        objective(DECAY.model, loss=loss, f_scale=f_scale),
        padded_chunk(x, y, sigma=sigma),
        _PARAMS,
    )
    norms = np.linalg.norm(oracle.jac, axis=0)
    # 1 + 2 rho'' z / rho' of an outlier is a difference of numbers near 1: an absolute error of
    # an ulp of rho', which may be most of the curvature.
    gram_error = np.abs(equations.gram - oracle.jac.T @ oracle.jac)
    assert (gram_error <= 1e-12 * np.outer(norms, norms)).all()
    np.testing.assert_allclose(
        equations.gradient, oracle.grad, rtol=1e-12, atol=1e-12 * np.abs(oracle.grad).max()
    )
    np.testing.assert_allclose(equations.cost, oracle.cost, rtol=1e-13)


@pytest.mark.parametrize("loss", sorted(ROBUST_LOSSES))
def test_a_residual_of_zero_is_finite_under_each_loss(loss):
    x = np.linspace(1, 2, 64)
    equations = kernel.evaluate(
        objective(lambda x, a: a * x, loss=loss), padded_chunk(x, x), np.ones(1)
    )
    assert equations.cost == 0
    assert equations.gradient.tolist() == [0]
    np.testing.assert_allclose(equations.gram, x @ x, rtol=1e-14)


def test_each_row_is_divided_by_its_sigma():
    x, y = _decay_data(5000)
    sigma = np.random.default_rng(2).uniform(0.1, 10, x.size)
    equations = kernel.evaluate(objective(DECAY.model), padded_chunk(x, y, sigma=sigma), _PARAMS)
    assert_equal_up_to_rounding(equations, _expected(DECAY, _PARAMS, x, y, sigma=sigma))


@pytest.mark.parametrize("loss", LOSS_NAMES)
@settings(deadline=None, max_examples=10)
@given(weight=st.lists(st.integers(0, 3), min_size=30, max_size=30).filter(any))
def test_a_row_with_weight_two_counts_as_two_rows_and_one_with_weight_zero_as_none(loss, weight):
    x, y = _decay_data(30)
    sigma = np.linspace(0.5, 2, x.size)
    goal = objective(DECAY.model, loss=loss, f_scale=0.1)
    weighted = kernel.evaluate(
        goal, padded_chunk(x, y, sigma=sigma, weight=weight, rows=128), _PARAMS
    )
    x, y, sigma = (np.repeat(values, weight) for values in (x, y, sigma))
    repeated = kernel.evaluate(goal, padded_chunk(x, y, sigma=sigma, rows=128), _PARAMS)
    assert_equal_up_to_rounding(
        weighted._replace(n_rows=0),
        repeated._replace(n_rows=0),
        terms=_expected(DECAY, _PARAMS, x, y, sigma=sigma),
    )


@pytest.mark.parametrize("n_params", [2, 12])
def test_a_row_with_weight_zero_does_not_count_even_where_the_model_is_infinite(n_params):
    x, y = _decay_data(100)
    goal = objective(lambda x, *q: _cosines(x, *q) + q[0] / x, n_params=n_params)
    weight = np.ones(100)
    x[[0, 50, 99]], weight[[0, 50, 99]] = 0.0, 0.0
    weighted = kernel.evaluate(goal, padded_chunk(x, y, weight=weight), np.ones(n_params))
    kept = weight > 0
    without = kernel.evaluate(goal, padded_chunk(x[kept], y[kept]), np.ones(n_params))
    assert_equal_up_to_rounding(weighted, without)
    assert weighted.n_rows == 97


@pytest.mark.parametrize("n_params", [3, 12])
@pytest.mark.parametrize("fill", [np.nan, np.inf, 0.0, -1e300])
def test_what_stands_in_the_padding_never_changes_a_bit(fill, n_params):
    x, y = _decay_data(5000)
    options = {"sigma": np.full(5000, 0.5), "weight": np.full(5000, 2.0)}
    goal = objective(_cosines, n_params=n_params, loss="cauchy")
    params = np.ones(n_params)
    plain = kernel.evaluate(goal, padded_chunk(x, y, **options), params)
    filled = kernel.evaluate(goal, padded_chunk(x, y, fill=fill, **options), params)
    assert plain.is_finite
    assert _bits(filled) == _bits(plain)


@pytest.mark.parametrize("n_params", [3, 12])
def test_the_same_rows_in_more_blocks_of_padding_give_the_same_bits(n_params):
    x, y = _decay_data(5000)
    goal, params = objective(_cosines, n_params=n_params), np.ones(n_params)
    rows = [kernel.BLOCK_ROWS * blocks for blocks in (2, 3, 8)]
    bits = {_bits(kernel.evaluate(goal, padded_chunk(x, y, rows=r), params)) for r in rows}
    assert len(bits) == 1


@pytest.mark.parametrize("n_params", [3, 12])
def test_the_same_rows_in_another_size_of_block_agree_up_to_rounding(n_params):
    x, y = _decay_data(50)
    goal, params = objective(_cosines, n_params=n_params), np.ones(n_params)
    small, *larger = (
        kernel.evaluate(goal, padded_chunk(x, y, rows=rows), params) for rows in (64, 256, 8192)
    )
    for equations in larger:
        assert_equal_up_to_rounding(equations, small, rtol=1e-14)


@pytest.mark.parametrize(("n_rows", "padded"), [(1, 64), (64, 64), (65, 128), (4096, 4096)])
def test_few_rows_are_padded_to_a_power_of_two(n_rows, padded):
    assert kernel.padded_rows(n_rows) == padded


@given(st.integers(1, 10**9))
def test_a_buffer_holds_its_rows_in_whole_blocks(n_rows):
    rows = kernel.padded_rows(n_rows)
    assert n_rows <= rows < 2 * n_rows + 64
    assert rows % min(rows, kernel.BLOCK_ROWS) == 0


@pytest.mark.parametrize("n_params", [1, 12])
@pytest.mark.parametrize("row", [0, 2500, 4999])
def test_one_row_where_the_model_is_nan_makes_the_equations_not_finite(row, n_params):
    x, y = _decay_data(5000)
    x[row] = -1.0
    goal = objective(lambda x, *q: _cosines(jnp.sqrt(x), *q), n_params=n_params)
    assert not kernel.evaluate(goal, padded_chunk(x, y), np.ones(n_params)).is_finite


def test_an_infinite_derivative_of_a_finite_model_makes_the_equations_not_finite():
    x = np.linspace(0, 1, 64)
    goal = objective(lambda x, a, b: a * jnp.sqrt(x + b))
    assert kernel.evaluate(goal, padded_chunk(x, x), np.array([1.0, 0.1])).is_finite
    assert not kernel.evaluate(goal, padded_chunk(x, x), np.array([1.0, 0.0])).is_finite


@pytest.mark.parametrize("n_params", [3, 12])
def test_many_points_at_once_give_what_each_gives_alone(n_params):
    x, y = _decay_data(5000)
    goal = objective(_cosines, n_params=n_params, loss="huber")
    chunk = padded_chunk(x, y, sigma=np.full(5000, 0.5))
    points = np.random.default_rng(3).normal(size=(4, n_params))
    points[2] = np.nan  # spoils no other point
    together = kernel.evaluate_many(goal, chunk, points)
    for i in (0, 1, 3):
        alone = kernel.evaluate(goal, chunk, points[i])
        assert_equal_up_to_rounding(together[i], alone, rtol=1e-14)
    assert not together[2].is_finite


def test_one_of_many_points_gives_the_bits_that_it_gives_alone():
    x, y = _decay_data(100)
    goal, chunk = objective(DECAY.model), padded_chunk(x, y)
    (only,) = kernel.evaluate_many(goal, chunk, _PARAMS[np.newaxis])
    assert _bits(only) == _bits(kernel.evaluate(goal, chunk, _PARAMS))


def test_predictions_are_the_values_of_the_model_in_the_rows_that_are_not_padding():
    x, y = _decay_data(1000)
    predicted = prediction.predict(objective(DECAY.model).model, padded_chunk(x, y), _PARAMS)
    assert predicted.shape == (1000,)
    np.testing.assert_allclose(predicted, DECAY.values(x, *_PARAMS), rtol=1e-14)


def test_a_chunk_on_the_device_gives_the_same_bits():
    x, y = _decay_data(1000)
    goal, chunk = objective(DECAY.model), padded_chunk(x, y, sigma=np.full(1000, 0.3))
    on_device = kernel.evaluate(goal, chunk.to_device(), _PARAMS)
    assert _bits(on_device) == _bits(kernel.evaluate(goal, chunk, _PARAMS))


def test_single_precision_constants_in_the_model_do_not_make_it_single_precision():
    x, y = _decay_data(1000)
    table = np.array([0.1, 0.7], dtype=np.float32)
    on_device = jnp.asarray(table)

    def model(x, a, b):
        return on_device[0] * a * x + np.float32(0.1) * b

    small = float(table[0])
    jacobian = np.stack([small * x, np.full(1000, small)], axis=1)
    values = jacobian @ [1.1, 1.2]
    equations = kernel.evaluate(objective(model), padded_chunk(x, y), np.array([1.1, 1.2]))
    assert_equal_up_to_rounding(equations, equations_of(values - y, jacobian, values))


def _scaled(constant):
    return lambda x, a, b: a * jnp.sin(b * x * constant)


def _interpolated(table):
    """Return a model that looks up a table, and is compiled as users like to do it."""

    @jax.jit
    def model(x, a):
        return a * jnp.interp(x, np.arange(3.0), table)

    return model


def test_one_program_serves_every_number_of_rows_in_a_buffer():
    x, y = _decay_data(5000)
    goal = objective(_scaled(17.01))
    before = programs.n_compilations()
    for n_rows in (1, 2, 999, 4096, 4097, 5000):
        chunk = padded_chunk(x[:n_rows], y[:n_rows], rows=8192)
        kernel.evaluate(goal, chunk, np.ones(2))
    assert programs.n_compilations() == before + 1


def test_a_model_that_is_defined_again_shares_the_program():
    x, y = _decay_data(100)
    before = programs.n_compilations()
    for _ in range(3):
        kernel.evaluate(objective(_scaled(17.02)), padded_chunk(x, y), np.ones(2))
    assert programs.n_compilations() == before + 1


def test_a_model_with_another_constant_does_not_share_the_program():
    x, y = _decay_data(100)
    before = programs.n_compilations()
    costs = {
        kernel.evaluate(objective(_scaled(constant)), padded_chunk(x, y), np.ones(2)).cost
        for constant in (17.03, 17.04)
    }
    assert programs.n_compilations() == before + 2
    assert len(costs) == 2


def test_a_compiled_model_with_another_table_does_not_share_the_program():
    x = np.linspace(0, 2, 64)
    for table in (np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])):
        equations = kernel.evaluate(
            objective(_interpolated(table)), padded_chunk(x, 0 * x), np.ones(1)
        )
        values = np.interp(x, np.arange(3.0), table)
        np.testing.assert_allclose(equations.cost, 0.5 * values @ values, rtol=1e-13)


def test_the_scale_of_the_loss_is_not_a_part_of_the_program():
    x, y = _decay_data(100)
    before = programs.n_compilations()
    for f_scale in (0.1, 1.0, 10.0):
        goal = objective(_scaled(17.05), loss="cauchy", f_scale=f_scale)
        kernel.evaluate(goal, padded_chunk(x, y), np.ones(2))
    assert programs.n_compilations() == before + 1


def test_eight_threads_at_once_compile_one_program_and_give_the_same_bits():
    x, y = _decay_data(5000)
    goal, chunk = objective(_scaled(17.06), loss="soft_l1"), padded_chunk(x, y)
    before = programs.n_compilations()
    with ThreadPoolExecutor(8) as pool:
        bits = set(pool.map(lambda _: _bits(kernel.evaluate(goal, chunk, np.ones(2))), range(64)))
    assert len(bits) == 1
    assert programs.n_compilations() == before + 1


def test_importing_and_calling_leaves_the_precision_of_jax_at_its_default():
    code = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from tests.engine import objective, padded_chunk\n"
        "from nlsq_sklearn._engine import kernel, prediction\n"
        "assert jax.config.jax_enable_x64 is False\n"
        "x = np.ones(3)\n"
        "goal, chunk = objective(lambda x, a: a * x), padded_chunk(x, x)\n"
        "kernel.evaluate(goal, chunk.to_device(), np.ones(1))\n"
        "prediction.predict(goal.model, chunk, np.ones(1))\n"
        "assert jax.config.jax_enable_x64 is False\n"
        "assert jnp.ones(1).dtype == np.float32\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_is_collected_after_a_compilation_if_it_was_before(is_enabled):
    def model(x, a):
        assert not gc.isenabled() or not programs._cache._lock.locked()
        return a * x

    before = gc.isenabled()
    (gc.enable if is_enabled else gc.disable)()
    try:
        chunk = padded_chunk(np.arange(5.0), np.arange(5.0))
        kernel.evaluate(objective(model), chunk, np.ones(1))
        assert gc.isenabled() == is_enabled
    finally:
        (gc.enable if before else gc.disable)()
