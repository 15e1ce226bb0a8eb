"""What the engine needs to know of a model: its parameters, that JAX can trace it, its key."""

import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .advice import advise
from .one_function import is_plain

Model = Callable[..., Any]

# The number of rows a model is traced with: unlikely as a number of parameters or predictors, so
# that a model that returns one value a parameter is not taken for one that returns one a row.
_TRACE_ROWS = 13


# A model whose only parameter has one of these names takes its parameters first.
_NAMES_OF_X = {"x", "xdata", "x_data", "xs"}


class TracedModel(NamedTuple):
    """A model that JAX can trace.

    Attributes
    ----------
    function : callable
        ``function(x, *params)``; ``x`` of shape (n_rows,) or (n_features, n_rows).
    param_names : tuple of str
    n_features : int
        Predictors; with one, ``x`` has one dimension.
    fingerprint : str
        Equal for models that compute the same thing in the same way, whatever their identity:
        a digest of the traced program of the model and its derivative, constants included.
    is_plain : bool
        Whether that program can be compiled to one machine function.
    """

    function: Model
    param_names: tuple[str, ...]
    n_features: int
    fingerprint: str
    is_plain: bool

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return len(self.param_names)


def parameter_names(model: Model, n_params: int | None) -> tuple[str, ...]:
    """Return the names of the model's parameters, from its signature.

    Parameters
    ----------
    model : callable
        ``model(x, *params)``.
    n_params : int or None
        The number the user states; needed only where the signature has ``*args``.

    Raises
    ------
    TypeError
        If ``model`` is not callable.
    ValueError
        If the signature doesn't tell the number of parameters, or tells another one.
    """
    if inspect.isclass(model):
        raise TypeError(
            f"model must be a function model(x, *params), got the class {model.__name__}. Give an "
            f"instance that can be called, {model.__name__}(...), or one of its methods."
        )
    if not callable(model):
        raise TypeError(
            f"model must be a function model(x, *params), got {type(model).__name__}: {model!r}."
        )
    positional, is_open = _positional_parameters(model)
    if len(positional) == 2 and positional[1].lower() in _NAMES_OF_X and not is_open:
        raise ValueError(
            f"The arguments of the model are ({', '.join(positional)}). x comes first, then each "
            "parameter by itself: write it as model(x, a, b, c), or wrap one that takes a vector "
            f"of them, lambda x, *params: model(params, x), and give p0."
        )
    if is_open:
        if n_params is None:
            raise ValueError(
                "The number of parameters can't be read from the model's signature, which has "
                "*args. Give n_params, or p0: one start for each."
            )
        if n_params < 1:
            raise ValueError(f"A model needs at least one parameter to fit, got {n_params}.")
        numbered = list(positional[1:])[:n_params]
        while len(numbered) < n_params:
            name = f"p{len(numbered)}"
            numbered.append(name if name not in numbered else f"{name}_")
        return tuple(numbered)
    names = positional[1:]
    if n_params is not None and n_params != len(names):
        raise ValueError(
            f"n_params is {n_params}, but the model takes {len(names)} parameters after x: "
            f"{', '.join(names) or 'none'}."
        )
    if not names:
        raise ValueError(
            "The model takes no parameter to fit: it must be a function model(x, *params)."
        )
    return names


def has_star(model: Model) -> bool:
    """Return whether the signature of a function leaves the number of parameters open."""
    return callable(model) and _positional_parameters(model)[1]


def _positional_parameters(model: Model) -> tuple[tuple[str, ...], bool]:
    """Return the names of the positional arguments, x first, and whether ``*args`` follows."""
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):  # builtins and some C functions have no signature
        return ("x",), True
    kinds = inspect.Parameter
    names = tuple(
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    )
    is_open = any(p.kind is kinds.VAR_POSITIONAL for p in signature.parameters.values())
    return names, is_open


def trace_model(model: Model, param_names: tuple[str, ...], n_features: int) -> TracedModel:
    """Trace the model once, abstractly, and return it with its fingerprint.

    Raises
    ------
    TypeError
        If JAX cannot trace the model.
    ValueError
        If the model does not return one real value for each row.
    """
    shape = (_TRACE_ROWS,) if n_features == 1 else (n_features, _TRACE_ROWS)
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct(shape, np.float64)
        params = [jax.ShapeDtypeStruct((), np.float64)] * len(param_names)
        value = _shape_of_value(model, x, params)
        _check_value(value, shape)
        _check_predictors(model, x, params)

        def value_and_tangent(x: Any, *params: Any) -> Any:
            # The derivative is part of the key: models may define their own (jax.custom_jvp).
            return jax.jvp(lambda *q: model(x, *q), params, params)

        program = jax.make_jaxpr(value_and_tangent)(x, *params)
        digest = hashlib.sha256()
        # Functions inside a traced program are printed with their address in memory.
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(program)).encode())
        for constant in _constants(program):
            array = np.asarray(constant)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return TracedModel(model, param_names, n_features, digest.hexdigest(), is_plain(program))


def _constants(program: Any) -> Iterator[Any]:
    """Yield the arrays that a traced program closes over, those of functions it calls too."""
    yield from getattr(program, "consts", ())
    equations = getattr(program, "jaxpr", program).eqns
    for equation in equations:
        if "callback" in equation.primitive.name:
            raise ValueError(
                "The model calls back into Python (jax.pure_callback and its like): what it "
                "computes can't be compiled, nor told from another model's. Write it with "
                "jax.numpy."
            )
        for variable in equation.invars:
            if hasattr(variable, "val"):  # a literal, which may be printed with fewer digits
                yield variable.val
        for inner in jax.tree_util.tree_leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                yield from _constants(inner)


def _shape_of_value(model: Model, x: Any, params: list[Any]) -> Any:
    """Return the shape and dtype of the model's value, or say what stands in the way of it."""
    try:
        # JAX keeps traces for as long as the function lives: a new one, so that they go.
        return jax.eval_shape(lambda x, *q: model(x, *q), x, *params)
    except Exception as error:
        n_features = 1 if len(x.shape) == 1 else x.shape[0]
        advice = advise(error, len(params), n_features)
        if advice is not None:
            raise TypeError(
                f"The model {_name(model)} can't be traced by JAX. {advice} "
                f"(What it raised: {_first_line(error)})"
            ) from error
        if isinstance(error, TypeError):
            raise TypeError(
                f"The model {_name(model)} could not be called with x of shape {x.shape} and "
                f"{len(params)} parameters, as it was with {_TRACE_ROWS} rows to try it: "
                f"{_first_line(error)}"
            ) from error
        raise  # the user's own error keeps its words


def _check_predictors(model: Model, x: Any, params: list[Any]) -> None:
    """Refuse x[2] of two predictors: of an array, JAX takes the last one without a word.

    Where a model also uses the predictors as one array, that is not found out.
    """
    if len(x.shape) == 1:
        return
    try:
        jax.eval_shape(lambda x, *q: model(tuple(x), *q), x, *params)
    except IndexError as error:
        if "tuple index out of range" in str(error):
            raise IndexError(
                f"The model {_name(model)} asks for a predictor beyond the {x.shape[0]} that X "
                f"has, which are x[0] to x[{x.shape[0] - 1}]."
            ) from error
    except Exception:  # what needs an array can't be asked in this way
        return


def _check_value(value: Any, shape: tuple[int, ...]) -> None:
    """Refuse a model whose value is not one real number for each row (or one for all rows)."""
    rows = shape[-1]
    if not isinstance(value, jax.ShapeDtypeStruct):
        hint = " It has no return." if value is None else ""
        raise ValueError(
            f"The model must return one array, got {type(value).__name__}: return the curve's "
            f"value for each row of x.{hint}"
        )
    if value.shape not in ((rows,), ()):
        hint = ""
        if len(shape) > 1:
            hint = (
                " With several predictors x has the shape (n_features, n_rows), so that "
                "`x1, x2 = x` works in the model."
            )
        raise ValueError(
            f"The model returns an array of shape {value.shape} for x of shape {shape}, {rows} "
            f"rows to try it; expected ({rows},), one value for each row.{hint}"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating) and not jnp.issubdtype(
        value.dtype, jnp.integer
    ):
        raise ValueError(
            f"The model returns {value.dtype} values; expected real numbers. A complex model is "
            "fitted by its real and imaginary parts, one after the other along the rows."
        )


def _name(model: Model) -> str:
    return getattr(model, "__name__", type(model).__name__)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
