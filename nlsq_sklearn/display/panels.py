"""The four pictures of `CurveFitDisplay`: from what was seen of the rows to artists."""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from .._engine.model import TracedModel
from .._streams import predict_rows
from .._streams.picture import Picture, View
from .drawing import VERMILLION, blue, density_colours
from .statistics import (
    Scale,
    n_bars,
    ordered_against_normal,
    quantiles_against_normal,
    scale_of,
    visible_data,
    visible_residuals,
)

_CURVE_POINTS = 401
_IMAGE_ROWS = 256
_LINE_WIDTH = 1.6
# Quantiles are shown as far as so many times the furthest normal one, so that the line stays one.
_MOST_REACH = 3.0


class Fitted(NamedTuple):
    """What a picture needs to know of a fit.

    Attributes
    ----------
    model : TracedModel
    params : ndarray of shape (n_params,)
    covariance : ndarray of shape (n_params, n_params)
    n_rows : int
        Rows of the fit.
    cost : float
        Half the sum of squares, under the loss.
    f_scale : float or None
        Of a robust loss, which expects outliers; None of the linear one.
    """

    model: TracedModel
    params: np.ndarray
    covariance: np.ndarray
    n_rows: int
    cost: float
    f_scale: float | None

    @property
    def freedom(self) -> int:
        """Degrees of freedom; at least 1, for without any the covariance is infinite anyway."""
        return max(self.n_rows - self.params.size, 1)

    @property
    def std(self) -> float:
        """About the standard deviation of the residuals that are no outliers."""
        if self.f_scale is not None:
            return self.f_scale
        return float(np.sqrt(2 * self.cost / self.freedom))


class Curve(NamedTuple):
    """The curve on a grid, and the half width of its band, each of shape (n_points,)."""

    x: np.ndarray
    y: np.ndarray
    half_width: np.ndarray


class Shown(NamedTuple):
    """What the pictures show.

    Attributes
    ----------
    picture : Picture
        What was seen of the rows.
    fitted : Fitted
    curve : Curve or None
        None with several predictors.
    x_label, y_label, residual_label : str
    confidence : float
        Level of the band.
    view : View
    """

    picture: Picture
    fitted: Fitted
    curve: Curve | None
    x_label: str
    y_label: str
    residual_label: str
    confidence: float
    view: View


class Artists(NamedTuple):
    """What was drawn; see `CurveFitDisplay`. ``notes`` are lines of small print."""

    line: Any
    scatter: Any = None
    density: Any = None
    colorbar: Any = None
    bars: Any = None
    band: Any = None
    handles: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()


def curve_of(
    fitted: Fitted, x_range: tuple[float, float], confidence: float, *, is_log: bool
) -> Curve:
    """Return the curve over a range, and its band by the delta method."""
    x = (np.geomspace if is_log else np.linspace)(*x_range, _CURVE_POINTS)
    y = predict_rows(fitted.model, x[:, np.newaxis], fitted.params)
    std = predict_rows(fitted.model, x[:, np.newaxis], fitted.params, fitted.covariance)
    student = stdtrit(fitted.freedom, 0.5 * (1 + confidence))
    return Curve(x, y, student * std)


def draw_fit(ax: Any, shown: Shown) -> Artists:
    """Draw data and curve."""
    ends = np.array(shown.picture.x_range)
    x, y = (ends, ends) if shown.curve is None else shown.curve[:2]
    rows = _draw_rows(ax, shown, "y", visible_data(shown.picture.data, y))
    label = "y = f(x)" if shown.curve is None else "curve"
    (line,) = ax.plot(x, y, color=VERMILLION, lw=_LINE_WIDTH, zorder=3, label=label)
    ax.set(xlabel=shown.x_label, ylabel=shown.y_label)
    artists = rows._replace(line=line, handles=(*rows.handles, line))
    if shown.curve is None:
        return artists
    width = shown.curve.half_width
    if not np.isfinite(width).all():
        told = "no confidence band: the data leave parameters undetermined"
        return artists._replace(notes=(*artists.notes, told))
    band = ax.fill_between(
        x,
        y - width,
        y + width,
        color=VERMILLION,
        alpha=0.25,
        lw=0,
        zorder=2.5,
        # Of many rows it is thinner than the line.
        label=f"{100 * shown.confidence:.4g} % band, up to \N{PLUS-MINUS SIGN}{width.max():.2g}",
    )
    return artists._replace(band=band, handles=(*artists.handles, band))


def draw_residuals(ax: Any, shown: Shown) -> Artists:
    """Draw data minus curve."""
    rows = _draw_rows(ax, shown, "residual", visible_residuals(shown.picture.residual))
    line = ax.axhline(0, color=VERMILLION, lw=_LINE_WIDTH, zorder=3)
    ax.set(xlabel=shown.x_label, ylabel=shown.residual_label)
    return rows._replace(line=line)


def draw_histogram(ax: Any, shown: Shown) -> Artists:
    """Draw the distribution of the residuals."""
    residual = shown.picture.residual
    n_rows = residual.n_points
    edges, counts = residual.window(*visible_residuals(residual), n_bars(n_rows))
    bars = ax.stairs(
        counts[0] / (n_rows * (edges[1] - edges[0])),
        edges,
        fill=True,
        color=blue(ax),
        alpha=0.55,
        label=_rows(n_rows),
    )
    scale = _scale(shown)
    x = np.linspace(edges[0], edges[-1], _CURVE_POINTS)
    with np.errstate(divide="ignore", invalid="ignore"):  # exact data have no density
        density = np.exp(-0.5 * (x / scale.value) ** 2) / (scale.value * np.sqrt(2 * np.pi))
    (line,) = ax.plot(x, density, color=VERMILLION, lw=_LINE_WIDTH, label=_normal(scale))
    ax.set(xlabel=shown.residual_label, ylabel="density", ylim=(0, None))
    notes = _outside(n_rows - int(counts.sum()))
    return Artists(line, bars=bars, handles=(bars, line), notes=notes)


def draw_quantiles(ax: Any, shown: Shown) -> Artists:
    """Draw the quantiles of the residuals against those of the normal distribution."""
    picture = shown.picture
    notes: tuple[str, ...] = ()
    if picture.points is None:
        normal, values = quantiles_against_normal(picture.residual, picture.residual_range)
        notes = (f"quantiles resolved to {picture.residual.y_width:.1g}",)
    else:
        normal, values = ordered_against_normal(picture.points.residual)
    label = _rows(picture.residual.n_points)
    scatter = ax.scatter(normal, values, s=_size(normal.size), color=blue(ax), lw=0, label=label)
    scale, ends = _scale(shown), normal[[0, -1]]
    (line,) = ax.plot(
        ends, scale.value * ends, color=VERMILLION, lw=_LINE_WIDTH, label=_normal(scale)
    )
    ax.set(xlabel="standard normal quantile", ylabel=shown.residual_label)
    reach = _MOST_REACH * scale.value * ends[1]
    if 0 < reach < np.abs(values).max():
        ax.set_ylim(max(-reach, values[0]), min(reach, values[-1]))
        notes += (f"they reach from {values[0]:.3g} to {values[-1]:.3g}",)
    return Artists(line, scatter, handles=(scatter, line), notes=notes)


def _draw_rows(ax: Any, shown: Shown, name: str, visible: tuple[float, float]) -> Artists:
    """Draw ``y`` or ``residual`` against ``x``, as points or as the image of their density."""
    picture = shown.picture
    ax.set_xscale("log" if shown.view.is_log else "linear")
    if picture.points is None and name == "y":
        return _draw_density(ax, shown, *picture.data.window(*visible, _IMAGE_ROWS))
    if picture.points is None:
        folded = shown.view.fold(np.array(visible))
        edges, counts = picture.residuals.window(folded[0], folded[1], _IMAGE_ROWS)
        return _draw_density(ax, shown, shown.view.unfold(edges), counts)
    x, values = picture.points.x, getattr(picture.points, name)
    scatter = ax.scatter(
        x, values, s=_size(x.size), color=blue(ax), alpha=0.6, lw=0, zorder=2, label=_rows(x.size)
    )
    return Artists(None, scatter, handles=(scatter,))


def _draw_density(ax: Any, shown: Shown, edges: np.ndarray, counts: np.ndarray) -> Artists:
    """Draw counts, (n_columns, n_rows), in cells between the edges of rows."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    n_rows, x_edges = shown.picture.data.n_points, shown.picture.data.x_edges
    density = ax.pcolormesh(
        np.exp2(x_edges) if shown.view.is_log else x_edges,
        edges,
        np.ma.masked_equal(counts.T, 0),
        cmap=density_colours(ax),
        norm=LogNorm(1, max(10, counts.max())),
        rasterized=True,
        zorder=1,
    )
    colorbar = ax.figure.colorbar(density, ax=ax, label="rows in a cell", pad=0.02)
    low, high = shown.picture.x_range
    if low < high:
        ax.set_xlim(low, high)
    ax.set_ylim(edges[0], edges[-1])
    handle = Patch(color=density.cmap(0.6), label=_rows(n_rows))
    notes = _outside(n_rows - int(counts.sum()))
    return Artists(None, density=density, colorbar=colorbar, handles=(handle,), notes=notes)


def _scale(shown: Shown) -> Scale:
    picture, fitted = shown.picture, shown.fitted
    return scale_of(
        picture.residual, picture.squares, fitted.params.size, is_robust=fitted.f_scale is not None
    )


def _size(n_points: int) -> float:
    """Return the size of points, smaller where there are many."""
    return float(np.clip(400 / np.sqrt(n_points), 6, 30))


def _rows(n_rows: int) -> str:
    return f"{n_rows:,} rows"


def _normal(scale: Scale) -> str:
    return f"normal, std {scale.value:.3g} ({scale.words})"


def _outside(n_rows: int) -> tuple[str, ...]:
    return (f"{n_rows:,} rows lie outside",) if n_rows else ()
