"""What tells the numbers of some arrays from others, the same in each process and environment."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from .threads import map_chunks, n_threads

_BLOCK_BYTES = 8 * 2**20


class Content:
    """Digests of the rows of some arrays, chunk by chunk.

    A chunk that was just read is hashed at little cost, since it is in the cache still.

    Parameters
    ----------
    parts : sequence
        Arrays with the same number of rows, and other values that stand for themselves.
    n_rows : int
        Those of the arrays.
    chunk_rows : int
        Rows in a chunk.
    """

    def __init__(self, parts: Sequence[Any], n_rows: int, chunk_rows: int) -> None:
        self._arrays = [part for part in parts if isinstance(part, np.ndarray)]
        self._header = repr(
            [
                (part.dtype.str, part.shape) if isinstance(part, np.ndarray) else part
                for part in parts
            ]
        )
        self._chunk_rows = chunk_rows
        self._digests: list[bytes | None] = [None] * -(-n_rows // chunk_rows)

    @property
    def is_hashed(self) -> bool:
        """Whether there is an array, the content of which counts."""
        return bool(self._arrays)

    def read(self, index: int) -> None:
        """Hash a chunk, if it was not."""
        if self._digests[index] is not None:
            return
        rows = slice(index * self._chunk_rows, (index + 1) * self._chunk_rows)
        # Not by Dask's `tokenize`: which hash it takes depends on what is installed.
        hashed = (xxhash.xxh3_128_digest(np.ascontiguousarray(a[rows]).data) for a in self._arrays)
        self._digests[index] = b"".join(hashed)

    def token(self, n_chunks: int) -> str:
        """Return a key of the first chunks, which are hashed by threads if they were not."""
        missing = [i for i, digest in enumerate(self._digests[:n_chunks]) if digest is None]
        row_bytes = sum(array[:1].nbytes for array in self._arrays)
        at_once = max(1, _BLOCK_BYTES // max(1, self._chunk_rows * row_bytes))

        def read(first: int) -> None:
            for index in missing[first : first + at_once]:
                self.read(index)

        firsts = range(0, len(missing), at_once)
        # To ask for the number of threads opens a file, which a save in need can't.
        deque(map_chunks(read, firsts, n_threads() if len(firsts) > 1 else 1), maxlen=0)
        digests = [digest for digest in self._digests[:n_chunks] if digest is not None]
        return xxhash.xxh3_128_hexdigest(self._header.encode() + b"".join(digests))
