"""Columns of data files -> ordered chunks of rows. No file is read whole.

pyarrow and zarr, which only their own formats need, live here.
"""

import difflib
import os
from pathlib import Path

from .._streams import Stream
from .columns import Columns

__all__ = ["Columns", "open_file"]

_TEXT = (".csv", ".tsv", ".txt", ".dat")
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


def open_file(path: str, columns: Columns, chunk_size: int | None = None) -> Stream:
    """Return the stream of some columns of a file.

    Parameters
    ----------
    path : str
        ``.npy`` with columns by number, or with names where its dtype has fields; ``.csv``,
        ``.tsv`` or ``.txt``, also compressed, with names in the first line or without; a
        ``.parquet`` file or a directory of them; a ``.zarr`` group of columns, or an array with
        columns by number.
    columns : Columns
    chunk_size : int or None
        Rows in a chunk of a fit, where the file does not cut them itself.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package that reads it is not installed.
    ValueError
        If it is of no known kind, lacks a column, or a column holds no real numbers.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(f"There is no file {path}.{_neighbour(Path(path))}")
    kind = _kind(Path(path))
    if kind == "npy":
        from .npy import open_npy

        return open_npy(path, columns, chunk_size)
    if kind == "text":
        from .text import open_text

        return open_text(path, columns, chunk_size)
    if kind == "parquet":
        from .parquet import open_parquet

        return open_parquet(path, columns)
    from .zarr_arrays import open_zarr

    return open_zarr(path, columns)


def _neighbour(path: Path) -> str:
    """Return a hint at the file that may have been meant."""
    folder = path.parent
    if not folder.is_dir():
        return f" There is no directory {folder} either."
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], 1)
    return f" Did you mean {folder / near[0]}?" if near else ""


def _kind(path: Path) -> str:
    """Return what reads a file, by the ending of its name or what a directory holds."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower() if suffix in _COMPRESSED else suffix
    if inner in _TEXT:
        return "text"
    kinds = {".npy": "npy", ".parquet": "parquet", ".pq": "parquet", ".zarr": "zarr"}
    if suffix in kinds:
        return kinds[suffix]
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        return "zarr"
    if path.is_dir() and any(path.rglob("*.parquet")):
        return "parquet"
    raise ValueError(
        f"{path} is of no kind that is read: .parquet, .csv (also .csv.gz), .npy or .zarr. "
        "numpy.save, or DataFrame.to_parquet of pandas, make such a file."
    )
