"""The steps in a compiled program are those of `trust_region`, as many at a time as one likes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlsq_sklearn._engine import compiled_steps
from nlsq_sklearn._engine.compiled_steps import (
    ACCEPTED,
    MOST_ROUNDS,
    UNJUDGED,
    can_take_steps,
    take_steps,
)
from nlsq_sklearn._engine.state import FitState
from nlsq_sklearn._engine.subproblem import Bounds, Subproblem
from nlsq_sklearn._engine.trust_region import Tolerances, begin
from nlsq_sklearn._streams import ArrayStream

from . import DECAY, objective, open_bounds

_TOLERANCES = Tolerances(1e-8, 1e-8, 1e-8, 1000)
_FAR = np.array([1.0, 0.1, 0.0])


def _chunk(n_rows=600):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 4, n_rows)
    y = DECAY.values(x, 2.5, 1.3, 0.5) + 0.1 * rng.normal(size=n_rows)
    return ArrayStream(x, y).chunk(0)


def _take(state, n_rounds=MOST_ROUNDS, *, bounds=None, tolerances=_TOLERANCES, model=DECAY.model):
    bounds = open_bounds(state.params.size) if bounds is None else bounds
    return take_steps(objective(model), _chunk(), state, bounds, tolerances, n_rounds)


def _start(point=_FAR):
    return FitState.start(np.asarray(point, dtype=float)[np.newaxis])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10), st.integers(0, 10_000))
def test_elimination_inverts_and_solves_what_is_positive_definite(n_params, seed):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(40, n_params))
    columns /= np.linalg.norm(columns, axis=0)
    matrix, right = columns.T @ columns, rng.normal(size=n_params)
    with jax.enable_x64(True):
        inverse, solution, determinant = compiled_steps._inverse_and_solution(
            jnp.asarray(matrix), jnp.asarray(right)
        )
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solution, np.linalg.solve(matrix, right), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(determinant, np.linalg.det(matrix), rtol=1e-10)


@pytest.mark.parametrize("matrix", [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_the_determinant_tells_what_is_not_positive_definite(matrix):
    with jax.enable_x64(True):
        *_, determinant = compiled_steps._inverse_and_solution(
            jnp.asarray(matrix), jnp.asarray(np.ones(2))
        )
    assert not np.asarray(determinant) > 0


@pytest.mark.parametrize("share", [10.0, 0.3, 0.03])
def test_the_step_within_a_radius_is_that_of_the_subproblem(share):
    rounds = _take(_start(), 1)
    state = begin(_start(), (rounds.equations(0, _chunk()),))
    subproblem = Subproblem(state.accepted, state.params, state.scale, open_bounds(3))
    full = subproblem.full_step()
    state = state._replace(radius=share * full.length)
    again = _take(state, 1)
    [found] = again.rounds
    np.testing.assert_allclose(found.full_trial, full.trial, rtol=1e-10)
    np.testing.assert_allclose(found.full_reduction, full.predicted_reduction, rtol=1e-10)
    np.testing.assert_allclose(found.full_length, full.length, rtol=1e-10)
    # The radius is met to 10 %; both search for it in the same way, from the same start.
    expected = subproblem.step_within(state.radius)
    np.testing.assert_allclose(found.trial, expected.trial, rtol=1e-8)
    np.testing.assert_allclose(found.damping, expected.damping, rtol=1e-8)
    np.testing.assert_allclose(found.reduction, expected.predicted_reduction, rtol=1e-8)
    assert found.length <= 1.1 * state.radius
    # Evaluated again, a point has the same equations, and the same step follows.
    np.testing.assert_array_equal(again.sums[0], rounds.sums[0])


def test_several_rounds_are_those_taken_one_by_one():
    together = _take(_start())
    assert len(together.rounds) > 5
    for n_rounds in range(1, len(together.rounds) + 1):
        some = _take(_start(), n_rounds)
        assert some.rounds == together.rounds[:n_rounds]
        np.testing.assert_array_equal(some.sums[:n_rounds], together.sums[:n_rounds])
        np.testing.assert_array_equal(some.scales[:n_rounds], together.scales[:n_rounds])


def test_no_step_is_taken_beyond_the_most_that_may_be():
    for max_iter in range(1, 6):
        rounds = _take(_start(), tolerances=_TOLERANCES._replace(max_iter=max_iter)).rounds
        assert len(rounds) == min(max_iter + 1, len(_take(_start()).rounds))


def test_what_is_not_usual_is_left_alone():
    def square_root(x, a, b, c):
        return jnp.sqrt(a - x) + b + c * x

    def twice(x, a, b, c):
        return (a + b) * x + c

    [undefined] = _take(_start((1.0, 1.0, 1.0)), model=square_root).rounds
    assert undefined.verdict == UNJUDGED
    assert undefined.step() is None
    [flat] = _take(_start((1.0, 1.0, 1.0)), model=twice).rounds
    assert flat.verdict == ACCEPTED
    assert flat.step() is flat.full_step() is None
    [bounded] = _take(
        _start(), bounds=Bounds(np.array([0.0, 0.0, -0.1]), np.array([1.2, 9.0, 9.0]))
    ).rounds
    assert bounded.verdict == ACCEPTED
    assert bounded.step() is None


def test_angles_that_the_fast_program_can_not_reduce_are_told():
    def wave(x, a, b, c):
        return a * jnp.sin(1e9 * x * b) + c

    [first] = _take(_start((1.0, 1.0, 0.0)), model=wave).rounds
    assert first.n_left > 0
    assert first.verdict == UNJUDGED
    assert first.step() is first.full_step() is None


def test_models_that_are_no_plain_arithmetic_have_no_such_program():
    assert can_take_steps(objective(DECAY.model).model)
    assert not can_take_steps(objective(lambda x, a, b: jnp.stack([a, b])[jnp.argsort(x)[0]]).model)
    eleven = objective(lambda x, *p: sum(p) * x, n_params=11)
    assert not can_take_steps(eleven.model)
