"""Few rows: evaluate, judge and step, again and again, in one call of a compiled program.

A pass over a thousand rows takes microseconds; to call a program, and the steps in Python, take ten
times that. So where all rows are one small chunk a program does what is usual in `trust_region`: it
judges the trial point and solves for the next one. All else (rounding, flat directions, bounds, the
end of a fit) it leaves to `trust_region`. Where somebody looks on it takes one step at a time, and
the same ones: it is the same program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .equations import Equations, n_packed, packed_places
from .kernel import (
    N_PLACES,
    Chunk,
    Objective,
    can_be_one_function,
    program_key,
    sums_of_chunk,
)
from .model import TracedModel
from .programs import run_program
from .state import FitState
from .subproblem import FULL_RANK_DETERMINANT, RADIUS_SLACK, Bounds, Step
from .trust_region import (
    ACCEPT,
    CONTRACTION_SLACK,
    FAST_CONTRACTION,
    FIRST_RADIUS,
    GOOD,
    GROW,
    LAST_STEP_PER_XTOL,
    OFFSET_PER_FTOL,
    POOR,
    SHRINK_LEAST,
    SHRINK_MOST,
    Tolerances,
)

MOST_ROUNDS = 16
"""Points that one call evaluates."""

# What a call begins with: a trial point to judge, the first point of a fit, or a point that was
# judged before and lacks its step.
TRIAL, FIRST, JUDGED = 0.0, 1.0, 2.0
# What it says of a point.
ACCEPTED, REJECTED, UNJUDGED = 1.0, 2.0, 3.0

_EPS = float(np.finfo(float).eps)
_MOST_SOLUTIONS = 60  # then it is left to `Subproblem`

Arrays = tuple[jax.Array, ...]


class _Place(NamedTuple):
    """Where a fit is between two rounds, but for the point: numbers.

    ``kind`` is TRIAL, FIRST or JUDGED. ``promised`` is the gain that the full step promised at the
    accepted point, if the trial point is the end of that step; else 0. The next three are those of
    the step to the trial point.
    """

    kind: Any
    promised: Any
    predicted_reduction: Any
    length: Any
    damping: Any
    radius: Any


class _Limits(NamedTuple):
    """Where a fit may end, which `trust_region` then looks into: numbers.

    ``least_share`` is the part of the cost that a full step must promise; ``offset`` the part that
    may be left to gain by ``ftol``; ``freedom`` the degrees of freedom.
    """

    least_share: Any
    offset: Any
    xtol: Any
    freedom: Any


class Round(NamedTuple):
    """What a call tells of one point that it evaluated.

    Attributes
    ----------
    verdict : float
        ACCEPTED or REJECTED; or UNJUDGED, and then the rest tells of a point that is accepted.
    has_full_step, has_step : float
        1 where the full step, and the step within the region, were found, and are usual.
    full_reduction, full_length : float
        Of the full step from the accepted point; see `Step`.
    reduction, length, damping : float
        Of the step within the region.
    radius : float
        Of the region, after the point was judged.
    n_left : float
        Rows that another program must evaluate.
    is_finite : float
        1 where the equations at the point are.
    cost : float
        At the point.
    full_trial, trial : list of float
        The ends of the full step and of the step within the region.
    """

    verdict: Any
    has_full_step: Any
    has_step: Any
    full_reduction: Any
    full_length: Any
    reduction: Any
    length: Any
    damping: Any
    radius: Any
    n_left: Any
    is_finite: Any
    cost: Any
    full_trial: Any
    trial: Any

    def full_step(self) -> Step | None:
        """Return the full step, None where it is not usual."""
        if not self.has_full_step:
            return None
        return Step(np.array(self.full_trial), self.full_reduction, 0.0, self.full_length)

    def step(self) -> Step | None:
        """Return the step within the region, None where it is not usual."""
        if not self.has_step:
            return None
        return Step(np.array(self.trial), self.reduction, self.damping, self.length)


class Rounds(NamedTuple):
    """What a call did: each point that it evaluated.

    Attributes
    ----------
    rounds : list of Round
    sums : ndarray of shape (MOST_ROUNDS, n_sums)
        The packed equations of each point, and zeros.
    scales : ndarray of shape (MOST_ROUNDS, n_params)
        The norm of the trust region after each.
    """

    rounds: list[Round]
    sums: np.ndarray
    scales: np.ndarray

    def equations(self, index: int, chunk: Chunk) -> Equations:
        """Return the equations at one of the points."""
        n_params = self.scales.shape[1]
        return Equations.from_packed(self.sums[index], n_params, chunk.n_counted, chunk.spread)


def can_take_steps(model: TracedModel) -> bool:
    """Return whether there is such a program for a model: where it is a single function."""
    return can_be_one_function(model)


def take_steps(
    objective: Objective,
    chunk: Chunk,
    state: FitState,
    bounds: Bounds,
    tolerances: Tolerances,
    n_rounds: int,
) -> Rounds:
    """Go on with a fit of one chunk until something is not usual.

    Parameters
    ----------
    state : FitState
        Not begun, with a single candidate; with a step to try; or without one.
    n_rounds : int
        Points to evaluate at most.
    """
    n_params = objective.model.n_params
    n_sums = n_packed(n_params)
    place, trial = _place(state)
    known = n_sums * [0.0] if state.equations is None else state.equations.packed().tolist()
    ready = chunk.arguments()
    start = trial.tolist()  # a list of all numbers is faster than many short arrays
    start.append(objective.f_scale)
    for vector in (state.params, state.scale, bounds.lower, bounds.upper):
        start += vector.tolist()
    start += known
    start += place
    start += _limits(tolerances, chunk.n_counted, n_params)
    start.append(_n_rounds(n_rounds, state, tolerances))
    start += ready.places.tolist()
    key = program_key(objective, chunk, f"steps {objective.loss}")
    arguments = (np.array(start), *ready.memories)
    table = run_program(key, lambda: _program(objective, n_sums), arguments, is_one_function=True)
    return _unpacked(table, n_params, n_sums)


def _n_rounds(most: int, state: FitState, tolerances: Tolerances) -> int:
    """Return how many points to evaluate, so that no step is taken beyond ``max_iter``."""
    n_left = tolerances.max_iter - state.n_iter + (state.step is None)
    return max(1, min(most, MOST_ROUNDS, n_left))


def _limits(tolerances: Tolerances, n_rows: float, n_params: int) -> _Limits:
    freedom = max(n_rows - n_params, 1)
    offset = (OFFSET_PER_FTOL * tolerances.ftol) ** 2 * n_params / freedom
    return _Limits(max(tolerances.gtol**2, offset), offset, tolerances.xtol, freedom)


def _place(state: FitState) -> tuple[_Place, np.ndarray]:
    """Return where a state is, and the point to evaluate, shape (n_params,)."""
    if state.equations is None:
        return _Place(FIRST, 0.0, 1.0, 0.0, 1.0, 0.0), state.candidates[0]
    step = state.step
    if step is None:
        last = state.history[-1]
        promised = state.remaining if last["accepted"] and last["damping"] == 0 else 0.0
        return _Place(JUDGED, promised, 1.0, 0.0, 1.0, state.radius), state.params
    promised = state.remaining if step.damping == 0 else 0.0
    place = _Place(
        TRIAL, promised, step.predicted_reduction, step.length, step.damping, state.radius
    )
    return place, step.trial


def _unpacked(table: np.ndarray, n_params: int, n_sums: int) -> Rounds:
    n_numbers = len(Round._fields) - 2
    first, second = n_numbers + n_params, n_numbers + 2 * n_params
    third = second + n_params
    n_rounds = 1
    while n_rounds < MOST_ROUNDS and table.item(n_rounds, 0):  # the verdict of each point
        n_rounds += 1
    rounds = [
        Round._make([*row[:n_numbers], row[n_numbers:first], row[first:]])
        for row in table[:n_rounds, :second].tolist()
    ]
    return Rounds(rounds, table[:, third : third + n_sums], table[:, second:third])


def _program(objective: Objective, n_sums: int) -> Callable[..., jax.Array]:
    """Return the function that is compiled: from a start and a chunk to the rounds, a row each."""
    n_params = objective.model.n_params
    evaluate = sums_of_chunk(objective.model, objective.loss)
    width = len(Round._fields) - 2 + 3 * n_params + n_sums

    def program(start: jax.Array, *columns: jax.Array | None) -> jax.Array:
        def take_round(state: Arrays) -> Arrays:
            index, goes_on, vector, places, table = state
            # What a loop leaves as it is, and what follows from that, XLA takes out of it.
            places = jnp.where(goes_on, places, 0.0)
            sums = evaluate(vector[: n_params + 1], places, *columns)
            row, goes_on, vector = _judge_and_step(vector, sums, n_params)
            table = lax.dynamic_update_slice(table, row[np.newaxis], (index, jnp.int32(0)))
            return index + 1, goes_on & (index + 1 < vector[-1]), vector, places, table

        table = jnp.zeros((MOST_ROUNDS, width))
        vector, places = start[:-N_PLACES], start[-N_PLACES:]
        state: Arrays = (jnp.int32(0), places[0] > 0, vector, places, table)
        return lax.while_loop(lambda state: state[1], take_round, state)[-1]

    return program


def _judge_and_step(
    vector: jax.Array, sums: jax.Array, n_params: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the row of a round, whether another one may follow, and the vector for that."""
    sums, n_left = sums[:-1], sums[-1]
    sizes = [n_params, 1, *(4 * [n_params]), sums.size, len(_Place._fields), len(_Limits._fields)]
    trial, f_scale, params, scale, lower, upper, known, numbers, limits, n_rounds = jnp.split(
        vector, np.cumsum(sizes)
    )
    place, limit = _Place(*numbers), _Limits(*limits)

    at = _judge(place, trial, params, scale, known, sums, n_left)

    # See `trust_region.propose`.
    step = _solve(at.known, at.scale, at.radius, n_params)
    full_trial, trial = at.params + step.full, at.params + step.within
    has_full_step = (step.determinant > FULL_RANK_DETERMINANT) & (step.full_length < jnp.inf)
    has_full_step &= ((lower <= full_trial) & (full_trial <= upper)).all() & (at.n_left == 0)
    promised = jnp.where(at.is_accepted, place.promised, 0.0)
    has_step = has_full_step & step.is_found & (trial != at.params).any()
    has_step &= ((lower <= trial) & (trial <= upper)).all()
    has_step &= ~_may_end(at.known, at.params, promised, step, limit, n_params)

    place = _Place(
        TRIAL,
        jnp.where(step.damping == 0, step.full_reduction, 0.0),
        step.reduction,
        step.length,
        step.damping,
        at.radius,
    )
    numbers = jnp.stack([jnp.asarray(number, jnp.float64) for number in place])
    told = [at.verdict, has_full_step, has_step, step.full_reduction, step.full_length]
    told += [step.reduction, step.length, step.damping, at.radius]
    told += [at.n_left, at.is_finite, at.sums[0]]
    told = [jnp.asarray(number, jnp.float64) for number in told]
    row = jnp.concatenate([jnp.stack(told), full_trial, trial, at.scale, at.sums])
    vector = jnp.concatenate(
        [trial, f_scale, at.params, at.scale, lower, upper, at.known, numbers, limits, n_rounds]
    )
    return row, has_step & (at.verdict != UNJUDGED), vector


class _Judged(NamedTuple):
    """Where a fit is after a point was judged, and what is told of the point.

    ``known`` are the packed equations of the accepted point ``params``, and ``sums`` those of the
    point that was judged.
    """

    verdict: jax.Array
    is_accepted: jax.Array
    is_finite: jax.Array
    n_left: jax.Array
    sums: jax.Array
    known: jax.Array
    params: jax.Array
    scale: jax.Array
    radius: jax.Array


def _judge(
    place: _Place,
    trial: jax.Array,
    params: jax.Array,
    scale: jax.Array,
    known: jax.Array,
    sums: jax.Array,
    n_left: jax.Array,
) -> _Judged:
    """Judge a point as `trust_region.judge` does, and the first one as `begin` does.

    Of a point that was judged before all is known.
    """
    is_first, is_trial, is_judged = (place.kind == kind for kind in (FIRST, TRIAL, JUDGED))
    sums = jnp.where(is_judged, known, sums)
    n_left = jnp.where(is_judged, 0.0, n_left)
    norms = jnp.sqrt(sums[_diagonal(params.size)])
    is_finite = jnp.isfinite(sums).all()
    gain = jnp.where(is_finite, known[0] - sums[0], -jnp.inf)
    ratio = gain / place.predicted_reduction
    # Near the optimum costs can't tell, and whether the point is better is asked elsewhere.
    is_told = is_trial & (place.predicted_reduction > _cost_rounding(known)) & (known[0] > 0)
    is_usual = jnp.where(is_first, is_finite & (norms > 0).all(), is_judged | is_told)
    is_accepted = ~is_told | (ratio > ACCEPT)
    verdict = jnp.where(is_accepted, ACCEPTED, REJECTED)
    verdict = jnp.where(is_usual & (n_left == 0), verdict, UNJUDGED)
    length = _norm(norms * trial)
    first_radius = FIRST_RADIUS * jnp.where(length > 0, length, 1.0)
    radius = jnp.where(is_told, _next_radius(place, ratio), place.radius)
    radius = jnp.where(is_first, first_radius, radius)
    params = jnp.where(is_accepted, trial, params)
    scale = jnp.where(is_accepted, jnp.maximum(scale, norms), scale)
    known = jnp.where(is_accepted, sums, known)
    return _Judged(verdict, is_accepted, is_finite, n_left, sums, known, params, scale, radius)


def _next_radius(place: _Place, ratio: jax.Array) -> jax.Array:
    """Return the radius after a step of this gain ratio; see `trust_region`."""
    shrink = jnp.where(ratio < 0, 1 / (2 - ratio), SHRINK_LEAST)
    shrunk = jnp.clip(shrink, SHRINK_MOST, SHRINK_LEAST) * jnp.minimum(place.radius, place.length)
    grown = GROW * place.length
    kept = jnp.where(ratio >= GOOD, grown, place.radius)
    kept = jnp.where(place.damping == 0, jnp.maximum(place.radius, grown), kept)
    return jnp.where(ratio < POOR, shrunk, kept)


class _Steps(NamedTuple):
    """The full step and that within the region, from the accepted point, in the user's units.

    ``determinant`` is that of the scaled Gram matrix, and ``is_found`` whether the length of the
    step within the region is the radius.
    """

    full: jax.Array
    full_reduction: jax.Array
    full_length: jax.Array
    determinant: jax.Array
    within: jax.Array
    reduction: jax.Array
    length: jax.Array
    damping: jax.Array
    is_found: jax.Array


def _solve(known: jax.Array, scale: jax.Array, radius: jax.Array, n_params: int) -> _Steps:
    """Return the steps, found as `Subproblem` does it where nothing overflows or is singular."""
    unit = jnp.sqrt(known[_diagonal(n_params)])
    gram = known[packed_places(n_params)] / (unit[:, np.newaxis] * unit)
    gradient = known[2 : 2 + n_params] / unit
    root_metric = scale / unit
    steepest = _norm(gradient / root_metric)

    def solve(state: Any) -> Any:
        index, _, numbers, q, full = state
        damping, least, most, _ = numbers
        added = jnp.where(np.eye(n_params, dtype=bool), damping * root_metric**2, 0.0)
        inverse, q, determinant = _inverse_and_solution(gram + added, -gradient)
        length = _norm(root_metric * q)
        is_full = index == 0
        full = jnp.where(is_full, jnp.concatenate([q, jnp.stack([length, determinant])]), full)
        excess = jnp.where(is_full, length - radius, jnp.abs(length - radius))
        is_found = excess <= RADIUS_SLACK * radius
        is_long = length > radius
        least = jnp.where(is_long, damping, least)
        most = jnp.where(is_full, steepest / radius, jnp.where(is_long, most, damping))
        pulled = root_metric**2 * (q / length)
        curvature = (pulled[:, np.newaxis] * inverse * pulled).sum()
        newton = damping + (length / radius - 1) / curvature
        middle = jnp.maximum(1e-3 * most, jnp.sqrt(least) * jnp.sqrt(most))
        next_damping = jnp.where((least < newton) & (newton < most), newton, middle)
        damping = jnp.where(is_found, damping, next_damping)
        return index + 1, is_found, jnp.stack([damping, least, most, length]), q, full

    _, is_found, numbers, q, full = lax.while_loop(
        lambda state: ~state[1] & (state[0] < _MOST_SOLUTIONS),
        solve,
        (jnp.int32(0), unit[0] < 0, jnp.zeros(4), jnp.zeros(n_params), jnp.zeros(n_params + 2)),
    )
    damping, _, _, length = numbers
    # Half of what the slope promises, for a minimiser, and half of what the damping takes.
    return _Steps(
        full[:-2] / unit,
        -0.5 * (gradient * full[:-2]).sum(),
        full[-2],
        full[-1],
        q / unit,
        0.5 * (damping * length**2 - (gradient * q).sum()),
        length,
        damping,
        is_found,
    )


def _inverse_and_solution(
    matrix: jax.Array, right: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return inverse and determinant of a matrix, and the solution for a right side.

    By elimination without pivots, which a positive definite matrix needs none of; the determinant
    is negative or NaN of one that is not.
    """
    n_params = right.size

    def eliminate(index: jax.Array, state: Arrays) -> Arrays:
        rows, determinant = state
        column = rows[:, index]
        pivot = column[index]
        row = rows[index] / pivot
        others = rows - column[:, np.newaxis] * row
        rows = jnp.where((np.arange(n_params) == index)[:, np.newaxis], row, others)
        return rows, jnp.where(pivot > 0, determinant * pivot, -1.0)

    rows = jnp.concatenate([matrix, np.eye(n_params), right[:, np.newaxis]], axis=1)
    rows, determinant = lax.fori_loop(0, n_params, eliminate, (rows, jnp.ones(())))
    return rows[:, n_params:-1], rows[:, -1], determinant


def _may_end(
    known: jax.Array,
    params: jax.Array,
    promised: jax.Array,
    step: _Steps,
    limit: _Limits,
    n_params: int,
) -> jax.Array:
    """Return whether `trust_region.propose` may do anything but take the step."""
    cost, model_norm = known[0], known[1]
    gain = step.full_reduction
    contraction = gain / promised
    leaves_nothing = contraction <= FAST_CONTRACTION
    leaves_nothing &= CONTRACTION_SLACK * contraction * gain <= limit.offset * cost
    cost_error = jnp.sqrt(CONTRACTION_SLACK * contraction) * gain
    leaves_nothing &= cost_error <= _cost_rounding(known)
    noise = jnp.sqrt(2 * cost / limit.freedom)
    moved = jnp.abs(step.full)
    norms = jnp.sqrt(known[_diagonal(n_params)])
    # By how many times the parameter, or the noise, each of them changes.
    change = jnp.minimum(moved / jnp.abs(params), moved * norms / noise).max()
    leaves_nothing &= change <= LAST_STEP_PER_XTOL * limit.xtol
    goes_on = (step.damping == 0) | (step.reduction > _cost_rounding(known))
    goes_on &= gain > limit.least_share * cost
    goes_on &= (change > limit.xtol) & (cost > (4 * _EPS) ** 2 * model_norm)
    return jnp.asarray(leaves_nothing | ~goes_on)


def _cost_rounding(known: jax.Array) -> jax.Array:
    """Return `Equations.cost_rounding` of packed equations."""
    cost, model_norm = known[0], known[1]
    return _EPS * (64 * cost + 8 * jnp.sqrt(cost * model_norm))


def _diagonal(n_params: int) -> np.ndarray:
    return np.diag(packed_places(n_params))


def _norm(vector: jax.Array) -> jax.Array:
    return jnp.asarray(jnp.sqrt((vector * vector).sum()))
