"""Rows of arrays that may be memory maps: read without keeping the file in memory."""

import mmap
import os
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import sliding_window_view

from .._engine.operands import aligned_empty


def identity(array: np.ndarray) -> Any:
    """Return what tells an array from others: its content, or the place and time of its file.

    A memory map that went through scikit-learn's checks has lost its class; its root has it.
    """
    root = _root(array)
    if not isinstance(root, np.memmap) or root.mode == "c" or root.filename is None:
        return array
    try:
        status = os.stat(root.filename)
    except FileNotFoundError:
        return array
    start = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    file = (str(root.filename), status.st_ino, status.st_size, status.st_mtime_ns, root.offset)
    return (*file, start, array.dtype.str, array.shape, array.strides)


def is_mapped(array: np.ndarray) -> bool:
    """Return whether an array is a memory map, or rows of one."""
    return isinstance(_root(array), np.memmap)


def release(array: np.ndarray) -> None:
    """Give the pages of rows that were read back to the system, if they are memory-mapped.

    Pages that were read count as memory of the process until they are given back. That keeps a
    fit as small as a chunk, however large the file; they are read again where they are needed.
    """
    root = _root(array)
    mapping = root.base
    # A private mapping (mode "c") may hold changes that are not in the file: it keeps its pages.
    if not isinstance(root, np.memmap) or root.mode == "c" or not isinstance(mapping, mmap.mmap):
        return
    if not hasattr(mapping, "madvise") or array.size == 0:
        return
    origin = np.frombuffer(mapping, dtype=np.uint8).__array_interface__["data"][0]
    low, high = (bound - origin for bound in byte_bounds(array))
    first = low // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, first, high - first)


def view(array: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Return rows as contiguous float64, where they lie if they are that already.

    Those of a memory map are released by the caller, when it is done with them.
    """
    # A plain array knows the memory around its rows, a `numpy.memmap` only these.
    return np.ascontiguousarray(np.asarray(array)[first:stop], dtype=np.float64)


def read(array: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Return rows as contiguous float64; those of a memory map are copied."""
    if not is_mapped(array):
        return view(array, first, stop)
    rows = array[first:stop]
    values = aligned_empty(rows.size).reshape(rows.shape)
    values[...] = rows
    release(rows)
    return values


def take(array: np.ndarray, firsts: np.ndarray, run_rows: int) -> np.ndarray:
    """Return scattered runs of rows as float64, one behind the other."""
    runs = sliding_window_view(array, run_rows, axis=0, subok=True)
    # The system maps 64 KB around each row of a memory map: they are given back piece by piece.
    parts = np.array_split(firsts, 16) if is_mapped(array) else [firsts]
    pieces = []
    for part in parts:
        pieces.append(np.moveaxis(np.asarray(runs[part], dtype=np.float64), -1, 1))
        release(array)
    return np.concatenate(pieces).reshape(firsts.size * run_rows, *array.shape[1:])


def _root(array: np.ndarray) -> np.ndarray:
    """Return the array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
