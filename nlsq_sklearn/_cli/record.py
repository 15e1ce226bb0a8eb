"""What a checkpoint says, for people and for programs."""

from collections.abc import Iterator, Mapping
from typing import Any

import click
import numpy as np

from .._engine.covariance import covariance
from .._survey import SavedFile, SavedState
from .output import age, count, duration, number, print_table, printable, size

_MOST_PASSES_SHOWN = 20
_DIGITS_OF_A_KEY = 12


def progress(state: SavedState) -> str:
    """Return how far a fit is, in words."""
    if state.phase == "partial_fit":
        return f"batch {state.iteration}"
    if state.state is None:
        return "not a fit"
    if state.phase == "finished":
        return "converged" if state.state.status.is_converged else "not converged"
    share = state.share_of_pass
    if share is None:
        return "warm-up"
    return f"pass {state.state.n_passes + 1}, {100 * share:.0f} %"


def summary_as_json(file: SavedFile, state: SavedState) -> dict[str, Any]:
    """Return a checkpoint in brief, for programs."""
    fit = state.state
    return {
        "path": file.path,
        "phase": state.phase,
        "converged": None if fit is None else fit.status.is_converged,
        "message": None if fit is None else fit.status.message,
        "passes": None if fit is None else fit.n_passes,
        "share_of_pass": state.share_of_pass,
        "iteration": state.iteration,
        "cost": state.cost,
        "rows": state.n_rows,
        "saved_at": None if state.saved_at is None else state.saved_at.isoformat(),
        "age_seconds": age(state.saved_at),
    }


def record_as_json(file: SavedFile, state: SavedState) -> dict[str, Any]:
    """Return all that a checkpoint says, for programs."""
    record = file.record or {}
    fit = state.state
    return {
        **summary_as_json(file, state),
        "bytes": file.n_bytes,
        "elapsed_seconds": record.get("elapsed_seconds"),
        "parameters": [
            dict(
                zip(
                    ("name", "value", "standard_error", "start", "lower", "upper"), row, strict=True
                )
            )
            for row in _parameters(state, record)
        ],
        "history": [] if fit is None else list(fit.history),
        "identity": record.get("identity"),
        "versions": record.get("versions"),
    }


def print_record(file: SavedFile, state: SavedState) -> None:
    """Print all that a checkpoint says, for people."""
    record = file.record or {}
    click.echo(printable(file.path))
    click.echo(", ".join(_headline(file, state, record)) + "\n")
    rows = [
        [name, number(value, 10), number(error, 3), *(number(v) for v in others)]
        for name, value, error, *others in _parameters(state, record)
    ]
    heads = ["parameter", ">value", ">standard error", ">start", ">lower", ">upper"]
    print_table(*_without_empty(heads, rows))
    _print_state(state)
    tied_to = list(_tied_to(record))
    if tied_to:
        click.echo("\ntied to")
        print_table(["", ""], tied_to)


def _headline(file: SavedFile, state: SavedState, record: Mapping[str, Any]) -> Iterator[str]:
    yield progress(state)
    seconds = age(state.saved_at)
    if seconds is not None and state.saved_at is not None:
        yield f"saved {duration(seconds)} ago ({state.saved_at:%Y-%m-%d %H:%M:%S} UTC)"
    elapsed = record.get("elapsed_seconds")
    if isinstance(elapsed, (int, float)):
        yield f"{duration(elapsed)} of fitting"
    yield size(file.n_bytes)


def _parameters(state: SavedState, record: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return name, value, standard error, start and bounds of each parameter; None for unknown."""
    n_params = len(state.params)
    identity = record.get("identity")
    settings = identity.get("settings") if isinstance(identity, dict) else None
    columns: list[list[float | None]] = []
    for key, open_bound in (("p0", None), ("lower bounds", -np.inf), ("upper bounds", np.inf)):
        values = settings.get(key) if isinstance(settings, dict) else None
        if not isinstance(values, list) or len(values) != n_params:
            columns.append([None] * n_params)
            continue
        columns.append([open_bound if v is None else float(v) for v in values])
    return list(zip(state.names, state.params, _errors(state), *columns, strict=True))


def _errors(state: SavedState) -> list[float | None]:
    """Return the standard errors that the accepted point's equations give, in the fit so far."""
    equations = None if state.state is None else state.state.equations
    if equations is None or not equations.is_finite:
        return [None] * len(state.params)
    with np.errstate(all="ignore"):
        variances = np.diag(covariance(equations, absolute_sigma=False).matrix)
        return [float(error) for error in np.sqrt(variances)]


def _without_empty(heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table without the columns in which nothing is known."""
    kept = [i for i in range(len(heads)) if any(row[i] != "-" for row in rows)]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _print_state(state: SavedState) -> None:
    fit = state.state
    if fit is None:
        return
    click.echo(f"\n{fit.status.message}")
    chunks = f", chunk {fit.next_chunk:,} of {state.n_chunks:,}" if fit.next_chunk else ""
    passes = f"{count(fit.n_iter, 'step')}, {count(fit.n_passes, 'pass')}{chunks}"
    click.echo(f"cost {number(state.cost, 10)}, {passes}")
    if not fit.history:
        return
    click.echo()
    rows = []
    for entry in fit.history[-_MOST_PASSES_SHOWN:]:
        numbers = [number(entry[key], 4) for key in ("step_length", "damping", "gain_ratio")]
        accepted = "yes" if entry["accepted"] else "no"
        rows.append([str(entry["n_passes"]), number(entry["cost"], 10), accepted, *numbers])
    print_table([">pass", ">cost", "accepted", ">step length", ">damping", ">gain ratio"], rows)
    n_left_out = len(fit.history) - len(rows)
    if n_left_out:
        click.echo(f"({count(n_left_out, 'earlier pass')} with --json)")


def _tied_to(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield what a checkpoint belongs to, in words, and the versions that wrote it."""
    identity = record.get("identity")
    for name, part in identity.items() if isinstance(identity, dict) else ():
        if isinstance(part, dict):
            # Starts and bounds stand beside the parameters; what is not set says nothing.
            shown = {
                key: value
                for key, value in part.items()
                if not isinstance(value, list) and value is not None and value is not False
            }
            yield [name, ", ".join(f"{key} {_brief(value)}" for key, value in shown.items())]
        elif name != "number of parameters":
            yield [name, _brief(part)]
    versions = record.get("versions")
    if isinstance(versions, dict):
        yield ["versions", ", ".join(f"{key} {_brief(value)}" for key, value in versions.items())]


def _brief(value: Any) -> str:
    """Return a value in words, of a digest its first digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    is_key = len(text) >= 32 and text.isalnum()
    return f"{text[:_DIGITS_OF_A_KEY]}..." if is_key else text
