"""Columns as the programs take them: where they lie, and copied only where they must be."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlsq_sklearn._engine.operands import ALIGNMENT, SLACK, aligned_empty, find_operand, operand


def _address(array):
    return array.__array_interface__["data"][0]


def _column(found, rows):
    return found.memory[..., found.start : found.start + rows]


@given(start=st.integers(0, 40), rows=st.integers(1, 64), shift=st.integers(0, 7))
def test_an_operand_holds_the_column_and_starts_at_a_multiple_of_the_alignment(start, rows, shift):
    values = np.arange(200.0)[shift:]
    column = values[start : start + rows]
    found = operand(column)
    assert _address(found.memory) % ALIGNMENT == 0
    assert found.memory.shape == (rows + SLACK,)
    assert 0 <= found.start <= SLACK
    assert np.array_equal(_column(found, rows), column)


@given(start=st.integers(0, 3000), rows=st.integers(1, 600), more=st.integers(0, 700))
def test_a_program_may_take_more_rows_than_the_column_has(start, rows, more):
    values = np.arange(4000.0)[1:]
    column = values[start : start + rows]
    found = operand(column, column.size + more)
    assert _address(found.memory) % ALIGNMENT == 0
    assert found.memory.shape == (column.size + more + SLACK,)
    assert np.array_equal(_column(found, column.size), column)


@given(rows=st.integers(1, 5000), more=st.integers(0, 500))
def test_no_memory_is_named_that_may_not_be_read(rows, more):
    values = np.arange(float(rows))
    found = find_operand(values, rows + more)
    if found is not None:
        first, last = _address(found.memory), _address(found.memory) + found.memory.nbytes - 1
        own = _address(values), _address(values) + values.nbytes - 1
        assert first // 4096 >= own[0] // 4096
        assert last // 4096 <= own[1] // 4096


def test_a_column_is_kept_as_long_as_its_memory():
    values = np.arange(1000.0)
    found = find_operand(values)
    kept = weakref.ref(values)
    del values
    assert kept() is not None
    assert np.array_equal(_column(found, 1000), np.arange(1000.0))
    del found
    assert kept() is None


def test_memory_of_a_column_that_may_not_be_written_may_not_either():
    values = np.arange(1000.0)
    values.flags.writeable = False
    assert not find_operand(values).memory.flags.writeable


def test_a_column_within_a_larger_array_is_not_copied():
    values = np.arange(1000.0)
    assert np.shares_memory(operand(values[100:500]).memory, values)


def test_a_column_of_a_table_with_one_feature_is_not_copied():
    table = np.arange(1000.0).reshape(-1, 1)
    assert np.shares_memory(operand(table[100:500, 0]).memory, table)


@pytest.mark.parametrize(
    "column",
    [
        np.arange(1000.0)[::2][10:20],
        np.arange(30.0).reshape(3, 10)[:, 2],
        np.arange(30.0).reshape(3, 10),
        np.frombuffer(b" " * 81, np.float64, 10, offset=1),
        np.arange(10.0).astype(">f8"),
    ],
    ids=["strided", "of a table", "several", "at an odd address", "of another order"],
)
def test_what_memory_around_it_does_not_suit_is_copied(column):
    rows = column.shape[-1]
    found = operand(column)
    assert found.memory.shape == (*column.shape[:-1], rows + SLACK)
    assert _address(found.memory) % ALIGNMENT == 0
    assert np.array_equal(_column(found, rows), column)


@pytest.mark.parametrize("rows", [10, 1000, 131_072])
def test_an_array_of_its_own_is_not_copied(rows):
    values = np.arange(float(rows))
    assert np.shares_memory(operand(values).memory, values)


@pytest.mark.parametrize("shape", [(1,), (64,), (1001,), (3, 17), (2, 64)])
def test_what_was_made_for_it_is_taken_without_a_copy(shape):
    column = aligned_empty(*shape)
    assert column.shape == shape
    column[...] = np.arange(column.size).reshape(shape)
    found = operand(column)
    assert np.shares_memory(found.memory, column)
    assert found.start == 0
    assert np.array_equal(_column(found, shape[-1]), column)
