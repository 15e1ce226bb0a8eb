"""`CurveFitDisplay`: data, curve and residuals of a fit."""

from typing import Any, Self

from .._engine.remembered import traced
from .._result import CurveFitResult
from .._streams import Stream, open_stream
from .._streams.picture import View, take_picture
from ..regressor import StreamingCurveFitRegressor
from .drawing import legend_above, new_axes, note, require_matplotlib
from .panels import (
    Fitted,
    Shown,
    curve_of,
    draw_fit,
    draw_histogram,
    draw_quantiles,
    draw_residuals,
)

_DRAW = {
    "fit": draw_fit,
    "residuals": draw_residuals,
    "residual_histogram": draw_histogram,
    "qq": draw_quantiles,
}
_SCALES = ("linear", "log")
_RESIDUAL = "y \N{MINUS SIGN} f(x)"


class CurveFitDisplay:
    """Data and curve of a fit, its residuals, and their distribution.

    Make one by `from_estimator` or `from_result`: they read the data once, chunk by chunk, for all
    four kinds of picture. Few rows are drawn as points; more of them as an image of their density,
    counted in cells whose width is a power of two. The counts are exact, and the same in whatever
    order and parts the rows come.

    Parameters
    ----------
    shown : Shown
        What was seen of the rows, and the curve.
    kind : {"fit", "residuals", "residual_histogram", "qq"}, default="fit"
        What `plot` draws unless it is told otherwise.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    scatter_ : matplotlib PathCollection or None
        The points, where rows are few.
    density_ : matplotlib QuadMesh or None
        The image of the density, where they are many.
    colorbar_ : matplotlib Colorbar or None
        Its scale.
    bars_ : matplotlib StepPatch or None
        The histogram of the residuals.
    line_ : matplotlib Line2D
        The curve, the line of no residual, the normal density, or the line on which the quantiles
        of normal residuals lie.
    band_ : matplotlib PolyCollection or None
        The confidence band of the curve.
    note_ : matplotlib Text or None
        Says how many rows are not in the picture, and how fine quantiles are resolved.
    legend_ : matplotlib Legend

    See Also
    --------
    ConvergenceDisplay : How the fit came to its answer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from nlsq_sklearn import CurveFitDisplay, StreamingCurveFitRegressor
    >>> def decay(x, a, b, c):
    ...     return a * jnp.exp(-b * x) + c
    >>> X = np.linspace(0, 5, 100_000).reshape(-1, 1)
    >>> y = 2.5 * np.exp(-1.3 * X[:, 0]) + 0.5
    >>> y = y + np.random.default_rng(0).normal(0, 0.05, y.size)
    >>> regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(X, y)
    >>> display = CurveFitDisplay.from_estimator(regressor, X, y)
    >>> display.plot(kind="residuals")  # no further look at the data
    <nlsq_sklearn.display.curve_fit.CurveFitDisplay object at ...>
    """

    def __init__(self, shown: Shown, kind: str = "fit") -> None:
        self.shown = shown
        self.kind = kind

    @classmethod
    def from_estimator(
        cls,
        estimator: StreamingCurveFitRegressor,
        X: Any,
        y: Any,
        *,
        kind: str = "fit",
        sample_weight: Any = None,
        confidence: float = 0.95,
        xscale: str = "linear",
        max_points: int = 5000,
        ax: Any = None,
    ) -> Self:
        """Draw a fitted estimator with data, in one pass over them.

        Parameters
        ----------
        estimator : StreamingCurveFitRegressor
            After ``fit`` or ``partial_fit``.
        X : array-like or Dask array of shape (n_samples, n_features)
            The predictors, of the fit or others.
        y : array-like or Dask array of shape (n_samples,)
            The data.
        kind : {"fit", "residuals", "residual_histogram", "qq"}, default="fit"
            - "fit": the data, and the curve with its confidence band (delta method, Student's t);
            - "residuals": data minus curve against ``x``;
            - "residual_histogram": their distribution, with the normal one of the fitted standard
              deviation (after a robust fit of that which their quartiles tell);
            - "qq": their quantiles against those of the standard normal distribution.

            With several features the curve's value takes the place of ``x``, and there is no band.
        sample_weight : array-like or Dask array of shape (n_samples,) or None, default=None
            How much each row counts. Residuals are drawn times the root of it, which makes them
            equally wide where it is 1 / sigma**2. Rows of weight 0 are not drawn.
        confidence : float, default=0.95
            Level of the band.
        xscale : {"linear", "log"}, default="linear"
            Of the axis of ``x``. On a logarithmic one cells are equally wide in its logarithm, and
            rows that are not positive are left out.
        max_points : int, default=5000
            Rows from which on their density is drawn instead of each of them.
        ax : matplotlib Axes or None, default=None
            Where to draw; with None in a new figure.

        Returns
        -------
        CurveFitDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        TypeError
            If it is another kind of estimator.
        ValueError
            If a setting is unknown, data can't be used, or no row has a place in the picture.
        """
        require_matplotlib("CurveFitDisplay")
        _check_kind(kind)
        if not isinstance(estimator, StreamingCurveFitRegressor):
            raise TypeError(
                f"CurveFitDisplay draws a StreamingCurveFitRegressor, got a {type(estimator)}. Of "
                "a pipeline give the last step, and X as the steps before transform it; of a "
                "search its best_estimator_."
            )
        model, stream = estimator._fitted_stream(X, y, sample_weight)
        fitted = Fitted(
            model,
            estimator.popt_,
            estimator.pcov_,
            estimator.n_samples_seen_,
            estimator.cost_,
            None if estimator.loss == "linear" else estimator.f_scale,
        )
        names = list(getattr(estimator, "feature_names_in_", ["x"]))
        residual = _RESIDUAL
        if sample_weight is not None:
            residual = f"\N{SQUARE ROOT}weight \N{MULTIPLICATION SIGN} ({residual})"
        labels = str(names[0]), residual
        return cls(_see(stream, fitted, labels, confidence, xscale, max_points), kind).plot(ax)

    @classmethod
    def from_result(
        cls,
        result: CurveFitResult,
        model: Any,
        x: Any,
        y: Any,
        *,
        kind: str = "fit",
        sigma: Any = None,
        confidence: float = 0.95,
        xscale: str = "linear",
        max_points: int = 5000,
        ax: Any = None,
    ) -> Self:
        """Draw the result of `AdaptiveHybridStreamingOptimizer` with data.

        Parameters
        ----------
        result : CurveFitResult
        model : callable
            The one that was fitted.
        x : array-like of shape (n_rows,) or (n_features, n_rows), or tuple of columns
            The predictors.
        y : array-like of shape (n_rows,)
            The data.
        kind : {"fit", "residuals", "residual_histogram", "qq"}, default="fit"
            - "fit": the data, and the curve with its confidence band (delta method, Student's t);
            - "residuals": data minus curve against ``x``;
            - "residual_histogram": their distribution, with the normal one of the fitted standard
              deviation (after a robust fit of that which their quartiles tell);
            - "qq": their quantiles against those of the standard normal distribution.
        sigma : float, array-like of shape (n_rows,) or None, default=None
            Standard deviation of each row; residuals are drawn in units of it.
        confidence : float, default=0.95
            Level of the band.
        xscale : {"linear", "log"}, default="linear"
            Of the axis of ``x``. On a logarithmic one cells are equally wide in its logarithm, and
            rows that are not positive are left out.
        max_points : int, default=5000
            Rows from which on their density is drawn instead of each of them.
        ax : matplotlib Axes or None, default=None
            Where to draw; with None in a new figure.

        Returns
        -------
        CurveFitDisplay

        Raises
        ------
        ImportError, ValueError
            As in `from_estimator`.
        """
        require_matplotlib("CurveFitDisplay")
        _check_kind(kind)
        stream = open_stream(x, y, sigma)
        fitted = Fitted(
            traced(model, result.param_names, stream.n_features),
            result.popt,
            result.pcov,
            result.n_rows,
            result.cost,
            None if result.loss == "linear" else result.f_scale,
        )
        labels = "x", _RESIDUAL if sigma is None else f"({_RESIDUAL}) / sigma"
        return cls(_see(stream, fitted, labels, confidence, xscale, max_points), kind).plot(ax)

    def plot(self, ax: Any = None, *, kind: str | None = None) -> Self:
        """Draw, without a look at the data.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            Where to draw; with None in a new figure.
        kind : {"fit", "residuals", "residual_histogram", "qq"} or None, default=None
            What to draw; with None what the display was made for.

        Returns
        -------
        CurveFitDisplay
            Itself, with the artists of this drawing.
        """
        require_matplotlib("CurveFitDisplay")
        kind = self.kind if kind is None else kind
        _check_kind(kind)
        self.ax_ = new_axes() if ax is None else ax
        self.figure_ = self.ax_.figure
        artists = _DRAW[kind](self.ax_, self.shown)
        self.line_, self.band_, self.bars_ = artists.line, artists.band, artists.bars
        self.scatter_, self.density_ = artists.scatter, artists.density
        self.colorbar_ = artists.colorbar
        notes, n_left_out = artists.notes, self.shown.picture.n_left_out
        if n_left_out:
            notes = (*notes, f"{n_left_out:,} rows have no place here")
        self.note_ = note(self.ax_, notes)
        self.legend_ = legend_above(self.ax_, artists.handles)
        return self


def _see(
    stream: Stream,
    fitted: Fitted,
    labels: tuple[str, str],
    confidence: float,
    xscale: str,
    max_points: int,
) -> Shown:
    """Look at the data once, and at the curve; ``labels`` are those of ``x`` and of residuals."""
    _check_view(confidence, xscale)
    is_log = xscale == "log"
    view = View.of(fitted.std, is_log=is_log, most_points=max_points)
    picture = take_picture(stream, fitted.model, fitted.params, view)
    if picture is None:
        raise ValueError(
            "No row can be drawn: in each the curve is not finite, the weight 0, or x not positive "
            "on a logarithmic axis."
        )
    curve, (x_label, residual_label) = None, labels
    if stream.n_features == 1:
        curve = curve_of(fitted, picture.x_range, confidence, is_log=is_log)
    else:
        x_label = "prediction f(x)"
    return Shown(picture, fitted, curve, x_label, "y", residual_label, confidence, view)


def _check_kind(kind: str) -> None:
    if kind not in _DRAW:
        raise ValueError(f"kind must be one of {', '.join(map(repr, _DRAW))}; got {kind!r}.")


def _check_view(confidence: float, xscale: str) -> None:
    if xscale not in _SCALES:
        raise ValueError(f"xscale must be 'linear' or 'log', got {xscale!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}.")
