"""What to do about a model that can't be traced: what JAX and NumPy raise, in words."""

import re
from typing import NamedTuple

from jax import errors

_NUMPY = (
    "It uses a function of numpy, scipy or math on x or on a parameter: use that of jax.numpy "
    "(jnp.exp for np.exp and math.exp) or of jax.scipy."
)
_BRANCH = (
    "It decides by a value of x or of a parameter (if, while, and, or, min, max): write "
    "jnp.where(condition, a, b), of jax.numpy, for `a if condition else b`."
)
_MASK = "It picks rows by a condition: keep all rows, and write jnp.where(condition, a, b)."
_IN_PLACE = (
    "It changes an array in place: build a new one with jax.numpy, by jnp.where(condition, a, b) "
    "for instance."
)
_VECTOR = (
    "Its parameters come each by itself, behind x: write it as model(x, a, b, c), or wrap one "
    "that takes a vector of them, lambda x, *params: model(x, params), and give p0."
)
_UNPACKED = (
    "With one predictor x has the shape (n_rows,) and is used as it is; parameters come behind "
    "it, each by itself: model(x, a, b, c)."
)
_INDEXED = (
    "With one predictor x has the shape (n_rows,), also where X has a column for it: write x for "
    "x[:, 0]. Parameters are numbers, each by itself."
)
_KEYWORD = "Its parameters are given by position: write no * before them."


class _Rule(NamedTuple):
    """What is advised where an error is of a kind, and its message holds a pattern."""

    kinds: tuple[type[Exception], ...]
    pattern: str
    advice: str


_RULES = (
    _Rule((errors.TracerBoolConversionError,), "", _BRANCH),
    _Rule((ValueError,), "truth value of an array", _BRANCH),
    _Rule((errors.NonConcreteBooleanIndexError,), "", _MASK),
    _Rule((TypeError,), "immutable", _IN_PLACE),
    _Rule((errors.TracerArrayConversionError, errors.ConcretizationTypeError), "", _NUMPY),
    _Rule((errors.TracerIntegerConversionError,), "", _NUMPY),
    _Rule((TypeError,), "[Oo]nly (scalar|length-1|0-dimensional) arrays", _NUMPY),
    _Rule((ValueError,), "setting an array element with a sequence", _NUMPY),
    _Rule((TypeError,), "keyword-only argument", _KEYWORD),
)
_OF_ONE_PARAMETER = (
    _Rule((TypeError,), "iteration over a 0-d array", _VECTOR),
    _Rule((IndexError,), "[Tt]oo many indices", _VECTOR),
)
_OF_ONE_PREDICTOR = (
    _Rule((ValueError,), "values to unpack", _UNPACKED),
    _Rule((IndexError,), "[Tt]oo many indices", _INDEXED),
)


def advise(error: Exception, n_params: int, n_features: int) -> str | None:
    """Return what to do about an error that a model raised when it was traced, None if unknown."""
    rules: list[_Rule] = [
        *_RULES,
        *(_OF_ONE_PARAMETER if n_params == 1 else ()),
        *(_OF_ONE_PREDICTOR if n_features == 1 else ()),
    ]
    for rule in rules:
        if isinstance(error, rule.kinds) and re.search(rule.pattern, str(error)):
            return rule.advice
    return None
