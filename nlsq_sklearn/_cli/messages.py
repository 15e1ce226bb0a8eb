"""Errors as messages: what was wrong and what to do, without a traceback."""

import contextlib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from .output import printable

BAD_INPUT = 2
INTERRUPTED = 130

# Loggers whose lines are for whoever waits in front of a terminal.
_NOTES = {"nlsq_sklearn.cli", "nlsq_sklearn.files"}

_ROW = re.compile(r"\brow \d")

Command = TypeVar("Command", bound=Callable[..., Any])


def debug_option(command: Command) -> Command:
    """Add the option ``--debug`` to a command."""
    option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return option(command)


@dataclass
class Context:
    """What helps a user to find the place of an error.

    Attributes
    ----------
    source : str or None
        The user's own file, lines of which an error may name.
    legend : str
        What messages mean that speak of x, y and rows.
    """

    source: str | None = None
    legend: str = ""

    def explain(self, error: BaseException) -> str:
        """Return the message of an error, and where it arose."""
        text = f"Error: {in_words(error)}{self._line_of(error)}"
        return f"{text}\n{self.legend}" if self.legend and _ROW.search(text) else text

    def _line_of(self, error: BaseException) -> str:
        """Return the line of the user's own file at which an error arose, in words."""
        cause: BaseException | None = error
        while cause is not None and self.source is not None:
            for frame in reversed(traceback.extract_tb(cause.__traceback__)):
                if frame.filename == self.source:
                    return f" ({os.path.relpath(self.source)}, line {frame.lineno})"
            cause = cause.__cause__
        return ""


@contextlib.contextmanager
def plainly(*, debug: bool, verbosity: int = 0) -> Iterator[Context]:
    """Turn errors into messages and exit codes, and warnings and the log into lines of text.

    Parameters
    ----------
    debug : bool
        Whether to show tracebacks.
    verbosity : int
        Below 0 warnings alone are shown, from 1 on all that is logged. In between the notes for
        a user are; where standard error is no terminal, so that there is no progress bar, all is.
    """
    context = Context()
    with _warnings_as_lines(), _log_as_lines(verbosity):
        try:
            yield context
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            say(context.explain(error))
            if not debug and not is_expected(error):
                say("Run it again with --debug for the traceback.")
            sys.exit(BAD_INPUT)


def is_expected(error: BaseException) -> bool:
    """Return whether an error is of a kind whose message is written for users."""
    return isinstance(error, (ValueError, TypeError, OSError, ImportError))


def in_words(error: BaseException) -> str:
    """Return the message of an error, behind its kind where the message alone says too little."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    return text if text and is_expected(error) else f"{type(error).__name__}: {text}".rstrip(": ")


def say(text: str) -> None:
    """Print a line for people, beside the result."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=True)


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"Warning: {message}")

    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield


class _Lines(logging.Handler):
    """Shows the log; of passes and saves, which come all the time, not without being asked."""

    def __init__(self, verbosity: int) -> None:
        super().__init__()
        self._is_all = verbosity > 0 or (verbosity == 0 and not sys.stderr.isatty())
        self._level = logging.WARNING if verbosity < 0 else logging.INFO

    def emit(self, record: logging.LogRecord) -> None:
        is_note = record.name in _NOTES or record.levelno >= logging.WARNING
        if record.levelno >= self._level and (is_note or self._is_all):
            is_warning = record.levelno >= logging.WARNING
            say(f"{'Warning: ' if is_warning else ''}{record.getMessage()}")


@contextlib.contextmanager
def _log_as_lines(verbosity: int) -> Iterator[None]:
    logger, handler = logging.getLogger("nlsq_sklearn"), _Lines(verbosity)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
