"""The curve at rows of predictors, and its standard error by the delta method."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .kernel import Chunk
from .model import TracedModel
from .programs import ProgramKey, run_program


def predict(model: TracedModel, chunk: Chunk, params: np.ndarray) -> np.ndarray:
    """Return the model's values in the rows of a chunk, shape (n_rows,)."""

    def build() -> Callable[..., jax.Array]:
        def values(params: jax.Array, x: jax.Array) -> jax.Array:
            value = model.function(x, *params)
            return jnp.broadcast_to(value, x.shape[-1:]).astype(jnp.float64)

        return values

    x = _padded_x(chunk)
    key = ProgramKey(model.fingerprint, model.n_params, "predict", x.shape)
    return run_program(key, build, (params, x))[: chunk.n_rows]


def predict_std(
    model: TracedModel, chunk: Chunk, params: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
    """Return the standard error of the curve in the rows of a chunk, shape (n_rows,).

    It is ``sqrt(j' C j)`` with the gradient ``j`` of the model by the parameters, and infinite
    where that depends on a parameter which the data did not determine.

    Parameters
    ----------
    covariance : ndarray of shape (n_params, n_params)
        ``C``; infinite in the rows and columns of undetermined parameters.

    References
    ----------
    .. [1] G. A. F. Seber, C. J. Wild, "Nonlinear Regression", 1989, section 5.1.
    """
    is_undetermined = ~np.isfinite(np.diag(covariance))
    finite = np.where(np.isfinite(covariance), covariance, 0.0)
    eigenvalues, vectors = np.linalg.eigh(finite)
    factor = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))

    def build() -> Callable[..., jax.Array]:
        def standard_errors(
            params: jax.Array, x: jax.Array, factor: jax.Array, is_undetermined: jax.Array
        ) -> jax.Array:
            def curve(*params: jax.Array) -> jax.Array:
                value = model.function(x, *params)
                return jnp.broadcast_to(value, x.shape[-1:]).astype(jnp.float64)

            _, derivative = jax.linearize(curve, *params)
            columns = [derivative(*direction) for direction in np.eye(model.n_params)]
            jacobian = jnp.stack([jnp.broadcast_to(c, x.shape[-1:]) for c in columns])
            variance = jnp.sum((factor.T @ jacobian) ** 2, axis=0)
            unknown = jnp.any((jacobian != 0) & is_undetermined[:, jnp.newaxis], axis=0)
            return jnp.where(unknown, jnp.inf, jnp.sqrt(variance))

        return standard_errors

    x = _padded_x(chunk)
    key = ProgramKey(model.fingerprint, model.n_params, "standard error", x.shape)
    return run_program(key, build, (params, x, factor, is_undetermined))[: chunk.n_rows]


def _padded_x(chunk: Chunk) -> np.ndarray:
    """Return the predictors of a chunk, filled up with its last row to what programs share."""
    x = np.asarray(chunk.x)
    missing = chunk.capacity - x.shape[-1]
    if not missing:
        return x
    return np.concatenate([x, np.repeat(x[..., -1:], missing, axis=-1)], axis=-1)
