"""What lies in checkpoint directories, read from outside: nothing is written, swept or locked."""

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ._engine.record import (
    array_from_record,
    check_consistency,
    count_from_record,
    equations_from_record,
    from_record,
)
from ._engine.state import FitState
from ._format import UnknownSchemaError
from ._storage import Directory, below, open_directory
from .checkpoint import LATEST, Reader, is_dated, read_snapshot
from .exceptions import IncompatibleCheckpointError

_logger = logging.getLogger("nlsq_sklearn")


class SavedFile(NamedTuple):
    """A checkpoint file as it was found.

    Attributes
    ----------
    path : str
    n_bytes : int
    record : dict or None
        What it holds, if it is whole.
    fault : str or None
        Why it can't be used.
    is_damaged : bool
        Whether it is not whole; a file that another version saved has a fault and no damage.
    """

    path: str
    n_bytes: int
    record: dict[str, Any] | None
    fault: str | None
    is_damaged: bool


class SavedFit:
    """A directory that holds checkpoints.

    Parameters
    ----------
    directory : path-like or str
        A path, or a URL for fsspec.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.fspath(directory)
        self._files: Directory = open_directory(directory, {})
        sizes = self._files.sizes()
        self.sizes = {name: n for name, n in sizes.items() if name == LATEST or is_dated(name)}

    @property
    def dated(self) -> list[str]:
        """The names of the dated files, oldest first."""
        return list(filter(is_dated, self.sizes))

    def newest(self) -> tuple[SavedFile | None, list[str]]:
        """Return the newest file that is whole, as a fit would take it, and the faults of others.

        None where there is none, or another version saved the newest.
        """
        reader = Reader(self._files)
        try:
            found = reader.newest()
        except IncompatibleCheckpointError as error:
            return None, [*reader.failures, str(error)]
        if found is None:
            return None, reader.failures
        path, record = found
        n_bytes = self.sizes.get(Path(path).name, 0)
        return SavedFile(path, n_bytes, record, None, False), reader.failures

    def read(self, name: str) -> SavedFile | None:
        """Return a file; None if its writer has removed it in the meantime."""
        path, n_bytes = self._files.location(name), self.sizes.get(name, 0)
        try:
            record = read_snapshot(self._files, name).record
            check_content(record)
        except FileNotFoundError:
            return None
        except UnknownSchemaError as error:
            return SavedFile(path, n_bytes, None, str(error), False)
        except (OSError, ValueError) as error:
            return SavedFile(path, n_bytes, None, str(error), True)
        return SavedFile(path, n_bytes, record, None, False)

    def too_many(self, n_kept: int) -> tuple[list[SavedFile], list[SavedFile]]:
        """Return the dated checkpoints that are older than the newest ``n_kept``, and the unknown.

        A file of our name that holds no whole checkpoint may be somebody else's: it is neither
        counted nor removed.
        """
        files = [file for file in map(self.read, self.dated) if file is not None]
        whole = [file for file in files if file.record is not None]
        return whole[:-n_kept], [file for file in files if file.record is None]

    def remove(self, file: SavedFile) -> None:
        """Remove a dated checkpoint."""
        self._files.remove(Path(file.path).name)


def fits_below(directory: str | os.PathLike[str]) -> Iterator[SavedFit]:
    """Yield each directory that holds checkpoints: this one, and those below it.

    Raises
    ------
    OSError
        If the directory itself can't be read. One below it that can't be is logged.
    """
    fit = SavedFit(directory)
    if fit.sizes:
        yield fit
    for name in open_directory(directory, {}).folders():
        try:
            yield from fits_below(below(directory, name))
        except OSError as error:
            _logger.warning("directory not read: %s (%s)", below(directory, name), error)


class SavedState(NamedTuple):
    """What a record says of its fit.

    Attributes
    ----------
    phase : str
        "warm-up", "streaming", "finished", "partial_fit", or "other" for a record that some
        program saved by `JSONCheckpoint` alone.
    iteration : int
    params : list of float
    names : list of str
        Of the parameters.
    saved_at : datetime or None
    state : FitState or None
        That of a fit, in the phases before it is finished and after.
    n_chunks : int
        Chunks of a pass of it.
    n_rows : int or None
        Rows of the data, or seen by `partial_fit`.
    cost : float or None
    """

    phase: str
    iteration: int
    params: list[float]
    names: list[str]
    saved_at: datetime | None
    state: FitState | None
    n_chunks: int
    n_rows: int | None
    cost: float | None

    @property
    def share_of_pass(self) -> float | None:
        """How much of the pass in progress is done, from 0 to 1."""
        if self.state is None or self.phase != "streaming":
            return None
        return self.state.next_chunk / self.n_chunks if self.n_chunks else 0.0


def state_of(record: Mapping[str, Any]) -> SavedState:
    """Return what a record says of its fit.

    Raises
    ------
    ValueError
        If something is missing in it, or has the wrong type, size or range.
    """
    try:
        return _state_of(record)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"it is not the checkpoint of a fit: {error!r}") from error


def _state_of(record: Mapping[str, Any]) -> SavedState:
    params = array_from_record(record["params"]).tolist()
    common = {
        "iteration": count_from_record(record["iteration"]),
        "params": params,
        "names": _names_of(record, len(params)),
        "saved_at": _time_of(record),
    }
    if "state" in record:
        n_chunks = count_from_record(record["chunk"][1])
        saved = {**record["state"], "params": record["params"]}
        state = from_record(saved, len(params), n_chunks)
        check_consistency(state)
        return SavedState(
            phase=str(record["phase"]),
            state=state,
            n_chunks=n_chunks,
            n_rows=count_from_record(record["identity"]["data"]["rows"]),
            cost=None if state.equations is None else float(state.equations.cost),
            **common,
        )
    if record.get("phase") == "partial_fit":
        equations = equations_from_record(record["equations"], len(params))
        n_rows = count_from_record(record["n_samples"])
        cost = float(equations.cost)
        return SavedState("partial_fit", state=None, n_chunks=0, n_rows=n_rows, cost=cost, **common)
    return SavedState("other", state=None, n_chunks=0, n_rows=None, cost=None, **common)


def check_content(record: Mapping[str, Any]) -> None:
    """Raise `ValueError` if the record of a fit is not one, though its digest is right."""
    if "state" in record or record.get("phase") == "partial_fit":
        state_of(record)


def _names_of(record: Mapping[str, Any], n_params: int) -> list[str]:
    """Return the names of the parameters, numbers where the record has none."""
    identity = record.get("identity")
    model = identity.get("model") if isinstance(identity, dict) else None
    names = model.get("parameters") if isinstance(model, dict) else None
    if not isinstance(names, list) or len(names) != n_params:
        return [f"p{i}" for i in range(n_params)]
    return [str(name) for name in names]


def _time_of(record: Mapping[str, Any]) -> datetime | None:
    """Return when a record was saved, None if it does not say."""
    try:
        moment = datetime.fromisoformat(record["saved_at"])
    except (KeyError, TypeError, ValueError):
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)
