"""What the commands print: tables for people, JSON for programs. rich's tables live here."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")

# Tables that are piped are not cut to the width of a terminal that is not there.
_WIDTH_OF_A_PIPE = 10_000


def print_json(value: Any) -> None:
    """Print a value as JSON; numbers that are not finite, which JSON has not, become null."""
    click.echo(to_json(value))


def to_json(value: Any) -> str:
    """Return a value as JSON text."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their heads, if they have any; ``>`` sets a column to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
        show_header=any(columns),
    )
    for head in columns:
        is_right = head.startswith(">")
        table.add_column(
            head.removeprefix(">"),
            justify="right" if is_right else "left",
            no_wrap=is_right,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(printable, row))
    is_terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if is_terminal else _WIDTH_OF_A_PIPE,
        markup=False,
        highlight=False,
        emoji=False,
    )
    with console.capture() as capture:
        console.print(table)
    # rich fills lines with blanks.
    for line in capture.get().rstrip("\n").split("\n"):
        click.echo(line.rstrip())


def printable(text: str) -> str:
    """Return a text without characters that would do something to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number(value: float | None, digits: int = 6) -> str:
    """Return a number in words, a dash for none."""
    return "-" if value is None else f"{value:.{digits}g}"


def size(n_bytes: int) -> str:
    """Return a number of bytes in words."""
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 9.95 else f"{amount:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a time in words, in its largest unit."""
    for limit, length, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def age(moment: datetime | None) -> float | None:
    """Return how many seconds ago something was; none below 0, since clocks differ."""
    return None if moment is None else max(0.0, (datetime.now(UTC) - moment).total_seconds())


def count(number: int, noun: str) -> str:
    """Return a number of things in words; an ``es`` for passes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
