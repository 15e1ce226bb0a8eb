"""What a user states of a fit -> a checked `Problem`: start, bounds, loss, tolerances, model."""

import logging
import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from ._engine.equations import Equations
from ._engine.kernel import Objective
from ._engine.loss import LOSS_NAMES
from ._engine.model import Model, TracedModel, has_star, parameter_names
from ._engine.remembered import is_row_wise, remember_row_wise
from ._engine.state import FitState
from ._engine.subproblem import Bounds
from ._engine.trust_region import Tolerances
from ._fit import Problem, few_rows, sum_in_memory
from ._streams import ArrayStream, Profile, Stream, profile_rows

_logger = logging.getLogger("nlsq_sklearn")

_PROBE_ROWS = 64


def is_auto(p0: Any) -> bool:
    """Return whether the start shall be guessed from the data."""
    return isinstance(p0, str) and p0 == "auto"


def names_of(model: Model, p0: Any, n_params: int | None = None) -> tuple[str, ...]:
    """Return the names of the parameters; the start tells how many ``*params`` are.

    Raises
    ------
    TypeError, ValueError
        See `parameter_names`.
    """
    if n_params is None and p0 is not None and not is_auto(p0) and has_star(model):
        n_params = int(np.size(p0))
    return parameter_names(model, n_params)


def as_bounds(bounds: Any, n_params: int, model: Model | None = None) -> Bounds:
    """Return the bounds, each of shape (n_params,).

    Parameters
    ----------
    bounds : 2-tuple of array-like, `scipy.optimize.Bounds` or None
        Lower and upper, each a number or one for each parameter; with None the model's own,
        where it has some.

    Raises
    ------
    ValueError
        If their shapes don't fit, they hold NaN, or a lower one is not below the upper one.
    """
    if bounds is None:
        bounds = getattr(model, "bounds", None)
    if bounds is None:
        return Bounds(np.array(n_params * [-np.inf]), np.array(n_params * [np.inf]))
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        bounds = (bounds.lb, bounds.ub)
    try:
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(
            f"bounds must be a pair (lower, upper) or a scipy.optimize.Bounds, got {bounds!r}."
            + _how_to_turn(bounds)
        ) from None
    arrays = []
    for name, bound in (("lower", lower), ("upper", upper)):
        array = np.asarray(bound, dtype=float)
        if array.ndim > 1 or (array.ndim == 1 and array.size != n_params):
            raise ValueError(
                f"The {name} bounds have the shape {array.shape}; expected a number, or one for "
                f"each of the {n_params} parameters."
            )
        if np.isnan(array).any():
            raise ValueError(f"The {name} bounds hold NaN; write -inf or inf for an open one.")
        arrays.append(np.broadcast_to(array, (n_params,)).copy())
    if not np.all(arrays[0] < arrays[1]):
        i = int(np.argmin(arrays[0] < arrays[1]))
        raise ValueError(
            f"Each lower bound must be below its upper one; parameter {i} has "
            f"({arrays[0][i]:g}, {arrays[1][i]:g})."
            + (_how_to_turn(bounds) or _how_to_order(*arrays))
        )
    return Bounds(*arrays)


def _how_to_turn(bounds: Any) -> str:
    """Return what to do with bounds that may be one pair for each parameter."""
    try:
        pairs = [(low, high) for low, high in bounds]
        in_order = all(low is None or high is None or low < high for low, high in pairs)
    except (TypeError, ValueError):
        return ""
    if not in_order:
        return ""
    return (
        " If these are pairs, one for each parameter, as scipy.optimize.minimize takes them, turn "
        "them: tuple(zip(*bounds)), with -inf and inf for None."
    )


def _how_to_order(lower: np.ndarray, upper: np.ndarray) -> str:
    """Return what to do with bounds of which one is not below the other."""
    if (lower > upper).all():
        return " Lower and upper ones are swapped."
    if (lower == upper).any():
        return (
            " A parameter is held fixed by leaving it out of the model: lambda x, a, c: "
            "model(x, a, 2.5, c)."
        )
    return ""


def as_start(p0: Any, bounds: Bounds, param_names: tuple[str, ...]) -> np.ndarray:
    """Return the start, shape (n_params,); with None the one `scipy.optimize.curve_fit` takes.

    That of "auto" is NaN until it is guessed.

    Raises
    ------
    ValueError
        If it has the wrong size, is not finite, or lies outside the bounds.
    """
    lower, upper = bounds
    n_params = len(param_names)
    if p0 is None:
        start = np.ones(n_params)
        with np.errstate(invalid="ignore"):  # inf - inf where both are open
            start = np.where(np.isfinite(lower) & np.isfinite(upper), 0.5 * (lower + upper), start)
        start = np.where(np.isfinite(lower) & ~np.isfinite(upper), lower + 1, start)
        return np.where(~np.isfinite(lower) & np.isfinite(upper), upper - 1, start)
    if is_auto(p0):
        return np.full(n_params, np.nan)
    try:
        start = np.array(p0, dtype=float, ndmin=1)
    except (TypeError, ValueError):
        raise ValueError(
            f"p0 must hold {n_params} numbers, one for each of {', '.join(param_names)}, in this "
            f'order, or be "auto"; got {p0!r}.'
        ) from None
    if start.shape != (n_params,):
        has = f"{start.size} numbers" if start.ndim == 1 else f"the shape {start.shape}"
        raise ValueError(
            f"p0 has {has}, but the model has {n_params} parameters: {', '.join(param_names)}. "
            "Give one start for each, in this order."
        )
    if not bounds.contain(start) or not all(map(math.isfinite, start.tolist())):
        raise ValueError(_what_is_wrong(start, bounds, param_names))
    return start


def _what_is_wrong(start: np.ndarray, bounds: Bounds, param_names: tuple[str, ...]) -> str:
    """Return what is said of the first number of a start that can't be used."""
    for name, value, low, high in zip(param_names, start, *bounds, strict=True):
        if not np.isfinite(value):
            return f"p0 must be finite: the start of {name} is {value}."
        if not low <= value <= high:
            break
    return (
        f"p0 must lie within the bounds: {name} starts at {value:g}, outside [{low:g}, {high:g}]."
    )


def check_size_without_model(p0: Any, n_params: int) -> None:
    """Raise if the start has another size than the curve that stands in for a model."""
    if p0 is not None and not is_auto(p0) and np.size(p0) != n_params:
        raise ValueError(
            "No model is given. The curve that is fitted then, intercept + slopes @ x, has "
            f"{n_params} parameters, and p0 has {np.size(p0)} numbers. Give the model first: "
            "StreamingCurveFitRegressor(model, p0=...)."
        )


def as_guess(p0: Any, model: TracedModel, bounds: Bounds) -> Callable[[Profile], np.ndarray] | None:
    """Return what guesses the start from a profile of the data, None if the user gives it.

    Raises
    ------
    ValueError
        If the model has no guess, or there are several predictors.
    """
    if not is_auto(p0):
        return None
    name = getattr(model.function, "__name__", "given")
    guess = getattr(model.function, "guess", None)
    if not callable(guess):
        raise ValueError(
            f'p0="auto" asks the model for a first guess, and the model {name} has none. Set '
            f"{name}.guess to a function of a nlsq_sklearn.models.Profile that returns "
            f"{model.n_params} numbers, take a model of nlsq_sklearn.models, or give p0."
        )
    if model.n_features != 1:
        raise ValueError(
            f'p0="auto" looks at a profile of y over one predictor, and there are '
            f"{model.n_features}. Give p0."
        )

    def guess_within_bounds(profile: Profile) -> np.ndarray:
        with np.errstate(all="ignore"):  # what overflows is told here
            start = np.asarray(guess(profile), dtype=float)
        if start.shape != (model.n_params,) or not np.isfinite(start).all():
            raise ValueError(
                f"The guess of the model {name} is {start}; expected {model.n_params} finite "
                f"numbers ({', '.join(model.param_names)}). Where x is far from 0 a curve may "
                "leave the range of float64 there: subtract the first x, or give p0."
            )
        return np.asarray(np.clip(start, *bounds))

    return guess_within_bounds


def draw_starts(
    start: np.ndarray,
    bounds: Bounds,
    n_starts: int,
    param_names: tuple[str, ...],
    seed: int | None = None,
) -> np.ndarray:
    """Return the start and ``n_starts - 1`` points spread evenly in the bounds, by Halton's rule.

    With a seed the sequence is scrambled by it.

    Raises
    ------
    ValueError
        If there are several starts and a bound is open.

    References
    ----------
    .. [1] J. H. Halton, "On the efficiency of certain quasi-random sequences of points in
           evaluating multi-dimensional integrals", Numerische Mathematik 2, 1960.
    """
    if n_starts == 1:
        return start[np.newaxis]
    is_open = ~(np.isfinite(bounds.lower) & np.isfinite(bounds.upper))
    if is_open.any():
        names = ", ".join(np.array(param_names)[is_open])
        raise ValueError(
            f"n_starts={n_starts} draws starts between the bounds, which are open for {names}. "
            "Give finite bounds."
        )
    from scipy.stats import qmc

    sequence = qmc.Halton(start.size, scramble=seed is not None, rng=seed)
    sequence.fast_forward(1)  # the first point is the corner of the lower bounds
    drawn = qmc.scale(sequence.random(n_starts - 1), bounds.lower, bounds.upper)
    return np.vstack([start, np.clip(drawn, bounds.lower, bounds.upper)])


def as_tolerances(ftol: float, xtol: float, gtol: float, max_iter: int) -> Tolerances:
    """Return the tolerances.

    Raises
    ------
    TypeError, ValueError
        If one is no number or negative; if ``max_iter`` is no positive whole number.
    """
    for name, value in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol)):
        if not _is_real(value):
            raise TypeError(f"{name} must be a number, got {value!r}.")
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value!r}.")
    return Tolerances(float(ftol), float(xtol), float(gtol), as_positive_int(max_iter, "max_iter"))


def _is_real(value: Any) -> bool:
    # To ask an abstract class takes ten times as long.
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))


def as_positive_int(value: Any, name: str) -> int:
    """Return a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}.") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}.")
    return number


def as_objective(model: TracedModel, loss: str, f_scale: float) -> Objective:
    """Return the objective.

    Raises
    ------
    ValueError
        If the loss is unknown or its scale not positive.
    """
    if loss not in LOSS_NAMES:
        raise ValueError(f"loss must be one of {', '.join(LOSS_NAMES)}; got {loss!r}.")
    if not _is_real(f_scale) or not 0 < f_scale < np.inf:
        raise ValueError(f"f_scale must be a positive number, got {f_scale!r}.")
    return Objective(model, loss, float(f_scale))


def guess_start(problem: Problem, stream: Stream, state: FitState | None) -> Problem:
    """Return the problem with a start: that of an interrupted fit, or guessed in a pass."""
    if state is not None:
        return problem._replace(starts=state.candidates)
    started = problem.guessed(profile_rows(stream))
    _logger.info("start guessed from the data: %s", started.starts[0].tolist())
    return started


def check_enough_rows(stream: Stream, param_names: tuple[str, ...]) -> None:
    """Raise if there are fewer rows than parameters."""
    if stream.n_rows < len(param_names):
        raise ValueError(
            f"There are {stream.n_rows} rows for {len(param_names)} parameters "
            f"({', '.join(param_names)}): a fit needs at least as many rows as parameters."
        )


def check_rows_are_independent(problem: Problem, stream: Stream) -> None:
    """Raise if the model's value in a row depends on other rows, as with a mean or a cumsum.

    Such a model has no meaning when its rows come in chunks. The equations of some rows must be
    the sum of those of two halves of them, each in reversed order.

    That is asked once of a model and a start.
    """
    fingerprint, start = problem.objective.model.fingerprint, problem.starts[0]
    if stream.n_rows < 2 or is_row_wise(fingerprint, start):
        return
    probe = stream.sample(_PROBE_ROWS)
    rows = np.arange(probe.n_rows)
    whole, even, odd = (
        _sums_at_start(problem, stream, probe.take(part))
        for part in (rows, rows[::2][::-1], rows[1::2][::-1])
    )
    if not (whole.is_finite and even.is_finite and odd.is_finite):
        return  # the first pass meets it, and names the row
    if not _are_close(whole, even + odd):
        raise ValueError(
            f"The model {getattr(problem.objective.model.function, '__name__', 'given')} gives "
            "another value for a row when other rows are beside it (by a mean, sum, cumsum or "
            "sort over x?). Each row must stand for itself: compute such numbers before the fit."
        )
    remember_row_wise(fingerprint, start)


def _sums_at_start(problem: Problem, stream: Stream, some: ArrayStream) -> Equations:
    """Return the equations of some of the rows at the start, by the program that the fit needs."""
    rows = few_rows(problem, stream)
    if rows is None:
        return sum_in_memory(problem.objective, some, problem.starts[:1])[0]
    return rows.of(some.chunk(0)).equations(problem.starts[0])


def _are_close(whole: Equations, parts: Equations) -> bool:
    """Return whether the sums over the model's values agree up to rounding.

    The Gram matrix says no more, and under a robust loss far from the data it is itself rounding.
    """
    # Far more than rounding, far less than what a mean over other rows changes.
    rtol = 1e-9
    scale = whole.cost + 1e-6 * whole.model_norm
    return bool(
        abs(whole.model_norm - parts.model_norm) <= rtol * whole.model_norm
        and abs(whole.cost - parts.cost) <= rtol * scale
    )
