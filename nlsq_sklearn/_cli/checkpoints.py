"""``nlsq-sklearn checkpoints``: look at fits from outside, while they run or after."""

import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from .._storage import absolute, as_url, check_path
from .._survey import SavedFile, SavedFit, SavedState, fits_below, state_of
from .messages import debug_option, plainly, say
from .output import (
    age,
    count,
    duration,
    json_option,
    number,
    print_json,
    print_table,
    printable,
    size,
)
from .record import print_record, progress, record_as_json, summary_as_json

# Digits in the name of the folder that an estimator makes for each fit: shown at least, and all.
_FEWEST_DIGITS, _MOST_DIGITS = 6, 32


@click.group()
def checkpoints() -> None:
    """Look at checkpoints: of a fit that runs, was killed, or ended.

    Directories may be URLs for fsspec (s3://bucket/run). Reading leaves no trace: it may be done
    while a fit writes.
    """


@checkpoints.command("list")
@click.argument("directory")
@json_option
@debug_option
def list_fits(directory: str, *, as_json: bool, debug: bool) -> None:
    """List all fits whose checkpoints lie in DIRECTORY or below it."""
    with plainly(debug=debug):
        lines = [_Line.of(fit) for fit in _find(directory)]
        if as_json:
            print_json([line.as_json() for line in lines])
        elif lines:
            _print_fits(lines, directory)
        else:
            say(f"No checkpoints in {directory}, nor below it.")


@checkpoints.command("show")
@click.argument("path", metavar="DIR_OR_FILE")
@json_option
@debug_option
def show(path: str, *, as_json: bool, debug: bool) -> None:
    """Show the newest checkpoint of a directory, or a checkpoint file.

    Its parameters by name with their standard errors so far, the state of the fit, its passes, and
    what it is tied to. The folder of a fit may be given by the first characters of its name.
    """
    with plainly(debug=debug):
        file = _one_file(path)
        if file.record is None:
            raise ValueError(f"{file.path} is not a checkpoint that can be read: {file.fault}.")
        state = state_of(file.record)
        if as_json:
            print_json(record_as_json(file, state))
        else:
            print_record(file, state)


@checkpoints.command("verify")
@click.argument("path", metavar="DIR_OR_FILE")
@json_option
@debug_option
def verify(path: str, *, as_json: bool, debug: bool) -> None:
    """Check that each checkpoint file is whole.

    Its digest must match its content, and its content must be the state of a fit. The exit status
    is 1 if one is damaged, and 2 if there is none.
    """
    with plainly(debug=debug):
        if _is_file(_place(path)):
            files = [_read_file(_place(path))]
        else:
            read = (fit.read(name) for fit in _find(path) for name in fit.sizes)
            files = [file for file in read if file is not None]
        if not files:
            raise ValueError(f"No checkpoints in {path}, nor below it.")
        if as_json:
            print_json([_verdict_as_json(file) for file in files])
        else:
            _print_verdicts(files, path)
        if any(file.is_damaged for file in files):
            sys.exit(1)


@checkpoints.command("prune")
@click.argument("directory")
@click.option(
    "--keep", type=click.IntRange(min=1), required=True, help="Dated checkpoints to keep of a fit."
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@json_option
@debug_option
def prune(directory: str, *, keep: int, dry_run: bool, as_json: bool, debug: bool) -> None:
    """Remove the oldest checkpoints of each fit in DIRECTORY or below it.

    The newest KEEP dated files of each fit stay, and checkpoint_latest.json always does. A file
    that is not a whole checkpoint of this package is never removed.
    """
    with plainly(debug=debug):
        removed, left = [], []
        for fit in _find(directory):
            too_many, unknown = fit.too_many(keep)
            left += unknown
            for file in too_many:
                if not dry_run:
                    fit.remove(file)
                removed.append(file)
        if as_json:
            print_json(
                {
                    "dry_run": dry_run,
                    "removed": [file.path for file in removed],
                    "left_alone": [{"path": file.path, "why": file.fault} for file in left],
                }
            )
            return
        for file in removed:
            click.echo(printable(f"{'would remove' if dry_run else 'removed'} {file.path}"))
        for file in left:
            say(f"left alone, not a whole checkpoint: {file.path} ({file.fault})")
        n_bytes = size(sum(file.n_bytes for file in removed))
        verb = "would be removed" if dry_run else "removed"
        click.echo(f"{count(len(removed), 'file')} {verb}, {n_bytes}.")


def _find(directory: str) -> list[SavedFit]:
    """Return the fits in a directory and below it; raise if there is no such directory."""
    place = _place(directory)
    if as_url(place) is None:
        if Path(place).is_file():
            raise ValueError(f"{directory} is a file. Give its directory, or `show {directory}`.")
        if not Path(place).is_dir():
            raise ValueError(f"There is no directory {directory}.")
    return list(fits_below(place))


def _place(path: str) -> str:
    """Return a URL, or the absolute path of what is on this machine."""
    check_path(path)
    return os.fspath(absolute(path)).rstrip("/") or "/"


def _is_file(place: str) -> bool:
    """Return whether there is a file, by the ending of its name in a store."""
    if as_url(place) is None:
        return os.path.lexists(place) and not Path(place).is_dir()
    return place.endswith((".json", ".json.gz"))


def _read_file(place: str) -> SavedFile:
    """Return a checkpoint file, whatever its name."""
    directory, _, name = place.rpartition("/" if as_url(place) else os.sep)
    file = SavedFit(directory or "/").read(name)
    if file is None:
        raise ValueError(f"There is no file {place}.")
    return file


def _one_file(path: str) -> SavedFile:
    """Return a file, or the newest of the only fit in a directory."""
    place = _place(path)
    if _is_file(place):
        return _read_file(place)
    place = _completed(place)
    fits = _find(place)
    if not fits:
        raise ValueError(f"No checkpoints in {path}, nor below it.")
    if len(fits) > 1 and fits[0].directory != place:
        shown = "\n  ".join(fit.directory for fit in fits[:10])
        more = f"\n  and {len(fits) - 10} more" if len(fits) > 10 else ""
        raise ValueError(f"{path} holds {len(fits)} fits. Give one of them:\n  {shown}{more}")
    newest, faults = fits[0].newest()
    if newest is None:
        raise ValueError(
            "No checkpoint can be read: "
            + ("; ".join(faults) or f"{place} has just lost its files to another writer.")
        )
    for fault in faults:
        say(f"Warning: damaged checkpoint passed over, {fault}")
    return newest


def _completed(place: str) -> str:
    """Return the only directory whose name starts as that of a path, unless the path is there."""
    if as_url(place) is not None or Path(place).is_dir():
        return place
    parent, start = os.path.split(place)
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:  # said of the path itself, which is not there either
        return place
    found = sorted(name for name in names if name.startswith(start))
    if len(found) > 1:
        raise ValueError(f"{place} is the start of {len(found)} names: {', '.join(found)}.")
    return os.path.join(parent, found[0]) if found else place


class _Line(NamedTuple):
    """A fit, and what its newest checkpoint says, if one can be read."""

    fit: SavedFit
    newest: SavedFile | None
    state: SavedState | None
    faults: list[str]

    @classmethod
    def of(cls, fit: SavedFit) -> "_Line":
        newest, faults = fit.newest()
        state = None
        if newest is not None and newest.record is not None:
            try:
                state = state_of(newest.record)
            except ValueError as error:
                faults = [*faults, f"{newest.path}: {error}"]
        return cls(fit, newest, state, faults)

    @property
    def format(self) -> str:
        """Of the dated files; the latest is always plain."""
        return "gz" if any(name.endswith(".gz") for name in self.fit.sizes) else "json"

    def as_json(self) -> dict[str, Any]:
        fit, newest, state, faults = self
        line = {} if newest is None or state is None else summary_as_json(newest, state)
        return {
            "directory": fit.directory,
            "files": len(fit.sizes),
            "bytes": sum(fit.sizes.values()),
            "format": self.format,
            "faults": faults,
            "newest": line or None,
        }

    def cells(self) -> list[str]:
        """Return the cells of the table, without the name."""
        fit, _, state, faults = self
        files = [str(len(fit.sizes)), size(sum(fit.sizes.values())), self.format]
        if state is None:
            return ["unreadable" if faults else "gone", "-", "-", "-", *files]
        seconds = age(state.saved_at)
        since = "-" if seconds is None else duration(seconds)
        return [progress(state), number(state.cost), str(state.iteration), since, *files]


def _print_fits(lines: list[_Line], directory: str) -> None:
    names = _shortened([_relative(line.fit.directory, directory) for line in lines])
    heads = ["fit", "progress", ">cost", ">steps", ">age", ">files", ">size", "format"]
    print_table(heads, [[name, *line.cells()] for name, line in zip(names, lines, strict=True)])
    for fault in (fault for line in lines for fault in line.faults):
        say(f"Warning: {fault}")


def _relative(path: str, directory: str) -> str:
    """Return a path as seen from the directory that was asked for."""
    return path.removeprefix(_place(directory)).strip("/") or "."


def _shortened(paths: list[str]) -> list[str]:
    """Return the names of fits, on a terminal with as many digits as tell them apart."""
    fewest = _FEWEST_DIGITS if sys.stdout.isatty() else _MOST_DIGITS
    for n_digits in range(fewest, _MOST_DIGITS):
        rest = f"[0-9a-f]{{{_MOST_DIGITS - n_digits}}}"
        short = [re.sub(rf"(fit_[0-9a-f]{{{n_digits}}}){rest}(?=/|$)", r"\1", p) for p in paths]
        if len(set(short)) == len(set(paths)):
            return short
    return paths


def _verdict_as_json(file: SavedFile) -> dict[str, Any]:
    is_whole = file.record is not None
    return {"path": file.path, "bytes": file.n_bytes, "whole": is_whole, "why": file.fault}


def _print_verdicts(files: list[SavedFile], directory: str) -> None:
    rows = []
    names = _shortened([_relative(file.path, directory) for file in files])
    for name, file in zip(names, files, strict=True):
        verdict = "damaged" if file.is_damaged else "whole" if file.fault is None else "unknown"
        rows.append([name, size(file.n_bytes), verdict, file.fault or ""])
    print_table(["file", ">size", "verdict", "why"], rows)
    n_damaged = sum(file.is_damaged for file in files)
    click.echo(f"\n{count(len(files), 'file')}, {n_damaged} damaged.")
