"""The step against SciPy's bounded least squares, the normal equations and the KKT conditions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from nlsq_sklearn._engine.subproblem import Bounds, Subproblem

from . import equations_of, open_bounds

_SEEDS = st.integers(0, 10**6)


class _Linear:
    """A random linear least-squares problem at a random point, within random bounds or none.

    The columns differ in size by factors up to 10^8, as those of parameters with units do.
    """

    def __init__(self, seed, *, bounded, n_rows=30):
        self.rng = rng = np.random.default_rng(seed)
        n_params = int(rng.integers(1, 7))
        unit = 10.0 ** rng.uniform(-4, 4, n_params)
        self.jacobian = rng.normal(size=(n_rows, n_params)) * unit
        self.residual = rng.normal(size=n_rows)
        self.params = rng.normal(size=n_params) / unit
        self.equations = equations_of(self.residual, self.jacobian)
        self.scale = self.equations.column_norms * rng.uniform(1, 3, n_params)
        self.bounds = self._draw_bounds(unit) if bounded else open_bounds(n_params)
        self.subproblem = Subproblem(self.equations, self.params, self.scale, self.bounds)

    def _draw_bounds(self, unit):
        """Return bounds around the point: some open, some at the point itself."""
        rng, n_params = self.rng, self.params.size
        # Steps to the optimum have the size 0.2 / unit here.
        below, above = rng.exponential(0.2, (2, n_params)) / unit
        kind = rng.integers(0, 5, n_params)
        below[kind == 0], above[kind == 1] = 0, 0
        below[kind == 2], above[kind == 3] = np.inf, np.inf
        return Bounds(self.params - below, self.params + above)

    def reduction(self, trial):
        """Return by how much the step to ``trial`` lowers the cost."""
        left = self.residual + self.jacobian @ (trial - self.params)
        return 0.5 * self.residual @ self.residual - 0.5 * left @ left

    def length(self, trial):
        return np.linalg.norm(self.scale * (trial - self.params))


@settings(deadline=None, max_examples=100)
@given(_SEEDS)
def test_the_full_step_solves_the_normal_equations(seed):
    problem = _Linear(seed, bounded=False)
    step = problem.subproblem.full_step()
    norms = problem.equations.column_norms
    expected = np.linalg.lstsq(problem.jacobian / norms, -problem.residual)[0]
    # Condition numbers of 30 x 6 random matrices are below 10, those of their Gram matrices 100.
    np.testing.assert_allclose((step.trial - problem.params) * norms, expected, atol=1e-12)
    assert step.damping == 0
    assert step.length == pytest.approx(problem.length(step.trial), rel=1e-12)


@settings(deadline=None, max_examples=100)
@given(_SEEDS, st.booleans())
def test_the_predicted_reduction_is_that_of_the_linear_problem(seed, bounded):
    problem = _Linear(seed, bounded=bounded)
    for step in (
        problem.subproblem.full_step(),
        problem.subproblem.step_within(0.3 * problem.subproblem.full_step().length),
    ):
        expected = problem.reduction(step.trial)
        # A difference of two costs of about 15.
        assert step.predicted_reduction == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=200)
@given(_SEEDS)
def test_the_full_step_within_bounds_is_that_of_bounded_variable_least_squares(seed):
    problem = _Linear(seed, bounded=True)
    lower, upper = (bound - problem.params for bound in problem.bounds)
    norms = problem.equations.column_norms
    oracle = lsq_linear(
        problem.jacobian / norms, -problem.residual, (lower * norms, upper * norms), method="bvls"
    )
    trial = problem.subproblem.full_step().trial
    np.testing.assert_allclose((trial - problem.params) * norms, oracle.x, atol=1e-9)
    # What BVLS leaves at a bound stands on it, to the last bit.
    assert (trial[oracle.active_mask == -1] == problem.bounds.lower[oracle.active_mask == -1]).all()
    assert (trial[oracle.active_mask == 1] == problem.bounds.upper[oracle.active_mask == 1]).all()


@settings(deadline=None, max_examples=200)
@given(_SEEDS, st.floats(1e-6, 2))
def test_the_trial_point_is_within_the_bounds_without_any_tolerance(seed, fraction):
    problem = _Linear(seed, bounded=True)
    full = problem.subproblem.full_step()
    assert problem.bounds.contain(full.trial)
    if full.length > 0:
        step = problem.subproblem.step_within(fraction * full.length)
        assert problem.bounds.contain(step.trial)


@settings(deadline=None, max_examples=200)
@given(_SEEDS)
def test_a_bound_is_kept_to_the_last_bit_where_the_optimum_is_within_rounding_of_it(seed):
    problem = _Linear(seed, bounded=False)
    optimum = problem.subproblem.full_step().trial
    down, up = np.nextafter(optimum, -np.inf), np.nextafter(optimum, np.inf)
    for near in (down, optimum, up):
        bounds = Bounds(np.minimum(near, problem.params), np.maximum(near, problem.params))
        step = Subproblem(problem.equations, problem.params, problem.scale, bounds).full_step()
        assert bounds.contain(step.trial)


@settings(deadline=None, max_examples=200)
@given(_SEEDS)
def test_the_full_step_within_bounds_meets_the_karush_kuhn_tucker_conditions(seed):
    problem = _Linear(seed, bounded=True)
    trial = problem.subproblem.full_step().trial
    left = problem.residual + problem.jacobian @ (trial - problem.params)
    slope = problem.jacobian.T @ left / problem.equations.column_norms
    at_lower, at_upper = trial == problem.bounds.lower, trial == problem.bounds.upper
    rounding = 1e-12 * np.linalg.norm(problem.residual)
    assert (slope[at_lower] >= -rounding).all()
    assert (slope[at_upper] <= rounding).all()
    assert (np.abs(slope[~at_lower & ~at_upper]) <= rounding).all()


@settings(deadline=None, max_examples=200)
@given(_SEEDS, st.booleans(), st.floats(1e-8, 3))
def test_a_step_has_the_length_of_the_radius_to_10_percent_or_is_the_full_step(
    seed, bounded, fraction
):
    problem = _Linear(seed, bounded=bounded)
    full = problem.subproblem.full_step()
    if full.length == 0:
        return
    radius = fraction * full.length
    step = problem.subproblem.step_within(radius)
    assert step.length == pytest.approx(problem.length(step.trial), rel=1e-6)
    if full.length <= 1.1 * radius:
        np.testing.assert_array_equal(step.trial, full.trial)
        assert step.damping == 0
    else:
        assert 0.9 * radius <= step.length <= 1.1 * radius
        assert step.damping > 0


@settings(deadline=None, max_examples=100)
@given(_SEEDS, st.booleans(), st.floats(1e-3, 0.9))
def test_no_other_point_as_near_and_within_the_bounds_promises_more(seed, bounded, fraction):
    problem = _Linear(seed, bounded=bounded)
    radius = fraction * problem.subproblem.full_step().length
    if radius == 0:
        return
    step = problem.subproblem.step_within(radius)
    rng = problem.rng
    for size in (1e-3, 0.1, 1.0):
        others = step.trial + size * rng.normal(size=(50, problem.params.size)) / problem.scale
        others = np.clip(others, *problem.bounds)
        # Shrinking towards the point inside keeps them within the bounds.
        lengths = np.linalg.norm(problem.scale * (others - problem.params), axis=1)
        shrink = np.minimum(1, step.length / np.maximum(lengths, 1e-300))
        others = problem.params + shrink[:, np.newaxis] * (others - problem.params)
        most = max(problem.reduction(other) for other in others)
        assert most <= problem.reduction(step.trial) * (1 + 1e-9) + 1e-12


def test_a_point_in_a_corner_that_the_gradient_pushes_against_stays_there():
    equations = equations_of(np.array([1.0, 1.0]), np.eye(2))
    params = np.zeros(2)
    bounds = Bounds(params, np.ones(2))
    step = Subproblem(equations, params, np.ones(2), bounds).full_step()
    assert step.trial.tolist() == [0, 0]
    assert step.predicted_reduction == 0
    assert step.length == 0


def test_a_bound_is_left_when_another_one_that_becomes_active_turns_the_slope():
    # At the corner 0 the first variable is pushed down; once the second has reached its bound
    # at 1 it is pulled up. A method that never releases a bound stays at (0, 1).
    jacobian = np.array([[1.0, -2.0], [0.0, 0.1]])
    residual = np.array([0.5, -10.0])
    equations = equations_of(residual, jacobian)
    bounds = Bounds(np.zeros(2), np.ones(2))
    step = Subproblem(equations, np.zeros(2), np.ones(2), bounds).full_step()
    oracle = lsq_linear(jacobian, -residual, (0, 1), method="bvls")
    assert equations.gradient[0] > 0
    np.testing.assert_allclose(step.trial, oracle.x, atol=1e-12)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 1e6])
def test_collinear_columns_give_a_finite_step_that_lowers_the_cost(radius, bounded):
    rng = np.random.default_rng(0)
    column, other = rng.normal(size=(2, 30))
    jacobian = np.stack([column, 3 * column, other, column + other], axis=1)
    residual = rng.normal(size=30)
    equations = equations_of(residual, jacobian)
    bounds = Bounds(np.full(4, -0.01), np.full(4, 0.02)) if bounded else open_bounds(4)
    subproblem = Subproblem(equations, np.zeros(4), equations.column_norms, bounds)
    for step in (subproblem.full_step(), subproblem.step_within(radius)):
        assert np.isfinite(step.trial).all()
        assert bounds.contain(step.trial)
        left = residual + jacobian @ step.trial
        assert left @ left < residual @ residual
    if not bounded:
        left = residual + jacobian @ subproblem.full_step().trial
        least = residual + jacobian @ np.linalg.lstsq(jacobian, -residual)[0]
        np.testing.assert_allclose(left @ left, least @ least, rtol=1e-12)


@pytest.mark.parametrize("determinant", [1e-8, 1.1e-10, 0.9e-10, 1e-12])
def test_nearly_collinear_columns_are_solved_on_either_side_of_the_factorisations(determinant):
    rng = np.random.default_rng(3)
    first, second = np.linalg.qr(rng.normal(size=(30, 2)))[0].T
    jacobian = np.column_stack(
        [first, np.sqrt(1 - determinant) * first + np.sqrt(determinant) * second]
    )
    residual = rng.normal(size=30)
    equations = equations_of(residual, jacobian)
    step = Subproblem(equations, np.zeros(2), equations.column_norms, open_bounds(2)).full_step()
    # The Gram matrix knows its determinant to a few eps.
    rtol = 100 * np.finfo(float).eps / determinant
    np.testing.assert_allclose(step.trial, np.linalg.lstsq(jacobian, -residual)[0], rtol=rtol)


def test_a_column_of_zeros_leaves_its_parameter_where_it_is():
    rng = np.random.default_rng(1)
    jacobian = rng.normal(size=(30, 3)) * [1.0, 0.0, 1.0]
    residual = rng.normal(size=30)
    equations = equations_of(residual, jacobian)
    params = np.array([1.0, 2.0, 3.0])
    scale = np.where(equations.column_norms > 0, equations.column_norms, 1.0)
    subproblem = Subproblem(equations, params, scale, open_bounds(3))
    expected = params + np.linalg.lstsq(jacobian, -residual)[0]
    np.testing.assert_allclose(subproblem.full_step().trial, expected, rtol=1e-12)
    assert subproblem.step_within(0.1).trial[1] == 2.0


def test_a_jacobian_of_zeros_gives_no_step():
    equations = equations_of(np.ones(5), np.zeros((5, 2)))
    step = Subproblem(equations, np.ones(2), np.ones(2), open_bounds(2)).full_step()
    assert step.trial.tolist() == [1, 1]
    assert step.predicted_reduction == 0


@pytest.mark.parametrize("ratio", [1e100, 1e160])
def test_a_column_that_was_once_huge_does_not_spoil_the_step(ratio):
    # A model that falls off like exp(-b x) has columns that shrink by such factors in a fit.
    equations = equations_of(np.ones(2), np.eye(2))
    scale = np.array([ratio, 1.0])
    step = Subproblem(equations, np.zeros(2), scale, open_bounds(2)).full_step()
    np.testing.assert_allclose(step.trial, [-1, -1], rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-150, 1e-75, 1e75, 1e150])
def test_the_unit_of_a_parameter_does_not_change_the_step(unit):
    rng = np.random.default_rng(2)
    jacobian, residual = rng.normal(size=(30, 3)), rng.normal(size=30)
    units = np.array([1.0, unit, 1.0])
    for radius in (0.1, 1e9):
        steps = []
        for factor in (np.ones(3), units):
            equations = equations_of(residual, jacobian * factor)
            subproblem = Subproblem(equations, np.zeros(3), equations.column_norms, open_bounds(3))
            steps.append(subproblem.step_within(radius).trial * factor)
        np.testing.assert_allclose(*steps, rtol=1e-10)


def test_bounds_contain_their_ends():
    bounds = Bounds(np.zeros(2), np.ones(2))
    assert bounds.contain(np.array([0.0, 1.0]))
    assert not bounds.contain(np.array([0.0, np.nextafter(1.0, 2.0)]))
    assert not bounds.contain(np.array([np.nan, 0.5]))


@pytest.mark.parametrize("radius", [0.0, 5e-324])
def test_a_region_that_has_shrunk_to_nothing_has_no_step(radius):
    problem = _Linear(0, bounded=False)
    step = problem.subproblem.step_within(radius)
    assert step.trial.tolist() == problem.params.tolist()
    assert step.predicted_reduction == 0
