"""A memory map that is larger than a fit's memory, beside reading its files and the arithmetic."""

import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import alternately, in_new_process
from ..problems import PROBLEMS
from ..section import Scale, Section, Target, at_most, table
from ..solvers import OURS, SOLVERS

_TIMEOUT = 500.0
_PROBLEM = "decay"  # the least arithmetic for a row: reading counts most
_BUFFER_BYTES = 1 << 20
_FILES = ("x.npy", "y.npy")


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as data:
        return in_new_process(
            time_memory_map,
            timeout=_TIMEOUT,
            directory=data,
            n_rows=scale.stream_rows,
            repetitions=scale.repetitions,
        )


def time_memory_map(directory: str, n_rows: int, repetitions: int) -> dict[str, Any]:
    """Return the seconds of fits of a memory map and of arrays in memory, and of reading."""
    problem = PROBLEMS[_PROBLEM]
    arrays = problem.rows(n_rows)
    paths = [Path(directory) / name for name in _FILES]
    for path, values in zip(paths, arrays, strict=True):
        np.save(path, values)
    os.sync()  # or the system would write them while we measure
    maps = [np.load(path, mmap_mode="r") for path in paths]

    fit = SOLVERS[OURS].load(problem)
    p0 = list(problem.far)
    answers = [fit(*maps, p0), fit(*arrays, p0)]  # compiles
    from nlsq_sklearn._streams.threads import n_threads

    seconds = alternately(
        {
            "map": lambda: fit(*maps, p0),
            "memory": lambda: fit(*arrays, p0),
            "read": lambda: read(paths, n_threads()),
        },
        repetitions,
    )
    return {
        "n_rows": n_rows,
        "n_threads": n_threads(),
        "bytes": sum(path.stat().st_size for path in paths),
        "n_passes": [answer.n_passes for answer in answers],
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
    }


def read(paths: list[Path], n_threads: int) -> None:
    """Read files once, each thread a part of each, into a buffer that stays in the cache."""

    def read_part(path: Path, part: int) -> None:
        size = path.stat().st_size
        position, stop = (size * p // n_threads for p in (part, part + 1))
        buffer = bytearray(_BUFFER_BYTES)
        with path.open("rb", buffering=0) as file:
            file.seek(position)
            while position < stop:
                position += file.readinto(memoryview(buffer)[: stop - position])

    with ThreadPoolExecutor(n_threads) as pool:
        for path in paths:
            list(pool.map(lambda part, p=path: read_part(p, part), range(n_threads)))


def _ratio(figures: dict[str, Any]) -> float:
    seconds = figures["seconds"]
    return seconds["map"] / (figures["n_passes"][0] * seconds["read"] + seconds["memory"])


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return the time over that of reading and arithmetic."""
    what = (
        f"memory map of {figures['n_rows']:,} rows: time / (reading the files once per pass + the "
        "fit in memory)"
    )
    return [at_most(what, 1.3, _ratio(figures))]


def report(figures: dict[str, Any]) -> str:
    """Return the table of seconds."""
    seconds, passes = figures["seconds"], figures["n_passes"]
    rows = [
        ["fit of the memory map", f"{passes[0]}", f"{seconds['map']:.2f}"],
        ["fit of the same rows in memory", f"{passes[1]}", f"{seconds['memory']:.2f}"],
        ["reading the files once", "", f"{seconds['read']:.2f}"],
        ["time / (reading once per pass + fit in memory)", "", f"{_ratio(figures):.2f}"],
    ]
    return (
        f"`{_PROBLEM}`, far start, compiled; {figures['bytes'] / 1e9:.1f} GB of files in the "
        f"system's cache, read by {figures['n_threads']} threads.\n\n"
        + table(["", "passes", "seconds"], rows)
    )


SECTION = Section("memory_map", "Memory map", measure, targets, report)
