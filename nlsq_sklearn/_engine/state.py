"""`FitState`: all that a fit is at one moment, and so all that a checkpoint must hold."""

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from .equations import Equations
from .subproblem import Step


class Status(IntEnum):
    """Why a fit stopped; positive where it converged."""

    RUNNING = -10
    OUT_OF_RANGE = -4
    STOPPED = -3
    STALLED = -2
    NOT_FINITE = -1
    MAX_ITER = 0
    GTOL = 1
    FTOL = 2
    XTOL = 3
    EXACT = 4
    ROUNDING = 5

    @property
    def is_converged(self) -> bool:
        """Whether this is a success."""
        return self > 0

    @property
    def message(self) -> str:
        """The reason in words."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "The fit is not finished.",
    Status.OUT_OF_RANGE: (
        "The squares of the residuals leave the range of float64: scale y, and sigma with it."
    ),
    Status.STOPPED: "The fit was stopped by a callback.",
    Status.STALLED: (
        "No step lowers the cost although its gradient does not vanish: the model may not be "
        "differentiable here."
    ),
    Status.NOT_FINITE: "The model is not finite at any start.",
    Status.MAX_ITER: "The maximum number of iterations (max_iter) was reached.",
    Status.GTOL: "Converged: the residuals are orthogonal to the model's tangent plane (gtol).",
    Status.FTOL: "Converged: no step can lower the cost noticeably (ftol).",
    Status.XTOL: "Converged: the next step would not change the parameters (xtol).",
    Status.EXACT: "Converged: the curve meets the data to the rounding of the model.",
    Status.ROUNDING: "Converged: the cost can't be lowered in float64 arithmetic.",
}


class FitState(NamedTuple):
    """A fit at one moment.

    Attributes
    ----------
    status : Status
    params : ndarray of shape (n_params,)
        The accepted point, in the user's units; the first start before the first pass.
    equations : Equations or None
        Those of the accepted point; None before the first pass.
    scale : ndarray of shape (n_params,)
        Norm of the trust region: the largest column norms so far.
    radius : float
        Of the trust region.
    remaining : float
        The reduction of the cost that the full step promises at the accepted point.
    step : Step or None
        The step that is being tried.
    candidates : ndarray of shape (n_candidates, n_params)
        The points that the first pass compares; the start is the last.
    guard : float
        The cost from which on the first pass gives up the start: far more than that of the other
        candidates, as a sample tells it. Infinite where no sample does.
    n_iter, n_passes : int
        Steps tried; passes over all rows.
    history : tuple of dict
        One entry a pass.
    next_chunk : int
        First chunk that the pass in progress has not summed.
    partial : tuple of Equations
        Its sums so far, one for each point that is not given up; empty at the start of a pass.
    """

    status: Status
    params: np.ndarray
    equations: Equations | None
    scale: np.ndarray
    radius: float
    remaining: float
    step: Step | None
    candidates: np.ndarray
    guard: float
    n_iter: int
    n_passes: int
    history: tuple[dict[str, Any], ...]
    next_chunk: int
    partial: tuple[Equations, ...]

    @classmethod
    def start(cls, candidates: np.ndarray, guard: float = np.inf) -> "FitState":
        """Return the state before the first pass, which compares the ``candidates``."""
        n_params = candidates.shape[1]
        return cls(
            status=Status.RUNNING,
            params=candidates[0],
            equations=None,
            scale=np.zeros(n_params),
            radius=0.0,
            remaining=0.0,
            step=None,
            candidates=candidates,
            guard=guard,
            n_iter=0,
            n_passes=0,
            history=(),
            next_chunk=0,
            partial=(),
        )

    @property
    def accepted(self) -> Equations:
        """The equations of the accepted point, after the first pass."""
        if self.equations is None:
            raise RuntimeError("the first pass is not finished")
        return self.equations

    @property
    def points(self) -> np.ndarray:
        """The points whose equations the next chunk adds to, shape (n_points, n_params)."""
        if self.step is not None:
            return self.step.trial[np.newaxis]
        return self.candidates[: len(self.partial) or None]

    @property
    def has_given_up(self) -> bool:
        """Whether the start is left out of the rest of the first pass."""
        return self.equations is None and 0 < len(self.partial) < len(self.candidates)

    @property
    def start_point(self) -> np.ndarray:
        """Once the first pass has begun: the start, given or guessed, shape (n_params,)."""
        return np.asarray(self.candidates[-1])

    @property
    def has_begun(self) -> bool:
        """Whether a chunk of the full data has been summed."""
        return self.n_passes > 0 or self.next_chunk > 0

    def add_chunk(self, equations: tuple[Equations, ...]) -> "FitState":
        """Return the state with one more chunk summed into the pass in progress."""
        total = equations
        if self.partial:
            total = tuple(a + b for a, b in zip(self.partial, equations, strict=True))
        return self._replace(partial=total, next_chunk=self.next_chunk + 1)

    def give_up_start(self) -> "FitState":
        """Return the state without the sums of the start, if those exceed the guard already."""
        if self.equations is None and len(self.partial) > 1 and self.partial[-1].cost > self.guard:
            return self._replace(partial=self.partial[:-1])
        return self
