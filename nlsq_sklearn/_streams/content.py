"""What tells the numbers of some arrays from others, the same in each process and environment."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from .threads import map_chunks, n_threads

_BLOCK_BYTES = 8 * 2**20


def digest_of_arrays(parts: Sequence[Any]) -> str:
    """Return a key of arrays, by their type, shape and content, and of other values by their repr.

    Not by Dask's ``tokenize``: which hash it takes depends on what is installed, and threads do
    not share its work.
    """
    total = xxhash.xxh3_128()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(repr((part.dtype.str, part.shape)).encode())
            for digest in _digests_of_blocks(part):
                total.update(digest)
        else:
            total.update(repr(part).encode())
    return total.hexdigest()


def _digests_of_blocks(array: np.ndarray) -> list[bytes]:
    """Return a digest of each block of rows, computed by threads."""
    rows = max(1, _BLOCK_BYTES * len(array) // max(array.size * array.itemsize, 1))

    def digest(index: int) -> bytes:
        block = np.ascontiguousarray(array[index * rows : (index + 1) * rows])
        return xxhash.xxh3_128_digest(block.data)

    blocks = range(-(-len(array) // rows))
    return [digest(0)] if len(blocks) == 1 else list(map_chunks(digest, blocks, n_threads()))
