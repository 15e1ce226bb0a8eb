"""What all pictures have in common: their colours, axes, legends and notes."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

# Of the palette of M. Okabe and K. Ito, which colour-blind readers can tell apart.
_BLUE, _SKY_BLUE, VERMILLION = "#0072B2", "#56B4E9", "#D55E00"
# Grounds darker than this are dark, as that of the style "dark_background" is.
_DARK = 0.4


def require_matplotlib(caller: str) -> None:
    """Raise if there is no matplotlib, before any work is done for a picture.

    Raises
    ------
    ImportError
        That says how to install it.
    """
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{caller} draws with matplotlib, which can't be imported ({error}). Install it: "
            'pip install "nlsq_sklearn[plot]"'
        ) from error


def new_axes(n_rows: int = 1) -> Any:
    """Return axes of a new figure, a higher one if they are several, one below the other."""
    import matplotlib.pyplot as plt

    width, height = plt.rcParams["figure.figsize"]
    size = width, height * (1 if n_rows == 1 else 4 / 3)
    _, axes = plt.subplots(
        n_rows, sharex=True, figsize=size, layout="constrained", squeeze=n_rows == 1
    )
    return axes


def is_dark(ax: Any) -> bool:
    """Return whether axes have a dark ground."""
    from matplotlib.colors import to_rgba

    ground = to_rgba(ax.get_facecolor())
    if ground[3] == 0:
        ground = to_rgba(ax.figure.get_facecolor())
    luminance = float(np.dot(ground[:3], (0.2126, 0.7152, 0.0722)))
    return ground[3] > 0 and luminance < _DARK


def blue(ax: Any) -> str:
    """Return the colour of rows."""
    return _SKY_BLUE if is_dark(ax) else _BLUE


def ink(ax: Any) -> str:
    """Return the colour of lines that stand out from the ground."""
    return "white" if is_dark(ax) else "black"


def grey(ax: Any) -> str:
    """Return the colour of small print and of what only joins."""
    return "#b3b3b3" if is_dark(ax) else "#595959"


def density_colours(ax: Any) -> Any:
    """Return a colour map in which a cell with one row stands out from the ground of none."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    part = (0.8, 0.0) if is_dark(ax) else (0.22, 1.0)
    return ListedColormap(mpl.colormaps["Blues"](np.linspace(*part, 256)), name="density")


def legend_above(ax: Any, handles: Sequence[Any]) -> Any:
    """Return a legend between the axes and their title, where it hides no data.

    It has as many rows as it takes not to be wider than there is room, if that can be.
    """
    widest = _room(ax)
    for n_columns in range(len(handles), 0, -1):
        legend = ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=n_columns,
            frameon=False,
            borderaxespad=0.2,
            columnspacing=1.4,
            fontsize="small",
        )
        if legend.get_window_extent().width <= widest:
            break
    _keep_for_legend(ax, legend)
    return legend


def _room(ax: Any) -> float:
    """Return how wide a legend may be, in pixels.

    What lays out a figure makes axes narrower for the sake of a wider one. Without, it may also
    stand above the colour bar and the margin.
    """
    figure, spec = ax.figure, ax.get_subplotspec()
    layout = figure.get_layout_engine()
    if layout is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # if room is short, drawing will say so
            layout.execute(figure.canvas.figure)
    extent = ax.get_window_extent()
    if layout is not None or spec is None:
        return float(extent.width)
    spec = spec.get_topmost_subplotspec()
    right = 1.0 if spec.is_last_col() else spec.get_position(figure).x1
    return float(figure.transSubfigure.transform((right, 0))[0] - extent.x0)


def _keep_for_legend(ax: Any, legend: Any) -> None:
    """Keep the place of a legend from the title: matplotlib puts titles above axes within axes."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    inches = ax.figure.dpi_scale_trans
    above = inches + ScaledTranslation(0, 1, ax.transAxes)
    height = legend.get_window_extent().transformed(inches.inverted()).height
    place = ax.inset_axes(
        (0, 0, 1, height), transform=blended_transform_factory(ax.transAxes, above)
    )
    place.set(visible=False, label="place of the legend")
    place.set_in_layout(False)


def note(ax: Any, lines: Sequence[str]) -> Any:
    """Return small print in the lower right corner, None if there is nothing to say."""
    if not lines:
        return None
    return ax.text(
        0.99,
        0.015,
        "\n".join(lines),
        transform=ax.transAxes,
        ha="right",
        va="bottom",
        fontsize="x-small",
        color=grey(ax),
        bbox={
            "facecolor": "black" if is_dark(ax) else "white",
            "alpha": 0.8,
            "edgecolor": "none",
            "pad": 1.5,
        },
        zorder=5,
    )
