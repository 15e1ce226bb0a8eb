"""The losses are SciPy's, from the smallest residual to the largest."""

from decimal import Decimal, localcontext

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize._lsq.least_squares import IMPLEMENTED_LOSSES

from nlsq_sklearn._engine.loss import LOSS_NAMES, ROBUST_LOSSES

_EPS = np.finfo(float).eps
_NAMES = sorted(ROBUST_LOSSES)
# Square roots, quotients and powers, each correct to an ulp or two.
_RTOL = 16 * _EPS
# Derivatives below the normal numbers are 0 for all that a fit can tell.
_TINY = np.finfo(float).tiny


def _ours(name, z):
    """Return rho and its two derivatives, shape (3, n)."""
    with jax.enable_x64(True):
        return np.stack([np.asarray(part) for part in ROBUST_LOSSES[name](jax.numpy.asarray(z))])


def _scipys(name, z):
    """Return the same of SciPy."""
    rho = np.empty((3, z.size))
    with np.errstate(over="ignore"):
        IMPLEMENTED_LOSSES[name](z, rho, cost_only=False)
    return rho


def _exact_rho(name, z):
    """Return rho(z) of a small z, to 60 digits."""
    with localcontext() as context:
        context.prec = 400  # 1 + z must hold all digits of a z of 1e-300
        z = Decimal(float(z))
        if name == "huber":
            return z
        if name == "soft_l1":
            return 2 * ((1 + z).sqrt() - 1)
        if name == "cauchy":
            return z - z**2 / 2 + z**3 / 3 - z**4 / 4 + z**5 / 5 - z**6 / 6
        return z - z**3 / 3 + z**5 / 5


def test_the_losses_are_those_that_scipy_has():
    assert set(LOSS_NAMES) == set(IMPLEMENTED_LOSSES) | {"linear"}


@pytest.mark.parametrize("name", _NAMES)
def test_a_loss_and_its_derivatives_are_those_of_scipy_from_0_to_1e300(name):
    z = np.concatenate([[0.0], np.logspace(-20, 300, 641), np.linspace(0.5, 1.5, 101)])
    ours, scipys = _ours(name, z), _scipys(name, z)
    # SciPy's soft_l1 subtracts 1 from the root of 1 + z: off by an ulp of 1.
    atol = 2 * _EPS if name == "soft_l1" else _TINY
    np.testing.assert_allclose(ours[0], scipys[0], rtol=_RTOL, atol=atol)
    np.testing.assert_allclose(ours[1:], scipys[1:], rtol=_RTOL, atol=_TINY)


@pytest.mark.parametrize("name", _NAMES)
def test_a_loss_loses_no_digit_of_a_small_residual(name):
    z = 3.7 * np.logspace(-300, -9, 292)
    for value, at in zip(_ours(name, z)[0], z, strict=True):
        exact = _exact_rho(name, at)
        assert abs(Decimal(float(value)) - exact) <= 4 * Decimal(_EPS) * exact


@pytest.mark.parametrize("name", _NAMES)
def test_a_loss_is_the_squared_residual_where_that_is_small(name):
    assert _ours(name, np.zeros(1))[:2, 0].tolist() == [0.0, 1.0]


def test_huber_and_its_derivative_are_continuous_at_1():
    below, above = np.nextafter(1.0, 0.0), np.nextafter(1.0, 2.0)
    rho, first, _ = _ours("huber", np.array([below, 1.0, above]))
    assert np.ptp(rho) <= 3 * _EPS
    assert np.ptp(first) <= 3 * _EPS


def test_the_second_derivative_of_huber_is_that_of_its_branch():
    second = _ours("huber", np.array([0.5, 1.0, np.nextafter(1.0, 2.0), 4.0]))[2]
    np.testing.assert_allclose(second, [0, 0, -0.5, -1 / 16], rtol=_RTOL)


@pytest.mark.parametrize("name", _NAMES)
@settings(deadline=None, max_examples=50)
@given(z=st.lists(st.floats(0, 1e300), min_size=16, max_size=16))
def test_a_loss_is_increasing_concave_and_never_above_the_squared_residual(name, z):
    z = np.sort(z)
    rho, first, second = _ours(name, z)
    assert np.isfinite([rho, first, second]).all()
    assert (rho <= z * (1 + _RTOL)).all()
    assert (np.diff(rho) >= -_RTOL * rho[1:]).all()
    assert (np.diff(first) <= _RTOL).all()
    assert ((first >= 0) & (first <= 1)).all()
    assert (second <= 0).all()
