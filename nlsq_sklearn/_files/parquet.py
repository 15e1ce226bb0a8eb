"""Parquet files, alone or as the parts of a directory, by their row groups."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from .._streams import Stream, open_stream
from .columns import ROWS_AT_ONCE, Columns, check_names, identity_of, needs, wrong_type


def open_parquet(path: str, columns: Columns) -> Stream:
    """Return the stream of a parquet file, or of a directory of them, by their row groups."""
    try:
        import pyarrow
        from pyarrow import dataset, types
    except ImportError:
        raise needs("pyarrow", path) from None
    try:
        source = dataset.dataset(path, format="parquet")
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a parquet file that can be read: {error}") from None
    check_names(columns.names, source.schema.names, path)
    for name in columns.names:
        kind = source.schema.field(name).type
        if not any(f(kind) for f in (types.is_integer, types.is_floating, types.is_boolean)):
            raise wrong_type(name, kind, path)
    parts, sizes = [], []
    for fragment in source.get_fragments():
        for groups in _together([group.num_rows for group in fragment.row_groups]):
            part = fragment.subset(row_group_ids=[fragment.row_groups[i].id for i in groups])
            parts.append(part)
            sizes.append(sum(group.num_rows for group in part.row_groups))
    if sum(sizes) == 0:
        raise ValueError(f"{path} holds no rows.")
    key = tokenize([identity_of(Path(file)) for file in source.files], columns.names, sizes)
    table = da.map_blocks(
        partial(_read_part, parts, columns.names),
        da.arange(len(parts), chunks=1),
        chunks=(tuple(sizes), (len(columns.names),)),
        new_axis=1,
        dtype=np.float64,
        name=f"nlsq_sklearn-parquet-{key}",
        meta=np.empty((0, 0)),
    )
    by_name = {name: table[:, i] for i, name in enumerate(columns.names)}
    return open_stream(*columns.pick(by_name))


def _together(sizes: Sequence[int]) -> list[list[int]]:
    """Return the numbers of neighbours that are read together."""
    groups: list[list[int]] = []
    n_rows = 0
    for i, size in enumerate(sizes):
        if not groups or n_rows + size > ROWS_AT_ONCE:
            groups.append([])
            n_rows = 0
        groups[-1].append(i)
        n_rows += size
    return groups


def _read_part(parts: Sequence[Any], names: Sequence[str], number: np.ndarray) -> np.ndarray:
    """Return the columns of some row groups, shape (n_rows, n_columns)."""
    table = parts[int(number[0])].to_table(columns=list(names), use_threads=False)
    values = np.empty((table.num_rows, len(names)))
    for i, name in enumerate(names):
        column = table.column(name)
        values[:, i] = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    return values
