"""Text files, ``.csv`` and its like, also compressed."""

import contextlib
import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from dask.base import tokenize

from .._streams import ArrayStream, Stream
from .columns import Columns, check_names, identity_of, needs

_logger = logging.getLogger("nlsq_sklearn.files")

_BLOCK_BYTES = 8 * 2**20


class _CopiedStream(ArrayStream):
    """Rows that were copied out of a file, whose checkpoints belong to that file."""

    origin: tuple[Any, ...] = ()

    def token(self, n_chunks: int | None = None, n_sampled: int = 0) -> str:
        return str(tokenize(self.origin))


def open_text(path: str, columns: Columns, chunk_size: int | None) -> Stream:
    """Return the stream of the columns of a text file, which are copied to disk as numbers.

    Text can only be read from its beginning, and the number of its rows is not known before its
    end. A fit looks at each row a few times: it is read once, into temporary files without a name,
    which vanish with the process even if that is killed.
    """
    layout = _Layout.of(path)
    check_names(columns.names, layout.names, path)
    folder = tempfile.gettempdir()
    _logger.info("reading %s once, into temporary files in %s", path, folder)
    with contextlib.ExitStack() as stack:
        try:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in columns.names]
            n_rows = _copy_columns(path, layout, columns.names, files)
        except OSError as error:
            raise OSError(
                f"{path} could not be read into temporary files in {folder}: {error}. Another "
                "place for them is named by the environment variable TMPDIR."
            ) from error
        _logger.info("%s has %s rows", path, f"{n_rows:,}")
        if n_rows == 0:
            raise ValueError(f"{path} holds no rows.")
        # A map keeps its file, whoever closes it.
        arrays = {
            name: np.memmap(file, dtype=np.float64, mode="r", shape=(n_rows,))
            for name, file in zip(columns.names, files, strict=True)
        }
    stream = _CopiedStream(*columns.pick(arrays), chunk_size=chunk_size)
    stream.origin = (*identity_of(Path(path)), *columns)
    return stream


class _Layout(NamedTuple):
    """How the text of a file is laid out.

    Attributes
    ----------
    names : list of str
        Of the columns; their numbers where the first line holds numbers.
    delimiter, decimal_point : str
    n_lines_before : int
        Lines before the first row: comments, and the names of the columns.
    """

    names: list[str]
    delimiter: str
    decimal_point: str
    n_lines_before: int

    @classmethod
    def of(cls, path: str) -> "_Layout":
        """Return the layout that the first lines show."""
        lines = _first_lines(path)
        n_before = 0
        while n_before < len(lines) - 1 and lines[n_before].startswith("#"):
            n_before += 1
        if not lines or not lines[n_before].strip():
            raise ValueError(f"{path} is empty.")
        head = lines[n_before]
        delimiter = max(",;\t|", key=head.count)
        cells = [cell.strip().strip('"') for cell in head.split(delimiter)]
        first = lines[-1] if len(lines) > n_before + 1 else head
        is_comma = delimiter != "," and "," in first and "." not in first
        has_head = not all(map(_is_number, cells))
        names = cells if has_head else [str(i) for i in range(len(cells))]
        return cls(names, delimiter, "," if is_comma else ".", n_before + has_head)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _first_lines(path: str) -> list[str]:
    """Return the first line that is no comment, what stands before it, and the line after it."""
    try:
        import pyarrow
    except ImportError:
        raise needs("pyarrow", path) from None
    lines: list[str] = []
    try:
        with pyarrow.input_stream(path, compression="detect") as stream:
            start = stream.read(2**16)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{path} can't be read: {error}") from None
    for line in start.decode("utf-8-sig", errors="replace").splitlines():
        lines.append(line)
        if len(lines) > 1 and not lines[-2].startswith("#"):
            break
    return lines


def _copy_columns(
    path: str, layout: _Layout, names: Sequence[str], files: Sequence[IO[bytes]]
) -> int:
    """Write the columns of a text file as float64, each to a file of its own; return the rows."""
    import pyarrow
    from pyarrow import csv

    read = csv.ReadOptions(
        block_size=_BLOCK_BYTES,
        use_threads=False,  # with threads an error does not tell its line
        skip_rows=layout.n_lines_before,
        column_names=layout.names,
    )
    convert = csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pyarrow.float64()),
        decimal_point=layout.decimal_point,
    )
    parse = csv.ParseOptions(delimiter=layout.delimiter)
    n_rows = 0
    try:
        for batch in csv.open_csv(path, read, parse, convert):
            n_rows += batch.num_rows
            for column, file in zip(batch.columns, files, strict=True):
                file.write(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).data)
        for file in files:
            file.flush()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(_explain(str(error), path, layout.names)) from None
    return n_rows


def _explain(error: str, path: str, names: Sequence[str]) -> str:
    """Return why a text file could not be read, in the words of this package where they are."""
    value = re.search(r"column #(\d+): Row #(\d+): CSV conversion .*invalid value '(.*)'", error)
    if value is not None:
        return (
            f"The column {names[int(value[1])]!r} of {path} holds {value[3]!r} in line {value[2]}; "
            "expected a number, or nothing where it is missing."
        )
    cells = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", error)
    if cells is not None:
        return f"{path} has {cells[3]} cells in line {cells[1]}; expected {cells[2]}."
    return f"{path} can't be read: {error}"
