"""Zarr: a group of columns, or an array with columns by number."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from .._streams import Stream, open_stream
from .columns import ROWS_AT_ONCE, Columns, check_names, check_types, identity_of, needs


def open_zarr(path: str, columns: Columns) -> Stream:
    """Return the stream of the columns of a group, or of an array with columns by number."""
    try:
        import zarr
    except ImportError:
        raise needs("zarr", path) from None
    source = zarr.open(path, mode="r")
    key = tokenize([identity_of(file) for file in sorted(Path(path).rglob("*")) if file.is_file()])

    def lazily(array: Any, name: str) -> Any:
        rows = max(1, array.chunks[0])
        rows *= max(1, ROWS_AT_ONCE // rows)
        return da.from_zarr(
            array,
            chunks=(rows, *array.shape[1:]),
            name=f"nlsq_sklearn-zarr-{key}-{name}",
        )

    if isinstance(source, zarr.Array):
        if source.ndim not in (1, 2):
            raise ValueError(f"{path} has the shape {source.shape}; expected (n_rows, n_columns).")
        table = lazily(source, "")
        table = table if table.ndim == 2 else table[:, np.newaxis]
        names = [str(i) for i in range(table.shape[1])]
        check_names(columns.names, names, path)
        by_name = {name: table[:, int(name)] for name in columns.names}
    else:
        names = sorted(name for name, array in source.arrays() if array.ndim == 1)
        check_names(columns.names, names, path)
        by_name = {name: lazily(source[name], name) for name in columns.names}
    check_types(by_name, path)
    return open_stream(*columns.pick(by_name))
