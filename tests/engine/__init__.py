"""Tests of the engine, one file a module; and what several of them build their problems from."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn._engine.equations import Equations
from nlsq_sklearn._engine.kernel import Chunk, Objective, padded_rows
from nlsq_sklearn._engine.model import parameter_names, trace_model
from nlsq_sklearn._engine.subproblem import Bounds


def objective(model, *, loss="linear", f_scale=1.0, n_features=1, n_params=None):
    """Return the objective of a model."""
    traced = trace_model(model, parameter_names(model, n_params), n_features)
    return Objective(traced, loss, f_scale)


def padded_chunk(x, y, *, sigma=None, weight=None, rows=None, fill=None):
    """Return a chunk padded to ``rows``, with copies of its last row or with ``fill``."""
    rows = rows or padded_rows(len(y))

    def pad(values):
        if values is None:
            return None
        values = np.asarray(values, dtype=float)
        padded = np.empty((*values.shape[:-1], rows))
        padded[..., : len(y)] = values
        padded[..., len(y) :] = values[..., -1:] if fill is None else fill
        return padded

    return Chunk(pad(x), pad(y), pad(sigma), pad(weight), len(y), rows)


def equations_of(residual, jacobian, model_values=None):
    """Return the normal equations of residuals (n,) and their Jacobian (n, p), by NumPy."""
    values = residual if model_values is None else model_values
    return Equations(
        gram=jacobian.T @ jacobian,
        gradient=jacobian.T @ residual,
        cost=float(0.5 * residual @ residual),
        model_norm=float(0.5 * values @ values),
        n_rows=residual.size,
    )


def open_bounds(n_params):
    """Return bounds that bound nothing."""
    return Bounds(np.full(n_params, -np.inf), np.full(n_params, np.inf))


def assert_equal_up_to_rounding(equations, expected, rtol=1e-12, terms=None):
    """Compare two equations, each number against the products it is a sum of.

    Sums of n terms in another order differ by up to n eps of the sum of their absolute values;
    n is at most 10^4 in these tests, and the signs of rounding errors are as good as random.
    Under a robust loss the terms are those of the linear one, whose equations ``terms`` are: the
    curvature of an outlier is a difference of numbers of that size.
    """
    terms = expected if terms is None else terms
    norms = terms.column_norms
    length = np.sqrt(2 * terms.cost)
    np.testing.assert_array_less(
        np.abs(equations.gram - expected.gram), rtol * np.outer(norms, norms) + 1e-300
    )
    np.testing.assert_array_less(
        np.abs(equations.gradient - expected.gradient), rtol * norms * length + 1e-300
    )
    np.testing.assert_allclose(equations.cost, expected.cost, rtol=rtol)
    np.testing.assert_allclose(equations.model_norm, expected.model_norm, rtol=rtol)
    assert equations.n_rows == expected.n_rows


class Curve(NamedTuple):
    """A model and, written down by hand, its values and its Jacobian in NumPy."""

    model: object
    values: object
    jacobian: object


DECAY = Curve(
    model=lambda x, a, b, c: a * jnp.exp(-b * x) + c,
    values=lambda x, a, b, c: a * np.exp(-b * x) + c,
    jacobian=lambda x, a, b, c: np.stack(
        [np.exp(-b * x), -a * x * np.exp(-b * x), np.ones_like(x)], axis=1
    ),
)
