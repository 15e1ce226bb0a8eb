"""Fit a curve to more data than memory holds, exactly, and survive being killed."""

from ._result import CurveFitResult
from .checkpoint import CheckpointInfo, JSONCheckpoint
from .exceptions import (
    CheckpointDirectoryError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWarning,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
)
from .optimizer import AdaptiveHybridStreamingOptimizer
from .regressor import StreamingCurveFitRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "AdaptiveHybridStreamingOptimizer",
    "CheckpointDirectoryError",
    "CheckpointError",
    "CheckpointInfo",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "CorruptCheckpointError",
    "CurveFitResult",
    "IncompatibleCheckpointError",
    "JSONCheckpoint",
    "StreamingCurveFitRegressor",
]
