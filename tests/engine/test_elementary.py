"""exp, sin, cos and pow against mpmath, in units in the last place of the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, workprec

from nlsq_sklearn._engine import elementary

# C's pow, with the values that IEEE 754 prescribes.
_SPECIAL = [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, np.inf, -np.inf, np.nan, 1e308]
_EXPONENTS = [0, 1, -1, 2, 3, -3, 0.5, -0.5, 2.5, 1e3, -1e3, 1e300, -1e300, np.inf, -np.inf]


def _run(function, *arguments):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*map(jnp.asarray, arguments)))


def _worst_error(values, exact, *arguments):
    """Return the largest error in units in the last place."""
    with workprec(2000):
        wanted = [exact(*map(mp.mpf, row)) for row in zip(*map(np.ravel, arguments), strict=True)]
        errors = [
            abs(mp.mpf(float(value)) - want) / mp.mpf(float(np.spacing(abs(float(want)))))
            for value, want in zip(np.ravel(values), wanted, strict=True)
        ]
    return float(max(errors))


def _angles(largest):
    """Return angles of all sizes, and those next to multiples of pi/2, where digits cancel."""
    rng = np.random.default_rng(0)
    quadrants = np.maximum(1, np.round(rng.uniform(0, largest / 1.6, 300)))
    near = quadrants * (np.pi / 2)
    return np.concatenate([rng.uniform(-largest, largest, 700), near, np.nextafter(near, np.inf)])


@pytest.mark.parametrize("largest", [1.0, 30.0, 1e4, elementary.LARGEST_ANGLE])
def test_sine_and_cosine_are_within_one_unit_in_the_last_place(largest):
    angles = _angles(largest)
    sine, cosine = _run(elementary.sin_cos, angles)
    assert _worst_error(sine, mp.sin, angles) < 1
    assert _worst_error(cosine, mp.cos, angles) < 1


def test_sine_and_cosine_of_what_is_not_finite_are_nan():
    sine, cosine = _run(elementary.sin_cos, np.array([np.inf, -np.inf, np.nan]))
    assert np.isnan([sine, cosine]).all()


@pytest.mark.parametrize("largest", [1e-3, 1.0, 40.0, 700.0])
def test_exp_is_within_one_unit_in_the_last_place(largest):
    x = np.random.default_rng(1).uniform(-largest, largest, 1500)
    assert _worst_error(_run(elementary.exp, x), mp.exp, x) < 1


def test_exp_overflows_and_vanishes_where_it_must():
    x = np.array([-np.inf, -1e300, -746.0, 0.0, 709.78, 709.79, 1e300, np.inf, np.nan])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(_run(elementary.exp, x), np.exp(x), rtol=1e-15)


@pytest.mark.parametrize(
    ("lowest", "highest", "exponent", "limit"),
    [
        (0.5, 2, 1, 2),
        (0.99, 1.01, 3, 2),
        (1e-5, 1e5, 3, 2),
        (1e-300, 1e300, 1, 4),
        (0.5, 2, 900, 16),
    ],
)
def test_pow_is_within_few_units_in_the_last_place(lowest, highest, exponent, limit):
    rng = np.random.default_rng(2)
    x = np.exp(rng.uniform(np.log(lowest), np.log(highest), 1500))
    y = rng.uniform(-exponent, exponent, 1500)
    assert _worst_error(_run(elementary.power, x, y), mp.power, x, y) < limit


def test_pow_has_the_values_of_c_at_0_and_infinity_and_below_0():
    x, y = map(np.ravel, np.meshgrid(_SPECIAL, _EXPONENTS))
    # Where C's result is subnormal, XLA's is 0.
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    kept = ~((np.abs(expected) < 2.3e-308) & (expected != 0))
    np.testing.assert_allclose(
        _run(elementary.power, x, y)[kept], expected[kept], rtol=5e-16, atol=0
    )
