"""Checkpoints: one JSON file a snapshot, written whole or not at all."""

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from numbers import Integral, Real
from typing import Any, NamedTuple

from ._format import (
    MAX_BYTES,
    Snapshot,
    UnknownSchemaError,
    check_record,
    compress,
    decode,
    digest_of,
    encode,
)
from ._signals import SignalGuard
from ._storage import Directory, absolute, below, check_path, open_directory
from ._warnings import warn
from .exceptions import (
    CheckpointDirectoryError,
    CheckpointNotFoundError,
    CheckpointWarning,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
)

_logger = logging.getLogger("nlsq_sklearn")

LATEST = "checkpoint_latest.json"
_DATED = re.compile(r"checkpoint_(\d{8}_\d{6})(?:_(\d{6}))?\.json(\.gz)?", re.ASCII)
_STAMP = "%Y%m%d_%H%M%S"
# What is no regular file, but a link or a directory, holds nothing of ours.
_NO_FILE = (errno.ELOOP, errno.EINVAL, errno.EISDIR)


class CheckpointInfo(NamedTuple):
    """One checkpoint file.

    Parameters
    ----------
    path : str
        Where it is.
    iteration : int
        Steps tried until it was saved; with `StreamingCurveFitRegressor.partial_fit`, batches.
    params : list of float
        The parameters that it holds.

    Examples
    --------
    >>> import tempfile
    >>> from nlsq_sklearn import JSONCheckpoint
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoint = JSONCheckpoint(directory)
    ...     _ = checkpoint.save({"iteration": 3, "params": [2.0, 0.5]})
    ...     newest = checkpoint.list()[-1]
    >>> newest.iteration, newest.params
    (3, [2.0, 0.5])
    """

    path: str
    iteration: int
    params: list[float]


@dataclass(frozen=True)
class JSONCheckpoint:
    """Where and how often a fit saves its state.

    Parameters
    ----------
    directory : path-like or str
        A path, or a URL for fsspec such as ``s3://bucket/directory``; made where it does not
        exist. Holds ``checkpoint_YYYYMMDD_HHMMSS.json`` (time in UTC, a
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
    storage_options : dict or None, default=None
        For the file system of a URL, as Dask's: credentials, an endpoint. With None they come
        from the environment, or from the configuration of fsspec. Never saved, nor shown.

    Raises
    ------
    ImportError
        If the package for a URL's kind of store is not installed.
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
    storage_options: dict[str, Any] | None = field(default=None, repr=False, hash=False)

    def __post_init__(self) -> None:
        check_path(self.directory)
        if self.storage_options is not None and not isinstance(self.storage_options, dict):
            raise TypeError(
                f"storage_options must be a dict or None, got a {type(self.storage_options)}."
            )
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
    def _files(self) -> Directory:
        return open_directory(self.directory, self.storage_options or {})

    def prepare(self) -> None:
        """Make the directory, and sweep what killed writers left in it.

        Raises
        ------
        OSError
            If it can't be made or written to.
        """
        self._files.create()

    def sweep(self) -> None:
        """Remove what killed writers left, where it can be removed."""
        self._files.sweep()

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
            If the file can't be written, or the record is larger than what `load` takes. Files
            written earlier stay as they were.
        TypeError, ValueError
            If the record holds what JSON can't express: a number that is not finite, a key that
            is no string.
        """
        path = self.write(record)
        self.tell_saved(path)
        return path

    def write(self, record: Mapping[str, Any]) -> str:
        """Write a checkpoint as `save` does, without calling ``on_save``.

        Parameters
        ----------
        record : mapping
            As in `save`.

        Returns
        -------
        str
            Path of the dated file.
        """
        check_record(record)
        files = self._files
        with SignalGuard():
            files.create()
            name, content = self._write_dated(files, record)
            self.prune()  # before the next write, so that files don't pile up where it fails
            files.write(LATEST, content)
        path = files.location(name)
        _logger.info("checkpoint saved: %s (iteration %s)", path, record.get("iteration"))
        return path

    def tell_saved(self, path: str) -> None:
        """Call ``on_save``, whose errors are the user's and not those of a failed save.

        Parameters
        ----------
        path : str
            Of the file that was saved.
        """
        if self.on_save is not None:
            self.on_save(path)

    def _write_dated(self, files: Directory, record: Mapping[str, Any]) -> tuple[str, bytes]:
        """Write the dated file under a name that sorts behind all others.

        Return the name, and the content before it is compressed.
        """
        while True:
            name = _next_name(files.names(), time.gmtime(), compression=self.compression)
            content = encode(record, stamp="_".join(map(str, _order(name))))
            try:
                files.write_new(name, compress(content) if self.compression else content)
            except FileExistsError:
                continue
            return name, content

    def load(self) -> dict[str, Any]:
        """Return the newest record that is whole.

        That is the latest file, unless a newer dated one is there: the last save may have been
        cut off between the two. A damaged file is passed over with a `CheckpointWarning`.

        Returns
        -------
        dict
            What was saved.

        Raises
        ------
        CheckpointNotFoundError
            If there is no checkpoint.
        CheckpointDirectoryError
            If what is there can't be read, for a reason that may pass: no permission, a store
            that is away, too many open files.
        CorruptCheckpointError
            If there are files, and none of them is whole.
        IncompatibleCheckpointError
            If the newest was saved by a version that lays out its files in another way.
        """
        return self.load_with_path()[1]

    def load_with_path(self) -> tuple[str, dict[str, Any]]:
        """Return the path of the newest whole record, and the record; see `load`.

        Returns
        -------
        path : str
            Of the file.
        record : dict
            What was saved.
        """
        files = self._files
        reader = Reader(files)
        found = reader.newest()
        if found is None and not reader.has_seen_any:
            raise CheckpointNotFoundError(
                f"Checkpoint not found in {files.location('')}. Start the fit without resume to "
                "make one."
            )
        if found is None and not reader.failures:
            raise CheckpointNotFoundError(
                f"Checkpoint not found in {files.location('')}: another writer has just removed it."
            )
        if found is None and reader.is_refused:
            raise CheckpointDirectoryError(
                f"The checkpoints in {files.location('')} can't be read: "
                + "; ".join(reader.failures)
                + ". They may be whole: mend what prevents it, and start again."
            )
        if found is None:
            raise CorruptCheckpointError(
                "No checkpoint can be read: "
                + "; ".join(reader.failures)
                + ". Remove the directory and start the fit without resume."
            )
        path, record = found
        for failure in reader.failures:
            warn(
                f"Damaged checkpoint passed over, {failure}. Going on from {path}.",
                CheckpointWarning,
            )
        return path, record

    def list(self) -> list[CheckpointInfo]:
        """Return the dated checkpoints that are whole, oldest first.

        Returns
        -------
        list of CheckpointInfo
            One for each file.
        """
        files = self._files
        found = []
        for name in filter(_DATED.fullmatch, files.names()):
            try:
                record = read_snapshot(files, name).record
            except (OSError, ValueError) as error:
                _logger.info("not a whole checkpoint: %s (%s)", files.location(name), error)
                continue
            if {"iteration", "params"} <= record.keys():
                path = files.location(name)
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
                _logger.warning("checkpoint not removed: %s (%s)", files.location(name), error)


class Reader:
    """Looks for the newest whole record of a directory, and keeps what was wrong with others."""

    def __init__(self, files: Directory) -> None:
        self._files = files
        self.failures: list[str] = []
        self.has_seen_any = False
        # Whether a file could not be read, whatever is in it.
        self.is_refused = False

    def newest(self) -> tuple[str, dict[str, Any]] | None:
        """Return the path and the record, None if there is none."""
        names = self._files.names()
        dated = [name for name in reversed(names) if _DATED.fullmatch(name)]
        self.has_seen_any = bool(dated) or LATEST in names
        latest = self._try(LATEST) if LATEST in names else None
        newer = dated
        if latest is not None and latest.stamp is not None:
            newer = [name for name in dated if _order(name) > _as_order(latest.stamp)]
        elif latest is not None:
            newer = []
        for name in newer:
            snapshot = self._try(name)
            if snapshot is not None:
                return self._files.location(name), snapshot.record
        return None if latest is None else (self._files.location(LATEST), latest.record)

    def _try(self, name: str) -> Snapshot | None:
        """Return the content of a file, None where it is damaged or gone."""
        try:
            return read_snapshot(self._files, name)
        except UnknownSchemaError as error:
            # Older files are no way out: the version that wrote this one has gone on since.
            raise IncompatibleCheckpointError(
                f"Incompatible checkpoint: {self._files.location(name)} was saved by another "
                f"version: {error}. Use the version that saved it, or another directory."
            ) from error
        except FileNotFoundError:  # pruned by another writer since the names were read
            return None
        except (OSError, ValueError) as error:
            self.is_refused |= isinstance(error, OSError) and error.errno not in _NO_FILE
            self.failures.append(f"{self._files.location(name)}: {error}")
            return None


def read_snapshot(files: Directory, name: str) -> Snapshot:
    """Return the content of a checkpoint file; see `decode` for what it raises."""
    return decode(files.read(name, MAX_BYTES), is_compressed=name.endswith(".gz"))


def folder_of(checkpoint: JSONCheckpoint, identity: Mapping[str, Any]) -> JSONCheckpoint:
    """Return the checkpoint in a folder below the directory that belongs to one fit alone."""
    folder = f"fit_{digest_of(identity)[:32]}"
    return replace(checkpoint, directory=below(checkpoint.directory, folder))


def at_fixed_place(checkpoint: JSONCheckpoint) -> JSONCheckpoint:
    """Return the checkpoint for a program that may change its directory while it fits."""
    return replace(checkpoint, directory=absolute(checkpoint.directory))


def as_checkpoint(value: Any) -> JSONCheckpoint | None:
    """Return a `JSONCheckpoint` for what a user gave: one, a path or None."""
    return value if value is None or isinstance(value, JSONCheckpoint) else JSONCheckpoint(value)


def is_dated(name: str) -> bool:
    """Return whether a file has the name of a dated checkpoint."""
    return _DATED.fullmatch(name) is not None


def _order(name: str) -> tuple[str, int]:
    """Return what a dated name sorts by: its time and its counter."""
    match = _DATED.fullmatch(name)
    assert match is not None
    return match[1], int(match[2] or 0)


def _as_order(stamp: str) -> tuple[str, int]:
    """Return the order of a stamp; nothing is newer than one that is none of ours."""
    match = re.fullmatch(r"(\d{8}_\d{6})_(\d{1,6})", stamp, re.ASCII)
    return ("99999999_999999", 0) if match is None else (match[1], int(match[2]))


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
    if stamp == "99991231_235959":
        raise OSError(errno.ERANGE, "no name is later than that of a file there; remove it")
    return (datetime.strptime(stamp, _STAMP) + timedelta(seconds=1)).strftime(_STAMP)
