"""A program compiled to a single machine function, which XLA does of itself for small loops only.

On a CPU XLA compiles each operation of a program to a function of its own, by compilers of their
own, and calls these one by one, by several threads where they are many. What it marks as a small
call it compiles as a whole: in half the time, and on JAX 0.10 to code that runs up to three times
as fast. The mark can be set from outside. But it is only for plain arithmetic, as it is in most
curves: within such a call XLA knows no matrix product, no sort and no call of a library.
"""

from collections.abc import Callable
from typing import Any

import jax

_NEXT_VERSION = (0, 13)  # of JAX, with which this was not tried
_IS_KNOWN = jax.__version_info__ < _NEXT_VERSION
if _IS_KNOWN:
    from jax.experimental.xla_metadata import set_xla_metadata

# The second keeps XLA from dissolving the call before it has seen the mark.
_MARK = {"xla_cpu_small_call": "true", "inlineable": "false"}

_ARITHMETIC = """
    abs add add_any and ceil clamp cos div eq exp exp2 expm1 floor ge gt integer_pow is_finite le
    log log1p log2 logistic lt max min mul ne neg not one_minus_square or polynomial pow rem round
    rsqrt select_n sign sin sqrt square sub tan tanh xor
"""
_SPECIAL = """
    acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cosh digamma erf erf_inv erfc
    lgamma nextafter sinh complex conj imag real
"""
_SHAPES = """
    bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy copy_p device_put
    dynamic_slice expand_dims gather iota pad reshape rev slice split squeeze stack stop_gradient
    transpose
"""
_CALLS = "jit pjit closed_call core_call custom_jvp_call custom_vjp_call"
_PLAIN = {*_ARITHMETIC.split(), *_SPECIAL.split(), *_SHAPES.split(), *_CALLS.split()}


def is_plain(program: Any) -> bool:
    """Return whether a traced program holds nothing but what can be compiled to one function."""
    if not _IS_KNOWN:
        return False
    for equation in getattr(program, "jaxpr", program).eqns:
        if equation.primitive.name not in _PLAIN:
            return False
        inner = jax.tree_util.tree_leaves(list(equation.params.values()))
        if not all(is_plain(part) for part in inner if hasattr(part, "eqns")):
            return False
    return True


def as_one_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that, within a program for a CPU, is compiled to one machine function."""

    def without_mark(*arguments: Any) -> Any:
        with set_xla_metadata(**dict.fromkeys(_MARK)):
            return function(*arguments)

    inner = jax.jit(without_mark)

    def marked(*arguments: Any) -> Any:
        with set_xla_metadata(**_MARK):
            return inner(*arguments)

    return marked
