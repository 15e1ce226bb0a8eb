"""The one door to the files of a checkpoint directory, on this machine or in a store."""

import os
import re
from typing import Any, Protocol

from .local import LocalDirectory

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+)://")
# What pathlib leaves of a URL.
_CRUSHED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")


class Directory(Protocol):
    """A flat directory of small files, each of which is there whole or not at all.

    Whatever goes wrong in the file system or the store is an `OSError`.
    """

    def create(self) -> None:
        """Make the directory where it does not exist, and sweep what killed writers left."""

    def sweep(self) -> None:
        """Remove the temporary files of dead writers."""

    def names(self) -> list[str]:
        """Return the names of the files, sorted; none where the directory does not exist."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file by its name, sorted."""

    def folders(self) -> list[str]:
        """Return the names of the directories in this one, sorted; links are none."""

    def location(self, name: str) -> str:
        """Return the path or the URL of a file."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file; raise `ValueError` if it has more than ``max_bytes``."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in the place of one of the same name."""

    def write_new(self, name: str, content: bytes) -> None:
        """Write a file; raise `FileExistsError` if there is one of the same name."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


def open_directory(path: str | os.PathLike[str], options: dict[str, Any]) -> Directory:
    """Return the directory of a path or of a URL."""
    url = as_url(path)
    if url is None:
        return LocalDirectory(_without_scheme(path))
    from .remote import RemoteDirectory

    return RemoteDirectory(url, options)


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise if a path can't be that of a directory; nothing is looked up in the store.

    Raises
    ------
    ImportError
        If it is a URL, and the package for its kind of store is not installed.
    TypeError
        If it is no path.
    ValueError
        If it is empty, or a URL of no known kind.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"The checkpoint directory must be a path or a URL, got {path!r}.")
    text = os.fspath(path)
    if not text:
        raise ValueError("The checkpoint directory must not be empty: write '.' for this one.")
    if not isinstance(path, str) and _CRUSHED_URL.match(text):
        raise ValueError(
            f"The checkpoint directory {text} was a URL, of which pathlib leaves no URL: give it "
            "as a string."
        )
    url = as_url(path)
    if url is not None:
        from .remote import check_url

        check_url(url)


def absolute(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return a path that stays the same when the program changes its directory."""
    return LocalDirectory(_without_scheme(path)).path if as_url(path) is None else path


def below(path: str | os.PathLike[str], name: str) -> str:
    """Return the path or the URL of a folder in a directory."""
    text = os.fspath(path)
    return os.path.join(text, name) if as_url(path) is None else f"{text.rstrip('/')}/{name}"


def as_url(path: str | os.PathLike[str]) -> str | None:
    """Return the URL that a path is, if it is one of a store; ``file://`` is of this machine."""
    scheme = _URL.match(path) if isinstance(path, str) else None
    return None if scheme is None or scheme[1].lower() == "file" else str(path)


def _without_scheme(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    return _URL.sub("", path, count=1) if isinstance(path, str) else path
