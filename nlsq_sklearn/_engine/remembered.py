"""Models that were traced before, and what their traces depended on.

Tracing takes milliseconds, and many fits and batches use the same function. But a function is more
than its code: a notebook may change a constant that it reads, and then it is another model. So a
trace is used again only where everything that the function can reach is the same by value; where
that can't be told, the model is traced again.
"""

import functools
import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from operator import is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from .model import Model, TracedModel, trace_model

_MOST_TRACES = 128
_MOST_BYTES = 65_536  # of an array that is compared by value at each fit
# What a model may know of itself; a trace does not depend on it, unless the code names it.
_OWN_ATTRIBUTES = {"bounds", "guess", "formula"}
# By these a function reaches what its code does not name.
_REACHING_FAR = {"eval", "exec", "globals", "open", "vars", "__import__"}
_REACHING_FAR |= {"getattr", "attrgetter", "__dict__", "__getattribute__"}
# Libraries whose functions and constants nobody changes while a program runs.
_LIBRARIES = {"jax", "jaxlib", "math", "numpy", "scipy", "functools", "operator"}

# What is known of each: the functions themselves, and what they close over, are not kept alive.
_traces: OrderedDict[Hashable, tuple[str, bool]] = OrderedDict()
# Models and points at which they were seen to give each row a value of its own.
_row_wise: OrderedDict[tuple[str, bytes], None] = OrderedDict()
# Of each function that reaches nothing which changes in itself: what it reached the last time.
_last: WeakKeyDictionary[Any, "_Last"] = WeakKeyDictionary()
_UNCHANGING = {types.CodeType, types.ModuleType, type(None), bool, int, float, complex, str, bytes}
_lock = threading.Lock()


class _Last(NamedTuple):
    """The objects that a function reached when it was last asked for, and what is known of it."""

    reached: list[Any]
    param_names: tuple[str, ...]
    n_features: int
    known: tuple[str, bool]

    def is_same(self, reached: list[Any], param_names: tuple[str, ...], n_features: int) -> bool:
        """Return whether it reaches the very same objects."""
        return (
            self.param_names == param_names
            and self.n_features == n_features
            and len(self.reached) == len(reached)
            and all(map(is_, self.reached, reached))
        )


class _CannotTellError(Exception):
    """A function reaches something that may change without a trace."""


def traced(model: Model, param_names: tuple[str, ...], n_features: int) -> TracedModel:
    """Return the traced model, from an earlier trace where nothing that it reaches has changed.

    Raises
    ------
    TypeError, ValueError
        See `trace_model`.
    """
    reached = _reached(model)
    last = _last.get(model) if reached else None
    if last is not None and last.is_same(reached, param_names, n_features):
        return TracedModel(model, param_names, n_features, *last.known)
    try:
        key = (_function_key(model, ()), param_names, n_features)
    except _CannotTellError:
        return trace_model(model, param_names, n_features)
    with _lock:
        known = _traces.get(key)
        if known is not None:
            _traces.move_to_end(key)
    if known is None:
        new = trace_model(model, param_names, n_features)
        known = new.fingerprint, new.is_plain
        with _lock:
            _traces[key] = known
            if len(_traces) > _MOST_TRACES:
                _traces.popitem(last=False)
    if reached and all(type(value) in _UNCHANGING for value in reached):
        _last[model] = _Last(reached, param_names, n_features, known)
    return TracedModel(model, param_names, n_features, *known)


def is_row_wise(fingerprint: str, point: np.ndarray) -> bool:
    """Return whether a model was seen, at this point, to give each row a value of its own."""
    return (fingerprint, point.tobytes()) in _row_wise


def remember_row_wise(fingerprint: str, point: np.ndarray) -> None:
    """Note that a model gives each row a value of its own at a point.

    At another one it may not: a mean over other rows can be multiplied by a parameter that is 0.
    """
    with _lock:
        _row_wise[fingerprint, point.tobytes()] = None
        if len(_row_wise) > _MOST_TRACES:
            _row_wise.popitem(last=False)


def _reached(function: Any) -> list[Any]:
    """Return the objects that a function reaches, its code first; none where that is unclear."""
    if type(function) is not types.FunctionType or function.__dict__ or function.__kwdefaults__:
        return []
    names, variables = _names_of(function.__code__), function.__globals__
    if names is None:
        return []
    reached: list[Any] = [function.__code__, *(function.__defaults__ or ())]
    # What is no global may be a module that is imported within the function.
    reached += [variables[n] if n in variables else sys.modules.get(n) for n in names]
    if function.__closure__ is not None:
        try:
            reached += [cell.cell_contents for cell in function.__closure__]
        except ValueError:  # a variable that has no value yet
            return []
    return reached


def _function_key(function: Any, outer: tuple[Any, ...]) -> Hashable:
    """Return what a function is: its code, and the values of all that the code can name."""
    # Other attributes may change, and the code may read them.
    if type(function) is not types.FunctionType or not _OWN_ATTRIBUTES.issuperset(
        function.__dict__
    ):
        raise _CannotTellError
    if function in outer:  # it calls itself
        return outer.index(function)
    outer = (*outer, function)
    names, variables = _names_of(function.__code__), function.__globals__
    if names is None:
        raise _CannotTellError
    named = []
    for name in names:
        if name in variables:
            named.append((name, _value_key(variables[name], outer)))
        elif name in sys.modules and name.split(".")[0] not in _LIBRARIES:
            # A module that is imported within the function is named, but is no global.
            raise _CannotTellError
    try:
        enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError as error:  # a variable that has no value yet
        raise _CannotTellError from error
    defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
    return (
        function.__code__,
        tuple(named),
        *(_value_key(value, outer) for value in [*enclosed, *defaults]),
    )


@functools.lru_cache(maxsize=_MOST_TRACES)
def _names_of(code: types.CodeType) -> list[str] | None:
    """Return the names that code uses, sorted; None where it may reach more than it names."""
    names = set(_names(code))
    return None if names & (_REACHING_FAR | _OWN_ATTRIBUTES) else sorted(names)


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes that code uses, in the functions it makes too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _value_key(value: Any, outer: tuple[Any, ...]) -> Hashable:
    """Return a key that equals another's only for equal values."""
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return type(value), value
    if isinstance(value, (float, complex)):
        return type(value), repr(value)  # tells -0.0 from 0.0, and nan equals nan
    if isinstance(value, (np.ndarray, np.generic)) and value.nbytes <= _MOST_BYTES:
        if value.dtype.hasobject:
            raise _CannotTellError
        return type(value), value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, tuple):
        return tuple(_value_key(item, outer) for item in value)
    if _is_of_library(value):
        return "library", id(value)  # it lives as long as the library
    return _function_key(value, outer)


def _is_of_library(value: Any) -> bool:
    """Return whether a value is a module of a library, or found in one under its own name."""
    if isinstance(value, types.ModuleType):
        return value.__name__.split(".")[0] in _LIBRARIES
    home, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(home, str) or not isinstance(name, str):
        return False
    is_library = home.split(".")[0] in _LIBRARIES
    return is_library and getattr(sys.modules.get(home), name, None) is value
