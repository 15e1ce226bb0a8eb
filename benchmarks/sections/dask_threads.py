"""A Dask array in memory, in many chunks, beside the same rows as NumPy arrays."""

import statistics
from pathlib import Path
from typing import Any

from ..measure import alternately, in_new_process
from ..problems import PROBLEMS
from ..section import Scale, Section, Target, at_most, table
from ..solvers import OURS, SOLVERS

_TIMEOUT = 500.0
_PROBLEM = "decay"


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    return in_new_process(
        time_dask,
        timeout=_TIMEOUT,
        n_rows=scale.stream_rows,
        chunk_rows=scale.dask_chunk_rows,
        repetitions=scale.repetitions,
    )


def time_dask(n_rows: int, chunk_rows: int, repetitions: int) -> dict[str, Any]:
    """Return the seconds of fits of Dask and NumPy arrays of the same rows, compiled."""
    import dask
    import dask.array as da

    problem = PROBLEMS[_PROBLEM]
    arrays = problem.rows(n_rows)
    fit = SOLVERS[OURS].load(problem)
    p0 = list(problem.far)
    with dask.config.set(scheduler="threads"):
        chunked = [da.from_array(a, chunks=chunk_rows, name=False).persist() for a in arrays]
        fits = {"dask": lambda: fit(*chunked, p0), "numpy": lambda: fit(*arrays, p0)}
        passes = {name: run().n_passes for name, run in fits.items()}
        seconds = alternately(fits, repetitions)
    return {
        "n_rows": n_rows,
        "n_chunks": chunked[0].npartitions,
        "n_passes": passes,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
    }


def _ratio(figures: dict[str, Any]) -> float:
    return figures["seconds"]["dask"] / figures["seconds"]["numpy"]


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return the time on Dask over that on NumPy."""
    what = (
        f"Dask array in memory, {figures['n_rows']:,} rows in {figures['n_chunks']:,} chunks, "
        "threads: time / NumPy arrays"
    )
    return [at_most(what, 1.3, _ratio(figures))]


def report(figures: dict[str, Any]) -> str:
    """Return the table of seconds."""
    rows = [
        [title, str(figures["n_passes"][name]), f"{figures['seconds'][name]:.2f}"]
        for name, title in (("dask", "Dask array, threads"), ("numpy", "NumPy arrays"))
    ]
    return f"`{_PROBLEM}`, far start, compiled.\n\n" + table(["", "passes", "seconds"], rows)


SECTION = Section("dask", "Dask array in memory", measure, targets, report)
