"""The iteration, on equations that NumPy makes: when it stops, what it accepts, what it forgets."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import least_squares

from nlsq_sklearn._engine.equations import Equations
from nlsq_sklearn._engine.state import FitState, Status
from nlsq_sklearn._engine.subproblem import Bounds
from nlsq_sklearn._engine.trust_region import Tolerances, begin, judge, propose

from . import DECAY, equations_of, open_bounds

_NEVER = Tolerances(0.0, 0.0, 0.0, 1000)
_TRUTH = np.array([2.5, 1.3, 0.5])
_START = np.array([1.0, 0.3, 0.1])


class _Curve(NamedTuple):
    """Residuals (n,) and Jacobian (n, p) as functions of the parameters."""

    residual: object
    jacobian: object
    y: np.ndarray

    def equations(self, params):
        with np.errstate(all="ignore"):
            residual, jacobian = self.residual(params), self.jacobian(params)
            return equations_of(residual, jacobian, residual + self.y)


def _decay(noise=0.05, n_rows=60):
    x = np.linspace(0, 4, n_rows)
    y = DECAY.values(x, *_TRUTH) + noise * np.random.default_rng(0).normal(size=x.size)
    return _Curve(lambda p: DECAY.values(x, *p) - y, lambda p: DECAY.jacobian(x, *p), y)


def _line():
    """Return a straight line, on which the quadratic model is exact."""
    jacobian = np.stack([np.linspace(-1, 1, 20), np.ones(20)], axis=1)
    y = jacobian @ [2.0, 1.0] + 0.1 * np.random.default_rng(1).normal(size=20)
    return _Curve(lambda p: jacobian @ p - y, lambda p: jacobian, y)


def _begun(curve, start):
    start = np.asarray(start, dtype=float)
    return begin(FitState.start(start[np.newaxis]), (curve.equations(start),))


def _states(curve, start, tolerances, bounds=None):
    """Yield the state at each point that was accepted, as ``propose`` leaves it; the last last."""
    bounds = open_bounds(len(start)) if bounds is None else bounds
    state, seen = _begun(curve, start), None
    while state.status is Status.RUNNING:
        state = propose(state, bounds, tolerances)
        if seen is None or not np.array_equal(seen, state.params):
            seen = state.params
            yield state
        if state.status is Status.RUNNING:
            state = judge(state, curve.equations(state.step.trial), bounds)
    yield state


def _relative_offset(curve, params):
    """Return the criterion of Bates and Watts 1981, from a QR decomposition."""
    residual, jacobian = curve.residual(params), curve.jacobian(params)
    n_rows, n_params = jacobian.shape
    q, _ = np.linalg.qr(jacobian)
    tangent = q.T @ residual
    normal = residual - q @ tangent
    return (np.linalg.norm(tangent) / np.sqrt(n_params)) / (
        np.linalg.norm(normal) / np.sqrt(n_rows - n_params)
    )


def _cosine(curve, params):
    """Return the cosine of the angle between the residuals and the tangent plane."""
    residual = curve.residual(params)
    q, _ = np.linalg.qr(curve.jacobian(params))
    return np.linalg.norm(q.T @ residual) / np.linalg.norm(residual)


def _largest_change(curve, params):
    """Return the largest change of a parameter by a Gauss-Newton step, relative to its value."""
    step = np.linalg.lstsq(curve.jacobian(params), -curve.residual(params))[0]
    return np.abs(step / params).max()


def _near_the_optimum_of(curve, distance):
    """Return a point ``distance`` from the optimum, relative to the parameters."""
    *_, last = _states(curve, _START, _NEVER)
    return last.params * (1 + distance * np.array([1.0, -2.0, 0.5]))


# Each criterion is met with a tolerance just above what NumPy makes of its definition, and not
# with one just below. The first two neglect the square of the cosine against 1.
@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize(
    ("name", "status", "tolerance_met"),
    [
        # The public documentation of ftol: 100 ftol joint standard errors, by Bates and Watts.
        ("ftol", Status.FTOL, lambda curve, params: _relative_offset(curve, params) / 100),
        ("gtol", Status.GTOL, _cosine),
        ("xtol", Status.XTOL, _largest_change),
    ],
)
def test_a_criterion_ends_the_fit_exactly_where_its_definition_says(
    name, status, tolerance_met, distance
):
    curve = _decay()
    state = _begun(curve, _near_the_optimum_of(curve, distance))
    limit = tolerance_met(curve, state.params)
    met = propose(state, open_bounds(3), _NEVER._replace(**{name: limit * 1.001}))
    assert met.status is status
    assert met.status.is_converged
    missed = propose(state, open_bounds(3), _NEVER._replace(**{name: limit * 0.999}))
    assert missed.status is Status.RUNNING


def test_xtol_can_be_met_by_a_parameter_whose_value_is_zero():
    line = _line()
    y = line.y - line.jacobian(0) @ np.linalg.lstsq(line.jacobian(0), line.y)[0]
    curve = line._replace(residual=lambda p: line.jacobian(p) @ p - y, y=y)  # optimum at 0, 0
    *_, last = _states(curve, [3.0, 1.0], _NEVER._replace(xtol=1e-8))
    assert last.status.is_converged
    assert last.n_iter <= 4
    np.testing.assert_allclose(last.params, 0, atol=1e-12)


def test_data_without_noise_end_as_exact():
    *_, last = _states(_decay(noise=0.0), _START, _NEVER)
    assert last.status is Status.EXACT
    np.testing.assert_allclose(last.params, _TRUTH, rtol=1e-12)


def test_without_tolerances_the_fit_goes_on_until_float64_can_tell_no_more():
    curve = _decay()
    *_, last = _states(curve, _START, _NEVER)
    assert last.status in (Status.ROUNDING, Status.GTOL)
    assert last.status.is_converged
    # Nearer to the optimum than costs, which are flat there to sqrt(eps), could tell.
    assert _cosine(curve, last.params) < 1e-9


@pytest.mark.parametrize("max_iter", [1, 2, 3])
def test_reaching_max_iter_is_no_success(max_iter):
    *_, last = _states(_decay(), _START, _NEVER._replace(max_iter=max_iter))
    assert last.status is Status.MAX_ITER
    assert not last.status.is_converged
    assert last.n_iter == max_iter
    assert last.n_passes == max_iter + 1


def test_a_gradient_that_does_not_belong_to_the_cost_is_no_success():
    curve = _line()
    liar = curve._replace(jacobian=lambda p: -curve.jacobian(p))
    *_, last = _states(liar, [3.0, 3.0], _NEVER)
    assert last.status is Status.STALLED
    assert not last.status.is_converged
    assert last.n_iter < 60


def test_a_start_of_zeros_is_given_up_no_later_than_another():
    # Each step tried is a pass over all data.
    curve = _line()
    liar = curve._replace(jacobian=lambda p: -curve.jacobian(p))
    *_, last = _states(liar, [0.0, 0.0], _NEVER)
    assert last.status is Status.STALLED
    assert last.n_iter < 60


def test_the_first_pass_goes_on_from_the_better_candidate():
    curve = _decay()
    candidates = np.stack([_START, _TRUTH, 2 * _TRUTH])
    state = begin(FitState.start(candidates), tuple(map(curve.equations, candidates)))
    assert state.params.tolist() == _TRUTH.tolist()
    assert state.equations.cost == curve.equations(_TRUTH).cost
    assert state.n_passes == 1
    assert state.n_iter == 0
    assert state.partial == ()


@pytest.mark.parametrize("field", ["cost", "gradient", "gram"])
def test_a_candidate_that_is_not_finite_is_never_the_better_one(field):
    curve = _decay()
    good = curve.equations(_START)
    best = curve.equations(_TRUTH)
    spoilt = best._replace(**{field: np.nan * getattr(best, field)})
    state = begin(FitState.start(np.stack([_TRUTH, _START])), (spoilt, good))
    assert state.params.tolist() == _START.tolist()


def _first_pass_without_its_start(guard, equations):
    state = FitState.start(np.stack([_TRUTH, _START]), guard)
    return state._replace(partial=(equations,), next_chunk=5)


def test_a_start_that_was_given_up_is_worse_than_what_costs_less_than_the_guard():
    truth = _decay().equations(_TRUTH)
    state = begin(_first_pass_without_its_start(2 * truth.cost, truth), (truth,))
    assert state.params.tolist() == _TRUTH.tolist()
    assert state.n_passes == 1
    assert state.partial == ()


@pytest.mark.parametrize("factor", [1.5, np.inf, np.nan])
def test_where_the_others_cost_more_than_the_guard_all_are_compared_in_another_pass(factor):
    truth = _decay().equations(_TRUTH)
    worse = truth._replace(cost=factor * truth.cost)
    state = begin(_first_pass_without_its_start(truth.cost, worse), (worse,))
    assert state.status is Status.RUNNING
    assert state.equations is None
    assert (state.n_passes, state.next_chunk, state.partial) == (1, 0, ())
    assert len(state.points) == 2
    assert state.guard == np.inf
    again = begin(state, (worse, _decay().equations(_START)))
    assert again.n_passes == 2
    assert again.history[0]["n_passes"] == 2


def test_no_finite_candidate_ends_the_fit_without_success():
    curve = _decay()
    nan = curve.equations(np.full(3, np.nan))
    state = begin(FitState.start(np.stack([_START, _TRUTH])), (nan, nan))
    assert state.status is Status.NOT_FINITE
    assert not state.status.is_converged


def _logarithm():
    """Return a curve whose full step from (1, 3) leads to where it is not defined."""
    x = np.linspace(0, 1, 30)
    y = np.log(x + 0.01)

    def jacobian(p):
        return np.stack([np.log(x + p[1]), p[0] / (x + p[1])], axis=1)

    return _Curve(lambda p: p[0] * np.log(x + p[1]) - y, jacobian, y)


def test_a_trial_that_is_not_finite_is_rejected_and_the_region_shrinks():
    curve = _logarithm()
    state = propose(_begun(curve, [1.0, 3.0]), open_bounds(2), _NEVER)
    equations = curve.equations(state.step.trial)
    assert not equations.is_finite
    judged = judge(state, equations, open_bounds(2))
    assert judged.status is Status.RUNNING
    assert judged.params.tolist() == [1.0, 3.0]
    assert judged.equations is state.equations
    assert 0.1 * state.step.length <= judged.radius <= 0.5 * state.step.length
    assert judged.history[-1]["accepted"] is False
    assert judged.history[-1]["cost"] is None


def test_a_fit_finds_back_from_trials_that_are_not_finite():
    *_, last = _states(_logarithm(), [1.0, 3.0], _NEVER)
    assert last.status.is_converged
    np.testing.assert_allclose(last.params, [1, 0.01], rtol=1e-9)
    assert not all(entry["accepted"] for entry in last.history)


def test_on_a_straight_line_one_step_leads_to_the_optimum():
    curve = _line()
    state = propose(_begun(curve, [1.5, 0.5]), open_bounds(2), _NEVER)
    judged = judge(state, curve.equations(state.step.trial), open_bounds(2))
    assert judged.history[-1]["accepted"] is True
    assert judged.history[-1]["gain_ratio"] == pytest.approx(1, rel=1e-9)
    expected = np.linalg.lstsq(curve.jacobian(0), curve.y)[0]
    np.testing.assert_allclose(judged.params, expected, rtol=1e-12)
    assert judged.radius >= state.radius


def test_a_damped_step_that_keeps_its_promise_doubles_the_region():
    curve = _line()
    state = _begun(curve, [1.5, 0.5])._replace(radius=0.1)
    state = propose(state, open_bounds(2), _NEVER)
    assert state.step.damping > 0
    judged = judge(state, curve.equations(state.step.trial), open_bounds(2))
    assert judged.radius == pytest.approx(2 * state.step.length)


def test_a_step_that_raises_the_cost_is_rejected_and_the_region_shrinks():
    curve = _line()
    state = propose(_begun(curve, [1.5, 0.5]), open_bounds(2), _NEVER)
    worse = state.equations._replace(cost=2 * state.equations.cost)
    judged = judge(state, worse, open_bounds(2))
    assert judged.params.tolist() == [1.5, 0.5]
    assert judged.history[-1]["accepted"] is False
    assert 0.1 * state.step.length <= judged.radius <= 0.5 * state.step.length


def _near_the_optimum(gradient, cost=1.0):
    """Return equations of large model values, whose costs differ by rounding only."""
    return Equations(np.eye(2), np.array([gradient, 0.0]), cost, 1e14, 100)


def _proposed_near_the_optimum():
    equations = _near_the_optimum(1e-9)
    state = begin(FitState.start(np.ones((1, 2))), (equations,))
    state = propose(state, open_bounds(2), _NEVER)
    assert state.step.predicted_reduction < equations.cost_rounding
    return state


def test_where_costs_drown_in_rounding_a_step_that_lowers_the_gradient_is_accepted():
    state = _proposed_near_the_optimum()
    trial = _near_the_optimum(1e-15, cost=1 + 1e-9)
    assert trial.cost - state.equations.cost < state.equations.cost_rounding
    judged = judge(state, trial, open_bounds(2))
    assert judged.params.tolist() == state.step.trial.tolist()
    assert judged.history[-1]["accepted"] is True


@pytest.mark.parametrize("gradient", [1e-9, 1e-8, np.nan])
def test_where_costs_drown_in_rounding_a_step_that_does_not_lower_it_ends_the_fit(gradient):
    state = _proposed_near_the_optimum()
    judged = judge(state, _near_the_optimum(gradient, cost=1 - 1e-9), open_bounds(2))
    assert judged.params.tolist() == state.params.tolist()
    assert judged.status is Status.ROUNDING
    assert judged.history[-1]["accepted"] is False


def test_a_large_promise_is_judged_by_the_cost_even_if_the_gradient_falls():
    state = propose(_begun(_line(), [1.5, 0.5]), open_bounds(2), _NEVER)
    flat = state.equations._replace(cost=2 * state.equations.cost, gradient=np.zeros(2))
    assert judge(state, flat, open_bounds(2)).params.tolist() == [1.5, 0.5]


@pytest.mark.parametrize(
    ("lower", "upper"), [([0, 0, 0.7], [9, 9, 9]), ([0, 0, 0], [2, 9, 9]), ([0, 0, 0], [2, 1, 9])]
)
def test_the_optimum_within_bounds_is_that_of_least_squares(lower, upper):
    curve = _decay()
    bounds = Bounds(np.array(lower, dtype=float), np.array(upper, dtype=float))
    start = np.array([1.0, 0.3, 0.8])
    oracle = least_squares(
        curve.residual, start, curve.jacobian, bounds, xtol=1e-15, ftol=1e-15, gtol=1e-12
    )
    states = list(_states(curve, start, Tolerances(1e-8, 1e-8, 1e-8, 100), bounds))
    last = states[-1]
    assert last.status.is_converged
    assert all(bounds.contain(np.array(entry["params"])) for entry in last.history)
    is_active = oracle.active_mask != 0
    assert is_active.any()
    expected = np.where(oracle.active_mask < 0, bounds.lower, bounds.upper)
    assert last.params[is_active].tolist() == expected[is_active].tolist()
    # The interior method of SciPy stops near the bound, not on it.
    np.testing.assert_allclose(last.params, oracle.x, rtol=1e-5)
    assert last.equations.cost <= oracle.cost * (1 + 1e-12)


def test_accepted_costs_never_rise_and_the_norm_of_the_region_never_shrinks():
    states = list(_states(_decay(), [5.0, 5.0, 5.0], Tolerances(1e-8, 1e-8, 1e-8, 100)))
    assert len(states) > 3
    costs = [state.equations.cost for state in states]
    assert costs == sorted(costs, reverse=True)
    for before, after in itertools.pairwise(states):
        assert (after.scale >= before.scale).all()


def test_the_history_has_an_entry_for_each_pass():
    *_, last = _states(_logarithm(), [1.0, 3.0], Tolerances(1e-8, 1e-8, 1e-8, 100))
    assert [entry["n_passes"] for entry in last.history] == list(range(1, last.n_passes + 1))
    assert last.n_passes == last.n_iter + 1
    accepted = [entry for entry in last.history if entry["accepted"]]
    assert accepted[-1]["params"] == last.params.tolist()
    assert accepted[-1]["cost"] == last.equations.cost


def test_a_step_cannot_be_judged_before_one_is_proposed_nor_proposed_before_the_first_pass():
    state = _begun(_line(), [1.5, 0.5])
    with pytest.raises(RuntimeError, match="no step"):
        judge(state, state.equations, open_bounds(2))
    with pytest.raises(RuntimeError, match="first pass"):
        propose(FitState.start(np.ones((1, 2))), open_bounds(2), _NEVER)


@pytest.mark.parametrize("status", list(Status))
def test_only_what_converged_says_so(status):
    assert status.is_converged == status.message.startswith("Converged")


def _last_points(curve, start, tolerances):
    """Return the point that was evaluated last, the end of the fit, and how many were evaluated."""
    state, n_evaluated = _begun(curve, start), 1
    while state.status is Status.RUNNING:
        evaluated = state.params
        state = propose(state, open_bounds(len(start)), tolerances)
        if state.status is Status.RUNNING:
            state = judge(state, curve.equations(state.step.trial), open_bounds(len(start)))
            n_evaluated += 1
    return evaluated, state, n_evaluated


def _steep_start(curve):
    """Return the answer, and a start a few standard errors off, as a warm-up leaves it."""
    answer = least_squares(curve.residual, _TRUTH, curve.jacobian, xtol=1e-15, gtol=1e-15).x
    return answer, answer * (1 + 2e-4)


def test_a_last_step_whose_remainder_is_known_costs_no_evaluation():
    curve = _decay(n_rows=200_000)
    answer, start = _steep_start(curve)
    evaluated, state, n_evaluated = _last_points(curve, start, Tolerances(1e-8, 1e-8, 0.0, 1000))
    assert state.status is Status.FTOL
    assert n_evaluated == state.n_passes == 2
    assert not np.array_equal(evaluated, state.params)
    # Nearer to the answer than the point that was evaluated last, and as near as ftol says.
    assert np.abs(state.params - answer).max() < 0.01 * np.abs(evaluated - answer).max()
    assert _relative_offset(curve, state.params) <= 100 * 1e-8


def test_the_equations_of_a_step_without_evaluation_are_those_at_its_end():
    curve = _decay(n_rows=200_000)
    _, state, _ = _last_points(curve, _steep_start(curve)[1], Tolerances(1e-8, 1e-8, 0.0, 1000))
    there = curve.equations(state.params)
    np.testing.assert_allclose(state.equations.cost, there.cost, rtol=1e-14)
    np.testing.assert_allclose(state.equations.gram, there.gram, rtol=1e-6)
    # The gradient vanishes at both, but for rounding of residuals and of columns.
    lengths = there.column_norms * np.sqrt(2 * there.cost)
    np.testing.assert_allclose(state.equations.gradient / lengths, 0, atol=1e-9)
    np.testing.assert_allclose(there.gradient / lengths, 0, atol=1e-9)


def test_without_ftol_every_step_is_evaluated():
    curve = _decay(n_rows=200_000)
    evaluated, state, _ = _last_points(curve, _steep_start(curve)[1], _NEVER)
    assert state.status.is_converged
    assert np.array_equal(evaluated, state.params)


def test_a_start_near_the_answer_is_no_reason_to_skip_the_first_step():
    # One point tells nothing of the rate at which steps shrink.
    curve = _decay(n_rows=200_000)
    answer, _ = _steep_start(curve)
    start = answer * (1 + 1e-7)
    state = propose(_begun(curve, start), open_bounds(3), Tolerances(1e-9, 1e-8, 0.0, 1000))
    assert state.status is Status.RUNNING
    assert state.step is not None


_OFF = 1 + np.array([0.001, -0.002, 0.001])


def _first_steps(curve, sampled, bounds=None):
    """Return where the first full step ends from a point some standard errors off: two ways."""
    bounds = open_bounds(3) if bounds is None else bounds
    begun = _begun(curve, _steep_start(curve)[0] * _OFF)
    tolerances = Tolerances(1e-8, 1e-8, 1e-8, 1000)
    straight = propose(begun, bounds, tolerances).step
    bent = propose(begun, bounds, tolerances, sampled).step
    assert straight.damping == bent.damping == 0
    return straight.trial, bent.trial


def test_a_step_that_follows_the_bend_of_the_model_ends_nearer_to_the_optimum():
    curve, sample = _decay(0.001, n_rows=6000), _decay(0.001, n_rows=600)
    straight, bent = _first_steps(curve, lambda point: sample.equations(point).scaled(10))
    answer, _ = _steep_start(curve)
    # What is left is of third order.
    assert np.linalg.norm(bent - answer) < 0.05 * np.linalg.norm(straight - answer)


def test_where_the_sample_is_not_finite_the_step_is_straight():
    def sampled(point):
        return curve.equations(point * np.nan)

    curve = _decay()
    straight, bent = _first_steps(curve, sampled)
    np.testing.assert_array_equal(bent, straight)


def test_no_sample_is_asked_beyond_the_bounds():
    def sampled(point):
        asked.append(point)
        return curve.equations(point)

    curve, asked = _decay(), []
    start = _steep_start(curve)[0] * _OFF
    # The step leads down in the first and the last parameter, and so its opposite out of bounds.
    bounds = Bounds(np.full(3, -np.inf), start + np.array([1e-4, np.inf, 1e-4]))
    straight, bent = _first_steps(curve, sampled, bounds)
    assert not (straight == bounds.upper).any()
    np.testing.assert_array_equal(bent, straight)
    assert all(bounds.contain(point) for point in asked)


def test_a_parameter_that_a_step_puts_on_its_bound_stays_there():
    curve = _decay()
    answer, _ = _steep_start(curve)
    upper = np.array([np.inf, answer[1] * 0.9995, np.inf])
    straight, bent = _first_steps(curve, curve.equations, Bounds(np.full(3, -np.inf), upper))
    assert straight[1] == upper[1]
    np.testing.assert_array_equal(bent, straight)


def test_a_bend_as_long_as_the_step_is_not_followed():
    curve = _decay()

    def sampled(point):
        """Return equations of a curve that bends a thousand times more."""
        equations = curve.equations(point)
        start = curve.equations(answer * _OFF)
        gram = start.gram + 1000 * (equations.gram - start.gram)
        return equations._replace(gram=gram)

    answer, _ = _steep_start(curve)
    straight, bent = _first_steps(curve, sampled)
    np.testing.assert_array_equal(bent, straight)


def test_the_covariance_follows_a_last_step_without_evaluation_by_a_sample():
    curve = _decay(n_rows=200_000)
    answer, _ = _steep_start(curve)
    state = propose(_begun(curve, answer * (1 + 1e-4)), open_bounds(3), _NEVER)
    state = judge(state, curve.equations(state.step.trial), open_bounds(3))
    next_step = propose(state, open_bounds(3), _NEVER).step
    change = np.abs(next_step.trial / state.params - 1).max()
    # The step is longer than ten xtol, and shorter than a hundred.
    tolerances = Tolerances(1e-8, change / 30, 0.0, 1000)
    assert propose(state, open_bounds(3), tolerances).step is not None
    sample = _decay(n_rows=2000)
    last = propose(
        state, open_bounds(3), tolerances, lambda point: sample.equations(point).scaled(100)
    )
    assert last.status is Status.FTOL
    there = curve.equations(last.params)
    change = there.gram - state.equations.gram
    np.testing.assert_allclose(last.equations.gram - there.gram, 0, atol=0.1 * np.abs(change).max())


def test_a_sample_whose_gram_matrix_changes_much_does_not_save_the_last_evaluation():
    curve = _decay(n_rows=200_000)
    answer, _ = _steep_start(curve)
    state = propose(_begun(curve, answer * (1 + 1e-4)), open_bounds(3), _NEVER)
    state = judge(state, curve.equations(state.step.trial), open_bounds(3))
    change = np.abs(propose(state, open_bounds(3), _NEVER).step.trial / state.params - 1).max()
    tolerances = Tolerances(1e-8, change / 30, 0.0, 1000)

    def sampled(point):
        factor = 1.0 if np.array_equal(point, state.params) else 1.01
        return curve.equations(point).scaled(factor)

    assert propose(state, open_bounds(3), tolerances, sampled).status is Status.RUNNING
