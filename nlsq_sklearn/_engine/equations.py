"""The normal equations: what one pass over the data leaves behind.

Sign and scale are stated here and meant everywhere: residual = model - y, and
``cost = 1/2 sum w f_scale^2 rho((residual / sigma / f_scale)^2)``, which for the linear loss is
``1/2 sum w (residual / sigma)^2``.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from .spread import NO_SPREAD, Spread

_EPS = float(np.finfo(float).eps)


@cache
def packed_places(n_params: int) -> np.ndarray:
    """Return where each element of the Gram matrix stands in what the kernel returns."""
    places = np.empty((n_params, n_params), dtype=np.intp)
    upper = np.triu_indices(n_params)
    places[upper] = places.T[upper] = 2 + n_params + np.arange(upper[0].size)
    return places


def n_packed(n_params: int) -> int:
    """Return how many numbers `Equations.packed` has."""
    return 2 + n_params + n_params * (n_params + 1) // 2


class Equations(NamedTuple):
    """Normal equations of a set of rows at one parameter point.

    Attributes
    ----------
    gram : ndarray of shape (n_params, n_params)
        ``J'WJ``, the Gauss-Newton approximation of the Hessian of the cost.
    gradient : ndarray of shape (n_params,)
        ``J'Wr``, the gradient of the cost.
    cost : float
        Half the (robust, weighted) sum of squares.
    model_norm : float
        ``1/2 sum w (model / sigma)^2``: how large the numbers are whose rounding the cost carries.
    n_rows : float
        Rows summed so far; a fraction of them where older ones are forgotten.
    spread : Spread or None
        How y scatters about its mean in these rows; None where that was not looked at.
    """

    gram: np.ndarray
    gradient: np.ndarray
    cost: float
    model_norm: float
    n_rows: float
    spread: Spread | None = None

    @classmethod
    def zero(cls, n_params: int) -> "Equations":
        """Return the equations of no rows at all."""
        return cls(np.zeros((n_params, n_params)), np.zeros(n_params), 0.0, 0.0, 0, NO_SPREAD)

    @classmethod
    def from_packed(
        cls, packed: np.ndarray, n_params: int, n_rows: float, spread: Spread | None = None
    ) -> "Equations":
        """Unpack what the kernel returns: cost, model norm, gradient, upper triangle by rows."""
        return cls(
            packed[packed_places(n_params)],
            packed[2 : 2 + n_params].copy(),
            float(packed[0]),
            float(packed[1]),
            n_rows,
            spread,
        )

    def packed(self) -> np.ndarray:
        """Return what `from_packed` takes."""
        upper = np.triu_indices(self.gradient.size)
        return np.concatenate([[self.cost, self.model_norm], self.gradient, self.gram[upper]])

    def __add__(self, other: "Equations") -> "Equations":  # type: ignore[override]
        """Return the equations of both sets of rows; not finite where the sums overflow."""
        spread = None
        with np.errstate(over="ignore", invalid="ignore"):
            if self.spread is not None and other.spread is not None:
                spread = self.spread + other.spread
            return Equations(
                self.gram + other.gram,
                self.gradient + other.gradient,
                self.cost + other.cost,
                self.model_norm + other.model_norm,
                self.n_rows + other.n_rows,
                spread,
            )

    def scaled(self, factor: float) -> "Equations":
        """Return the equations of rows that each count by a factor more."""
        with np.errstate(over="ignore"):
            return Equations(
                factor * self.gram,
                factor * self.gradient,
                factor * self.cost,
                factor * self.model_norm,
                factor * self.n_rows,
                None if self.spread is None else self.spread.scaled(factor),
            )

    @property
    def is_finite(self) -> bool:
        """Whether the model and its derivatives were finite in every row."""
        total = sum(self.gradient.tolist(), self.cost + self.model_norm)
        if math.isfinite(sum(self.gram.ravel().tolist(), total)):
            return True
        # Numbers that are finite may have a sum that is not.
        return (
            math.isfinite(self.cost)
            and math.isfinite(self.model_norm)
            and bool(np.isfinite(self.gradient).all())
            and bool(np.isfinite(self.gram).all())
        )

    @property
    def column_norms(self) -> np.ndarray:
        """Norms of the columns of the weighted Jacobian, of shape (n_params,)."""
        return np.asarray(np.sqrt(self.gram.diagonal()))

    def column_norm(self, index: int) -> float:
        """Norm of one column of the weighted Jacobian."""
        return math.sqrt(self.gram[index, index])

    @property
    def largest_cosine(self) -> float:
        """Largest cosine of the angle between the residuals and a column of the Jacobian."""
        lengths = self.column_norms * math.sqrt(2 * max(self.cost, 0.0))
        cosines = np.divide(
            np.abs(self.gradient), lengths, out=np.zeros_like(lengths), where=lengths > 0
        )
        return float(cosines.max())

    @property
    def cost_rounding(self) -> float:
        """Differences of two costs below this are rounding, not information.

        A model value carries a relative error of eps, so the cost one of
        ``eps sum |r f| <= 2 eps sqrt(cost model_norm)``; its own summation adds about
        ``eps cost sqrt(rows in a partial sum)``.
        """
        return _EPS * (64.0 * self.cost + 8.0 * math.sqrt(max(self.cost * self.model_norm, 0.0)))


def shifted(
    equations: Equations, displacement: np.ndarray, gram_change: np.ndarray | None = None
) -> Equations:
    """Return the quadratic model of some equations, seen from another point.

    Parameters
    ----------
    displacement : ndarray of shape (n_params,)
        From the point of the equations to the other one.
    gram_change : ndarray of shape (n_params, n_params) or None
        What the Gram matrix has more there; the quadratic model knows of none.
    """
    gram, gradient, cost, model_norm, n_rows, spread = equations
    slope = gram.dot(displacement)
    cost += float(gradient.dot(displacement)) + 0.5 * float(displacement.dot(slope))
    if gram_change is not None:
        gram = gram + gram_change
    return Equations(gram, gradient + slope, cost, model_norm, n_rows, spread)
