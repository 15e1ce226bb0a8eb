"""Fit a curve to more data than memory holds, exactly, and survive being killed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._result import CurveFitResult
from .checkpoint import CheckpointInfo, JSONCheckpoint
from .exceptions import (
    CheckpointDirectoryError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWarning,
    ChunkError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    InvalidRowError,
    SchedulerLostError,
)
from .optimizer import AdaptiveHybridStreamingOptimizer

if TYPE_CHECKING:
    from . import models
    from .display import ConvergenceDisplay, CurveFitDisplay
    from .regressor import StreamingCurveFitRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "AdaptiveHybridStreamingOptimizer",
    "CheckpointDirectoryError",
    "CheckpointError",
    "CheckpointInfo",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "ChunkError",
    "ConvergenceDisplay",
    "CorruptCheckpointError",
    "CurveFitDisplay",
    "CurveFitResult",
    "IncompatibleCheckpointError",
    "InvalidRowError",
    "JSONCheckpoint",
    "SchedulerLostError",
    "StreamingCurveFitRegressor",
    "models",
]


_LAZY = {
    "ConvergenceDisplay": "display",
    "CurveFitDisplay": "display",
    "StreamingCurveFitRegressor": "regressor",
}


def __getattr__(name: str) -> Any:
    """Return what is imported when it is asked for; scikit-learn takes 95 MB."""
    if name == "models":
        return import_module(".models", __name__)
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
