"""The iteration on `FitState`: begin, propose a step, judge it. One pass over the data in between.

References
----------
.. [1] J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", 1978.
.. [2] D. M. Bates, D. G. Watts, "A relative offset orthogonality convergence criterion for
       nonlinear least squares", Technometrics 23, 1981.
.. [3] M. K. Transtrum, J. P. Sethna, "Improvements to the Levenberg-Marquardt algorithm for
       nonlinear least-squares minimization", arXiv:1201.5885, 2012, section 4.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .equations import Equations, shifted
from .state import FitState, Status
from .subproblem import RADIUS_SLACK, Bounds, Step, Subproblem

# Thresholds of the gain ratio and factors of the radius: Moré 1978, and MINPACK's lmder.
ACCEPT = 1e-4
POOR = 0.25
GOOD = 0.75
SHRINK_LEAST, SHRINK_MOST = 0.5, 0.1
GROW = 2.0
# MINPACK starts with as many times |D p0|.
FIRST_RADIUS = 100.0
# 1e-8, the default that users know from SciPy, then means a millionth of a standard error.
OFFSET_PER_FTOL = 100.0
# Full steps that converge at a rate of a tenth or better (its square, as gains measure it); the
# next one may do ten times worse than the last, which may have had a lucky direction.
FAST_CONTRACTION = 1e-2
CONTRACTION_SLACK = 100.0
# By how many xtol the last step, which no pass follows, may change a parameter: the covariance is
# that of the point before it, or with the change that a sample sees, to a hundredth of that. No
# element of the Gram matrix of unit columns may change by more than a thousandth then.
LAST_STEP_PER_XTOL = 10.0
_LAST_STEP_PER_XTOL_OF_SAMPLE = 100.0
_MOST_GRAM_CHANGE = 1e-3
# A second-order correction that is longer than this part of the step is no small one [3]_.
_MOST_BEND = 0.375
_EPS = float(np.finfo(float).eps)


Sampled = Callable[[np.ndarray], Equations]
"""From a point, (n_params,), to the equations of all rows there as a sample tells them."""


class Tolerances(NamedTuple):
    """When to stop.

    All three look at what the full Gauss-Newton step at the accepted point would still do, not at
    what the last step did: they bound the error that is left.

    Attributes
    ----------
    ftol : float
        The parameters are within ``100 ftol`` joint standard errors of the optimum, by the
        relative offset [2]_ of the module.
    xtol : float
        No parameter would change by more than ``xtol`` of its value.
    gtol : float
        Cosine of the angle between the residuals and the tangent plane of the model.
    max_iter : int
        Steps to try.
    """

    ftol: float
    xtol: float
    gtol: float
    max_iter: int


def begin(state: FitState, equations: tuple[Equations, ...]) -> FitState:
    """Return the state after the first pass: the best of its candidates is accepted.

    A start that was given up counts as worse, since its cost exceeds the guard. Where the others
    come to no less than that, the sample was wrong, and all are compared in another pass.
    """
    costs = [e.cost if e.is_finite else math.inf for e in equations]
    best = costs.index(min(costs))
    if state.has_given_up and not costs[best] <= state.guard:
        return state._replace(guard=np.inf, n_passes=state.n_passes + 1, next_chunk=0, partial=())
    if not math.isfinite(costs[best]):
        return state._replace(status=Status.NOT_FINITE, next_chunk=0, partial=())
    params = state.candidates[best]
    scale = _usable_scale(equations[best].column_norms)
    length = float(np.linalg.norm(scale * params))
    state = state._replace(
        params=params,
        equations=equations[best],
        scale=scale,
        radius=FIRST_RADIUS * (length if length > 0 else 1.0),
    )
    return _after_pass(state, equations[best].cost, params, is_accepted=True)


def propose(
    state: FitState,
    bounds: Bounds,
    tolerances: Tolerances,
    sampled: Sampled | None = None,
    full: Step | None = None,
) -> FitState:
    """Return the state with the next step to try, or with the status that ends the fit.

    Parameters
    ----------
    sampled : callable or None
        Where there is a sample, what it tells of a point: the step then follows the bend of the
        model, and the covariance the last one.
    full : Step or None
        The full step, where it is known.
    """
    subproblem = None
    if full is None:
        subproblem = Subproblem(state.accepted, state.params, state.scale, bounds)
        full = subproblem.full_step()
    contraction = _contraction(state, full)
    status = _convergence(state, full, tolerances)
    if status is not Status.RUNNING:
        return state._replace(status=status, remaining=full.predicted_reduction)
    last = _step_without_pass(state, full, contraction, tolerances, sampled)
    if last is not None:
        return last
    state = state._replace(remaining=full.predicted_reduction)
    if state.n_iter >= tolerances.max_iter:
        return state._replace(status=Status.MAX_ITER)
    step = full
    if full.length > (1 + RADIUS_SLACK) * state.radius:
        if subproblem is None:
            subproblem = Subproblem(state.accepted, state.params, state.scale, bounds)
        step = subproblem.step_within(state.radius)
    # A reduction of a thousandth of the last bit of the cost can't be seen in it.
    is_lost = step.damping > 0 and step.predicted_reduction <= 1e-3 * _EPS * state.accepted.cost
    goes_nowhere = step.trial.tolist() == state.params.tolist()
    if state.accepted.cost == 0 and goes_nowhere:
        return state._replace(status=Status.OUT_OF_RANGE)
    if is_lost or goes_nowhere:
        return state._replace(status=Status.ROUNDING if _is_stationary(state) else Status.STALLED)
    if sampled is not None and step.damping == 0:
        step = _bent(state, step, bounds, sampled)
    return state._replace(step=step)


def _bent(state: FitState, step: Step, bounds: Bounds, sampled: Sampled) -> Step:
    """Return the full step corrected for the bend of the model along it, to second order [3]_.

    At the end of the step the gradient is ``1/2 J' f_ss``, with the second derivative of the model
    along the step, and what the residuals have in the curvature, which no sample tells since it is
    mostly noise. The former is the odd part of the Gram matrix times the step, less the even part
    of the gradient, but for ``1/2 r' f_ss_k``, its derivatives by the parameters.
    """
    displacement = step.trial - state.params
    opposite = state.params - displacement
    # What holds a parameter at its bound is a gradient, too, and would be missed.
    is_held = (step.trial == bounds.lower) | (step.trial == bounds.upper)
    if is_held.any() or not bounds.contain(opposite):
        return step
    if step.predicted_reduction <= state.accepted.cost_rounding:
        return step  # a sample's rounding would make more of it
    start, forwards, backwards = map(sampled, (state.params, step.trial, opposite))
    if not (start.is_finite and forwards.is_finite and backwards.is_finite):
        return step
    with np.errstate(over="ignore", invalid="ignore"):
        odd = 0.5 * (forwards.gram - backwards.gram) @ displacement
        even = 0.5 * (forwards.gradient + backwards.gradient) - start.gradient
        missed = odd - even
    if not np.isfinite(missed).all():
        return step
    at_end = state.accepted._replace(gradient=missed)
    bend = Subproblem(at_end, step.trial, state.scale, bounds).full_step()
    return step._replace(trial=bend.trial) if bend.length <= _MOST_BEND * step.length else step


def judge(
    state: FitState, equations: Equations, bounds: Bounds, full: Step | None = None
) -> FitState:
    """Return the state after the pass at the trial point, whose equations these are.

    Parameters
    ----------
    full : Step or None
        The full step from there, where it is known.
    """
    step = state.step
    if step is None:
        raise RuntimeError("there is no step to judge")
    if state.accepted.cost == 0:
        return _judge_without_cost(state, step, equations)
    if step.predicted_reduction <= state.accepted.cost_rounding and _is_stationary(state):
        return _judge_by_gradient(state, step, equations, bounds, full)
    ratio = _gain_ratio(state.accepted.cost, equations, step)
    is_accepted = ratio > ACCEPT
    radius = _next_radius(state.radius, ratio, step)
    if is_accepted:
        state = _accept(state, step, equations, radius)
    else:
        state = state._replace(radius=radius)
    return _after_pass(state, equations.cost, step.trial, is_accepted, step, ratio)


def _judge_by_gradient(
    state: FitState, step: Step, equations: Equations, bounds: Bounds, full: Step | None
) -> FitState:
    """Judge a step near the optimum, where costs drown in rounding, by what it leaves to gain.

    For a full step that is the reduction which the next one promises. A damped one, where the
    Jacobian is nearly singular at the optimum, shall lower the gradient.
    """
    is_better = False
    if equations.is_finite and step.damping == 0:
        if full is None:
            scale = np.maximum(state.scale, equations.column_norms)
            full = Subproblem(equations, step.trial, scale, bounds).full_step()
        is_better = full.predicted_reduction < state.remaining
    elif equations.is_finite:
        is_better = equations.largest_cosine < state.accepted.largest_cosine
    if is_better:
        judged = _accept(state, step, equations)
    else:
        judged = state._replace(status=Status.ROUNDING)
    return _after_pass(judged, equations.cost, step.trial, is_better, step)


def _judge_without_cost(state: FitState, step: Step, equations: Equations) -> FitState:
    """Judge a step where squares of the residuals underflow: by the gradient, which goes on.

    Data that are all 0 come here, and end where the gradient is 0 too; data that are too small
    for float64 end where it is not.
    """
    slopes = [np.abs(e.gradient / state.scale).max() for e in (equations, state.accepted)]
    is_better = equations.is_finite and bool(slopes[0] < slopes[1])
    if is_better:
        state = _accept(state, step, equations)
    else:
        state = state._replace(status=Status.OUT_OF_RANGE)
    return _after_pass(state, equations.cost, step.trial, is_better, step)


def _is_stationary(state: FitState) -> bool:
    """Return whether the accepted point is an optimum as far as float64 can tell.

    Either what the full step promises drowns in rounding, or the gradient is that of a point
    within sqrt(eps) of the optimum: nearer than that costs can't be told apart.
    """
    return (
        state.remaining <= state.accepted.cost_rounding
        or state.accepted.largest_cosine <= math.sqrt(_EPS)
    )


def _accept(
    state: FitState, step: Step, equations: Equations, radius: float | None = None
) -> FitState:
    if equations.spread is None:  # looked at in the first pass; no parameter changes it
        equations = equations._replace(spread=state.accepted.spread)
    return state._replace(
        params=step.trial,
        equations=equations,
        scale=np.maximum(state.scale, equations.column_norms),
        radius=state.radius if radius is None else radius,
    )


def _usable_scale(norms: np.ndarray) -> np.ndarray:
    """Return positive units: a column of zeros, undetermined so far, gets the smallest other's."""
    positive = norms[norms > 0]
    return np.where(norms > 0, norms, positive.min() if positive.size else 1.0)


def _convergence(state: FitState, full: Step, tolerances: Tolerances) -> Status:
    """Return the criterion that the accepted point meets, or RUNNING."""
    equations = state.accepted
    n_params = state.params.size
    cost, gain = equations.cost, full.predicted_reduction
    # Residuals of a few eps of the model's values are its rounding, whatever the parameters.
    if cost <= (4 * _EPS) ** 2 * equations.model_norm or cost == 0:
        # Residuals that are not 0, and whose squares are: only the gradient still tells of them.
        return Status.RUNNING if cost == 0 and equations.gradient.any() else Status.EXACT
    if not math.isfinite(gain):
        return Status.OUT_OF_RANGE
    if gain <= tolerances.gtol**2 * cost:
        return Status.GTOL
    freedom = max(equations.n_rows - n_params, 1)
    if gain * freedom <= (OFFSET_PER_FTOL * tolerances.ftol) ** 2 * n_params * cost:
        return Status.FTOL
    return Status.XTOL if _is_small(state, full, tolerances.xtol) else Status.RUNNING


def _is_small(state: FitState, full: Step, xtol: float) -> bool:
    """Return whether a step changes no parameter by more than ``xtol`` of it.

    A parameter whose true value is 0 has no relative precision: what counts there is that the
    step moves the curve by less than ``xtol`` of the noise.
    """
    equations = state.accepted
    noise = math.sqrt(2 * max(equations.cost, 0.0) / max(equations.n_rows - state.params.size, 1))
    values = state.params.tolist()
    for index, (trial, value) in enumerate(zip(full.trial.tolist(), values, strict=True)):
        change = abs(trial - value)
        # The norm of a column is looked at last: seldom is a parameter so near to 0.
        if change > xtol * abs(value) and change * equations.column_norm(index) > xtol * noise:
            return False
    return True


def _contraction(state: FitState, full: Step) -> float:
    """Return what the last step left to gain, over what there was before it.

    It is the square of the rate at which full steps converge, in the norm of the Gram matrix;
    infinite after any other step.
    """
    last = state.history[-1]
    if not last["accepted"] or last["damping"] != 0 or state.remaining <= 0:
        return np.inf
    return full.predicted_reduction / state.remaining


def _step_without_pass(
    state: FitState,
    full: Step,
    contraction: float,
    tolerances: Tolerances,
    sampled: Sampled | None,
) -> FitState | None:
    """Return the state at the end of the full step, if a pass there would tell nothing new.

    Its equations are those of the quadratic model, and the Gram matrix, from which the covariance
    comes, changes as a sample's does. Without one the step must be so short that it does not.
    """
    if not _leaves_nothing(state, full, contraction, tolerances):
        return None
    change = None
    if not _is_small(state, full, LAST_STEP_PER_XTOL * tolerances.xtol):
        most = _LAST_STEP_PER_XTOL_OF_SAMPLE * tolerances.xtol
        if sampled is None or not _is_small(state, full, most):
            return None
        with np.errstate(invalid="ignore"):
            change = sampled(full.trial).gram - sampled(state.params).gram
        norms = state.accepted.column_norms
        # More than that is a row of great leverage, which the sample counts many times; or nan.
        if not (np.abs(change) <= _MOST_GRAM_CHANGE * np.outer(norms, norms)).all():
            return None
    return state._replace(
        status=Status.FTOL,
        params=full.trial,
        equations=shifted(state.accepted, full.trial - state.params, change),
        remaining=contraction * full.predicted_reduction,
    )


def _leaves_nothing(
    state: FitState, full: Step, contraction: float, tolerances: Tolerances
) -> bool:
    """Return whether what the full step leaves to gain meets ``ftol``.

    Steps that shrink at a steady rate, or faster, leave after this one what is left now times
    that rate. The cost must be predicted to its rounding, too.
    """
    if contraction > FAST_CONTRACTION:
        return False
    equations, n_params = state.accepted, state.params.size
    left = CONTRACTION_SLACK * contraction * full.predicted_reduction
    # The quadratic model, whose slope changes by the rate, errs by about that part of the gain.
    cost_error = math.sqrt(CONTRACTION_SLACK * contraction) * full.predicted_reduction
    freedom = max(equations.n_rows - n_params, 1)
    allowed = (OFFSET_PER_FTOL * tolerances.ftol) ** 2 * n_params * equations.cost
    return bool(left * freedom <= allowed and cost_error <= equations.cost_rounding)


def _gain_ratio(cost: float, trial: Equations, step: Step) -> float:
    """Return actual over predicted reduction; minus infinity for a trial that is not finite."""
    if not trial.is_finite:
        return -np.inf
    if step.predicted_reduction <= 0:
        return -np.inf
    return (cost - trial.cost) / step.predicted_reduction


def _next_radius(radius: float, ratio: float, step: Step) -> float:
    """Return the radius after a step of this gain ratio, by the rules of MINPACK."""
    if ratio < POOR:
        # The minimiser of the parabola through both costs, with the slope at the accepted point
        # that belongs to a full step: -2 times the predicted reduction.
        shrink = 1 / (2 - ratio) if ratio < 0 else SHRINK_LEAST
        return min(max(shrink, SHRINK_MOST), SHRINK_LEAST) * min(radius, step.length)
    if step.damping == 0:
        return max(radius, GROW * step.length)
    return GROW * step.length if ratio >= GOOD else radius


def entry_of_pass(
    n_passes: int,
    params: list[float],
    cost: float,
    is_accepted: bool,
    damping: float | None,
    length: float | None,
    ratio: float | None,
    radius: float,
) -> dict[str, Any]:
    """Return the entry of a pass in the history; to the first one leads no step."""
    return {
        "n_passes": n_passes,
        "params": params,
        "cost": cost if math.isfinite(cost) else None,
        "accepted": is_accepted,
        "damping": damping,
        "step_length": length,
        "gain_ratio": ratio if ratio is not None and math.isfinite(ratio) else None,
        "radius": radius,
    }


def _after_pass(
    state: FitState,
    cost: float,
    params: np.ndarray,
    is_accepted: bool,
    step: Step | None = None,
    ratio: float | None = None,
) -> FitState:
    """Return the state with a pass counted, as one more entry in its history, and nothing open."""
    n_passes = state.n_passes + 1
    entry = entry_of_pass(
        n_passes,
        params.tolist(),
        cost,
        is_accepted,
        None if step is None else step.damping,
        None if step is None else step.length,
        ratio,
        state.radius,
    )
    return state._replace(
        step=None,
        n_iter=state.n_iter if step is None else state.n_iter + 1,
        n_passes=n_passes,
        history=(*state.history, entry),
        next_chunk=0,
        partial=(),
    )
