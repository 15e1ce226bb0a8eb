"""What a model may know of itself: bounds, a first guess and a formula, as plain attributes."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def curve_model(
    *, bounds: Any = None, guess: Callable[..., Any] | None = None, formula: str | None = None
) -> Callable[[Function], Function]:
    """Return a decorator that sets what a model knows of itself, as attributes of the function.

    The function stays the plain one that it is; ``model.bounds = ...`` does the same.

    Parameters
    ----------
    bounds : 2-tuple of array-like or None, default=None
        Lower and upper bounds of the parameters, each a number or one for each. A fit that is
        given no bounds takes them.
    guess : callable or None, default=None
        From a `Profile` of the data to a start, of shape (n_params,). ``p0="auto"`` asks for it.
    formula : str or None, default=None
        The curve in a line of text, for those who read.

    Returns
    -------
    callable

    Examples
    --------
    A model of one's own, whose guess takes the slope of a line through the origin:

    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> from nlsq_sklearn.models import curve_model
    >>> def first_guess(profile):
    ...     slope = profile.y @ profile.x / (profile.x @ profile.x)
    ...     return [slope, 0.0]
    >>> @curve_model(
    ...     bounds=([0, -np.inf], np.inf), guess=first_guess, formula="slope * x + bend * x**2"
    ... )
    ... def bent_line(x, slope, bend):
    ...     return slope * x + bend * x**2
    >>> x = np.linspace(0, 5, 1000)
    >>> result = AdaptiveHybridStreamingOptimizer(bent_line).fit(x, 3 * x - x**2, p0="auto")
    >>> print(result.popt.round(6))
    [ 3. -1.]
    """

    def describe(model: Function) -> Function:
        for name, value in (("bounds", bounds), ("guess", guess), ("formula", formula)):
            if value is not None:
                setattr(model, name, value)
        return model

    return describe
