"""One look at rows after the fit: predictions and the score."""

from typing import Any

import numpy as np

from .._engine.model import TracedModel
from .._engine.prediction import predict, predict_std
from .._engine.spread import NO_SPREAD, Spread, r2
from .arrays import ArrayStream
from .rows import Stream, is_dask


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

    def scan(rows: ArrayStream) -> tuple[Spread, float]:
        spread, residual_squares = NO_SPREAD, 0.0
        for index in range(rows.n_chunks):
            chunk = rows.chunk(index)
            residual = np.asarray(chunk.y)[: chunk.n_rows] - predict(model, chunk, params)
            weighted = residual
            if chunk.weight is not None:
                weighted = np.asarray(chunk.weight)[: chunk.n_rows] * residual
            residual_squares += float(weighted @ residual)
            assert chunk.spread is not None
            spread += chunk.spread
        return spread, residual_squares

    key = f"score-{model.fingerprint}-{params.tobytes().hex()}"
    spread, residual_squares = NO_SPREAD, 0.0
    for part in stream.map_rows(scan, key):
        spread, residual_squares = spread + part[0], residual_squares + part[1]
    return r2(residual_squares, spread)
