"""The step: the quadratic model of the cost, minimised in a trust region and within bounds.

The region is ``|D s| <= radius`` with ``D`` the largest column norms seen so far [1]_; inside it
the quadratic model is minimised over the box of the bounds exactly, by an active-set method, so
that trial points are feasible and active bounds are found in finitely many steps.

References
----------
.. [1] J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", 1978.
.. [2] J. Nocedal, S. J. Wright, "Numerical Optimization", 2nd ed., 2006, section 16.5.
"""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np

# A fraction of what numpy.linalg takes for few.
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from .equations import Equations

_EPS = float(np.finfo(float).eps)
_TINY = float(np.finfo(float).tiny)
# The radius is met to 10 %: more precision buys nothing (Moré 1978, section 5).
RADIUS_SLACK = 0.1
# With a determinant above it, a Gram matrix of unit columns has no eigenvalue of less than a third
# of it: the product of the others is less than e, their mean being at most n / (n - 1).
FULL_RANK_DETERMINANT = 1e-10


def rank_tolerance(n_params: int) -> float:
    """Return the eigenvalue of a Gram matrix of unit columns below which it is rounding.

    Each element of the matrix carries a rounding of a few eps.
    """
    return 8 * n_params * _EPS


def factor_of_full_rank(matrix: np.ndarray) -> np.ndarray | None:
    """Return the lower Cholesky factor of a Gram matrix of unit columns.

    None where it has, or may have, an eigenvalue that is rounding.
    """
    factor, fault = dpotrf(matrix, lower=1)
    if fault == 0 and math.prod(factor.diagonal().tolist()) ** 2 > FULL_RANK_DETERMINANT:
        return np.asarray(factor)
    return None


def inverse_of_factored(factor: np.ndarray) -> np.ndarray:
    """Return the inverse of a matrix that has this lower Cholesky factor."""
    lower, _ = dpotri(factor, lower=1)  # above the diagonal are zeros
    inverse = np.asarray(lower + lower.T, order="C")
    inverse.ravel()[:: len(factor) + 1] *= 0.5
    return inverse


class Bounds(NamedTuple):
    """``lower`` and ``upper``, each of shape (n_params,); infinite where open."""

    lower: np.ndarray
    upper: np.ndarray

    @property
    def are_open(self) -> bool:
        """Whether they bound nothing."""
        highest, lowest = max(self.lower.tolist()), min(self.upper.tolist())
        return bool(highest == -math.inf and lowest == math.inf)

    def contain(self, params: np.ndarray) -> bool:
        """Return whether ``params`` of shape (n_params,) lies within."""
        rows = zip(self.lower.tolist(), params.tolist(), self.upper.tolist(), strict=True)
        return all(low <= value <= high for low, value, high in rows)


class Step(NamedTuple):
    """A step from the accepted point.

    ``trial`` of shape (n_params,) is the point it leads to, in the user's units;
    ``predicted_reduction`` that of the cost by the quadratic model; ``damping`` has no unit;
    ``length`` is in the norm of the trust region. Where the trial follows the bend of the model,
    the last three are those of the straight step.
    """

    trial: np.ndarray
    predicted_reduction: float
    damping: float
    length: float


def _solve_in_box(
    matrix: np.ndarray, gradient: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise ``1/2 q'Mq + g'q`` over a box that holds 0, by the primal active-set method.

    Returns the minimiser and the mask of its free variables, each of shape (n_params,).
    ``matrix`` is positive definite. See [2]_ of the module.
    """
    n_params = gradient.size
    q = np.zeros(n_params)
    # Start with what is at a bound and pushed against it held there.
    free = ~(((lower >= 0) & (gradient > 0)) | ((upper <= 0) & (gradient < 0)))
    # Each round fixes a variable or lowers the objective; the cap only guards against rounding.
    for _ in range(10 * n_params + 10):
        slope = matrix @ q + gradient
        target = q.copy()
        if free.any():
            target[free] -= np.linalg.solve(matrix[np.ix_(free, free)], slope[free])
        direction = target - q
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(direction > 0, (upper - q) / direction, (lower - q) / direction)
        room = np.where(free & (direction != 0), np.maximum(room, 0.0), np.inf)
        blocking = int(np.argmin(room))
        if room[blocking] < 1.0:
            q = q + room[blocking] * direction
            q[blocking] = upper[blocking] if direction[blocking] > 0 else lower[blocking]
            free[blocking] = False
            continue
        q = np.clip(target, lower, upper)
        slope = matrix @ q + gradient
        pull = np.where(q >= upper, slope, -slope)
        pull = np.where(free, -np.inf, pull)
        released = int(np.argmax(pull))
        if not pull[released] > 1e-14 * np.abs(gradient).max():
            break
        free[released] = True
    return q, free


class _Damped(NamedTuple):
    """The scaled Gram matrix plus damping, and its lower Cholesky factor."""

    matrix: np.ndarray
    factor: np.ndarray


class Subproblem:
    """The quadratic model at the accepted point, with its columns scaled to unit norm.

    Parameters
    ----------
    equations : Equations
        Those of the accepted point, all finite.
    params : ndarray of shape (n_params,)
        The accepted point.
    scale : ndarray of shape (n_params,)
        ``D``, positive: the norm in which the region is a ball.
    bounds : Bounds
    """

    def __init__(
        self, equations: Equations, params: np.ndarray, scale: np.ndarray, bounds: Bounds
    ) -> None:
        norms = equations.column_norms
        # A column of zeros leaves its parameter undetermined: any positive unit will do.
        self._unit = np.where(norms > 0, norms, scale)
        self._gram = equations.gram / (self._unit[:, np.newaxis] * self._unit)
        self._gradient = equations.gradient / self._unit
        self._residual_norm = math.sqrt(2 * max(equations.cost, 0.0))
        # Capped where products of it, over the least curvature, would overflow.
        self._root_metric = np.minimum(scale / self._unit, 1e120)
        self._params = params
        self._bounds = None if bounds.are_open else bounds
        self._undamped = self._within_box(self._least_solution())
        self._full_step = self._step(self._undamped[0], 0.0)

    @cached_property
    def _metric(self) -> np.ndarray:
        return np.asarray(self._root_metric**2)

    @cached_property
    def _box(self) -> Bounds:
        """The bounds of the step, in scaled units."""
        assert self._bounds is not None
        lower, upper = self._bounds
        return Bounds((lower - self._params) * self._unit, (upper - self._params) * self._unit)

    def _damped(self, damping: float) -> _Damped:
        """Return the scaled Gram matrix plus damping, made positive definite to rounding."""
        n_params = self._gradient.size
        # The normal equations know the scaled Gram matrix to a few eps only; less than that on
        # its diagonal would leave it indefinite when columns are collinear.
        ridge = 4 * n_params * _EPS
        added = damping * self._metric
        while True:
            raised = self._gram.copy()
            raised.ravel()[:: n_params + 1] += added + ridge
            factor, fault = dpotrf(raised, lower=1)
            if fault == 0:
                return _Damped(raised, factor)
            ridge *= 10

    def _within_box(
        self, q: np.ndarray, damped: _Damped | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the minimiser in the box, given that without one, and the mask of what is free.

        None instead of a mask says that all is.
        """
        if self._bounds is None or self._box.contain(q):
            return q, None
        matrix = (damped or self._damped(0.0)).matrix
        return _solve_in_box(matrix, self._gradient, *self._box)

    def _least_solution(self) -> np.ndarray:
        """Return the minimiser without a box; of several the shortest, up to rounding.

        A direction with neither curvature nor slope beyond rounding is left alone. One that has a
        slope is followed as far as the least curvature that can be told from rounding allows:
        nearly collinear columns may hide the way to the optimum.
        """
        factor = factor_of_full_rank(self._gram)
        if factor is not None:
            return -_solved(factor, self._gradient)
        n_params = self._gradient.size
        eigenvalues, vectors = np.linalg.eigh(self._gram)
        slopes = vectors.T @ self._gradient
        is_flat = eigenvalues <= rank_tolerance(n_params)
        if not is_flat.any():
            return np.asarray(-vectors @ (slopes / eigenvalues))
        is_level = np.abs(slopes) <= 8 * n_params * _EPS * self._residual_norm
        least = 4 * n_params * _EPS
        lengths = np.where(is_flat & is_level, 0.0, slopes / np.maximum(eigenvalues, least))
        return np.asarray(-vectors @ lengths)

    def _length(self, q: np.ndarray) -> float:
        scaled = self._root_metric * q
        return math.sqrt(scaled.dot(scaled))

    def _step(self, q: np.ndarray, damping: float) -> Step:
        trial = self._params + q / self._unit
        if self._bounds is not None:
            # A variable at its bound is put there exactly, whatever the scaling has rounded.
            lower, upper = self._bounds
            trial = np.where(q <= self._box.lower, lower, trial)
            trial = np.where(q >= self._box.upper, upper, trial)
            trial = np.minimum(np.maximum(trial, lower), upper)
        with np.errstate(over="ignore", invalid="ignore"):
            reduction = -float(self._gradient.dot(q) + 0.5 * q.dot(self._gram.dot(q)))
        # A comparison that lets nan pass: its caller looks for it.
        reduction = 0.0 if reduction < 0 else reduction
        return Step(trial, reduction, float(damping), self._length(q))

    def full_step(self) -> Step:
        """Return the undamped Gauss-Newton step within the bounds."""
        return self._full_step

    def step_within(self, radius: float) -> Step:
        """Return the step of length ``radius`` (to 10 %), or the full step if that is shorter.

        The damping is found by a safeguarded Newton iteration on ``1 / length`` [1]_. Where the
        radius has shrunk to nothing, so has the step.
        """
        q, free = self._undamped
        length = self._full_step.length
        if length <= (1 + RADIUS_SLACK) * radius:
            return self._full_step
        if radius < _TINY:
            return self._step(np.zeros_like(q), 0.0)
        damping = 0.0
        damped = self._damped(damping)
        least = 0.0
        steepest = self._gradient / self._root_metric
        most = math.sqrt(steepest.dot(steepest)) / radius
        for _ in range(60):
            damping += self._newton_step(q, free, length, radius, damped)
            if not least < damping < most:
                damping = max(1e-3 * most, math.sqrt(least) * math.sqrt(most))
            damped = self._damped(damping)
            q, free = self._within_box(-_solved(damped.factor, self._gradient), damped)
            length = self._length(q)
            if abs(length - radius) <= RADIUS_SLACK * radius:
                break
            if length > radius:
                least = damping
            else:
                most = damping
        return self._step(q, damping)

    def _newton_step(
        self,
        q: np.ndarray,
        free: np.ndarray | None,
        length: float,
        radius: float,
        damped: _Damped,
    ) -> float:
        """One Newton step for the damping on ``1/length - 1/radius``; nan where it has none."""
        # Divided by the length before it is squared: far from the answer the square overflows.
        pulled = self._metric * (q / length)
        if free is None:
            slope = float(pulled.dot(_solved(damped.factor, pulled)))
        elif not pulled[free].any():
            return math.nan
        else:
            matrix = damped.matrix[np.ix_(free, free)]
            slope = float(pulled[free] @ np.linalg.solve(matrix, pulled[free]))
        return (length / radius - 1) / slope if slope > 0 else math.nan


def _solved(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the solution of linear equations whose matrix has this lower Cholesky factor."""
    solution, _ = dpotrs(factor, right, lower=1)
    return np.asarray(solution)
