"""Normal equations: packing, adding, and what their rounding is worth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nlsq_sklearn._engine.equations import Equations, n_packed

from . import equations_of


def _random(n_params, seed=0, n_rows=20):
    rng = np.random.default_rng(seed)
    return equations_of(rng.normal(size=n_rows), rng.normal(size=(n_rows, n_params)))


def test_unpacking_fills_both_triangles_of_the_gram_matrix():
    packed = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 11.0, 12.0, 13.0, 22.0, 23.0, 33.0])
    equations = Equations.from_packed(packed, 3, 7)
    assert_array_equal(equations.gram, [[11, 12, 13], [12, 22, 23], [13, 23, 33]])
    assert_array_equal(equations.gradient, [3, 4, 5])
    assert (equations.cost, equations.model_norm, equations.n_rows) == (1.0, 2.0, 7)


def test_unpacked_equations_do_not_change_when_the_packed_numbers_do():
    packed = np.arange(4.0)
    equations = Equations.from_packed(packed, 1, 1)
    packed[:] = -1
    assert equations.gradient.tolist() == [2.0]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(0, 40), st.integers(1, 40))
def test_the_equations_of_two_sets_of_rows_are_the_sum_of_theirs(n_params, first, second):
    rng = np.random.default_rng(first * 41 + second)
    residual = rng.normal(size=first + second)
    jacobian = rng.normal(size=(first + second, n_params))
    whole = equations_of(residual, jacobian)
    total = Equations.zero(n_params)
    for rows in (slice(first), slice(first, None)):
        total = total + equations_of(residual[rows], jacobian[rows])
    for got, expected in zip(total[:5], whole[:5], strict=True):
        # Terms of size 1, some 80 of them.
        np.testing.assert_allclose(got, expected, atol=1e-12, rtol=1e-12)


def test_adding_leaves_both_summands_as_they_were():
    left, right = _random(3, 1), _random(3, 2)
    copies = [part.copy() for part in (left.gram, left.gradient, right.gram, right.gradient)]
    _ = left + right
    for part, copy in zip(
        (left.gram, left.gradient, right.gram, right.gradient), copies, strict=True
    ):
        assert_array_equal(part, copy)


def test_adding_infinite_or_overflowing_equations_is_silent_and_not_finite():
    # A trial point where the model overflows is a rejected step, not a warning to the user.
    up = Equations(np.full((1, 1), np.inf), np.array([np.inf]), np.inf, np.inf, 1)
    down = up._replace(gradient=np.array([-np.inf]))
    assert not (up + down).is_finite
    large = Equations(np.full((1, 1), 1e308), np.array([1e308]), 1e308, 1e308, 1)
    assert not (large + large).is_finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["gram", "gradient", "cost"])
def test_one_number_that_is_not_finite_makes_the_equations_not_finite(field, value):
    equations = _random(3)
    assert equations.is_finite
    if field == "cost":
        assert not equations._replace(cost=value).is_finite
        return
    spoilt = getattr(equations, field).copy()
    spoilt[-1] = value
    assert not equations._replace(**{field: spoilt}).is_finite


def test_column_norms_are_those_of_the_jacobian():
    rng = np.random.default_rng(3)
    jacobian = rng.normal(size=(30, 4)) * [1e-8, 1, 1e3, 1e100]
    equations = equations_of(rng.normal(size=30), jacobian)
    np.testing.assert_allclose(equations.column_norms, np.linalg.norm(jacobian, axis=0), rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_rounding_of_a_cost_is_less_than_what_counts_as_rounding(scale):
    # The same cost, exactly: its terms from rational arithmetic, its sum from math.fsum.
    rng = np.random.default_rng(4)
    values = rng.uniform(1, 2, 100_000)
    y = values + scale * rng.normal(size=values.size)
    # Model values that are off by half an ulp, as those of a compiled program are.
    rounded = values * (1 + np.finfo(float).eps / 2 * rng.choice([-1, 1], values.size))
    exact = math.fsum((0.5 * (values - y) ** 2).tolist())
    equations = equations_of(rounded - y, np.ones((y.size, 1)), model_values=values)
    assert abs(equations.cost - exact) <= equations.cost_rounding
    # And it is not so large that real differences drown in it.
    assert equations.cost_rounding <= 1e-9 * exact + 1e-13 * math.sqrt(exact * equations.model_norm)


def test_the_largest_cosine_is_that_of_the_residual_with_the_columns():
    rng = np.random.default_rng(5)
    residual, jacobian = rng.normal(size=30), rng.normal(size=(30, 4)) * [1, 1e-50, 1e50, 0]
    columns = jacobian[:, :3] / np.linalg.norm(jacobian[:, :3], axis=0)
    expected = np.abs(columns.T @ residual).max() / np.linalg.norm(residual)
    assert equations_of(residual, jacobian).largest_cosine == pytest.approx(expected, rel=1e-13)


def test_packed_equations_are_unpacked_bit_for_bit():
    jacobian = np.random.default_rng(3).normal(size=(50, 4))
    equations = equations_of(jacobian @ np.ones(4), jacobian)
    packed = equations.packed()
    assert packed.shape == (n_packed(4),)
    unpacked = Equations.from_packed(packed, 4, 50)
    assert_array_equal(np.triu(unpacked.gram), np.triu(equations.gram))
    assert_array_equal(unpacked.gram, unpacked.gram.T)
    assert_array_equal(unpacked.gradient, equations.gradient)
    assert (unpacked.cost, unpacked.model_norm) == (equations.cost, equations.model_norm)
