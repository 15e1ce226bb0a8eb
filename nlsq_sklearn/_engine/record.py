"""`FitState` as numbers, lists and dictionaries, and back: what JSON can hold, bit for bit."""

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .equations import Equations
from .spread import Spread
from .state import FitState, Status
from .subproblem import Step

# One list an entry, without its keys, keeps the file of a long fit small.
_HISTORY_KEYS = (
    "n_passes",
    "params",
    "cost",
    "accepted",
    "damping",
    "step_length",
    "gain_ratio",
    "radius",
)

# No root of a sum of squares is smaller, but 0, which is no scale.
_LEAST_SCALE = 1e-162


def to_record(state: FitState) -> dict[str, Any]:
    """Return the state as a record. Python's floats go to JSON and back without a change."""
    return {
        "status": int(state.status),
        "params": _from_array(state.params),
        "equations": None if state.equations is None else equations_to_record(state.equations),
        "scale": _from_array(state.scale),
        "radius": _from_float(state.radius),
        "remaining": _from_float(state.remaining),
        "step": None if state.step is None else _from_step(state.step),
        "candidates": [_from_array(point) for point in state.candidates],
        "guard": _from_float(state.guard),
        "n_iter": state.n_iter,
        "n_passes": state.n_passes,
        "history": [_from_entry(entry) for entry in state.history],
        "next_chunk": state.next_chunk,
        "partial": [equations_to_record(equations) for equations in state.partial],
    }


def from_record(record: Mapping[str, Any], n_params: int, n_chunks: int) -> FitState:
    """Return the state that a record holds.

    Raises
    ------
    ValueError
        If something is missing in it, or has the wrong type, size or range.
    """
    try:
        state = FitState(
            status=Status(_to_int(record["status"])),
            params=array_from_record(record["params"], n_params),
            equations=_to_equations(record["equations"], n_params),
            scale=array_from_record(record["scale"], n_params),
            radius=_to_float(record["radius"]),
            remaining=_to_float(record["remaining"]),
            step=_to_step(record["step"], n_params),
            candidates=np.stack(
                [array_from_record(point, n_params) for point in _to_list(record["candidates"])]
            ),
            guard=_to_float(record["guard"]),
            n_iter=count_from_record(record["n_iter"]),
            n_passes=count_from_record(record["n_passes"]),
            history=tuple(_to_entry(entry, n_params) for entry in _to_list(record["history"])),
            next_chunk=count_from_record(record["next_chunk"]),
            partial=tuple(equations_from_record(e, n_params) for e in _to_list(record["partial"])),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"it is not the state of a fit: {error!r}") from error
    if state.next_chunk > n_chunks or bool(state.partial) != bool(state.next_chunk):
        raise ValueError("its place in the data is not one of this fit")
    n_points = 1 if state.step is not None else len(state.candidates)
    if state.partial and len(state.partial) != n_points - state.has_given_up:
        raise ValueError("its partial sums don't belong to its points")
    return state


def check_consistency(state: FitState) -> None:
    """Raise if the parts of a state can't come from one fit.

    Raises
    ------
    ValueError
        If it has passes without equations, a step from nowhere, or an end before a beginning; or
        if its equations are those of no rows, on which a fit could break or turn for ever.
    """
    has_equations = state.equations is not None
    # A first pass that could not compare all candidates is followed by another.
    n_first_passes = 0 if has_equations else state.n_passes
    if (
        (has_equations and state.n_passes == 0)
        or n_first_passes > (1 if len(state.candidates) > 1 else 0)
        or (state.step is not None and not has_equations)
    ):
        raise ValueError("its equations don't belong to its passes")
    if has_equations and not state.history:
        raise ValueError("its passes have no history")
    if not has_equations and state.status not in (Status.RUNNING, Status.NOT_FINITE):
        raise ValueError("it is finished and has no equations")
    if state.equations is not None:
        check_quadratic(state.equations)
        if not (np.isfinite(state.scale) & (state.scale > _LEAST_SCALE)).all():
            raise ValueError("its scale is not that of sums of squares")
        if not (state.radius > 0 and (state.step is None or state.step.length > 0)):
            raise ValueError("its radius or the length of its step is not positive")
    for equations in state.partial:
        if equations.is_finite:  # the model may overflow at a point that is tried
            check_quadratic(equations)


def check_quadratic(equations: Equations) -> None:
    """Raise if these can't be the sums of squares and products of any rows."""
    if not equations.is_finite:
        raise ValueError("it is not finite")
    diagonal = np.diag(equations.gram)
    if equations.cost < 0 or equations.model_norm < 0 or (diagonal < 0).any():
        raise ValueError("a sum of squares is negative")
    # The inequality of Cauchy and Schwarz, up to rounding, and to squares that count as 0.
    lost = min(equations.n_rows, 1e18) * np.finfo(float).tiny
    norms = np.sqrt(diagonal + lost)
    if (np.abs(equations.gram) > 1.001 * np.outer(norms, norms)).any():
        raise ValueError("a sum of products is larger than the sums of squares allow")


def _from_float(value: float) -> float | str:
    """Return a number for JSON, which has no infinity and no NaN: those become words."""
    return value if np.isfinite(value) else str(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{reprlib.repr(value)} is not a number")
    if isinstance(value, str) and value not in ("inf", "-inf", "nan"):
        raise ValueError(f"{reprlib.repr(value)} is not a number")
    return float(value)


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{reprlib.repr(value)} is not a whole number")
    return value


def count_from_record(value: Any) -> int:
    """Return a whole number that is not negative."""
    if _to_int(value) < 0:
        raise ValueError(f"{reprlib.repr(value)} is not a count")
    return int(value)


def _to_rows(value: Any) -> float:
    """Return a number of rows: whole, unless older ones count by a fraction."""
    number = _to_float(value)
    if not 0 <= number < np.inf:
        raise ValueError(f"{reprlib.repr(value)} is not a number of rows")
    return value if isinstance(value, int) else number


def _to_list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError(f"{reprlib.repr(values)} is not a list")
    return values


def _from_entry(entry: Mapping[str, Any]) -> list[Any]:
    """Return an entry of the history without its keys."""
    values: list[Any] = []
    for key in _HISTORY_KEYS:
        value = entry[key]
        if isinstance(value, list):
            values.append([_from_float(v) for v in value])
        else:
            values.append(_from_float(value) if isinstance(value, float) else value)
    return values


def _to_entry(values: Any, n_params: int) -> dict[str, Any]:
    """Return an entry of the history, each value of its kind."""
    entry = dict(zip(_HISTORY_KEYS, _to_list(values), strict=True))
    if not isinstance(entry["accepted"], bool):
        raise TypeError(f"{reprlib.repr(entry['accepted'])} is not true or false")
    entry["n_passes"] = count_from_record(entry["n_passes"])
    entry["params"] = array_from_record(entry["params"], n_params).tolist()
    entry["radius"] = _to_float(entry["radius"])
    for key in ("cost", "damping", "step_length", "gain_ratio"):
        entry[key] = None if entry[key] is None else _to_float(entry[key])
    return entry


def _from_array(array: np.ndarray) -> list[float | str]:
    return [_from_float(value) for value in array.tolist()]


def array_from_record(values: Any, size: int | None = None) -> np.ndarray:
    """Return the array of a list of numbers; it must have the size, if one is given."""
    if size is not None and len(_to_list(values)) != size:
        raise ValueError(f"an array does not have the size {size}")
    return np.array([_to_float(value) for value in _to_list(values)], dtype=float)


def equations_to_record(equations: Equations) -> dict[str, Any]:
    """Return equations as a record, their Gram matrix by its upper triangle."""
    upper, spread = np.triu_indices(equations.gradient.size), equations.spread
    return {
        "gram": _from_array(equations.gram[upper]),
        "gradient": _from_array(equations.gradient),
        "cost": _from_float(equations.cost),
        "model_norm": _from_float(equations.model_norm),
        "n_rows": equations.n_rows,
        "spread": None if spread is None else [_from_float(value) for value in spread],
    }


def equations_from_record(record: Mapping[str, Any], n_params: int) -> Equations:
    """Return the equations that a record holds; see `from_record` for what it raises."""
    packed = np.concatenate(
        [
            [_to_float(record["cost"]), _to_float(record["model_norm"])],
            array_from_record(record["gradient"], n_params),
            array_from_record(record["gram"], n_params * (n_params + 1) // 2),
        ]
    )
    spread = None
    if record["spread"] is not None:
        spread = Spread(*array_from_record(record["spread"], len(Spread._fields)).tolist())
    return Equations.from_packed(packed, n_params, _to_rows(record["n_rows"]), spread)


def _to_equations(record: Any, n_params: int) -> Equations | None:
    return None if record is None else equations_from_record(record, n_params)


def _from_step(step: Step) -> dict[str, Any]:
    return {
        "trial": _from_array(step.trial),
        "predicted_reduction": _from_float(step.predicted_reduction),
        "damping": _from_float(step.damping),
        "length": _from_float(step.length),
    }


def _to_step(record: Any, n_params: int) -> Step | None:
    if record is None:
        return None
    return Step(
        trial=array_from_record(record["trial"], n_params),
        predicted_reduction=_to_float(record["predicted_reduction"]),
        damping=_to_float(record["damping"]),
        length=_to_float(record["length"]),
    )
