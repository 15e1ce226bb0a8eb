"""First guesses by search: parameters that enter linearly are solved for, the others tried out.

At each of many values of the parameters that bend the curve, those that only scale and shift it
are the solution of a linear least-squares problem with one or two terms and a constant, in closed
form [1]_. The best of all is near the least-squares answer, wherever that lies.

References
----------
.. [1] G. H. Golub, V. Pereyra, "The differentiation of pseudo-inverses and nonlinear least squares
       problems whose variables separate", SIAM Journal on Numerical Analysis 10, 1973.
"""

from typing import NamedTuple

import numpy as np

from .._streams import Profile

# A term that is constant, or proportional to another one, up to this is no term of its own.
_INDEPENDENT = 1e-9


class Found(NamedTuple):
    """The best candidate: its number, the factors of its terms, the constant, and what it is worth.

    ``gain`` is the part of the weighted scatter of ``y`` that it explains, of any unit.
    """

    candidate: int
    factors: tuple[float, ...]
    offset: float
    gain: float


def best_fit(
    profile: Profile, *terms: np.ndarray, has_offset: bool = True, is_positive: bool = False
) -> Found:
    """Return which candidate comes nearest to the profile.

    Parameters
    ----------
    profile : Profile
    *terms : ndarray of shape (n_candidates, n_bins)
        One or two terms that are scaled and added.
    has_offset : bool
        Whether a constant is added to them.
    is_positive : bool
        Whether the factor of the first term must be positive.
    """
    weight = profile.weight / profile.weight.sum()
    unit = np.abs(profile.y).max() or 1.0
    y = profile.y / unit
    means = [sums(term, weight) if has_offset else np.zeros(len(term)) for term in terms]
    mean_y = float(sums(y, weight)) if has_offset else 0.0
    centred = [term - mean[:, np.newaxis] for term, mean in zip(terms, means, strict=True)]
    products = Products(
        [[sums(a * b, weight) for b in centred] for a in centred],
        [sums(term, weight * (y - mean_y)) for term in centred],
    )
    gain, factors = products.solve(means)
    if is_positive:
        gain = np.where(factors[0] > 0, gain, -1.0)
    best = int(np.argmax(gain))
    chosen = [float(factor[best]) for factor in factors]
    offset = mean_y - sum(f * mean[best] for f, mean in zip(chosen, means, strict=True))
    return Found(best, tuple(unit * f for f in chosen), float(unit * offset), float(gain[best]))


def sums(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return sums of products over the last axis.

    Not by the matrix products of the BLAS: over its threads they wait longer than they compute.
    """
    return np.asarray(np.vecdot(values, weight))


class Products(NamedTuple):
    """Sums of products of one or two terms with each other, and with y, for each candidate.

    The terms and y have no mean where there is a constant beside them.
    """

    gram: list[list[np.ndarray]]
    with_y: list[np.ndarray]

    def solve(self, means: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the gain and the factors of each candidate, each of shape (n_candidates,).

        Parameters
        ----------
        means : list of ndarray of shape (n_candidates,)
            What was taken off each term; 0 where there is no constant.
        """
        with np.errstate(all="ignore"):  # candidates that overflow are not chosen
            is_term = [
                self.gram[i][i] > _INDEPENDENT * (self.gram[i][i] + mean**2)
                for i, mean in enumerate(means)
            ]
            if len(self.with_y) == 1:
                determinant, is_usable = self.gram[0][0], is_term[0]
                factors = [self.with_y[0] / determinant]
            else:
                [[aa, ab], [_, bb]], [ay, by] = self.gram, self.with_y
                determinant = aa * bb - ab * ab
                is_usable = is_term[0] & is_term[1] & (determinant > _INDEPENDENT * aa * bb)
                factors = [(bb * ay - ab * by) / determinant, (aa * by - ab * ay) / determinant]
            gain = sum(f * product for f, product in zip(factors, self.with_y, strict=True))
        is_usable &= np.isfinite(gain)
        return np.where(is_usable, gain, -1.0), [np.where(is_usable, f, 0.0) for f in factors]


def spacing(profile: Profile) -> float:
    """Return the distance of neighbouring bins where they are dense, in the unit of x."""
    gaps = np.diff(profile.x)
    return max(float(np.quantile(gaps, 0.02)), 1e-9 * span(profile)) if gaps.size else 1.0


def span(profile: Profile) -> float:
    """Return the length of the range of x; 1 where all x are equal."""
    return profile.x_range[1] - profile.x_range[0] or 1.0


def grid(*axes: np.ndarray) -> list[np.ndarray]:
    """Return all combinations of some values, one column of shape (n_candidates, 1) an axis."""
    return [axis.reshape(-1, 1) for axis in np.meshgrid(*axes, indexing="ij")]


def require_x_from(lowest: float, profile: Profile, name: str) -> None:
    """Raise if there is an x at which the model means nothing."""
    if profile.x_range[0] < lowest:
        raise ValueError(
            f"{name} is a curve of x >= {lowest:g}, but x goes down to {profile.x_range[0]:g}. "
            "Leave out such rows, or take another model."
        )
