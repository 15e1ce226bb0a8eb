"""A cluster of two processes that hold the rows, beside threads that do."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import alternately, in_new_process
from ..problems import PROBLEMS, Problem
from ..section import Scale, Section, Target, at_most, table
from ..solvers import OURS, SOLVERS

_TIMEOUT = 500.0
_PROBLEM = "decay"
_N_WORKERS = 2


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as workers:
        return in_new_process(
            time_cluster,
            timeout=_TIMEOUT,
            directory=workers,
            n_rows=scale.stream_rows,
            chunk_rows=scale.cluster_chunk_rows,
            repetitions=scale.repetitions,
        )


def time_cluster(directory: str, n_rows: int, chunk_rows: int, repetitions: int) -> dict[str, Any]:
    """Return the seconds of fits on a cluster and in threads, data persisted, compiled."""
    import dask
    from distributed import Client, LocalCluster, wait

    problem = PROBLEMS[_PROBLEM]
    fit = SOLVERS[OURS].load(problem)
    p0 = list(problem.far)
    with (
        LocalCluster(
            n_workers=_N_WORKERS,
            threads_per_worker=1,
            dashboard_address=":0",
            local_directory=directory,
        ) as cluster,
        Client(cluster),
    ):
        on_cluster = dask.persist(*lazy_rows(problem, n_rows, chunk_rows))
        wait(on_cluster)
        with dask.config.set(scheduler="threads"):
            in_threads = dask.persist(*lazy_rows(problem, n_rows, chunk_rows))

        def fit_in_threads() -> Any:
            with dask.config.set(scheduler="threads"):
                return fit(*in_threads, p0)

        fits = {"cluster": lambda: fit(*on_cluster, p0), "threads": fit_in_threads}
        answers = {name: run() for name, run in fits.items()}
        # Each worker is the first to meet a chunk of the second fit, and compiles there at most.
        fits["cluster"]()
        seconds = alternately(fits, repetitions)
    return {
        "n_rows": n_rows,
        "n_chunks": on_cluster[0].npartitions,
        "n_passes": {name: answer.n_passes for name, answer in answers.items()},
        "has_same_bits": bool((answers["cluster"].params == answers["threads"].params).all()),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
    }


def lazy_rows(problem: Problem, n_rows: int, chunk_rows: int) -> tuple[Any, Any]:
    """Return x and y as Dask arrays whose chunks are computed where they are needed."""
    import dask.array as da

    low, high = problem.span
    x = low + da.arange(n_rows, chunks=chunk_rows, dtype=float) * ((high - low) / (n_rows - 1))
    noise = da.random.default_rng(0).normal(0, problem.noise, n_rows, chunks=chunk_rows)
    # A model of ours is a function within a function: its values travel as tasks by pickle.
    curve = x.map_blocks(problem.make_model(np), *problem.truth, dtype=float)
    return x, curve + noise


def _ratio(figures: dict[str, Any]) -> float:
    return figures["seconds"]["cluster"] / figures["seconds"]["threads"]


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return the time on the cluster over that in threads."""
    what = (
        f"LocalCluster, {_N_WORKERS} processes, {figures['n_rows']:,} rows persisted in "
        f"{figures['n_chunks']:,} chunks: time / threads"
    )
    return [at_most(what, 1.5, _ratio(figures))]


def report(figures: dict[str, Any]) -> str:
    """Return the table of seconds."""
    rows = [
        [title, str(figures["n_passes"][name]), f"{figures['seconds'][name]:.2f}"]
        for name, title in (
            ("cluster", f"LocalCluster, {_N_WORKERS} processes of one thread"),
            ("threads", "threads of one process"),
        )
    ]
    bits = "the same bits" if figures["has_same_bits"] else "**different bits**"
    return (
        f"`{_PROBLEM}`, far start, compiled, each side with the rows in its memory; both end in "
        f"{bits}.\n\n" + table(["", "passes", "seconds"], rows)
    )


SECTION = Section("cluster", "Cluster of processes", measure, targets, report)
