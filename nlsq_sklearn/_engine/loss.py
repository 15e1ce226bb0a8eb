"""Robust losses, with the meaning and the scale that `scipy.optimize.least_squares` gives them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class LossValues(NamedTuple):
    """A loss and its first two derivatives with respect to ``z``, each of the shape of ``z``."""

    rho: jax.Array
    first: jax.Array
    second: jax.Array


def _huber(z: jax.Array) -> LossValues:
    inside = z <= 1
    # The root's derivative is infinite at 0, where the other branch is taken anyway.
    root = jnp.sqrt(jnp.where(inside, 1.0, z))
    return LossValues(
        jnp.where(inside, z, 2 * root - 1),
        jnp.where(inside, 1.0, 1 / root),
        jnp.where(inside, 0.0, -0.5 / root**3),
    )


def _soft_l1(z: jax.Array) -> LossValues:
    root = jnp.sqrt(1 + z)
    # 2 (root - 1) loses every digit of a small z; this form of it loses none.
    return LossValues(2 * z / (root + 1), 1 / root, -0.5 / root**3)


def _cauchy(z: jax.Array) -> LossValues:
    return LossValues(jnp.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2)


def _arctan(z: jax.Array) -> LossValues:
    return LossValues(jnp.arctan(z), 1 / (1 + z**2), -2 * z / (1 + z**2) ** 2)


ROBUST_LOSSES: dict[str, Callable[[jax.Array], LossValues]] = {
    "huber": _huber,
    "soft_l1": _soft_l1,
    "cauchy": _cauchy,
    "arctan": _arctan,
}
"""``rho(z)`` by name, ``z`` being the squared residual over the squared scale [1]_.

References
----------
.. [1] B. Triggs et al., "Bundle Adjustment - A Modern Synthesis", 2000, section 3.
"""

LOSS_NAMES = ("linear", *ROBUST_LOSSES)
