"""Saves that may fail while a fit goes on."""

import time
from collections.abc import Mapping
from typing import Any

from ._warnings import warn
from .checkpoint import JSONCheckpoint, at_fixed_place
from .exceptions import CheckpointDirectoryError, CheckpointWarning


class Saver:
    """Saves records by the interval; a save that fails warns once for each cause.

    Parameters
    ----------
    checkpoint : JSONCheckpoint
    """

    def __init__(self, checkpoint: JSONCheckpoint) -> None:
        self._checkpoint = at_fixed_place(checkpoint)
        self._tried_at: float | None = None
        self._causes_told: set[tuple[str, int | None]] = set()

    def __getstate__(self) -> dict[str, Any]:
        # The clock is that of this process: another one may be days behind.
        return {**self.__dict__, "_tried_at": None}

    @property
    def is_due(self) -> bool:
        """Whether the interval has passed since a save was tried."""
        if self._tried_at is None:
            return True
        return time.monotonic() - self._tried_at >= self._checkpoint.interval

    def wait_a_full_interval(self) -> None:
        """Let the interval begin now: what there is to save is saved already."""
        self._tried_at = time.monotonic()

    def prepare(self) -> None:
        """Make the directory.

        Raises
        ------
        CheckpointDirectoryError
            If it can't be made.
        """
        try:
            self._checkpoint.prepare()
        except OSError as error:
            raise self._refused(error) from error

    def save_first(self, record: Mapping[str, Any]) -> str:
        """Save a first record, without which others are not worth trying, and return its path.

        Raises
        ------
        CheckpointDirectoryError
            If it can't be written.
        """
        try:
            return self._write(record)
        except OSError as error:
            raise self._refused(error) from error

    def save(self, record: Mapping[str, Any]) -> str | None:
        """Save and return the path, or warn once for each cause that prevents it."""
        try:
            return self._write(record)
        except OSError as error:
            cause = (type(error).__name__, error.errno)
            if cause not in self._causes_told:
                self._causes_told.add(cause)
                warn(
                    f"A checkpoint could not be saved in {self._checkpoint.directory}: {error}. "
                    "Older ones stay as they are; the fit goes on, and saving is tried again.",
                    CheckpointWarning,
                )
            return None

    def tell_saved(self, path: str) -> None:
        """Call the user's ``on_save``, whose errors are not those of a failed save."""
        self._checkpoint.tell_saved(path)

    def _write(self, record: Mapping[str, Any]) -> str:
        try:
            return self._checkpoint.write(record)
        finally:
            self._tried_at = time.monotonic()

    def _refused(self, error: OSError) -> CheckpointDirectoryError:
        return CheckpointDirectoryError(
            f"The checkpoint directory {self._checkpoint.directory} can't be written to: {error}. "
            "Give a directory that can, or none."
        )
