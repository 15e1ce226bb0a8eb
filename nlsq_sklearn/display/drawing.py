"""What all pictures have in common: their colours, axes, legends and notes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Of the palette of M. Okabe and K. Ito, which colour-blind readers can tell apart.
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#595959"


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


def new_axes(n_rows: int = 1, height: float = 4.8) -> Any:
    """Return axes of a new figure, one below the other where there are several."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(
        n_rows, sharex=True, figsize=(6.4, height), layout="constrained", squeeze=n_rows == 1
    )
    return axes


def density_colours() -> Any:
    """Return a colour map in which a cell with one row stands out from the white of none."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    return ListedColormap(mpl.colormaps["Blues"](np.linspace(0.22, 1, 256)), name="density")


def legend_above(ax: Any, handles: Sequence[Any]) -> Any:
    """Return a legend above the axes, where it hides no data."""
    return ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(handles),
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.4,
        fontsize="small",
    )


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
        color=GREY,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
        zorder=5,
    )
