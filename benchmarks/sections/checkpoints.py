"""A fit that is checkpointed every second, beside one that is not."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import alternately, in_new_process, seconds_of
from ..problems import PROBLEMS
from ..section import Scale, Section, Target, at_most, table

_TIMEOUT = 500.0
_PROBLEM = "logistic"  # the most arithmetic for a row: the fewest rows for so many seconds
_TILE_ROWS = 1_000_000
_MOST_TILES = 600  # 9.6 GB
_INTERVAL = 1.0


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as checkpoints:
        return in_new_process(
            time_checkpoints,
            timeout=_TIMEOUT,
            directory=checkpoints,
            wanted_seconds=scale.checkpointed_seconds,
            repetitions=scale.repetitions,
        )


def time_checkpoints(directory: str, wanted_seconds: float, repetitions: int) -> dict[str, Any]:
    """Return the seconds of fits with and without checkpoints, compiled, and how many were saved.

    The rows of one tile are repeated until a fit takes as long as it shall.
    """
    import jax.numpy as jnp

    from nlsq_sklearn import AdaptiveHybridStreamingOptimizer

    problem = PROBLEMS[_PROBLEM]
    model = problem.make_model(jnp)
    p0 = list(problem.far)
    tile = problem.rows(_TILE_ROWS)
    plain = AdaptiveHybridStreamingOptimizer(model)
    rehearsal = [np.tile(values, 4) for values in tile]
    plain.fit(*rehearsal, p0)  # compiles
    per_tile = seconds_of(lambda: plain.fit(*rehearsal, p0)) / 4
    n_tiles = int(np.clip(wanted_seconds / per_tile, 1, _MOST_TILES))
    x, y = (np.tile(values, n_tiles) for values in tile)

    n_saved: list[int] = []

    def fit_with_checkpoints() -> None:
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            optimizer = AdaptiveHybridStreamingOptimizer(
                model,
                checkpoint_dir=folder,
                checkpoint_interval=_INTERVAL,
                max_checkpoints=1000,
            )
            optimizer.fit(x, y, p0)
            n_saved.append(len(list(Path(folder).iterdir())) - 1)  # the latest is there twice

    seconds = alternately(
        {"with": fit_with_checkpoints, "without": lambda: plain.fit(x, y, p0)}, repetitions
    )
    return {
        "n_rows": x.size,
        "n_saved": round(statistics.median(n_saved)),
        "all_seconds": seconds,
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
    }


def _ratio(figures: dict[str, Any]) -> float:
    return figures["seconds"]["with"] / figures["seconds"]["without"]


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return the time with checkpoints over that without."""
    what = (
        f"checkpointing every second in a fit of {figures['seconds']['without']:.0f} s: time / "
        "without"
    )
    ratio = _ratio(figures)
    return [at_most(what, 1.02, ratio)._replace(measured=f"{ratio:.3f}")]


def report(figures: dict[str, Any]) -> str:
    """Return the table of seconds."""
    rows = [
        [
            f"{name} checkpoints",
            f"{figures['seconds'][name]:.2f}",
            f"{min(figures['all_seconds'][name]):.2f} to {max(figures['all_seconds'][name]):.2f}",
        ]
        for name in ("with", "without")
    ]
    return (
        f"`{_PROBLEM}`, far start, compiled, {figures['n_rows']:,} rows in memory; "
        f"{figures['n_saved']} checkpoints were saved to a local disk, every second and at the "
        "end.\n\n" + table(["", "seconds (median)", "from, to"], rows)
    )


SECTION = Section("checkpoints", "Checkpoints", measure, targets, report)
