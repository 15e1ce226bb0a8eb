"""A fit of one chunk: `compiled_steps` as far as that goes, and `trust_region` for the rest."""

import math

import numpy as np

from .compiled_steps import ACCEPTED, MOST_ROUNDS, UNJUDGED, Rounds, can_take_steps, take_steps
from .equations import Equations
from .kernel import Chunk, Objective, evaluate
from .state import FitState
from .subproblem import Bounds
from .trust_region import Tolerances, begin, entry_of_pass, judge, propose

__all__ = ["FewRows", "can_take_steps"]


class FewRows:
    """All rows of a fit in one chunk.

    Parameters
    ----------
    objective : Objective
        Of a model that `can_take_steps`.
    chunk : Chunk
    bounds : Bounds
    tolerances : Tolerances
    """

    def __init__(
        self, objective: Objective, chunk: Chunk, bounds: Bounds, tolerances: Tolerances
    ) -> None:
        self.objective = objective
        self.chunk = chunk
        self.bounds = bounds
        self.tolerances = tolerances

    def of(self, chunk: Chunk) -> "FewRows":
        """Return the fit of other rows, in a chunk of the same shape."""
        return FewRows(self.objective, chunk, self.bounds, self.tolerances)

    def take(self, state: FitState, n_rounds: int = MOST_ROUNDS) -> "Taken":
        """Evaluate the next points of a fit, at most ``n_rounds``.

        Parameters
        ----------
        state : FitState
            At the start of a pass, or judged and without a step.
        """
        rounds = take_steps(
            self.objective, self.chunk, state, self.bounds, self.tolerances, n_rounds
        )
        return Taken(self, state, rounds)

    def equations(self, point: np.ndarray) -> Equations:
        """Return the equations at a point, (n_params,), by the program that takes steps."""
        return self.take(FitState.start(point[np.newaxis]), 1).first_equations()


class Taken:
    """The points that were evaluated from a state on."""

    def __init__(self, rows: FewRows, state: FitState, rounds: Rounds) -> None:
        self._rows = rows
        self._state = state
        self._rounds = rounds
        # A point that was judged before is evaluated again for its step, which is no pass.
        self._first_pass = 1 if state.equations is not None and state.step is None else 0

    @property
    def n_passes(self) -> int:
        """How many of the points were not evaluated before."""
        return len(self._rounds.rounds) - self._first_pass

    def first_equations(self) -> Equations:
        """Return the equations at the first point."""
        return self._equations(0)

    def judged(self) -> FitState:
        """Return the state after the last of the points was judged, without a next step."""
        last = len(self._rounds.rounds) - 1
        if self._rounds.rounds[last].verdict != UNJUDGED:
            return self._after(last + 1)
        if last < self._first_pass:
            return self._state
        state = self._after(last)
        if last > 0:
            state = self._with_step(state, last - 1)
        equations = self._equations(last)
        if state.equations is None:
            return begin(state, (equations,))
        full = self._rounds.rounds[last].full_step()
        return judge(state, equations, self._rows.bounds, full)

    def proposed(self, state: FitState) -> FitState:
        """Return the judged state with its next step, or with the status that ends the fit.

        It may be left without a step where `trust_region` has judged the last point: the step is
        found when the point is evaluated again.
        """
        bounds, tolerances = self._rows.bounds, self._rows.tolerances
        index = len(self._rounds.rounds) - 1
        last = self._rounds.rounds[index]
        if last.verdict == UNJUDGED:
            if not self.n_passes:
                return propose(state, bounds, tolerances)
            is_accepted = bool(state.history[-1]["accepted"]) and not last.n_left
            if not is_accepted or state.radius != last.radius:
                return state
        if last.has_step and state.n_iter < tolerances.max_iter:
            return self._with_step(state, index)
        return propose(state, bounds, tolerances, full=last.full_step())

    def _with_step(self, state: FitState, index: int) -> FitState:
        this = self._rounds.rounds[index]
        return state._replace(step=this.step(), remaining=this.full_reduction)

    def _after(self, n_rounds: int) -> FitState:
        """Return the state after some of the points, which the program has judged."""
        state, rounds = self._state, self._rounds.rounds
        n_passes = n_rounds - self._first_pass
        if not n_passes:
            return state
        accepted = None
        params, equations = state.params, state.equations
        cost = math.inf if equations is None else equations.cost
        history = list(state.history)
        number = state.n_passes - self._first_pass
        point, reduction, damping, length = self._tried(self._first_pass)
        for index in range(self._first_pass, n_rounds):
            this = rounds[index]
            ratio, new_cost, is_accepted = None, this.cost, this.verdict == ACCEPTED
            if reduction is not None and this.is_finite:
                ratio = (cost - new_cost) / reduction
            entry = (number + index + 1, point, new_cost, is_accepted, damping, length, ratio)
            history.append(entry_of_pass(*entry, this.radius))
            if is_accepted:
                accepted, cost = index, new_cost
            point, reduction, damping, length = self._tried(index + 1)
        if accepted is not None:
            params = np.array(self._tried(accepted)[0])
            equations = self._rounds.equations(accepted, self._rows.chunk)
        last = n_rounds - 1
        return state._replace(
            params=params,
            equations=equations,
            scale=self._rounds.scales[last].copy(),
            radius=rounds[last].radius,
            remaining=rounds[last - 1].full_reduction if last else state.remaining,
            step=None,
            n_iter=state.n_iter + n_passes - (state.equations is None),
            n_passes=state.n_passes + n_passes,
            history=tuple(history),
        )

    def _tried(self, index: int) -> tuple[list[float], float | None, float | None, float | None]:
        """Return a point, and reduction, damping and length of the step that led to it.

        To the first point of a fit leads none.
        """
        if index > 0:
            before = self._rounds.rounds[index - 1]
            return before.trial, before.reduction, before.damping, before.length
        state = self._state
        point = state.points[0].tolist()
        if state.step is None:
            return point, None, None, None
        return point, *state.step[1:]

    def _equations(self, index: int) -> Equations:
        rows = self._rows
        if not self._rounds.rounds[index].n_left:
            return self._rounds.equations(index, rows.chunk)
        point = np.array(self._tried(index)[0])
        return evaluate(rows.objective, rows.chunk, point, any_angle=True)
