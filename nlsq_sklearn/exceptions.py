"""Errors and warnings. Each error also derives from the builtin that callers already catch."""

from sklearn.exceptions import ConvergenceWarning

__all__ = [
    "CheckpointDirectoryError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "ConvergenceWarning",
    "CorruptCheckpointError",
    "IncompatibleCheckpointError",
]


class CheckpointError(Exception):
    """Base class of the errors about checkpoints."""


class CheckpointDirectoryError(CheckpointError, OSError):
    """The checkpoint directory can't be written to."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint to resume from."""


class IncompatibleCheckpointError(CheckpointError, ValueError):
    """The checkpoint belongs to another model, other data or other settings."""


class CorruptCheckpointError(CheckpointError, ValueError):
    """No file of the directory holds a checkpoint that can be trusted."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read; the fit goes on without it."""
