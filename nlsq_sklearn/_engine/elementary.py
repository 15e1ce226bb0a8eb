"""exp, sin, cos and pow in arithmetic that a compiler vectorises.

XLA on the CPU calls the C library for each number that pow takes, and sin and cos on JAX 0.10
always, on 0.12 wherever their values are written to memory: 10 to 20 ns a number. What stands here
is additions, products and selections alone, 1 to 7 ns. exp, sin and cos are within 1 unit in the
last place, pow within 2, or 16 near its overflow, where the last bit of its arguments means more:
the tests hold them to mpmath.

A product whose rounding would matter is made exact by cutting its factors, so that a compiler that
contracts it into a fused multiply-add changes nothing.

References
----------
.. [1] W. J. Cody and W. Waite, "Software Manual for the Elementary Functions", 1980.
.. [2] J.-M. Muller, "Elementary Functions: Algorithms and Implementation", 3rd ed., 2016,
   chapters 4 (polynomials), 11 (range reduction), 13 (powers).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LARGEST_ANGLE = 2.0**27
"""Angles in radians up to here are reduced exactly; what is beyond needs another method."""

# pi/2 in three pieces of 26 bits, whose products with a quadrant are exact, and the rest.
_HALF_PI = (
    1.5707963109016418,
    1.5893254712295857e-08,
    6.123233932053594e-17,
    6.36831716351095e-25,
)
# Chebyshev interpolants in z = r^2 on |r| <= pi/4, r^2 (sin r - r) / r^3 within 2^-55 and
# z^2 (cos r - 1 + z/2) / z^2 within 2^-59, and in z = s^2 on |s| <= (sqrt 2 - 1) / (sqrt 2 + 1),
# (2 atanh s - 2 s) / s^3 within 2^-60 of atanh s / s; in r on |r| <= log(2) / 2,
# (e^r - 1 - r - r^2/2) / r^3 within 2^-60 of e^r.
_SIN = (
    -0.16666666666666666,
    0.008333333333330948,
    -0.00019841269836756774,
    2.7557316101617874e-06,
    -2.505113165023518e-08,
    1.5918115263265974e-10,
)
_COS = (
    0.041666666666666664,
    -0.0013888888888887398,
    2.480158729876456e-05,
    -2.7557317271145144e-07,
    2.087614614655861e-09,
    -1.1382623647474604e-11,
)
_LOG = (
    0.6666666666666666,
    0.4000000000000088,
    0.2857142857080323,
    0.2222222239180047,
    0.18181795630884753,
    0.15386240205813478,
    0.13268759668560612,
    0.13086767009948175,
)
_EXP = (
    0.16666666666666669,
    0.041666666666666664,
    0.008333333333330062,
    0.0013888888888886552,
    0.00019841269863053618,
    2.4801587317144498e-05,
    2.7557268459997064e-06,
    2.755728296954995e-07,
    2.510038549551032e-08,
    2.0911236630261545e-09,
)
_LN2_HIGH = 0.6931471805598903  # 42 bits: its product with an exponent is exact
_LN2_LOW = 5.497923018708371e-14
_SMALLEST_NORMAL = 2.0**-1022
_MANTISSA = np.uint64(0x000F_FFFF_FFFF_FFFF)
_INTEGER = 2.0**52  # added to a small integer, it leaves that in the last bits
_EXPONENT_BIAS = 1023.0
_HIGH_BITS = np.uint64(0xFFFF_FFFF_F000_0000)  # of a float64: 25 of the 53 bits of its significand


def sin_cos(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return sine and cosine of angles in radians up to `LARGEST_ANGLE`; beyond, nonsense."""
    quadrant = lax.round(x * (2 / math.pi), lax.RoundingMethod.TO_NEAREST_EVEN)
    high, low = _reduce_angle(x, quadrant)
    z = high * high
    cube = z * high
    # The terms of the polynomials that stand alone keep the bits that 1 and the angle would lose.
    sine = high + (cube * _polynomial(z, _SIN) + low * (1 - 0.5 * z))
    half = 0.5 * z
    near_one = 1 - half
    cosine = near_one + (((1 - near_one) - half) + (z * z * _polynomial(z, _COS) - high * low))
    is_odd = quadrant * 0.5 != jnp.floor(quadrant * 0.5)
    turn = quadrant * 0.25 - jnp.floor(quadrant * 0.25)  # 0, 1/4, 1/2 or 3/4
    sin = jnp.where(is_odd, cosine, sine)
    cos = jnp.where(is_odd, sine, cosine)
    sin_is_negative = turn >= 0.5
    cos_is_negative = (turn == 0.25) | (turn == 0.5)
    return jnp.where(sin_is_negative, -sin, sin), jnp.where(cos_is_negative, -cos, cos)


def _reduce_angle(x: jax.Array, quadrant: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return x - quadrant pi/2 as the unevaluated sum of two numbers."""
    rest = x - quadrant * _HALF_PI[0]  # exact: the two are within a factor of 2
    rest, first_error = _difference(rest, quadrant * _HALF_PI[1])
    rest, second_error = _difference(rest, quadrant * _HALF_PI[2])
    return _sum_ordered(rest, (first_error + second_error) - quadrant * _HALF_PI[3])


def exp(x: jax.Array, low: jax.Array | float = 0.0) -> jax.Array:
    """Return e to the power x + low, where low is below the last bit of x."""
    x = jnp.clip(x, -750.0, 720.0)  # beyond, the result is 0 or infinite
    exponent = lax.round(x * (1 / math.log(2)), lax.RoundingMethod.TO_NEAREST_EVEN)
    rest = (x - exponent * _LN2_HIGH) - (exponent * _LN2_LOW - low)
    value = 1 + (rest + rest * rest * (0.5 + rest * _polynomial(rest, _EXP)))
    half = jnp.floor(0.5 * exponent)  # 2^1024 is infinite, and e^709.7 is not
    return value * _power_of_two(half) * _power_of_two(exponent - half)


def power(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x to the power y, with the values at 0, infinity and below 0 that C's pow has."""
    size = jnp.abs(x)
    high, low = _log(size)
    # Beyond 2^70 all powers but those of 1 overflow or vanish; the clipped exponent can be cut.
    exponent = jnp.clip(y, -(2.0**70), 2.0**70)
    exponent_high, log_high = _cut(exponent), _cut(high)
    product = exponent_high * log_high
    rest = exponent_high * (high - log_high) + (exponent - exponent_high) * high + exponent * low
    product, rest = _sum_ordered(product, rest)
    result = exp(product, jnp.where(jnp.abs(product) < 800, rest, 0.0))
    is_limit = (size < _SMALLEST_NORMAL) | jnp.isinf(size)
    result = jnp.where(is_limit, _limit(size, y), result)
    is_whole = jnp.floor(y) == y
    is_odd = is_whole & (jnp.floor(y * 0.5) * 2 != y)
    below = jnp.where(is_whole | is_limit, jnp.where(is_odd, -result, result), jnp.nan)
    result = jnp.where(x < 0, below, result)
    result = jnp.where(jnp.isnan(x), x, result)
    return jnp.where(y == 0, 1.0, result)


def _limit(size: jax.Array, y: jax.Array) -> jax.Array:
    """Return the power y of 0 or of infinity. XLA takes subnormal numbers for 0, and so do we."""
    return jnp.where((size < 1) == (y > 0), 0.0, jnp.inf)


def _log(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the logarithm of normal positive numbers as the sum of two, good to 2^-57."""
    bits = lax.bitcast_convert_type(x, jnp.uint64)
    biased = lax.bitcast_convert_type(
        lax.shift_right_logical(bits, np.uint64(52)) | _bits_of(_INTEGER), jnp.float64
    )
    exponent = biased - (_INTEGER + _EXPONENT_BIAS)
    mantissa = lax.bitcast_convert_type((bits & _MANTISSA) | _bits_of(1.0), jnp.float64)
    is_large = mantissa > math.sqrt(2)
    mantissa = jnp.where(is_large, 0.5 * mantissa, mantissa)
    exponent = jnp.where(is_large, exponent + 1, exponent)
    # log m = 2 atanh(s), s = (m - 1) / (m + 1) = s_high + s_low.
    # Not by the error of mantissa + 1: XLA takes (m + 1) - 1 for m.
    numerator = mantissa - 1
    reciprocal = 1 / (mantissa + 1)
    s = numerator * reciprocal
    s_high, mantissa_high = _cut(s), _cut(mantissa)
    s_low = reciprocal * (
        (numerator - s_high * (mantissa_high + 1)) - s_high * (mantissa - mantissa_high)
    )
    z = s * s
    rest = 2 * s_low + z * s * _polynomial(z, _LOG)
    high, error = _sum_ordered(exponent * _LN2_HIGH, 2 * s_high)
    return _sum_ordered(high, error + (rest + exponent * _LN2_LOW))


def _polynomial(z: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Return c0 + c1 z + c2 z^2 + ... by Horner's rule."""
    value = jnp.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * z + coefficient
    return value


def _power_of_two(exponent: jax.Array) -> jax.Array:
    """Return 2 to the power of integers from -1022 to 1023."""
    bits = lax.bitcast_convert_type(exponent + (_INTEGER + _EXPONENT_BIAS), jnp.uint64)
    return lax.bitcast_convert_type(lax.shift_left(bits, np.uint64(52)), jnp.float64)


def _bits_of(value: float) -> np.uint64:
    return np.float64(value).view(np.uint64)


def _cut(x: jax.Array) -> jax.Array:
    """Return x with 25 bits left: the product of two such numbers is exact, and of one with 28."""
    bits = lax.bitcast_convert_type(x, jnp.uint64)
    return lax.bitcast_convert_type(bits & _HIGH_BITS, jnp.float64)


def _sum_ordered(large: jax.Array, small: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return large + small and its rounding error; the first is 0 or not the smaller one."""
    total = large + small
    return total, (large - total) + small


def _difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a - b and its rounding error, whichever is larger."""
    total = a - b
    b_kept = a - total
    return total, (a - (total + b_kept)) + (b_kept - b)
