"""Checkpoints: one JSON file a snapshot, written whole or not at all."""

import gzip
import hashlib
import json
import logging
import os
import re
import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

from ._signals import SignalGuard
from ._storage import LocalDirectory
from .exceptions import (
    CheckpointNotFoundError,
    CheckpointWarning,
    CorruptCheckpointError,
)

_logger = logging.getLogger("nlsq_sklearn")

LATEST = "checkpoint_latest.json"
SCHEMA = 1
"""Number of the layout of a record; each change of it gets a step that upgrades the older one."""

_DATED = re.compile(r"checkpoint_(\d{8}_\d{6})(?:_(\d{6}))?\.json(\.gz)?")
_STAMP = "%Y%m%d_%H%M%S"
# A record has a few KB. More than this is not ours, and would only fill the memory.
_MAX_BYTES = 64 * 2**20


class CheckpointInfo(NamedTuple):
    """One checkpoint file: its ``path``, the ``iteration`` and ``params`` that it holds."""

    path: str
    iteration: int
    params: list[float]


@dataclass(frozen=True)
class JSONCheckpoint:
    """Where and how often a fit saves its state.

    Parameters
    ----------
    directory : path-like
        Made where it does not exist. Holds ``checkpoint_YYYYMMDD_HHMMSS.json`` (time in UTC, a
        counter behind it where two fall in one second) and ``checkpoint_latest.json``.
    interval : float, default=60
        Seconds between saves; 0 saves after each chunk. The last state of a fit is always saved.
    max_checkpoints : int, default=5
        Dated files to keep.
    compression : bool, default=False
        Whether dated files are compressed, ``.json.gz``. The latest is always plain.
    on_save : callable or None, default=None
        Called with the path of each checkpoint that was written.
    on_resume : callable or None, default=None
        Called with the path of the checkpoint that a fit goes on from.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong kind or out of its range.

    Examples
    --------
    >>> import tempfile
    >>> from nlsq_sklearn import JSONCheckpoint
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoint = JSONCheckpoint(directory)
    ...     _ = checkpoint.save({"iteration": 3, "params": [2.0, 0.5]})
    ...     checkpoint.load()["params"]
    [2.0, 0.5]
    """

    directory: str | os.PathLike[str]
    interval: float = 60.0
    max_checkpoints: int = 5
    compression: bool = False
    on_save: Callable[[str], Any] | None = None
    on_resume: Callable[[str], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)):
            raise TypeError(f"The checkpoint directory must be a path, got {self.directory!r}.")
        if not os.fspath(self.directory):
            raise ValueError("The checkpoint directory must not be empty: write '.' for this one.")
        if isinstance(self.interval, bool) or not isinstance(self.interval, Real):
            raise TypeError(f"interval must be a number of seconds, got {self.interval!r}.")
        if not self.interval >= 0:
            raise ValueError(f"interval must be 0 or more seconds, got {self.interval!r}.")
        if isinstance(self.max_checkpoints, bool) or not isinstance(self.max_checkpoints, Integral):
            raise TypeError(
                f"max_checkpoints must be a number of files, got {self.max_checkpoints!r}."
            )
        if self.max_checkpoints < 1:
            raise ValueError(f"max_checkpoints must be at least 1, got {self.max_checkpoints}.")
        for name in ("on_save", "on_resume"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable or None, got {getattr(self, name)!r}.")

    @property
    def _files(self) -> LocalDirectory:
        return LocalDirectory(self.directory)

    def prepare(self) -> None:
        """Make the directory, and sweep what killed writers left in it.

        Raises
        ------
        OSError
            If it can't be made or written to.
        """
        self._files.create()

    def save(self, record: Mapping[str, Any]) -> str:
        """Write a checkpoint and remove the dated files that are too many.

        Parameters
        ----------
        record : mapping
            Numbers, strings, lists and dictionaries; ``iteration`` and ``params`` among them.

        Returns
        -------
        str
            Path of the dated file.

        Raises
        ------
        OSError
            If the file can't be written. Files written earlier stay as they were.
        ValueError
            If the record holds a number that is not finite, which JSON can't express.
        """
        path = self.write(record)
        self.tell_saved(path)
        return path

    def write(self, record: Mapping[str, Any]) -> str:
        """Write a checkpoint as `save` does, without calling ``on_save``."""
        content = _encode(record)
        files = self._files
        with SignalGuard():
            self.prepare()
            name = self._write_dated(files, content)
            self.prune()  # before the next write, so that files don't pile up where it fails
            files.write(LATEST, content)
        path = str(files.path / name)
        _logger.info("checkpoint saved: %s (iteration %s)", path, record.get("iteration"))
        return path

    def tell_saved(self, path: str) -> None:
        """Call ``on_save``, whose errors are the user's and not those of a failed save."""
        if self.on_save is not None:
            self.on_save(path)

    def _write_dated(self, files: LocalDirectory, content: bytes) -> str:
        """Write the dated file under a name that sorts behind all others; return the name."""
        # mtime 0: the same record gives the same bytes.
        data = gzip.compress(content, mtime=0) if self.compression else content
        while True:
            name = _next_name(files.names(), time.gmtime(), compression=self.compression)
            try:
                files.write_new(name, data)
            except FileExistsError:
                continue
            return name

    def load(self) -> dict[str, Any]:
        """Return the newest record that is whole.

        The latest file is tried first, then the dated ones, newest first. A damaged file is
        passed over with a `CheckpointWarning`.

        Raises
        ------
        CheckpointNotFoundError
            If there is no checkpoint.
        CorruptCheckpointError
            If there are files, and none of them is whole.
        """
        return self.load_with_path()[1]

    def load_with_path(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the newest whole record, and the record; see `load`."""
        files = self._files
        names = files.names()
        candidates = [LATEST] if LATEST in names else []
        candidates += [name for name in reversed(names) if _DATED.fullmatch(name)]
        if not candidates:
            raise CheckpointNotFoundError(
                f"Checkpoint not found in {files.path}. Start the fit without resume to make one."
            )
        failures = []
        for name in candidates:
            path = str(files.path / name)
            try:
                record = _decode(files.read(name, _MAX_BYTES), name)
            except FileNotFoundError:  # pruned by another writer since the names were read
                continue
            except (OSError, ValueError, RecursionError) as error:
                failures.append(f"{path}: {error}")
                continue
            for failure in failures:
                warnings.warn(
                    f"Damaged checkpoint passed over, {failure}. Going on from {path}.",
                    CheckpointWarning,
                    stacklevel=4,
                )
            return path, record
        if not failures:
            raise CheckpointNotFoundError(
                f"Checkpoint not found in {files.path}: another writer has just removed it."
            )
        raise CorruptCheckpointError(
            "No checkpoint can be read: "
            + "; ".join(failures)
            + ". Remove the directory and start the fit without resume."
        )

    def list(self) -> list[CheckpointInfo]:
        """Return the dated checkpoints that are whole, oldest first."""
        files = self._files
        found = []
        for name in filter(_DATED.fullmatch, files.names()):
            try:
                record = _decode(files.read(name, _MAX_BYTES), name)
            except (OSError, ValueError, RecursionError) as error:
                _logger.info("not a whole checkpoint: %s (%s)", files.path / name, error)
                continue
            if {"iteration", "params"} <= record.keys():
                path = str(files.path / name)
                found.append(CheckpointInfo(path, record["iteration"], record["params"]))
        return found

    def prune(self) -> None:
        """Remove the oldest dated files until ``max_checkpoints`` are left."""
        files = self._files
        dated = [name for name in files.names() if _DATED.fullmatch(name)]
        for name in dated[: -self.max_checkpoints]:
            try:
                files.remove(name)
            except OSError as error:  # one too many does no harm
                _logger.warning("checkpoint not removed: %s (%s)", files.path / name, error)


def folder_of(checkpoint: JSONCheckpoint, identity: Mapping[str, Any]) -> JSONCheckpoint:
    """Return the checkpoint in a folder below the directory that belongs to one fit alone."""
    return replace(
        checkpoint, directory=Path(checkpoint.directory) / f"fit_{_digest(identity)[:32]}"
    )


def as_checkpoint(value: Any) -> JSONCheckpoint | None:
    """Return a `JSONCheckpoint` for what a user gave: one, a path or None."""
    return value if value is None or isinstance(value, JSONCheckpoint) else JSONCheckpoint(value)


def _next_name(names: "list[str]", now: time.struct_time, *, compression: bool) -> str:
    """Return the name of a new dated file: that of the time now, sorted behind the others.

    Two in one second get a counter, and so does one after the clock was set back.
    """
    stamp, counter = time.strftime(_STAMP, now), 0
    matches = [match for match in map(_DATED.fullmatch, names) if match and _is_time(match[1])]
    if matches:
        newest = max((match[1], int(match[2] or 0)) for match in matches)
        if newest >= (stamp, counter):
            stamp, counter = newest[0], newest[1] + 1
    if counter > 999_999:  # one digit more would sort before the others
        stamp, counter = _next_second(stamp), 0
    suffix = f"_{counter:06d}" if counter else ""
    return f"checkpoint_{stamp}{suffix}.json{'.gz' if compression else ''}"


def _is_time(stamp: str) -> bool:
    """Return whether a stamp is a time; another name of this form was not written by us."""
    try:
        datetime.strptime(stamp, _STAMP)
    except ValueError:
        return False
    return True


def _next_second(stamp: str) -> str:
    return (datetime.strptime(stamp, _STAMP) + timedelta(seconds=1)).strftime(_STAMP)


def _digest(record: Mapping[str, Any]) -> str:
    canonical = json.dumps(record, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _encode(record: Mapping[str, Any]) -> bytes:
    reserved = {"schema", "digest"} & record.keys()
    if reserved:
        raise ValueError(f"The key {sorted(reserved)[0]!r} of a record is the checkpoint's own.")
    _check_keys(record)
    whole = {**record, "schema": SCHEMA}
    return json.dumps({**whole, "digest": _digest(whole)}, allow_nan=False).encode()


def _check_keys(value: Any) -> None:
    """Raise for a key that JSON would turn into a string."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"The keys of a record must be strings, got {key!r}.")
            _check_keys(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_keys(inner)


def _decode(content: bytes, name: str) -> dict[str, Any]:
    """Return the record of a file.

    Raises
    ------
    ValueError
        If it is not a whole record of a schema we know.
    """
    if name.endswith(".gz"):
        content = _decompress(content)
    record = json.loads(content, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    if not isinstance(record, dict):
        raise ValueError("it holds no JSON object")
    digest = record.pop("digest", None)
    if digest != _digest(record):
        raise ValueError("its digest does not match its content")
    schema = record.pop("schema", None)
    if schema != SCHEMA:
        raise ValueError(f"it has the schema {schema!r}, this version reads {SCHEMA}")
    return record


def _decompress(content: bytes) -> bytes:
    """Return what is packed, unless it is damaged or unpacks to more than a record can have."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        data = inflater.decompress(content, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof or inflater.unused_data:
        raise ValueError("the compressed data are cut off or too long")
    return data


def _unique_keys(pairs: "list[tuple[str, Any]]") -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice")
    return record


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
