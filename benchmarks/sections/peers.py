"""Every solver on one problem: time with compilation, of a second fit, memory, and its error."""

import functools
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import (
    MeasurementFailedError,
    TookTooLongError,
    in_new_process,
    memory_mb,
    reset_peak_memory,
    seconds_of,
)
from ..problems import PROBLEMS
from ..section import Scale, Section, Target, at_least, table
from ..solvers import OURS, SOLVERS

_TIMEOUT = 150.0
# An answer counts as found if no parameter is farther from the truth, in its standard errors.
_FOUND = 5.0
_FEWEST_ROWS = 100_000
# The complete run shall take minutes. So the fits that take longest are not all repeated.
_MOST_PROCESSES = 3  # of the cases that are judged; of the others one
_REPEAT_FOR_SECONDS = 10.0
_LONGEST_BEFORE_SECOND = 12.0
_LONGEST_BEFORE_NEAR = 5.0
_SECOND_FITS = 5
_SECOND_FITS_FOR_SECONDS = 1.5


def measure(problem: str, scale: Scale, directory: Path) -> dict[str, Any]:
    """Fit the problem with all solvers, each fit in a process of its own."""
    cases: list[dict[str, Any]] = []
    for n_rows in scale.rows:
        is_largest = n_rows == max(scale.rows)
        with tempfile.TemporaryDirectory(dir=directory) as data:
            for name, values in zip("xy", PROBLEMS[problem].rows(n_rows), strict=True):
                np.save(Path(data) / f"{name}.npy", values)
            for start, solver in itertools.product(scale.starts, SOLVERS):
                case = {"solver": solver, "start": start, "n_rows": n_rows}
                is_judged = is_largest and start == "far"
                n_processes = min(scale.repetitions, _MOST_PROCESSES) if is_judged else 1
                reason = _reason_to_skip(case, cases, is_largest=is_largest)
                cases.append(case | (reason or _run_case(case, problem, data, n_processes)))
    return {"problem": problem, "cases": cases}


def _reason_to_skip(
    case: dict[str, Any], cases: list[dict[str, Any]], *, is_largest: bool
) -> dict[str, str] | None:
    """Return why a case is not run, None if it is."""
    solver = SOLVERS[case["solver"]]
    if not solver.is_installed:
        return {"skipped": "not installed"}
    same = [earlier for earlier in cases if earlier["solver"] == case["solver"]]
    if any(earlier.get("took_too_long") for earlier in same):
        return {"skipped": f"left out, took more than {_TIMEOUT:g} s before"}
    if is_largest and case["start"] != "far":
        far = [c for c in same if c["n_rows"] == case["n_rows"] and c["start"] == "far"]
        if any("first_s" in c and min(c["first_s"]) > _LONGEST_BEFORE_NEAR for c in far):
            return {"skipped": f"left out, far start > {_LONGEST_BEFORE_NEAR:g} s"}
    return None


def _run_case(case: dict[str, Any], problem: str, data: str, n_processes: int) -> dict[str, Any]:
    """Return the figures of a case from up to ``n_processes`` fresh processes."""
    started_at = time.monotonic()
    runs: list[dict[str, Any]] = []
    try:
        while not runs or (
            len(runs) < n_processes and time.monotonic() - started_at < _REPEAT_FOR_SECONDS
        ):
            runs.append(
                in_new_process(
                    fit_once_and_again,
                    timeout=_TIMEOUT,
                    solver=case["solver"],
                    problem=problem,
                    start=case["start"],
                    data=data,
                )
            )
    except MeasurementFailedError as error:
        return {"failed": str(error), "took_too_long": isinstance(error, TookTooLongError)}
    errors = np.array([run["params"] for run in runs]) - PROBLEMS[problem].truth
    standard_errors = PROBLEMS[problem].standard_errors(case["n_rows"])
    memory = [run["memory_mb"] for run in runs if run["memory_mb"] is not None]
    return {
        "import_s": [run["import_s"] for run in runs],
        "first_s": [run["first_s"] for run in runs],
        "second_s": [seconds for run in runs for seconds in run["second_s"]],
        "memory_mb": max(memory) if memory else None,
        "error": float(np.abs(errors / standard_errors).max()),
        "n_passes": runs[-1]["n_passes"],
    }


def fit_once_and_again(solver: str, problem: str, start: str, data: str) -> dict[str, Any]:
    """Return what the first fit of this process takes, and what further ones take."""
    started_at = time.perf_counter()
    fit = SOLVERS[solver].load(PROBLEMS[problem])
    import_s = time.perf_counter() - started_at
    x, y = (np.load(Path(data) / f"{name}.npy") for name in "xy")
    p0 = PROBLEMS[problem].starts[start]
    warnings.simplefilter("ignore")  # of solvers about steps on their way; the answer is judged

    before = memory_mb("VmRSS")
    reset_peak_memory()
    started_at = time.perf_counter()
    answer = fit(x, y, p0)
    first_s = time.perf_counter() - started_at
    peak = memory_mb("VmHWM")

    second_s: list[float] = []
    while first_s <= _LONGEST_BEFORE_SECOND and (
        not second_s or (len(second_s) < _SECOND_FITS and sum(second_s) < _SECOND_FITS_FOR_SECONDS)
    ):
        second_s.append(seconds_of(lambda: fit(x, y, p0)))
    return {
        "import_s": import_s,
        "first_s": first_s,
        "second_s": second_s,
        "memory_mb": None if before is None or peak is None else peak - before,
        "params": answer.params.tolist(),
        "n_passes": answer.n_passes,
    }


def is_found(case: dict[str, Any]) -> bool:
    """Return whether a case ended at the truth, within its errors."""
    return case.get("error", np.inf) <= _FOUND


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return how far ahead of the fastest peer we are, and our passes over the data."""
    problem, cases = figures["problem"], figures["cases"]
    largest = max(case["n_rows"] for case in cases)
    far = [c for c in cases if c["n_rows"] == largest and c["start"] == "far" and is_found(c)]
    where = f"{problem}, {largest:,} rows, far start"
    wanted = []
    for key, what, limit in (
        ("first_s", "fresh process, compilation included", 5),
        ("second_s", "second fit of a process", 20),
    ):
        seconds = {c["solver"]: statistics.median(c[key]) for c in far if c[key]}
        ours = seconds.pop(OURS, np.inf)  # not found, no speed
        peer = min(seconds, key=seconds.get)
        wanted.append(
            at_least(
                f"{where}: {what}, against the fastest peer",
                limit,
                seconds[peer] / ours,
                f"{ours:.2f} s; {SOLVERS[peer].title} {seconds[peer]:.2f} s",
            )
        )
    return [*wanted, _target_of_passes(problem, cases)]


def _target_of_passes(problem: str, cases: list[dict[str, Any]]) -> Target:
    """Return how often our fits read all rows, from all starts.

    Fewer rows are no larger than a sample of the warm-up: there passes are what samples would be.
    """
    ours = [c for c in cases if c["solver"] == OURS]
    passes: dict[int, list[int]] = {}
    for case in ours:
        passes.setdefault(case["n_rows"], []).append(case["n_passes"] if is_found(case) else 0)
    judged = [n for n_rows, counts in passes.items() if n_rows >= _FEWEST_ROWS for n in counts]
    measured = "; ".join(
        f"{n_rows:,} rows: {' to '.join(map(str, sorted({min(counts), max(counts)})))}"
        for n_rows, counts in passes.items()
    )
    return Target(
        f"{problem}: full passes, both starts, from {_FEWEST_ROWS:,} rows on",
        "≤ 3",
        measured,
        all(0 < count <= 3 for count in judged),
    )


def report(figures: dict[str, Any]) -> str:
    """Return the tables, one for each start and number of rows."""
    problem = PROBLEMS[figures["problem"]]
    low, high = problem.span
    truth = ", ".join(f"{p:g}" for p in problem.truth)
    far = ", ".join(f"{p:g}" for p in problem.far)
    intro = (
        f"`{problem.formula}`, x evenly spread in [{low:g}, {high:g}], noise {problem.noise:g}; "
        f"truth [{truth}], far start [{far}]."
    )
    return "\n\n".join([intro, *_tables(figures["cases"])])


def _tables(cases: list[dict[str, Any]]) -> Iterator[str]:
    header = [
        "",
        "first fit, s",
        "second fit, s",
        "memory, MB",
        "error, s.e.",
        "passes",
        "import, s",
    ]
    for n_rows in sorted({case["n_rows"] for case in cases}, reverse=True):
        for start in dict.fromkeys(case["start"] for case in cases):
            chosen = [c for c in cases if c["n_rows"] == n_rows and c["start"] == start]
            yield f"**{n_rows:,} rows, {start} start**\n\n" + table(header, [*map(_row, chosen)])


def _row(case: dict[str, Any]) -> list[str]:
    """Return the line of a case."""
    title = SOLVERS[case["solver"]].title
    if "first_s" not in case:
        return [f"{title}: {case.get('skipped') or 'failed, ' + case['failed']}", *[""] * 6]
    memory, passes = case["memory_mb"], case["n_passes"]
    return [
        title,
        _seconds(case["first_s"]),
        _seconds(case["second_s"]),
        "" if memory is None else f"{memory:,.0f}",
        f"{case['error']:.2f}" if is_found(case) else f"{case['error']:.3g}, **not found**",
        "" if passes is None else str(passes),
        f"{statistics.median(case['import_s']):.1f}",
    ]


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else ""


SECTIONS = [
    Section(
        f"peers-{name}", f"All solvers: {name}", functools.partial(measure, name), targets, report
    )
    for name in PROBLEMS
]
