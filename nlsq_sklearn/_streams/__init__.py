"""NumPy arrays, memory maps and Dask arrays -> ordered chunks of rows. Dask lives here."""

from typing import Any

from .arrays import DEFAULT_CHUNK_ROWS, ArrayStream, refuse_masked
from .profile import Profile, profile_rows
from .rows import Rows, Stream, is_dask
from .scan import predict_rows, score_rows

__all__ = [
    "DEFAULT_CHUNK_ROWS",
    "ArrayStream",
    "Profile",
    "Rows",
    "Stream",
    "is_dask",
    "open_stream",
    "predict_rows",
    "profile_rows",
    "refuse_masked",
    "score_rows",
]


def open_stream(
    x: Any,
    y: Any,
    sigma: Any = None,
    weight: Any = None,
    *,
    chunk_size: int | None = None,
    is_table: bool = False,
) -> Stream:
    """Return the stream for these data; see `ArrayStream` for the parameters."""
    if is_dask(x) or is_dask(y):
        from .dask_arrays import DaskStream

        stream: Stream = DaskStream(x, y, sigma, weight, is_table=is_table)
        return stream
    return ArrayStream(
        x,
        y,
        sigma,
        weight,
        chunk_size=chunk_size,
        is_table=is_table,
        x_name="X" if is_table else "x",
    )
