"""The picture: time of a fit against the number of rows, all solvers. matplotlib lives here."""

import statistics
from pathlib import Path
from typing import Any

from .section import Section
from .sections.peers import is_found
from .solvers import OURS, SOLVERS

_STYLES = {  # of a palette that colour-blind eyes can tell apart
    OURS: {"color": "#d55e00", "marker": "o", "linewidth": 2.5, "zorder": 5},
    "scipy-lm": {"color": "#0072b2", "marker": "s"},
    "scipy-trf": {"color": "#56b4e9", "marker": "D"},
    "lmfit": {"color": "#009e73", "marker": "^"},
    "nlsq": {"color": "#cc79a7", "marker": "v"},
    "nlsq-large": {"color": "#8c5a7c", "marker": "<"},
    "optimistix": {"color": "#999999", "marker": "X"},
}
_KINDS = {"first_s": "first fit, compilation included", "second_s": "second fit of the process"}


def draw(results: dict[str, Any], sections: list[Section], path: Path) -> None:
    """Draw the solvers' times from the far start, a column for each problem.

    Does nothing where no problem was measured.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    chosen = [results["sections"].get(s.name) for s in sections if s.name.startswith("peers-")]
    figures = [record["figures"] for record in chosen if record is not None]
    if not figures:
        return
    picture, axes = plt.subplots(
        len(_KINDS),
        len(figures),
        figsize=(1.5 + 3.2 * len(figures), 6.6),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, measured in enumerate(figures):
        for row, (key, kind) in enumerate(_KINDS.items()):
            ax = axes[row, column]
            _draw_times(ax, measured["cases"], key)
            if row == 0:
                ax.set_title(measured["problem"])
            if column == 0:
                ax.set_ylabel(f"{kind}, s")
            if row == len(_KINDS) - 1:
                ax.set_xlabel("rows")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    picture.savefig(path, dpi=120)
    plt.close(picture)


def _draw_times(ax: Any, cases: list[dict[str, Any]], key: str) -> None:
    """Draw one panel; a solver that did not find the answer has a gap."""
    for solver, style in _STYLES.items():
        points = [
            (case["n_rows"], statistics.median(case[key]))
            for case in cases
            if case["solver"] == solver and case["start"] == "far"
            if case.get(key) and is_found(case)
        ]
        rows, seconds = zip(*points, strict=True) if points else ((), ())
        ax.loglog(rows, seconds, label=SOLVERS[solver].title, markersize=5, **style)
    ax.grid(which="major", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
