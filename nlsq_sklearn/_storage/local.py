"""Directories of a local file system. Imports nothing of the package."""

import contextlib
import errno
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY_PREFIX = ".nlsq_sklearn-"
_STALE_SECONDS = 3600.0


class LocalDirectory:
    """A directory of a local file system, whose files appear whole or not at all.

    A file is written under a temporary name in the same directory, flushed to the disk and
    renamed; the rename is flushed too, so that a file that was once seen survives a power cut.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(os.path.expanduser(path)))

    def create(self) -> None:
        """Make the directory where it does not exist, and sweep what killed writers left."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(
                errno.ENOTDIR, "a file of this name exists", str(self.path)
            ) from None
        self.sweep()

    def names(self) -> list[str]:
        """Return the names of the files, sorted; none where the directory does not exist."""
        try:
            return sorted(entry.name for entry in os.scandir(self.path))
        except FileNotFoundError:
            return []

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file by its name, sorted; links are no files."""
        sizes = {}
        for name in self.names():
            with contextlib.suppress(FileNotFoundError):  # removed by its writer in the meantime
                status = os.lstat(self.path / name)
                if stat.S_ISREG(status.st_mode):
                    sizes[name] = status.st_size
        return sizes

    def folders(self) -> list[str]:
        """Return the names of the directories in this one, sorted; links are none."""
        try:
            entries = list(os.scandir(self.path))
        except FileNotFoundError:
            return []
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def location(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.path / name)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file.

        Raises
        ------
        OSError
            If it can't be read, or is a symbolic link.
        ValueError
            If it has more than ``max_bytes``.
        """
        # Without O_NONBLOCK, opening a named pipe would wait for somebody to write into it.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self.path / name, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", str(self.path / name))
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
        if len(content) > max_bytes:
            raise ValueError(f"it has more than {max_bytes} bytes")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in the place of one of the same name."""
        with self._written(content) as temporary:
            temporary.replace(self.path / name)
        self._flush_directory()

    def write_new(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises
        ------
        FileExistsError
            If there is one of the same name: another writer was quicker.
        """
        target = self.path / name
        with self._written(content) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                if target.exists():
                    raise FileExistsError(str(target)) from None
                temporary.replace(target)
        try:
            self._flush_directory()
        except OSError:
            # It would be written again under another name: files that may vanish would pile up.
            target.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error: another writer pruned it."""
        (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _written(self, content: bytes) -> Iterator[Path]:
        """Yield the path of a temporary file with this content, safe on the disk."""
        owner = f"{socket.gethostname()}-{os.getpid()}"
        temporary = self.path / f"{_TEMPORARY_PREFIX}{owner}-{secrets.token_hex(4)}"
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _flush_directory(self) -> None:
        if os.name != "posix":
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some file systems can't flush a directory; the file itself is safe.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)

    def sweep(self) -> None:
        """Remove temporary files whose writer is dead; those of living writers stay."""
        for name in self.names():
            if not name.startswith(_TEMPORARY_PREFIX):
                continue
            # One that can't be removed is in nobody's way.
            with contextlib.suppress(OSError):
                age = time.time() - (self.path / name).stat().st_mtime
                if _is_left_behind(name) or age > _STALE_SECONDS:
                    self.remove(name)


def _is_left_behind(name: str) -> bool:
    """Return whether a temporary file is of a process of this machine that is dead."""
    host, _, rest = name.removeprefix(_TEMPORARY_PREFIX).rpartition("-")[0].rpartition("-")
    is_pid = rest.isascii() and rest.isdecimal()
    return host == socket.gethostname() and is_pid and not _is_alive(int(rest))


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # there os.kill with signal 0 would send one
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended, and its parent has not asked yet how."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # a system without /proc
        return False
    # The name of the program stands in parentheses, and may hold some itself.
    return status.rpartition(b")")[2].split()[:1] in ([b"Z"], [b"X"])
