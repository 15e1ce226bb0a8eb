"""Columns of numbers in memory that the compiled programs take without a copy.

JAX copies an array that does not start at a multiple of 64 bytes, and what NumPy allocates hardly
ever does. So a program is handed a little more memory than a column, from a multiple of 64 bytes
on, and is told where in it the column starts.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ALIGNMENT = 64
"""Bytes, of which an address must be a multiple."""

SLACK = ALIGNMENT // 8
"""Numbers of float64 that the memory of a column holds besides it."""


class Operand(NamedTuple):
    """``memory`` of shape (..., rows + SLACK); the column starts at the number ``start`` in it."""

    memory: np.ndarray
    start: int


def aligned_empty(*shape: int) -> np.ndarray:
    """Return an array of which `operand` needs no copy, its numbers not set."""
    return _aligned(np.empty, shape)


def aligned_zeros(*shape: int) -> np.ndarray:
    """Return an array of which `operand` needs no copy; where nothing is set it takes no memory."""
    return _aligned(np.zeros, shape)


def _aligned(allocate: Callable[[int], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    *outer, rows = shape
    n_values = int(np.prod(outer, dtype=np.int64)) * (rows + SLACK)
    raw = allocate(n_values + SLACK)
    first = -_address(raw) % ALIGNMENT // 8
    return raw[first : first + n_values].reshape(*outer, rows + SLACK)[..., :rows]


def operand(column: np.ndarray) -> Operand:
    """Return memory that holds a column or several, of float64, shape (rows,) or (n, rows)."""
    found = find_operand(column)
    if found is not None:
        return found
    copy = aligned_empty(*column.shape)
    copy[...] = column
    return operand(copy)


def find_operand(column: np.ndarray) -> Operand | None:
    """Return the memory in which a column lies already, None where it can't be taken there."""
    base = column.base
    if not isinstance(base, np.ndarray) or base.dtype != np.float64:
        return None
    return _within(column, base) if column.ndim == 1 else _whole(column, base)


def _within(column: np.ndarray, base: np.ndarray) -> Operand | None:
    """Return memory around a column in the array that it is a part of, None if that ends there."""
    if not base.flags.c_contiguous or not column.flags.c_contiguous:
        return None
    address = _address(column)
    first = (address - _address(base)) // 8
    start = address % ALIGNMENT // 8
    stop = first - start + column.size + SLACK
    if address % 8 or first < start or stop > base.size:
        return None
    return Operand(base.reshape(-1)[first - start : stop], start)


def _whole(column: np.ndarray, base: np.ndarray) -> Operand | None:
    """Return the memory of columns made by `aligned_empty`, None for others."""
    rows = column.shape[-1]
    size = column.shape[0] * (rows + SLACK)
    if column.strides != (8 * (rows + SLACK), 8) or _address(column) % ALIGNMENT:
        return None
    first = (_address(column) - _address(base)) // 8
    if not base.flags.c_contiguous or first + size > base.size:
        return None
    return Operand(base.reshape(-1)[first : first + size].reshape(-1, rows + SLACK), 0)


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])
