"""One look at rows before the fit: a profile of the curve that they scatter about."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from .._engine.kernel import Chunk
from .arrays import ArrayStream, sample_rows
from .rows import Stream

_MOST_BINS = 1024
# Sorting takes some 60 ns a row, and more rows than 4,096 a bin would not make a better guess.
_MOST_ROWS = 4_194_304
# Bins that wait to be merged: few enough for little memory, many enough to be merged seldom.
_MOST_WAITING = 16 * _MOST_BINS


class Profile(NamedTuple):
    """Data with one predictor in at most 1,024 bins of neighbouring rows, in the order of ``x``.

    Up to 1,024 different values of ``x`` have a bin each; more are binned so that each bin holds
    about as many rows, however unevenly they are spaced. A first guess of the parameters is made
    from it: a model's ``guess`` is a function of a profile.

    Parameters
    ----------
    x, y : ndarray of shape (n_bins,)
        Weighted means over the rows of each bin, in the units of the data; ``x`` ascends.
    weight : ndarray of shape (n_bins,)
        Sums of the weights of the rows: ``sample_weight``, or 1 / sigma**2.
    n_rows : ndarray of shape (n_bins,)
        Rows in each bin; those of weight 0 are left out.
    x_range, y_range : tuple of float
        The smallest and the largest value in all rows.

    Examples
    --------
    >>> from nlsq_sklearn.models import Profile, michaelis_menten
    >>> profile = Profile.of([1.0, 4.0, 2.0, 4.0], [2.5, 5.2, 4.0, 4.8])
    >>> profile.x, profile.y
    (array([1., 2., 4.]), array([2.5, 4. , 5. ]))
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    n_rows: np.ndarray
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @classmethod
    def of(cls, x: object, y: object, weight: object = None) -> "Profile":
        """Return the profile of arrays in memory.

        Parameters
        ----------
        x, y : array-like of shape (n_rows,)
            The predictor and the data.
        weight : array-like of shape (n_rows,) or None, default=None
            How much each row counts.

        Returns
        -------
        Profile

        Raises
        ------
        ValueError
            If no row has a weight.
        """
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        weight = np.ones(y.size) if weight is None else np.asarray(weight, dtype=float)
        counts = weight > 0
        if not counts.any():
            raise ValueError("All weights are zero: no row counts, there is nothing to profile.")
        x, y, weight = x[counts], y[counts], weight[counts]
        return cls(
            *(x, y, weight, np.ones(y.size, dtype=np.int64)),
            (float(x.min()), float(x.max())),
            (float(y.min()), float(y.max())),
        )._binned()

    def _binned(self) -> "Profile":
        """Return the bins sorted, those of equal ``x`` joined, and neighbours until few remain."""
        bins = self
        if not (self.x[1:] >= self.x[:-1]).all():
            order = np.argsort(self.x, kind="stable")
            bins = self._with_bins(*(values[order] for values in self[:4]))
        bins = bins._joined(np.flatnonzero(np.diff(bins.x, prepend=-np.inf) > 0))
        if bins.x.size <= _MOST_BINS:
            return bins
        middle = np.cumsum(bins.n_rows) - bins.n_rows / 2
        place = (middle * (_MOST_BINS / bins.n_rows.sum())).astype(np.int64)
        return bins._joined(np.flatnonzero(np.diff(place, prepend=-1) > 0))

    def _joined(self, firsts: np.ndarray) -> "Profile":
        """Return wider bins, given the first of the old ones in each."""
        if firsts.size == self.x.size:
            return self
        weight = np.add.reduceat(self.weight, firsts)
        n_joined = np.diff(firsts, append=self.x.size)

        def mean(values: np.ndarray) -> np.ndarray:
            # About the first one: the mean of equal values is then that value, without rounding.
            anchor: np.ndarray = values[firsts]
            offset = values - np.repeat(anchor, n_joined)
            return anchor + np.add.reduceat(self.weight * offset, firsts) / weight

        n_rows = np.add.reduceat(self.n_rows, firsts)
        return self._with_bins(mean(self.x), mean(self.y), weight, n_rows)

    def _with_bins(
        self, x: np.ndarray, y: np.ndarray, weight: np.ndarray, n_rows: np.ndarray
    ) -> "Profile":
        return Profile(x, y, weight, n_rows, self.x_range, self.y_range)


def profile_rows(stream: Stream) -> Profile:
    """Return the profile of all rows, or of 4,194,304 spread evenly over them, in one pass.

    The rows may come in any order; the same chunks give the same bits.

    Raises
    ------
    ValueError
        If there are several predictors, or no row has a weight.
    """
    share = min(1.0, _MOST_ROWS / stream.n_rows)

    def profile(rows: ArrayStream) -> Profile | None:
        return _merge(rows.map_chunks(partial(_profile_chunk, share=share)))

    merged = _merge(stream.map_rows(profile, f"profile-{share}"))
    if merged is None:
        raise ValueError("All sample weights are zero: no row counts, there is nothing to fit.")
    return merged


def _profile_chunk(chunk: Chunk, share: float) -> Profile | None:
    """Return the profile of a chunk's rows, or of a share of them; None if no row has a weight."""
    weight = np.ones(chunk.n_rows)
    if chunk.weight is not None:
        weight = np.asarray(chunk.weight)[: chunk.n_rows]
    if chunk.sigma is not None:
        weight = weight / np.asarray(chunk.sigma)[: chunk.n_rows] ** 2
    taken: slice | np.ndarray = slice(chunk.n_rows)
    if share < 1.0:
        taken = sample_rows(chunk.n_rows, max(1, int(share * chunk.n_rows)))
    if not weight[taken].any():
        return None
    return Profile.of(np.asarray(chunk.x)[taken], np.asarray(chunk.y)[taken], weight[taken])


def _merge(parts: Iterable[Profile | None]) -> Profile | None:
    """Return the profile of the rows of all parts, in their order; None if there are none."""
    waiting: list[Profile] = []
    for part in parts:
        if part is not None:
            waiting.append(part)
        if sum(profile.x.size for profile in waiting) > _MOST_WAITING:
            waiting = [_concatenated(waiting)]
    return _concatenated(waiting) if waiting else None


def _concatenated(parts: list[Profile]) -> Profile:
    x, y, weight, n_rows = (
        np.concatenate(arrays) for arrays in zip(*(part[:4] for part in parts), strict=True)
    )
    x_range, y_range = (
        (min(low for low, _ in ranges), max(high for _, high in ranges))
        for ranges in zip(*(part[4:] for part in parts), strict=True)
    )
    return Profile(x, y, weight, n_rows, x_range, y_range)._binned()
