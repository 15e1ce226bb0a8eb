"""The one loop: warm-up, passes, hooks, where to resume."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from ._engine import kernel
from ._engine.equations import Equations
from ._engine.few_rows import FewRows, can_take_steps
from ._engine.kernel import Objective
from ._engine.state import FitState, Status
from ._engine.subproblem import Bounds
from ._engine.trust_region import Sampled, Tolerances, begin, judge, propose
from ._streams import ArrayStream, Profile, Stream

_logger = logging.getLogger("nlsq_sklearn")

# The warm-up starts with so many rows, and each further sample has so many times more; the last
# has a share of all rows that keeps it cheaper than the pass it saves. Few rows need no warm-up.
_LEAST_ROWS = 65_536
_FIRST_SAMPLE_ROWS = 8192
_SAMPLE_GROWTH = 16
_LEAST_GROWTH = 4
_LARGEST_SAMPLE_SHARE = 1 / 16
_MOST_SAMPLE_ROWS = 524_288  # 4 MB a column
# A sample's optimum is off by its own standard error; a hundredth of that is near enough.
_WARM_UP_FTOL = 1e-4
_WARM_UP_MAX_ITER = 1000
# Parts of the first pass after which a start that is far off can be given up. Few: all threads
# meet there.
_LOOKS = (1 / 8, 1 / 2)


class Problem(NamedTuple):
    """What is to be fitted.

    Attributes
    ----------
    objective : Objective
    bounds : Bounds
    tolerances : Tolerances
    starts : ndarray of shape (n_starts, n_params)
        The user's start first; NaN as long as it is not guessed.
    is_warm : bool
        Whether the start comes from an earlier fit, and needs no warm-up.
    seed : int or None
        What the other starts were drawn with.
    guess : callable or None
        Where the first start is guessed: from a `Profile` of the data to that start.
    """

    objective: Objective
    bounds: Bounds
    tolerances: Tolerances
    starts: np.ndarray
    is_warm: bool = False
    seed: int | None = None
    guess: Callable[[Profile], np.ndarray] | None = None

    @property
    def lacks_start(self) -> bool:
        """Whether the first start has not been guessed yet."""
        return self.guess is not None and bool(np.isnan(self.starts[0]).any())

    def guessed(self, profile: Profile) -> "Problem":
        """Return the problem with the start that its guess makes of a profile."""
        assert self.guess is not None
        return self._replace(starts=np.vstack([self.guess(profile), self.starts[1:]]))


class Observer(Protocol):
    """Who looks on: progress bars, checkpoints."""

    def on_chunk(self, state: FitState) -> None:
        """See the state after a chunk was summed."""

    def on_pass(self, state: FitState) -> bool | None:
        """See the state after a pass was judged; return True to stop the fit."""


def run(
    problem: Problem,
    stream: Stream,
    observers: Sequence[Observer] = (),
    state: FitState | None = None,
) -> FitState:
    """Fit, from the start or from a state on, and return the state in which it ended.

    Parameters
    ----------
    state : FitState or None
        Where to go on; with None, or a state that has not seen a chunk, the fit starts with its
        warm-up.
    """
    if state is not None and state.status in (Status.MAX_ITER, Status.STOPPED):
        state = state._replace(status=Status.RUNNING)  # max_iter may be larger now
    rows = few_rows(problem, stream)
    if rows is not None:
        return _run_few_rows(rows, observers, state or FitState.start(problem.starts))
    warm_up = _WarmUp(problem, stream)
    if state is None or (state.status is Status.RUNNING and not state.has_begun):
        state = warm_up.run()
    while state.status is Status.RUNNING:
        if state.equations is not None and state.step is None:
            state = propose(state, problem.bounds, problem.tolerances, warm_up.sampled)
            continue
        state = _sum_over_chunks(problem.objective, stream, observers, state)
        if state.equations is None:
            state = begin(state, state.partial)
        else:
            state = judge(state, state.partial[0], problem.bounds)
        state = _shown(state, observers)
    return state


def few_rows(problem: Problem, stream: Stream) -> FewRows | None:
    """Return the rows as a single chunk, if there are so few that a fit of them has no warm-up.

    None also where the model has no program for them.
    """
    if not isinstance(stream, ArrayStream) or stream.n_chunks > 1 or stream.n_rows >= _LEAST_ROWS:
        return None
    if len(problem.starts) > 1 or not can_take_steps(problem.objective.model):
        return None
    return FewRows(problem.objective, stream.chunk(0), problem.bounds, problem.tolerances)


def _run_few_rows(rows: FewRows, observers: Sequence[Observer], state: FitState) -> FitState:
    """Fit one chunk, in as few calls as its observers allow."""
    if state.partial:  # its only chunk was summed, but not judged: by the program, as ever
        state = state._replace(next_chunk=0, partial=())
    while state.status is Status.RUNNING:
        taken = rows.take(state, 1) if observers else rows.take(state)
        if observers and taken.n_passes:
            summed = state.add_chunk((taken.first_equations(),))
            for observer in observers:
                observer.on_chunk(summed)
        n_passes = state.n_passes
        state = taken.judged()
        if taken.n_passes:
            state = _shown(state, observers, state.n_passes - n_passes)
        if state.status is Status.RUNNING:
            state = taken.proposed(state)
    return state


def _shown(state: FitState, observers: Sequence[Observer], n_passes: int = 1) -> FitState:
    """Show the state after a pass, or several; return it, stopped if an observer wishes that."""
    _log_passes(state, n_passes)
    wishes = [observer.on_pass(state) for observer in observers]  # each sees the pass
    return state._replace(status=Status.STOPPED) if any(wishes) else state


def _sum_over_chunks(
    objective: Objective, stream: Stream, observers: Sequence[Observer], state: FitState
) -> FitState:
    """Sum the equations of the chunks that the pass in progress still lacks, in their order."""
    stops = [stream.n_chunks]
    if state.equations is None and state.guard < np.inf:
        stops = [*(max(1, int(share * stream.n_chunks)) for share in _LOOKS), *stops]
    for stop in stops:
        if state.has_given_up and stop < stream.n_chunks:
            continue  # nothing more to look for
        for equations in stream.equations(objective, state.points, state.next_chunk, stop):
            state = state.add_chunk(equations)
            if state.next_chunk == stop < stream.n_chunks:
                state = state.give_up_start()
            for observer in observers:
                observer.on_chunk(state)
    return state


def rows_before_first_pass(problem: Problem, n_rows: int) -> int:
    """Return how many of the rows a fit looks at for where its first pass shall begin."""
    if problem.guess is not None:
        return n_rows  # a profile of all
    if problem.is_warm:
        return 0
    if n_rows >= _LEAST_ROWS:
        return _sample_sizes(n_rows)[-1]
    return n_rows if len(problem.starts) > 1 else 0


class _WarmUp:
    """Fits of growing samples in memory; the smallest stays, to tell how the model bends."""

    def __init__(self, problem: Problem, stream: Stream) -> None:
        self._problem = problem
        self._stream = stream
        self._smallest: ArrayStream | None = None

    @property
    def _is_large(self) -> bool:
        return self._stream.n_rows >= _LEAST_ROWS

    def run(self) -> FitState:
        """Return the state before the first pass, which compares the samples' answer and the start.

        Most of the way to the optimum costs almost nothing in a sample. The start stays a
        candidate: a sample that missed a narrow feature can do no harm.
        """
        starts = self._problem.starts
        if self._problem.is_warm or (not self._is_large and len(starts) == 1):
            return FitState.start(starts)
        points = starts
        fits: list[_SampleFit] = []
        for sample in self._samples():
            fitted = _fit_sample(self._problem, sample, points)
            if fitted is None:
                return FitState.start(starts[:1])
            points = fitted.point[np.newaxis]
            fits.append(fitted)
        # Between what both will come to, and far from either where they differ much.
        guard = self._stream.n_rows * fits[0].start_cost ** (1 / 3) * fits[-1].cost ** (2 / 3)
        return FitState.start(np.vstack([points, starts[:1]]), guard)

    def _samples(self) -> Iterator[ArrayStream]:
        """Yield the samples, the smallest first."""
        if not self._is_large:
            yield self._stream.sample(self._stream.n_rows)
            return
        sizes = _sample_sizes(self._stream.n_rows)
        # All samples are taken from the largest, so that the data are read once.
        pool = self._stream.sample(sizes[-1])
        self._smallest = pool if pool.n_rows <= sizes[0] else pool.sample(sizes[0])
        yield self._smallest
        yield from (pool.sample(size) for size in sizes[1:] if size < pool.n_rows)
        if pool is not self._smallest:
            yield pool

    @property
    def sampled(self) -> Sampled | None:
        """What the smallest sample tells of a point, if this fit has samples."""
        return None if self._problem.is_warm or not self._is_large else self._equations

    def _equations(self, point: np.ndarray) -> Equations:
        if self._smallest is None:  # the fit was resumed: taken as then, from the largest
            next(self._samples())
        assert self._smallest is not None
        [summed] = sum_in_memory(self._problem.objective, self._smallest, point[np.newaxis])
        return summed.scaled(self._stream.n_rows / self._smallest.n_rows)


def _sample_sizes(n_rows: int) -> list[int]:
    """Return the rows of each sample of the warm-up."""
    most = int(min(n_rows * _LARGEST_SAMPLE_SHARE, _MOST_SAMPLE_ROWS))
    sizes = [_FIRST_SAMPLE_ROWS]
    while sizes[-1] * _SAMPLE_GROWTH < most:
        sizes.append(sizes[-1] * _SAMPLE_GROWTH)
    if most >= _LEAST_GROWTH * sizes[-1]:
        sizes.append(most)
    return sizes


class _SampleFit(NamedTuple):
    """The best point of a sample; the cost of a row there, and at the first start."""

    point: np.ndarray
    cost: float
    start_cost: float


def _fit_sample(problem: Problem, sample: ArrayStream, starts: np.ndarray) -> _SampleFit | None:
    """Fit a sample from all starts side by side; return None where it is finite at none."""
    tolerances = problem.tolerances._replace(
        ftol=max(_WARM_UP_FTOL, problem.tolerances.ftol), max_iter=_WARM_UP_MAX_ITER
    )
    states = [FitState.start(start[np.newaxis]) for start in starts]
    start_cost: float | None = None
    while running := [i for i, state in enumerate(states) if state.status is Status.RUNNING]:
        points = np.stack([state.points[0] for state in states])
        summed = sum_in_memory(problem.objective, sample, points)
        if start_cost is None:
            start_cost = summed[0].cost if summed[0].is_finite else np.inf
        for i in running:
            state = states[i]
            if state.equations is None:
                state = begin(state, (summed[i],))
            else:
                state = judge(state, summed[i], problem.bounds)
            if state.status is Status.RUNNING:
                state = propose(state, problem.bounds, tolerances)
            states[i] = state
    costs = [np.inf if s.equations is None else s.equations.cost for s in states]
    best = states[int(np.argmin(costs))]
    _logger.debug("warm-up on %d rows: %s", sample.n_rows, best.status.message)
    if best.equations is None:
        return None
    assert start_cost is not None
    return _SampleFit(best.params, best.equations.cost / sample.n_rows, start_cost / sample.n_rows)


def sum_in_memory(objective: Objective, sample: ArrayStream, points: np.ndarray) -> list[Equations]:
    """Return the equations of few rows at each of the points, (n_points, n_params)."""
    total = [Equations.zero(points.shape[1]) for _ in points]
    for parts in sample.map_chunks(partial(kernel.evaluate_many, objective, points=points)):
        total = [a + b for a, b in zip(total, parts, strict=True)]
    return total


def _log_passes(state: FitState, n_passes: int) -> None:
    if not _logger.isEnabledFor(logging.INFO):
        return
    for entry in state.history[-n_passes:]:
        _logger.info(
            "pass %d: cost %s, %s",
            entry["n_passes"],
            entry["cost"],
            "accepted" if entry["accepted"] else "rejected",
        )
