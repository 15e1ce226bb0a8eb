"""Chunks and samples: every row once and in order, whatever kind of array it comes from."""

import contextlib
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from nlsq_sklearn._engine.kernel import BLOCK_ROWS, Objective, padded_rows
from nlsq_sklearn._engine.model import trace_model
from nlsq_sklearn._streams import ArrayStream, content, threads
from nlsq_sklearn._streams.rows import Buffers
from nlsq_sklearn._streams.threads import _MOST_WAITING, map_chunks

_N = 1000
_ROWS = np.arange(_N)


def _rows(stream, part="y"):
    """Return all rows of a stream, without the padding."""
    chunks = [stream.chunk(index) for index in range(stream.n_chunks)]
    return np.concatenate([np.asarray(getattr(c, part))[..., : c.n_rows] for c in chunks], axis=-1)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.integers(1, 400))
def test_chunks_hold_every_row_once_and_in_order(n_rows, chunk_size):
    rows = np.arange(float(n_rows))
    stream = ArrayStream(rows, 2 * rows, 3 * rows + 1, 4 * rows, chunk_size=chunk_size)
    assert (_rows(stream, "x") == rows).all()
    assert (_rows(stream, "y") == 2 * rows).all()
    assert (_rows(stream, "sigma") == 3 * rows + 1).all()
    assert (_rows(stream, "weight") == 4 * rows).all()
    places = [stream.rows_of(index) for index in range(stream.n_chunks)]
    assert (places[0][0], places[-1][1]) == (0, n_rows)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(places))
    assert all(0 < stop - first <= chunk_size for first, stop in places)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 400))
def test_a_chunk_is_padded_with_its_last_row(n_rows, chunk_size):
    x = np.stack([np.arange(float(n_rows)), -np.arange(float(n_rows))])
    stream = ArrayStream(x, x[0], x[0] + 1, chunk_size=chunk_size)
    for index in range(stream.n_chunks):
        chunk = stream.chunk(index)
        assert chunk.y.shape == (padded_rows(stream.chunk_rows),)
        for array in np.vstack([np.asarray(part) for part in (chunk.x, chunk.y, chunk.sigma)]):
            assert (array[chunk.n_rows :] == array[chunk.n_rows - 1]).all()


def test_a_small_sample_fills_no_more_than_a_block_of_its_buffers():
    ones = np.ones(10 * BLOCK_ROWS)
    chunk = ArrayStream(ones, ones).sample(BLOCK_ROWS + 1).chunk(0)
    padded = np.asarray(chunk.y)
    assert padded.size == 16 * BLOCK_ROWS
    assert (padded[: 2 * BLOCK_ROWS] == 1).all()
    assert (padded[2 * BLOCK_ROWS :] == 0).all()


@pytest.mark.parametrize("n_rows", [BLOCK_ROWS, BLOCK_ROWS + 1, 10_000, 4 * BLOCK_ROWS - 1])
@pytest.mark.parametrize("first", [0, 3, 8, 4095])
def test_nothing_beside_a_chunk_that_is_taken_in_place_is_read(n_rows, first):
    model = trace_model(lambda x, a, b: a * jnp.exp(-b * x), ("a", "b"), 1)
    objective = Objective(model, "linear", 1.0)
    rng = np.random.default_rng(1)
    columns = rng.uniform(0, 1, (2, n_rows))
    around = np.full((2, first + n_rows + 5000), np.nan)
    around[:, first : first + n_rows] = columns
    within = [row[first : first + n_rows] for row in around]
    point = np.array([[1.0, 0.5]])
    found, expected = (
        [e for [e] in ArrayStream(x, y, chunk_size=16_384).equations(objective, point, 0)]
        for x, y in (within, columns)
    )
    assert len(found) == len(expected) == 1
    assert found[0].is_finite
    for value, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(value, other)


_MATRIX = np.random.default_rng(0).normal(size=(3, _N))
_ARRAYS = {
    "float64": _MATRIX[0],
    "float32": _MATRIX[0].astype(np.float32),
    "float16": _MATRIX[0].astype(np.float16),
    "longdouble": _MATRIX[0].astype(np.longdouble),
    "big-endian": _MATRIX[0].astype(">f8"),
    "int": _ROWS - 500,
    "uint8": (_ROWS % 256).astype(np.uint8),
    "bool": _ROWS % 3 == 0,
    "list": _MATRIX[0].tolist(),
    "strided view": _MATRIX.T.copy()[:, 1],
    "reversed view": _MATRIX[0][::-1],
    "broadcast": np.broadcast_to(2.5, (_N,)),
}


@pytest.mark.parametrize("chunk_size", [None, 77])
@pytest.mark.parametrize("kind", _ARRAYS)
def test_every_kind_of_array_gives_its_rows_as_float64(kind, chunk_size):
    array = _ARRAYS[kind]
    expected = np.array(array, dtype=np.float64)
    stream = ArrayStream(array, array, chunk_size=chunk_size)
    assert (_rows(stream, "x") == expected).all()
    assert (_rows(stream, "y") == expected).all()
    assert stream.chunk(0).y.dtype == np.float64


@pytest.mark.parametrize(
    "x",
    [
        _MATRIX,
        np.asfortranarray(_MATRIX),
        tuple(_MATRIX),
        list(_MATRIX),
        _MATRIX.tolist(),
        np.repeat(_MATRIX, 2, axis=1)[:, ::2],
        tuple(np.stack([row, row], axis=1)[:, 0] for row in _MATRIX),
    ],
    ids=["C", "Fortran", "tuple", "list", "lists", "steps", "strided columns"],
)
def test_several_predictors_come_as_rows_of_a_matrix_or_as_columns(x):
    stream = ArrayStream(x, np.zeros(_N), chunk_size=77)
    assert stream.n_features == 3
    assert (_rows(stream, "x") == _MATRIX).all()


def test_columns_may_be_of_different_kinds():
    stream = ArrayStream((_ROWS, _MATRIX[0].astype(np.float32)), np.zeros(_N), chunk_size=77)
    assert (_rows(stream, "x") == [_ROWS, _MATRIX[0].astype(np.float32)]).all()


def test_one_predictor_has_one_dimension():
    for x in (_MATRIX[:1], (_MATRIX[0],)):
        assert ArrayStream(x, np.zeros(_N)).chunk(0).x.ndim == 1


def test_what_a_mask_hides_is_never_fitted():
    masked = np.ma.array([1.0, 2.0, 1e20], mask=[False, False, True])
    for arguments in ((masked, np.ones(3)), (np.ones(3), masked)):
        with pytest.raises((TypeError, ValueError), match="mask"):
            ArrayStream(*arguments)


def test_a_number_as_sigma_is_that_of_each_row():
    assert (_rows(ArrayStream(_ROWS, _ROWS, 0.5, chunk_size=77), "sigma") == 0.5).all()


def _npy(folder, array=_MATRIX[0], mode="r"):
    np.save(folder / "a.npy", array)
    return np.load(folder / "a.npy", mmap_mode=mode)


def _raw(folder, offset):
    (folder / "a").write_bytes(b"\0" * offset + _MATRIX[0].tobytes())
    return np.memmap(folder / "a", np.float64, "r", offset, (_N,))


def _structured(folder):
    records = np.zeros(_N, dtype=[("flag", "u1"), ("value", "f8")])
    records["value"] = _MATRIX[0]
    return _npy(folder, records)["value"]


def _changed(folder, mode):
    array = _npy(folder, mode=mode)
    array[5::7] = 17.0
    return array


def _deleted(folder):
    array = _npy(folder)
    (folder / "a.npy").unlink()
    return array


def _replaced(folder, by):
    """Return a map of a file that was then replaced by another one, as atomic writers do it."""
    array = _npy(folder)
    np.save(folder / "b.npy", by)
    (folder / "b.npy").replace(folder / "a.npy")
    return array


_MAPS = {
    "npy": _npy,
    "float32": lambda folder: _npy(folder, _MATRIX[0].astype(np.float32)),
    "big-endian": lambda folder: _npy(folder, _MATRIX[0].astype(">f8")),
    "offset": lambda folder: _raw(folder, 4096 + 8),
    "unaligned": lambda folder: _raw(folder, 3),
    "slice": lambda folder: _npy(folder, _MATRIX)[1],
    "column": lambda folder: _npy(folder, _MATRIX.T.copy())[:, 1],
    "steps": lambda folder: _npy(folder, np.repeat(_MATRIX[0], 3))[::3],
    "slice of a slice": lambda folder: _npy(folder, np.repeat(_MATRIX[0], 3))[1:][::3],
    "reversed": lambda folder: _npy(folder)[::-1],
    "plain view": lambda folder: np.asarray(_npy(folder, np.repeat(_MATRIX[0], 2)))[::2],
    "reshaped": lambda folder: _npy(folder, _MATRIX).reshape(-1)[100 : 100 + _N],
    "structured": _structured,
    "Fortran": lambda folder: _npy(folder, np.asfortranarray(_MATRIX))[2],
    "computed": lambda folder: _npy(folder) + 1,
    "picked": lambda folder: _npy(folder)[_ROWS[::-1]],
    "changed in memory only": lambda folder: _changed(folder, "c"),
    "changed in the file": lambda folder: _changed(folder, "r+"),
    "deleted": _deleted,
    "replaced": lambda folder: _replaced(folder, _MATRIX[1]),
    "replaced by a shorter one": lambda folder: _replaced(folder, _MATRIX[1][:10]),
}


@pytest.mark.parametrize("kind", _MAPS)
def test_every_kind_of_memory_map_gives_the_rows_that_numpy_sees_in_it(kind, tmp_path):
    array = _MAPS[kind](tmp_path)
    stream = ArrayStream(array, array, chunk_size=77)
    expected = np.array(array, dtype=np.float64)
    assert (_rows(stream, "x") == expected).all()
    assert (_rows(stream, "y") == expected).all()
    assert (_rows(stream.take(_ROWS[::10])) == expected[::10]).all()


@pytest.mark.parametrize("kind", _MAPS)
def test_what_threads_compute_of_memory_maps_is_what_they_do_of_arrays(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("nlsq_sklearn._streams.arrays.n_threads", lambda: 2)
    array = _MAPS[kind](tmp_path)
    expected = np.array(array, dtype=np.float64)
    maps = ArrayStream(array, array, np.abs(expected) + 1, chunk_size=77)
    arrays = ArrayStream(expected, expected, np.abs(expected) + 1, chunk_size=77)

    def numbers(chunk):
        return [column[: chunk.n_rows].tolist() for column in chunk[:3]]

    for _ in range(2):
        assert list(maps.map_chunks(numbers)) == list(arrays.map_chunks(numbers))


@pytest.mark.parametrize("size", [5000, 8192, 40_000])
@pytest.mark.parametrize("kind", ["npy", "raw", "plain"])
def test_a_memory_map_is_read_where_it_lies(kind, size, tmp_path, monkeypatch):
    x = np.linspace(0, 5, 100_000)
    mapped = _npy(tmp_path, x)
    if kind == "raw":
        x.tofile(tmp_path / "raw")
        mapped = np.memmap(tmp_path / "raw", np.float64, "r")
    if kind == "plain":
        mapped = np.asarray(mapped)
    objective = Objective(trace_model(lambda x, a: jnp.exp(-a * x), ("a",), 1), "linear", 1.0)
    point = np.ones((1, 1))
    in_memory = list(ArrayStream(x, x, chunk_size=size).equations(objective, point, 0))
    copied = []

    def noted(buffers, *shape):
        copied.append(shape)
        return take(buffers, *shape)

    take = Buffers.take
    monkeypatch.setattr(Buffers, "take", noted)
    monkeypatch.setattr("nlsq_sklearn._streams.memory_maps.aligned_empty", None)  # for copies
    stream = ArrayStream(mapped, mapped, chunk_size=size)
    on_disk = list(stream.equations(objective, point, 0))
    assert [e.cost for [e] in on_disk] == [e.cost for [e] in in_memory]
    assert [e.gram.tolist() for [e] in on_disk] == [e.gram.tolist() for [e] in in_memory]
    assert len(copied) <= 2  # of the last chunk, x and y, where the map ends too near a page's end


def test_a_matrix_in_a_memory_map_gives_its_predictors(tmp_path):
    for matrix in (_MATRIX, np.asfortranarray(_MATRIX)):
        stream = ArrayStream(_npy(tmp_path, matrix), _ROWS, chunk_size=77)
        assert (_rows(stream, "x") == _MATRIX).all()
        table = ArrayStream(_npy(tmp_path, matrix).T, _ROWS, chunk_size=77, is_table=True)
        assert (_rows(table, "x") == _MATRIX).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x[0]", "x[1]", "y", "sigma", "sample_weight"])
@pytest.mark.parametrize("row", [0, 76, 77, 500, _N - 1])
def test_the_first_value_that_is_not_finite_is_named_with_its_row(row, name, value):
    arrays = {key: np.ones(_N) for key in ("x[0]", "x[1]", "y", "sigma", "sample_weight")}
    arrays[name][row], arrays[name][row + 1 :: 100] = value, np.nan
    first, second, *others = arrays.values()
    stream = ArrayStream((first, second), *others, chunk_size=77)
    message = rf"{re.escape(name)} must be finite.* {value} in row {row}\."
    with pytest.raises(ValueError, match=message):
        _rows(stream)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigma", 0.0), ("sigma", -0.0), ("sigma", -1.0), ("sample_weight", -1.0)],
)
@pytest.mark.parametrize("row", [0, 77, _N - 1])
def test_the_first_sigma_or_weight_out_of_its_range_is_named_with_its_row(row, name, value):
    arrays = {"sigma": np.ones(_N), "sample_weight": np.ones(_N)}
    arrays[name][row], arrays[name][row + 1 :: 100] = value, -1
    with pytest.raises(ValueError, match=rf"{name} must.* in row {row}\."):
        _rows(ArrayStream(_ROWS, _ROWS, *arrays.values(), chunk_size=77))


def test_the_first_bad_row_is_named_whichever_array_it_is_in():
    x, y = np.ones(_N), np.ones(_N)
    x[50], y[10] = np.nan, np.nan
    with pytest.raises(ValueError, match=r"y must be finite.*in row 10\."):
        _rows(ArrayStream(x, y, chunk_size=77))


def test_a_sample_with_a_bad_row_names_the_first_bad_row_of_all():
    x = np.ones(_N)
    x[3::2] = np.inf
    with pytest.raises(ValueError, match=r"x must be finite.*in row 3\."):
        ArrayStream(x, np.ones(_N), chunk_size=77).sample(100)


@pytest.mark.parametrize("value", [1e308, -1e308])
def test_finite_values_whose_sum_overflows_are_no_error(value):
    y = np.full(_N, value)
    assert _rows(ArrayStream(y, y, chunk_size=77)).tolist() == y.tolist()


@pytest.mark.parametrize(
    ("x", "y", "sigma", "match"),
    [
        (_ROWS, np.ones((2, 2)), None, "y must have one dimension"),
        ([], [], None, "y is empty"),
        (_ROWS, np.ones(3), None, f"x has {_N} rows and y has 3"),
        (_MATRIX.T, np.ones(_N), None, "pass x.T"),
        (np.ones((2, 2, 2)), np.ones(2), None, "x must have the shape"),
        ((_ROWS, _ROWS[1:]), np.ones(_N), None, r"x\[1\] has 999 rows"),
        (_ROWS, _ROWS, np.ones(3), "sigma has the shape"),
        (_ROWS[:3], _ROWS[:3], np.eye(3), "covariance matrix of the rows is not supported"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_the_way_out(x, y, sigma, match):
    with pytest.raises(ValueError, match=match):
        ArrayStream(x, y, sigma)


@pytest.mark.parametrize("values", [np.ones(3) * 1j, ["a", "b", "c"], [1, None, 3]], ids=repr)
def test_what_is_no_real_number_is_refused(values):
    for arguments in ((values, np.ones(3)), (np.ones(3), values), (np.ones(3), np.ones(3), values)):
        with pytest.raises(TypeError, match="must hold real numbers"):
            ArrayStream(*arguments)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-5, ValueError), (2.5, TypeError)])
def test_a_chunk_size_that_is_no_number_of_rows_is_refused(size, error):
    with pytest.raises(error, match="chunk_size must be"):
        ArrayStream(_ROWS, _ROWS, chunk_size=size)


@pytest.mark.parametrize("n_rows", [65_536, 65_537, 100_003, 1_000_000])
def test_a_sample_has_no_row_twice_and_reaches_all_parts(n_rows):
    rows = np.arange(n_rows)
    sampled = _rows(ArrayStream(rows, rows, chunk_size=5000).sample(8192))
    assert 0.9 * 8192 <= sampled.size <= 8192
    assert np.unique(sampled).size == sampled.size
    shares = np.histogram(sampled, bins=64, range=(0, n_rows))[0] / sampled.size
    # A stratum on the edge of two parts counts to either of them; there are 8 or more in each.
    np.testing.assert_allclose(shares, 1 / 64, rtol=0.15)


# 131,072 rows are also the largest sample of a million, from which the first one is taken.
@pytest.mark.parametrize("n_rows", [100_000, 131_072, 1_000_000])
@pytest.mark.parametrize("period", [2, 3, 8, 10, 16, 60, 64])
def test_a_sample_meets_a_periodic_x_in_all_of_its_phases(period, n_rows):
    phase = np.arange(n_rows) % period
    sampled = _rows(ArrayStream(phase, phase).sample(8192))
    shares = np.bincount(sampled.astype(int), minlength=period) / sampled.size
    np.testing.assert_allclose(shares, 1 / period, rtol=0.5)


def test_a_sample_is_the_same_each_time_and_keeps_rows_together():
    x, y = _MATRIX[:2], _MATRIX[2]
    stream = ArrayStream(x, y, np.abs(y) + 1)
    first, second = stream.sample(200), stream.sample(200)
    assert (_rows(first) == _rows(second)).all()
    whole = {tuple(row) for row in np.vstack([x, y, np.abs(y) + 1]).T}
    parts = np.vstack([_rows(first, "x"), _rows(first), _rows(first, "sigma")])
    assert {tuple(row) for row in parts.T} <= whole


def test_a_sample_has_the_buffers_of_its_stream_and_so_its_programs():
    stream = ArrayStream(_ROWS, _ROWS, chunk_size=300)
    for part in (stream.sample(100), stream.take(_ROWS[:10]), stream.sample(900)):
        assert part.chunk(0).y.shape == stream.chunk(0).y.shape


def test_neither_a_chunk_nor_a_sample_copies_a_memory_map_whole(tmp_path):
    array = _npy(tmp_path, np.zeros((2, 2_000_000)))
    stream = ArrayStream(array, array[0], chunk_size=131_072)
    tracemalloc.start()
    try:
        stream.sample(8192)
        stream.check()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A chunk of 131,072 rows of three arrays takes 3 MB, and its padding as much; all takes 48.
    assert peak < 12e6


def test_the_token_of_arrays_in_memory_is_that_of_their_content():
    y = _MATRIX[0].copy()
    token = ArrayStream(_ROWS, y).token()
    assert ArrayStream(_ROWS.copy(), y.copy()).token() == token
    y[500] = np.nextafter(y[500], 9)
    assert ArrayStream(_ROWS, y).token() != token
    assert ArrayStream(_ROWS, _MATRIX[0], 1.0).token() != token


def test_the_token_is_the_same_in_each_environment_however_many_threads(monkeypatch):
    y = np.arange(2.5 * 2**18)  # three chunks, the last not full
    parts = (y[::-1], y, np.full(y.size, 0.5))
    header = repr([*[("<f8", (y.size,))] * 3, None])
    digests = [
        xxhash.xxh3_128_digest(part[first : first + 2**18].tobytes())
        for first in range(0, y.size, 2**18)
        for part in parts
    ]
    expected = [
        xxhash.xxh3_128_hexdigest(header.encode() + b"".join(digests[: 3 * n])) for n in range(4)
    ]
    for n in (1, 2, 3):
        monkeypatch.setattr(content, "n_threads", lambda n=n: n)
        assert ArrayStream(y[::-1], y, 0.5).token() == expected[-1]
        stream = ArrayStream(y[::-1], y, 0.5)
        assert [stream.token(n_chunks) for n_chunks in range(4)] == expected


def test_chunks_are_hashed_as_they_are_looked_at(monkeypatch):
    hashed = []

    def noted(data):
        hashed.append(data.nbytes)
        return xxh3_128_digest(data)

    xxh3_128_digest = xxhash.xxh3_128_digest
    monkeypatch.setattr(xxhash, "xxh3_128_digest", noted)
    y = np.linspace(1, 2, 1000)
    stream = ArrayStream(y, y, chunk_size=100)
    stream.check()
    assert not hashed, "nobody asked for a token"
    stream = ArrayStream(y, y, chunk_size=100)
    stream.token(0)
    assert not hashed
    stream.check()
    assert hashed == [800] * 20
    assert stream.token() == ArrayStream(y, y, chunk_size=100).token()
    assert len(hashed) == 40, "what is hashed is not hashed again"


def test_the_token_of_some_chunks_knows_nothing_of_the_others():
    y = np.linspace(1, 2, 1000)
    other = y.copy()
    other[250] += 1
    tokens = [
        [ArrayStream(values, y, chunk_size=100).token(n) for n in range(11)]
        for values in (y, other)
    ]
    assert [a == b for a, b in zip(*tokens, strict=True)] == [True] * 3 + [False] * 8
    assert len(set(tokens[0])) == 11


@pytest.mark.parametrize("n_threads", [1, 2, 4, 8])
def test_results_come_in_the_order_of_their_chunks(n_threads):
    def slow(index):
        time.sleep(0.002 * (index % 3 == 0))
        return index * index

    results = list(map_chunks(slow, range(3, 40), n_threads))
    assert results == [i * i for i in range(3, 40)]
    assert list(map_chunks(slow, range(0), n_threads)) == []


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_an_exception_in_a_chunk_comes_after_the_results_before_it(n_threads):
    def fail(index):
        if index >= 7:
            raise ValueError(f"chunk {index}")
        return index

    results = map_chunks(fail, range(100), n_threads)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="chunk 7"):
        next(results)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_no_more_chunks_are_in_memory_than_threads_and_few_results_wait(n_threads):
    lock, in_work, waiting, most = threading.Lock(), 0, 0, [0, 0]

    def load(index):
        nonlocal in_work, waiting
        with lock:
            in_work += 1
            most[0] = max(most[0], in_work)
        time.sleep(0.0005)
        with lock:
            in_work -= 1
            waiting += 1
            most[1] = max(most[1], waiting)
        return index

    for _ in map_chunks(load, range(50), n_threads):
        time.sleep(0.002)  # a slow caller, for whom results wait
        with lock:
            waiting -= 1
    assert waiting == 0
    assert most[0] <= n_threads
    assert most[1] <= 1 + n_threads + _MOST_WAITING  # one of them the caller has


@pytest.mark.parametrize("n_threads", [2, 4])
def test_the_thread_that_asks_works_too(n_threads):
    def who(index):
        time.sleep(0.002)
        return threading.get_ident()

    seen = set(map_chunks(who, range(40), n_threads))
    assert threading.get_ident() in seen
    assert len(seen) == n_threads


def test_streams_that_are_read_in_turn_do_not_wait_for_each_other():
    streams = [map_chunks(lambda index: index, range(200), 64) for _ in range(3)]
    for index, results in enumerate(zip(*streams, strict=True)):
        assert results == (index,) * 3


def test_an_interrupt_of_the_thread_that_asks_comes_at_once():
    def interrupt(index):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.05)
        return index

    with pytest.raises(KeyboardInterrupt):
        list(map_chunks(interrupt, range(10), 2))
    assert list(map_chunks(abs, range(10), 2)) == list(range(10))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    assert list(map_chunks(abs, range(10), 2)) == list(range(10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads and fork, which is what this is about
        child = os.fork()
    if child == 0:
        os._exit(0 if list(map_chunks(abs, range(10), 2)) == list(range(10)) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_a_caller_that_stops_early_leaves_no_chunk_running(n_threads):
    started, ended = [], []

    def load(index):
        started.append(index)
        time.sleep(0.01)
        ended.append(index)
        return index

    results = map_chunks(load, range(1000), n_threads)
    assert next(results) == 0
    results.close()
    assert sorted(started) == sorted(ended)
    assert len(started) <= 1 + n_threads + _MOST_WAITING
    time.sleep(0.03)
    assert len(started) == len(ended) <= 1 + n_threads + _MOST_WAITING


_LEFT = """
from nlsq_sklearn._streams.threads import map_chunks

def use():
    results = map_chunks(abs, range(100), 2)
    next(results)
    return results

kept = use()
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise ValueError('of the user')", 1)])
def test_a_process_ends_although_results_were_not_taken(end, code):
    done = subprocess.run([sys.executable, "-c", _LEFT + end], timeout=120, capture_output=True)
    assert done.returncode == code


def test_where_no_thread_can_be_started_the_one_that_asks_does_all(monkeypatch):
    def refuse():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._helpers, "pool", refuse)
    seen = set(map_chunks(lambda index: (index, threading.get_ident()), range(20), 4))
    assert seen == {(index, threading.get_ident()) for index in range(20)}


def test_an_exception_that_was_met_keeps_nothing_alive():
    class Large:
        pass

    kept = []

    def fail(index):
        large = Large()
        kept.append(weakref.ref(large))
        raise ValueError

    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for n_threads in (1, 2):
            with contextlib.suppress(ValueError):
                list(map_chunks(fail, range(3), n_threads))
        assert [large() for large in kept] == [None] * len(kept)
    finally:
        if was_enabled:
            gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_forked_in_a_pass_can_leave_it():
    pause = threading.Event()

    def slow(index):
        return index if index == 0 else pause.wait(0.2)

    results = map_chunks(slow, range(20), 2)
    next(results)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads and fork, which is what this is about
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        results.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    results.close()


def test_chunks_that_are_copied_to_the_same_buffers_are_taken_one_by_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4000)), rng.normal(size=4000)
    stream = ArrayStream(x, y, chunk_size=100, buffers=Buffers())

    def total(chunk):
        time.sleep(0.0005)
        return float(np.asarray(chunk.x)[:, :100].sum())

    expected = [x[:, first : first + 100].sum() for first in range(0, 4000, 100)]
    np.testing.assert_allclose(list(stream.map_chunks(total)), expected, rtol=1e-10)
