"""A thousand rows: what a fit costs beside the arithmetic."""

import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import alternately, in_new_process
from ..problems import PROBLEMS
from ..section import Scale, Section, Target, at_most, table
from ..solvers import OURS, SOLVERS

_N_ROWS = 1000
_TIMEOUT = 120.0
_PEER = "scipy-lm"


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Measure each problem in a process of its own."""
    return {
        problem: in_new_process(
            time_second_fits,
            timeout=_TIMEOUT,
            problem=problem,
            repetitions=scale.short_repetitions,
        )
        for problem in scale.problems
    }


def time_second_fits(problem: str, repetitions: int) -> dict[str, Any]:
    """Return the median seconds of a second fit, from the far start, of SciPy and of ours.

    Both run in turn in one process, so that they meet the same machine.
    """
    warnings.simplefilter("ignore")  # SciPy's model overflows on its way
    chosen = PROBLEMS[problem]
    x, y = chosen.rows(_N_ROWS)
    fits = {name: SOLVERS[name].load(chosen) for name in (OURS, _PEER)}
    answers = {name: fit(x, y, list(chosen.far)).params for name, fit in fits.items()}
    seconds = alternately(
        {name: lambda fit=fit: fit(x, y, list(chosen.far)) for name, fit in fits.items()},
        repetitions,
    )
    errors = {
        name: float(np.abs((params - chosen.truth) / chosen.standard_errors(_N_ROWS)).max())
        for name, params in answers.items()
    }
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": medians, "error": errors}


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return our time over SciPy's."""
    return [
        at_most(
            f"{name}, {_N_ROWS:,} rows, second fit: time / SciPy curve_fit",
            1,
            result["seconds"][OURS] / result["seconds"][_PEER],
        )
        for name, result in figures.items()
    ]


def report(figures: dict[str, Any]) -> str:
    """Return the table of milliseconds."""
    rows = [
        [
            name,
            f"{1e3 * result['seconds'][OURS]:.2f}",
            f"{1e3 * result['seconds'][_PEER]:.2f}",
            f"{result['error'][OURS]:.2f}",
            f"{result['error'][_PEER]:.2f}",
        ]
        for name, result in figures.items()
    ]
    header = ["", "ours, ms", "SciPy curve_fit, ms", "error of ours, s.e.", "of SciPy, s.e."]
    return (
        f"{_N_ROWS:,} rows, far start, second fits in turn in one process; SciPy with a model in "
        "NumPy.\n\n" + table(header, rows)
    )


SECTION = Section("small", "A thousand rows", measure, targets, report)
