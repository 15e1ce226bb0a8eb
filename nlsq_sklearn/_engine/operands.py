"""Columns of numbers in memory that the compiled programs take without a copy.

JAX copies an array that does not start at a multiple of 64 bytes, and what NumPy allocates hardly
ever does. So a program is handed a little more memory than a column, from a multiple of 64 bytes
on, and is told where in it the column starts. It computes with nothing but the column.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

ALIGNMENT = 64
"""Bytes, of which an address must be a multiple."""

SLACK = ALIGNMENT // 8
"""Numbers of float64 that the memory of a column holds besides it."""


# Systems give memory in pages of this size or a multiple of it: bytes in the same page as those of
# an array can be read, whosever they are.
_PAGE = 4096


class Operand(NamedTuple):
    """``memory`` of shape (..., rows + SLACK); the column starts at the number ``start`` in it."""

    memory: np.ndarray
    start: int


def stacked_rows(columns: Sequence[np.ndarray], rows: int) -> np.ndarray:
    """Return columns of one size, at most ``rows``, one a row, filled up with their last numbers.

    Each row, of shape (rows + SLACK,), is an operand that starts at 0. It is not aligned: for few
    rows JAX copies them in less time than it takes to ask where they lie.
    """
    memory = np.empty((len(columns), rows + SLACK))
    size = columns[0].size
    for place, column in zip(memory, columns, strict=True):
        place[:size] = column
    # A real row, not zeros: the model may be undefined at 0.
    memory[:, size:] = memory[:, size - 1 : size]
    return memory


def aligned_empty(*shape: int) -> np.ndarray:
    """Return an array of which `operand` needs no copy, its numbers not set."""
    return _aligned(np.empty, shape)[..., : shape[-1]]


def aligned_zeros(*shape: int) -> np.ndarray:
    """Return an array of which `operand` needs no copy; where nothing is set it takes no memory."""
    return _aligned(np.zeros, shape)[..., : shape[-1]]


def _aligned(allocate: Callable[[int], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of this shape and SLACK more numbers in each row."""
    *outer, rows = shape
    n_values = math.prod(outer) * (rows + SLACK)
    raw = allocate(n_values + SLACK)
    first = -_address(raw) % ALIGNMENT // 8
    return raw[first : first + n_values].reshape(*outer, rows + SLACK)


def operand(column: np.ndarray, rows: int | None = None) -> Operand:
    """Return memory that holds a column or several, of float64, shape (rows,) or (n, rows).

    Parameters
    ----------
    rows : int or None
        Those that the program takes, where it takes more than the column has.
    """
    found = find_operand(column, rows)
    if found is not None:
        return found
    copy = aligned_empty(*column.shape[:-1], rows or column.shape[-1])
    copy[..., : column.shape[-1]] = column
    return operand(copy)


def find_operand(column: np.ndarray, rows: int | None = None) -> Operand | None:
    """Return the memory in which a column lies already, None where it can't be taken there."""
    if column.dtype != np.float64 or not column.size:
        return None
    if column.ndim == 1:
        return _around(column, column.size if rows is None else rows)
    base = column.base
    if not isinstance(base, np.ndarray) or base.dtype != np.float64:
        return None
    return _whole(column, base) if rows in (None, column.shape[-1]) else None


def _around(column: np.ndarray, rows: int) -> Operand | None:
    """Return memory of ``rows + SLACK`` numbers around a column, None if there are not so many."""
    if not column.flags.c_contiguous:
        return None
    address = least = _address(column)
    end = address + column.nbytes
    first = address - address % ALIGNMENT
    last = first + 8 * (rows + SLACK)
    base = column.base
    if last > _end_of_page(end) and isinstance(base, np.ndarray) and base.flags.c_contiguous:
        least = _address(base)
        end = least + base.nbytes
    too_far = last - _end_of_page(end)
    if too_far > 0:
        first -= -(-too_far // ALIGNMENT) * ALIGNMENT
    start = (address - first) // 8
    is_within = first >= least - least % ALIGNMENT and start + column.size <= rows + SLACK
    if address % 8 or not is_within:
        return None
    return Operand(_Memory(column, first, rows + SLACK).as_array(), start)


def _end_of_page(address: int) -> int:
    """Return where the memory page ends in which the byte before an address lies."""
    return -(-address // _PAGE) * _PAGE


class _Memory:
    """Numbers of float64 from an address on, where a column lies that is kept alive."""

    __slots__ = ("__array_interface__", "_column")

    def __init__(self, column: np.ndarray, address: int, size: int) -> None:
        self._column = column
        self.__array_interface__ = {
            "version": 3,
            "typestr": column.dtype.str,
            "shape": (size,),
            "data": (address, not column.flags.writeable),
        }

    def as_array(self) -> np.ndarray:
        """Return the numbers as an array, which keeps the column alive."""
        array = np.asarray(self)
        del self.__array_interface__  # many are kept, and what it is made of
        return array


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
