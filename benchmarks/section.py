"""What a section of the benchmarks is, and how large its pieces are."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .problems import PROBLEMS


class Scale(NamedTuple):
    """How large the pieces of a run are.

    Attributes
    ----------
    problems : tuple of str
        Whose passes and small fits are measured.
    rows : tuple of int
        Rows that every solver fits.
    starts : tuple of str
    repetitions : int
        How often a measurement is repeated that takes seconds.
    imports : int
        How often a library is imported.
    short_repetitions : int
        The same for one that takes milliseconds.
    floor_rows : int
        Rows of a pass beside the C loop.
    stream_rows, dask_chunk_rows, cluster_chunk_rows : int
        Rows of the memory map and of the Dask arrays, and of their chunks.
    checkpointed_seconds : float
        How long the fit shall take that is checkpointed every second.
    search_rows : int
    """

    problems: tuple[str, ...] = tuple(PROBLEMS)
    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000, 5_000_000)
    starts: tuple[str, ...] = ("far", "near")
    repetitions: int = 5
    imports: int = 9
    short_repetitions: int = 101
    floor_rows: int = 5_000_000
    stream_rows: int = 100_000_000
    dask_chunk_rows: int = 100_000
    cluster_chunk_rows: int = 1_000_000
    checkpointed_seconds: float = 10.0
    search_rows: int = 100_000


FULL = Scale()
QUICK = Scale(
    problems=("decay",),
    rows=(20_000,),
    starts=("far",),
    repetitions=1,
    imports=1,
    short_repetitions=3,
    floor_rows=200_000,
    stream_rows=1_000_000,
    dask_chunk_rows=100_000,
    cluster_chunk_rows=250_000,
    checkpointed_seconds=0.2,
    search_rows=10_000,
)


class Target(NamedTuple):
    """What is asked of one figure, and what it is.

    Attributes
    ----------
    what, asked, measured : str
    is_met : bool
    """

    what: str
    asked: str
    measured: str
    is_met: bool


class Section(NamedTuple):
    """One thing to measure.

    Attributes
    ----------
    name, title : str
    measure : callable
        ``measure(scale, directory)`` returns the figures, as JSON; ``directory`` is for data.
    targets : callable
        From the figures to what they are asked to be.
    report : callable
        From the figures to Markdown, without a heading.
    """

    name: str
    title: str
    measure: Callable[[Scale, Path], dict[str, Any]]
    targets: Callable[[dict[str, Any]], Sequence[Target]]
    report: Callable[[dict[str, Any]], str]


def at_most(what: str, limit: float, measured: float) -> Target:
    """Return the target of a ratio that shall not be larger than a limit."""
    return Target(what, f"≤ {limit:g}", f"{measured:.2f}", measured <= limit)


def at_least(what: str, limit: float, measured: float, from_what: str) -> Target:
    """Return the target of a ratio that shall not be smaller than a limit."""
    return Target(what, f"≥ {limit:g}", f"{measured:.3g} ({from_what})", measured >= limit)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
