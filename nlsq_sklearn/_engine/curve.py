"""A model's value and the columns of its Jacobian, each elementary function evaluated once.

XLA fuses a function into each of its consumers, so that the value, the columns and the sums of
their products would each evaluate its exp again. Here the model's traced program is run twice:
once for the values of its elementary functions, which are written to memory block by block, and
once with these values in place, for all that follows from them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend import core
from jax.extend.core import primitives

from . import elementary
from .model import TracedModel

Arrays = tuple[jax.Array, ...]


class Jacobian(NamedTuple):
    """A model at one parameter point.

    Attributes
    ----------
    value : Array of shape (rows,)
    columns : list of Array of shape (rows,)
        Derivatives by each parameter.
    is_out_of_range : Array of shape (rows,) or None
        Where an angle is too large to be reduced: value and columns are nonsense there.
    """

    value: jax.Array
    columns: list[jax.Array]
    is_out_of_range: jax.Array | None


class _Rule(NamedTuple):
    """How an elementary function is evaluated, and its value and derivatives from that.

    ``evaluate(*arguments)`` returns all that takes time, and ``complete(kept, *arguments)`` the
    value and the partial derivatives by each argument.
    """

    evaluate: Callable[..., Arrays]
    complete: Callable[..., tuple[jax.Array, Arrays]]
    takes_angle: bool = False


def evaluate(
    model: TracedModel,
    x: jax.Array,
    params: Sequence[jax.Array],
    has_rows: jax.Array,
    *,
    any_angle: bool,
) -> Jacobian:
    """Return value and Jacobian of the model at some rows.

    Parameters
    ----------
    x : Array of shape (rows,) or (n_features, rows)
    params : sequence of scalar Array
    has_rows : Array of shape ()
        True, which the compiler must not know.
    any_angle : bool
        Whether sine and cosine shall be right for angles of any size, and slow.
    """
    rows = x.shape[-1:]

    def curve(*params: jax.Array) -> jax.Array:
        return jnp.broadcast_to(model.function(x, *params), rows).astype(jnp.float64)

    program = jax.make_jaxpr(curve)(*params)
    rules = {
        primitive: rule
        for primitive, rule in _RULES.items()
        if not (any_angle and rule.takes_angle)
    }

    def evaluate_elementary() -> tuple[list[Arrays], jax.Array | None]:
        kept: list[Arrays] = []
        out_of_range: list[jax.Array] = []

        def keep(rule: _Rule, arguments: Sequence[jax.Array]) -> jax.Array:
            # Between two functions too: sin(exp(x)) would evaluate exp again.
            kept.append(lax.optimization_barrier(rule.evaluate(*arguments)))
            if rule.takes_angle:
                size = jnp.abs(arguments[0])
                is_out = (size > elementary.LARGEST_ANGLE) & jnp.isfinite(size)
                out_of_range.append(_in_any_of(is_out, rows))
            return rule.complete(kept[-1], *arguments)[0]

        _run(program.jaxpr, program.consts, params, rules, keep)
        return kept, reduce(jnp.logical_or, out_of_range) if out_of_range else None

    kept, is_out_of_range = _write_to_memory(evaluate_elementary, has_rows)

    def curve_of(index: int, param: jax.Array) -> jax.Array:
        remaining = iter(kept)

        def complete(rule: _Rule, arguments: Sequence[jax.Array]) -> jax.Array:
            value, partials = rule.complete(next(remaining), *map(lax.stop_gradient, arguments))
            return _with_derivatives(value, partials, tuple(arguments))

        moved = [*params[:index], param, *params[index + 1 :]]
        [value] = _run(program.jaxpr, program.consts, moved, rules, complete)
        return jnp.asarray(value)

    # One parameter at a time: what does not depend on it is not multiplied by 0 but left out.
    one = jnp.ones(())
    pairs = [
        jax.jvp(partial(curve_of, index), (param,), (one,)) for index, param in enumerate(params)
    ]
    return Jacobian(pairs[0][0], [column for _, column in pairs], is_out_of_range)


def _in_any_of(is_out: jax.Array, rows: tuple[int, ...]) -> jax.Array:
    """Return for each row whether it holds in any element of the row, shape (rows,).

    An array that has no axis of rows counts for all of them.
    """
    if is_out.shape == rows:
        return is_out
    if is_out.shape[-1:] == rows:
        return is_out.any(axis=tuple(range(is_out.ndim - 1)))
    if is_out.shape[:1] == rows:
        return is_out.any(axis=tuple(range(1, is_out.ndim)))
    return jnp.broadcast_to(is_out.any(), rows)


def _write_to_memory(function: Callable[[], Any], has_rows: jax.Array) -> Any:
    """Return what the function does, as arrays that are not evaluated again where they are used.

    XLA of JAX 0.10 drops ``optimization_barrier`` before it fuses; a condition stays.
    """
    shapes = jax.eval_shape(function)
    if not jax.tree.leaves(shapes):
        return function()

    def nothing() -> Any:
        return jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)

    return lax.cond(has_rows, function, nothing)


def _run(
    program: core.Jaxpr,
    constants: Sequence[Any],
    arguments: Sequence[Any],
    rules: Mapping[Any, _Rule],
    apply: Callable[[_Rule, Sequence[jax.Array]], jax.Array],
) -> list[Any]:
    """Run a traced program, elementary functions of rows by ``apply``."""
    values = dict(zip([*program.constvars, *program.invars], [*constants, *arguments], strict=True))
    for equation in program.eqns:
        inputs = [v.val if isinstance(v, core.Literal) else values[v] for v in equation.invars]
        primitive = equation.primitive
        outputs: Sequence[Any]
        if primitive in rules and _is_slow(equation):
            outputs = [apply(rules[primitive], inputs)]
        elif primitive is primitives.jit_p:
            inner = equation.params["jaxpr"]
            outputs = _run(inner.jaxpr, inner.consts, inputs, rules, apply)
        else:
            # Models' own derivatives (custom_jvp), loops and conditions stay as they are.
            bound = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
            outputs = bound if primitive.multiple_results else [bound]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [v.val if isinstance(v, core.Literal) else values[v] for v in program.outvars]


def _is_slow(equation: Any) -> bool:
    """Return whether an elementary function is one of rows, in float64, that takes time."""
    result, last = equation.outvars[0].aval, equation.invars[-1]
    is_root_or_product = (
        equation.primitive is primitives.pow_p
        and isinstance(last, core.Literal)
        and float(2 * last.val).is_integer()
    )
    return bool(result.shape) and result.dtype == np.float64 and not is_root_or_product


@jax.custom_jvp
def _with_derivatives(value: jax.Array, partials: Arrays, arguments: Arrays) -> jax.Array:
    """Return a value whose derivatives by some arguments are known."""
    return value


@partial(_with_derivatives.defjvp, symbolic_zeros=True)
def _differentiate(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    value, partials, _ = primals
    terms = [
        partial * tangent
        for partial, tangent in zip(partials, tangents[2], strict=True)
        if not isinstance(tangent, SymbolicZero)
    ]
    return value, reduce(jnp.add, terms) if terms else jnp.zeros_like(value)


def _sine(x: jax.Array) -> Arrays:
    return elementary.sin_cos(x)


def _power(x: jax.Array, y: jax.Array) -> Arrays:
    # The derivative by y where x is 0 is 0, as JAX has it.
    return elementary.power(x, y), lax.log(jnp.where(x == 0, 1.0, x))


def _complete_power(kept: Arrays, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Arrays]:
    value, logarithm = kept
    at_zero = jnp.where(y > 1, 0.0, jnp.where(y == 1, 1.0, jnp.inf))
    by_x = jnp.where(y == 0, 0.0, y * jnp.where(x == 0, at_zero, value / x))
    return value, (by_x, value * logarithm)


def _complete_tangent(kept: Arrays, x: jax.Array) -> tuple[jax.Array, Arrays]:
    value = kept[0] / kept[1]
    return value, (1 + value * value,)


def _native(
    function: Callable[[jax.Array], jax.Array],
    derivative: Callable[[jax.Array, jax.Array], jax.Array],
) -> _Rule:
    """Return the rule of a function that XLA evaluates well, with its derivative by value and x."""
    return _Rule(lambda x: (function(x),), lambda kept, x: (kept[0], (derivative(kept[0], x),)))


_RULES = {
    primitives.exp_p: _Rule(lambda x: (elementary.exp(x),), lambda kept, x: (kept[0], (kept[0],))),
    primitives.sin_p: _Rule(_sine, lambda kept, x: (kept[0], (kept[1],)), takes_angle=True),
    primitives.cos_p: _Rule(_sine, lambda kept, x: (kept[1], (-kept[0],)), takes_angle=True),
    primitives.tan_p: _Rule(_sine, _complete_tangent, takes_angle=True),
    primitives.pow_p: _Rule(_power, _complete_power),
    primitives.erf_p: _Rule(
        lambda x: (lax.erf(x), 2 / math.sqrt(math.pi) * elementary.exp(-x * x)),
        lambda kept, x: (kept[0], (kept[1],)),
    ),
    primitives.log_p: _native(lax.log, lambda value, x: 1 / x),
    primitives.log1p_p: _native(lax.log1p, lambda value, x: 1 / (1 + x)),
    primitives.expm1_p: _native(lax.expm1, lambda value, x: 1 + value),
    primitives.tanh_p: _native(lax.tanh, lambda value, x: (1 - value) * (1 + value)),
    primitives.logistic_p: _native(lax.logistic, lambda value, x: value * (1 - value)),
}
