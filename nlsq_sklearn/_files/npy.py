"""``.npy`` files: their pages are read as they are needed."""

import numpy as np

from .._streams import Stream, open_stream
from .columns import Columns, check_names, check_types


def open_npy(path: str, columns: Columns, chunk_size: int | None) -> Stream:
    """Return the stream of an array on disk, whose pages are read as they are needed."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is not an array that can be mapped into memory: {error}"
        ) from None
    if array.dtype.names:
        check_names(columns.names, array.dtype.names, path)
        by_name = {name: array[name] for name in columns.names}
    else:
        table = array[:, np.newaxis] if array.ndim == 1 else array
        if table.ndim != 2 or table.shape[1] > table.shape[0]:
            raise ValueError(
                f"{path} has the shape {array.shape}; expected (n_rows, n_columns), with more rows "
                "than columns. Save the array's transpose if its rows are the columns."
            )
        names = [str(i) for i in range(table.shape[1])]
        check_names(columns.names, names, path)
        by_name = {name: table[:, int(name)] for name in columns.names}
    check_types(by_name, path)
    return open_stream(*columns.pick(by_name), chunk_size=chunk_size)
