"""Errors and warnings. Each error also derives from the builtin that callers already catch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn.exceptions import ConvergenceWarning as ConvergenceWarning

__all__ = [
    "CheckpointDirectoryError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "ChunkError",
    "CorruptCheckpointError",
    "IncompatibleCheckpointError",
    "InvalidRowError",
    "SchedulerLostError",
]


class CheckpointError(Exception):
    """Base class of the errors about checkpoints."""


class CheckpointDirectoryError(CheckpointError, OSError):
    """The checkpoint directory can't be read, or not be written to."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint to resume from."""


class IncompatibleCheckpointError(CheckpointError, ValueError):
    """The checkpoint belongs to another model, other data or other settings."""


class CorruptCheckpointError(CheckpointError, ValueError):
    """No file of the directory holds a checkpoint that can be trusted."""


class ChunkError(RuntimeError):
    """A chunk of a Dask array could not be computed; the cause is the error of its task."""


class InvalidRowError(ValueError):
    """A value in the data is not finite, a sigma not positive, or a weight negative."""


class SchedulerLostError(ConnectionError):
    """The scheduler of a Dask cluster went away in the middle of a fit."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read; the fit goes on without it."""


def __getattr__(name: str) -> Any:
    """Return scikit-learn's `ConvergenceWarning`, imported when it is asked for.

    scikit-learn takes 95 MB, which a script that uses the optimizer alone need not pay.
    """
    if name == "ConvergenceWarning":
        from sklearn.exceptions import ConvergenceWarning

        return ConvergenceWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
