"""Errors as messages: what was wrong and what to do, without a traceback."""

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from .output import printable

BAD_INPUT = 2
INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., Any])


def debug_option(command: Command) -> Command:
    """Add the option ``--debug`` to a command."""
    option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return option(command)


@contextlib.contextmanager
def plainly(*, debug: bool) -> Iterator[None]:
    """Turn errors into messages and exit codes, and warnings and the log into lines of text."""
    with _warnings_as_lines(), _log_as_lines():
        try:
            yield
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:
            if debug:
                traceback.print_exc()
            say(f"Error: {in_words(error)}")
            if not debug and not is_expected(error):
                say("Run it again with --debug for the traceback.")
            sys.exit(BAD_INPUT)


def is_expected(error: BaseException) -> bool:
    """Return whether an error is of a kind whose message is written for users."""
    return isinstance(error, (ValueError, TypeError, OSError, ImportError))


def in_words(error: BaseException) -> str:
    """Return the message of an error, behind its kind where the message alone says too little."""
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
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextlib.contextmanager
def _log_as_lines() -> Iterator[None]:
    logger, handler = logging.getLogger("nlsq_sklearn"), _Lines()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
