"""What importing the package takes beside the libraries that no such package can do without."""

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..measure import ROOT
from ..section import Scale, Section, Target, at_most, table

_OURS = "import nlsq_sklearn"
_THEIRS = "import jax, sklearn.base"


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Import both in fresh processes, in turn."""
    seconds: dict[str, list[float]] = {_OURS: [], _THEIRS: []}
    if scale.imports > 1:  # the files are in the system's cache from here on
        _seconds_of_import(_OURS)
        _seconds_of_import(_THEIRS)
    for repetition in range(scale.imports):
        order = [_OURS, _THEIRS] if repetition % 2 == 0 else [_THEIRS, _OURS]
        for statement in order:
            seconds[statement].append(_seconds_of_import(statement))
    return {statement: statistics.median(values) for statement, values in seconds.items()}


def _seconds_of_import(statement: str) -> float:
    program = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return our import over theirs."""
    return [at_most(f"`{_OURS}` / `{_THEIRS}`", 1.25, figures[_OURS] / figures[_THEIRS])]


def report(figures: dict[str, Any]) -> str:
    """Return the table of seconds."""
    return "Medians of fresh processes, in turn.\n\n" + table(
        ["", "seconds"], [[f"`{name}`", f"{seconds:.2f}"] for name, seconds in figures.items()]
    )


SECTION = Section("imports", "Imports", measure, targets, report)
