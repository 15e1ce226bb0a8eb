"""One look at rows after the fit: predictions and the score."""

from typing import Any, NamedTuple

import numpy as np

from .._engine.model import TracedModel
from .._engine.prediction import predict, predict_std
from .arrays import ArrayStream
from .rows import Stream, is_dask


class Moments(NamedTuple):
    """Weighted sums of some rows: of squares about the mean of y, and of the residuals."""

    weight: float
    mean: float
    squares: float
    residual_squares: float

    def __add__(self, other: "Moments") -> "Moments":  # type: ignore[override]
        """Return the moments of both, by the update that cancels no digits.

        References
        ----------
        .. [1] T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample
               variance", The American Statistician 37, 1983.
        """
        weight = self.weight + other.weight
        if weight == 0:
            return self
        gap = other.mean - self.mean
        return Moments(
            weight,
            self.mean + gap * other.weight / weight,
            self.squares + other.squares + gap**2 * self.weight * other.weight / weight,
            self.residual_squares + other.residual_squares,
        )


def predict_rows(
    model: TracedModel, x: Any, params: np.ndarray, covariance: np.ndarray | None = None
) -> Any:
    """Return the curve at the rows of ``x``, (n_rows, n_features), or its standard error.

    A Dask array gives a lazy one.

    Parameters
    ----------
    covariance : ndarray of shape (n_params, n_params) or None
        With it the standard error is returned.
    """

    def of_rows(x: np.ndarray) -> np.ndarray:
        table = x if x.ndim == 2 else x[:, np.newaxis]
        if len(table) == 0:
            return np.empty(0)
        zeros = np.broadcast_to(0.0, (len(table),))
        stream = ArrayStream(table, zeros, is_table=True, x_name="X")
        chunks = map(stream.chunk, range(stream.n_chunks))
        if covariance is None:
            return np.concatenate([predict(model, chunk, params) for chunk in chunks])
        return np.concatenate([predict_std(model, chunk, params, covariance) for chunk in chunks])

    if not is_dask(x):
        return of_rows(x)
    from dask.base import tokenize

    from .dask_arrays import map_table

    key = tokenize(model.fingerprint, x, params, covariance)
    return map_table(of_rows, x, name=f"nlsq_sklearn-predict-{key}")


def score_rows(model: TracedModel, stream: Stream, params: np.ndarray) -> float:
    """Return R2 of the curve, in one pass."""

    def moments(rows: ArrayStream) -> Moments:
        total = Moments(0.0, 0.0, 0.0, 0.0)
        for index in range(rows.n_chunks):
            chunk = rows.chunk(index)
            values = predict(model, chunk, params)
            y = np.asarray(chunk.y)[: chunk.n_rows]
            weight = np.ones(y.size) if chunk.weight is None else chunk.weight[: y.size]
            weight = np.asarray(weight)
            mean = float(np.average(y, weights=weight)) if weight.any() else 0.0
            total += Moments(
                float(weight.sum()),
                mean,
                float(weight @ (y - mean) ** 2),
                float(weight @ (y - values) ** 2),
            )
        return total

    key = f"score-{model.fingerprint}-{params.tobytes().hex()}"
    total = Moments(0.0, 0.0, 0.0, 0.0)
    for part in stream.map_rows(moments, key):
        total += part
    if total.squares == 0:
        return 1.0 if total.residual_squares == 0 else 0.0
    return 1.0 - total.residual_squares / total.squares
