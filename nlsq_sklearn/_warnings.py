"""Warnings that point to the user's line, however deep below it they are given."""

import sys
import warnings
from types import FrameType

# scikit-learn's decorators stand between a user and `fit`, its searches and joblib around it.
_NOT_THE_USERS = {__name__.partition(".")[0], "sklearn", "joblib"}


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the innermost caller that is not of a library."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and _library(frame) in _NOT_THE_USERS:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


def _library(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
