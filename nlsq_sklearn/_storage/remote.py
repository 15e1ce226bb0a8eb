"""Directories of object stores and other machines, through fsspec."""

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import fsspec

# Stores of keys: a directory is there as soon as a file is in it. There making one would be a
# request more, and with s3fs a misspelled bucket would be made.
_WITHOUT_DIRECTORIES = {
    *("memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hf"),
}


class RemoteDirectory:
    """A directory that a URL names, ``s3://bucket/directory`` for instance.

    Object stores have no rename; they need none, since an upload takes effect as a whole when it
    ends. One that fails half-way leaves the old object. Where a store is a file system of another
    machine (``sftp://``) half a file may be left, which its reader must tell.

    Parameters
    ----------
    url : str
    options : dict
        For the file system of fsspec, as Dask's ``storage_options``.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url.rstrip("/")
        with _failures_are_oserrors():
            # fsspec keeps its file systems, one for each URL and options in each process.
            self._files, root = fsspec.core.url_to_fs(self._url, **options)
        self._root = root.rstrip("/")

    def create(self) -> None:
        """Make the directory, in stores that have such."""
        if self._url.partition("://")[0].lower() not in _WITHOUT_DIRECTORIES:
            with _failures_are_oserrors():
                self._files.makedirs(self._root, exist_ok=True)

    def sweep(self) -> None:
        """Do nothing: an upload that breaks off leaves no file."""

    def names(self) -> list[str]:
        """Return the names of the files, sorted; none where the directory does not exist."""
        return list(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file by its name, sorted."""
        files = (entry for entry in self._entries() if entry["type"] == "file")
        sizes = {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in files}
        # An object of the directory's own name with a slash behind it is how consoles make one.
        return {name: sizes[name] for name in sorted(sizes) if name}

    def folders(self) -> list[str]:
        """Return the names of the directories in this one, sorted."""
        folders = (entry for entry in self._entries() if entry["type"] == "directory")
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in folders)
        return sorted(filter(None, names))

    def _entries(self) -> list[dict[str, Any]]:
        """Return what the store lists in the directory, with names, types and sizes."""
        with _failures_are_oserrors():
            # The listing that the file system keeps knows nothing of other writers.
            self._files.invalidate_cache(self._root)
            try:
                return list(self._files.ls(self._root, detail=True))
            except FileNotFoundError:
                return []

    def location(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self._url}/{name}"

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file.

        Raises
        ------
        OSError
            If it can't be read.
        ValueError
            If it has more than ``max_bytes``.
        """
        with _failures_are_oserrors():
            content = self._files.cat_file(self._path(name), start=0, end=max_bytes + 1)
        if len(content) > max_bytes:
            raise ValueError(f"it has more than {max_bytes} bytes")
        return bytes(content)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in the place of one of the same name."""
        with _failures_are_oserrors():
            self._files.pipe_file(self._path(name), content)

    def write_new(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises
        ------
        FileExistsError
            If there is one of the same name. A store that can't tell that together with the
            upload is asked before it.
        """
        try:
            with _failures_are_oserrors():
                self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            # How s3fs tells of a condition that was not met, and of a store without conditions.
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            if name in self.names():
                raise FileExistsError(errno.EEXIST, "it exists", self.location(name)) from error
            if error.errno == errno.EINVAL:
                raise
            self.write(name, content)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error: another writer pruned it."""
        with _failures_are_oserrors(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def check_url(url: str) -> None:
    """Raise if fsspec knows no store of this kind, or its package is not installed."""
    if "::" in url:
        raise ValueError(
            f"The checkpoint directory {url} is a chain of file systems, whose caches may keep "
            "checkpoints from the store. Give the URL of the store alone."
        )
    fsspec.get_filesystem_class(url.partition("://")[0].lower())


@contextlib.contextmanager
def _failures_are_oserrors() -> Iterator[None]:
    """Raise what goes wrong in a store as an `OSError`, so that there is one kind of failure.

    Most file systems of fsspec raise `OSError` themselves, but what their client libraries raise
    comes through: botocore's `EndpointConnectionError`, aiohttp's `ServerDisconnectedError`,
    gcsfs's `HttpError`. Such a class is known by its not being one of Python: a `TypeError` or
    `AttributeError` is a bug, ours or theirs, and stays one.
    """
    try:
        yield
    except OSError:
        raise
    except NotImplementedError as error:
        raise OSError(errno.ENOSYS, f"the store does not support this: {error}") from error
    except Exception as error:
        kind = type(error)
        if kind.__module__ == "builtins":
            raise
        raise StoreError(f"{kind.__module__}.{kind.__name__}: {error}") from error


class StoreError(OSError):
    """A failure of a store, for which its client library has an exception of its own."""
