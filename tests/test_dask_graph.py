"""How tasks are made of the chunks of Dask arrays: many small ones share one, unseen."""

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import jax.numpy as jnp
import numpy as np
import pytest
from dask.base import tokenize
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

from nlsq_sklearn import (
    ChunkError,
    InvalidRowError,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._engine.kernel import Objective
from nlsq_sklearn._engine.model import trace_model
from nlsq_sklearn._streams import ArrayStream, open_stream
from nlsq_sklearn._streams.dask_graph import ChunkGraph
from nlsq_sklearn._streams.dask_tasks import Layout, Travelling, open_chunk
from nlsq_sklearn._streams.rows import Buffers

N_CHUNKS = 300  # enough for tasks of two chunks
ROWS = 50
N_ROWS = N_CHUNKS * ROWS


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


OBJECTIVE = Objective(trace_model(decay, ("a", "b", "c"), 1), "linear", 1.0)
POINTS = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.5]])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 5, N_ROWS)
    return x, 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, N_ROWS)


def lazy(data, rows=ROWS):
    """Return Dask arrays whose chunks lie in their graph."""
    return tuple(da.from_array(column, chunks=rows) for column in data)


def computed(data, rows=ROWS):
    """Return Dask arrays whose chunks must be computed."""
    return tuple(column.map_blocks(np.copy, meta=np.empty(0)) for column in lazy(data, rows))


class Tasks(Callback):
    """Counts the tasks that a scheduler of this process computes."""

    def __init__(self):
        self.keys = []
        self._lock = threading.Lock()

    def _posttask(self, key, result, dsk, state, worker_id):
        with self._lock:
            self.keys.append(key)


def all_equations(stream, first=0):
    return list(stream.equations(OBJECTIVE, POINTS, first))


def bits(equations):
    """Return the numbers of each chunk; how y is spread is looked at in the first pass alone."""
    return [
        [(*e.gram.ravel(), *e.gradient, e.cost, e.model_norm, e.n_rows) for e in chunk]
        for chunk in equations
    ]


def test_small_chunks_share_tasks_and_each_keeps_its_equations(data):
    with Tasks() as tasks:
        equations = all_equations(open_stream(*computed(data)))
    assert len(tasks.keys) == N_CHUNKS / 2
    one_by_one = [
        all_equations(ArrayStream(*(column[i : i + ROWS] for column in data)))[0]
        for i in range(0, N_ROWS, ROWS)
    ]
    assert bits(equations) == bits(one_by_one)


@pytest.mark.parametrize(
    ("n_threads", "rows", "expected"),
    [
        (1, 1_000_000, [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]),
        (2, 1_000_000, [[index] for index in range(12)]),
        (1, 6_000_000, [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11]]),
        (1, 9_000_000, [[index] for index in range(12)]),
    ],
)
def test_chunks_that_one_worker_holds_share_tasks(n_threads, rows, expected):
    x = da.zeros(12 * rows, chunks=rows)
    graph = ChunkGraph([x], Layout("x", 1, False, False, 1), rows * np.arange(12), [rows] * 12)
    graph._held = {index: ["lost", index] for index in range(12)}
    places = {index: [f"worker {index % 2}", "another"] for index in range(12)} | {"lost": []}
    assert graph.groups_by_place(range(12), places, n_threads) == expected


def test_the_function_is_pickled_once_for_all_tasks_and_arrives_once(data):
    pickled = []

    class Counted:
        def __call__(self, rows):
            return rows.n_rows

        def __reduce__(self):
            pickled.append(1)
            return Counted, ()

    chunks = 4 * [ROWS]
    arrays = [column[: sum(chunks)] for column in computed(data)]
    graph = ChunkGraph(arrays, Layout("x", 1, False, False, ROWS), np.cumsum([0, *chunks]), chunks)
    tasks, keys = graph.tasks(Travelling(Counted()), "counted", [[0, 1], [2, 3]])
    assert len({tokenize(tasks[key]) for key in keys}) == 2
    assert pickled == []
    arrived = [pickle.loads(pickle.dumps(tasks[key].func)) for key in keys]
    assert pickled == [1]
    assert arrived[0]._function is arrived[1]._function
    assert [reduction() for reduction in arrived] == [(ROWS, ROWS)] * 2


def test_few_chunks_have_a_task_each(data):
    with Tasks() as tasks:
        all_equations(open_stream(*computed(data, N_ROWS // 100)))
    assert len(tasks.keys) == 100


@pytest.mark.parametrize("scheduler", ["threads", "sync"])
def test_chunks_in_memory_need_no_scheduler(data, scheduler, monkeypatch):
    expected = bits(all_equations(open_stream(*computed(data))))
    for arrays in (lazy(data), dask.persist(*computed(data))):
        stream = open_stream(*arrays)
        with monkeypatch.context() as patch, dask.config.set(scheduler=scheduler):
            patch.setattr(ChunkGraph, "tasks", None)  # nothing may ask for one
            assert bits(all_equations(stream)) == expected


@pytest.mark.parametrize(("n_workers", "expected"), [(1, 1), (2, 2), (5, 3)])
def test_chunks_in_memory_have_as_many_threads_as_dask_may_use(data, n_workers, expected):
    at_work, most_at_work = set(), 0

    def note(rows):
        nonlocal most_at_work
        at_work.add(threading.get_ident())
        most_at_work = max(most_at_work, len(at_work))
        threading.Event().wait(0.005)
        at_work.discard(threading.get_ident())
        return rows.n_rows

    stream = open_stream(*lazy(data))
    with dask.config.set(scheduler="threads", num_workers=n_workers):
        assert sum(stream.map_rows(note, "note")) == N_ROWS
    # The pool may take another of its idle threads for the next chunk, but not more at a time.
    assert min(n_workers, expected) <= most_at_work <= n_workers


def test_callbacks_and_pools_of_the_users_see_the_tasks_of_chunks_in_memory(data):
    expected = bits(all_equations(open_stream(*lazy(data))))
    with Tasks() as tasks:
        assert bits(all_equations(open_stream(*lazy(data)))) == expected
    assert len(tasks.keys) == N_CHUNKS / 2
    with ThreadPoolExecutor(1) as pool, dask.config.set(scheduler="threads", pool=pool):
        name = pool.submit(threading.get_ident).result()
        seen = set(open_stream(*lazy(data)).map_rows(lambda _: threading.get_ident(), "thread"))
    assert seen == {name}


def test_an_error_in_a_chunk_in_memory_names_the_first_one(data):
    def fail(rows):
        if rows._first_row >= 3 * ROWS:
            raise OSError("no such luck")
        return rows.n_rows

    results = open_stream(*lazy(data)).map_rows(fail, "fail")
    assert [next(results) for _ in range(3)] == [ROWS] * 3
    with pytest.raises(ChunkError, match=r"Chunk 3 \(rows 150 to 199\).*OSError: no such luck"):
        next(results)


@pytest.mark.parametrize("sizes", [[5000] * 40, [5000, 5000, 300], [5000, 5000, 4200, 9000, 5000]])
def test_chunks_in_memory_are_taken_where_they_lie_and_tell_the_same(sizes, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, sum(sizes))
    y = np.exp(-x) + rng.normal(0, 0.1, x.size)
    chunked = [da.from_array(a, chunks=(tuple(sizes),)).map_blocks(np.copy) for a in (x, y)]
    expected = all_equations(open_stream(*chunked))
    copied = []

    class Noted(Buffers):
        def take(self, *shape):
            copied.append(shape)
            return super().take(*shape)

    monkeypatch.setattr("nlsq_sklearn._streams.dask_results.Buffers", Noted)
    assert bits(all_equations(open_stream(*dask.persist(*chunked)))) == bits(expected)
    if len(sizes) == 40:
        # One that ends within 64 bytes of the end of a page is copied, one in fifty.
        assert len(copied) <= 10


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_chunks_in_memory_are_opened_once_if_nothing_is_copied(dtype, monkeypatch):
    x = np.linspace(0, 5, 200_000, dtype=dtype)
    arrays = [da.from_array(a, chunks=5000, name=False).persist() for a in (x, np.exp(-x))]
    opened = []

    def noted(*args):
        opened.append(args[2])
        return open_chunk(*args)

    monkeypatch.setattr("nlsq_sklearn._streams.dask_graph.open_chunk", noted)
    stream = open_stream(*arrays)
    passes = []
    for _ in range(3):
        opened.clear()
        equations = bits(all_equations(stream))
        passes.append(len(opened))
    to_compute = [array.map_blocks(np.copy) for array in arrays]
    assert equations == bits(all_equations(open_stream(*to_compute)))
    if dtype == np.float32:
        assert passes == [40, 40, 40]  # the buffers that they are copied to serve the next one
    else:
        # Those that end too near the end of a page are opened each time.
        assert 40 <= passes[0] <= 45
        assert passes[2] <= 5


@pytest.mark.parametrize("kind", ["memory map", "strided"])
def test_chunks_whose_rows_are_copied_are_not_kept_open(kind, tmp_path):
    x = np.linspace(0, 5, 200_000)
    table = np.stack([x, np.exp(-x)], axis=1)
    if kind == "memory map":
        np.save(tmp_path / "x.npy", table.T)
        table = np.load(tmp_path / "x.npy", mmap_mode="r").T
        arrays = [da.from_array(c, chunks=5000, name=False, asarray=False) for c in table.T]
    else:
        whole = da.from_array(table, chunks=(5000, 2), name=False)
        arrays = [
            whole.map_blocks(lambda t, i=i: t[:, i], drop_axis=1, dtype=float) for i in (0, 1)
        ]
    stream = open_stream(*dask.persist(*arrays))
    all_equations(stream)
    assert stream._graph.is_in_memory
    assert set(stream._graph._opened.values()) == {None}


def test_the_first_chunk_with_an_error_is_told_of_whatever_it_is():
    x, y = np.linspace(0, 5, 200_000), np.linspace(1, 2, 200_000)
    y[57_003] = np.nan
    chunks = [y[i : i + 20_000] for i in range(0, y.size, 20_000)]
    chunks[4] = np.ma.masked_less(chunks[4], 1.45)
    graph = {("y", i): chunk for i, chunk in enumerate(chunks)}
    columns = (
        da.from_array(x, chunks=20_000, name=False).persist(),
        da.Array(graph, "y", [(20_000,) * 10], dtype=float),
    )
    with pytest.raises(InvalidRowError, match="y is nan in row 57003"):
        all_equations(open_stream(*columns))
    y[57_003] = 1
    with pytest.raises(ChunkError, match=r"Chunk 4 \(rows 80000 to 99999\).*masked"):
        all_equations(open_stream(*columns))


@pytest.mark.parametrize("name", ["x", "y"])
def test_chunks_that_are_kept_open_are_looked_at(name):
    columns = {"x": np.linspace(0, 5, 200_000), "y": np.linspace(1, 2, 200_000)}
    columns[name][[57_003, 123_456]] = np.nan, np.inf
    chunked = [da.from_array(c, chunks=20_000, name=False).persist() for c in columns.values()]
    with pytest.raises(InvalidRowError, match=f"{name} is nan in row 57003"):
        all_equations(open_stream(*chunked))


def test_chunks_that_are_kept_open_know_how_their_rows_scatter():
    x, y = np.linspace(0, 5, 200_000), np.random.default_rng(4).normal(100, 2, 200_000)
    chunked = [da.from_array(c, chunks=20_000, name=False).persist() for c in (x, y)]
    stream = open_stream(*chunked)
    for _ in range(2):
        spreads = [equations.spread for equations, *_ in all_equations(stream)]
        total = sum(spreads[1:], start=spreads[0])
        np.testing.assert_allclose(total.squares, y.size * y.var(), rtol=1e-9)


def test_one_chunk_that_must_be_computed_makes_all_share_less(data):
    x, y = lazy(data)
    with Tasks() as tasks:
        all_equations(open_stream(da.concatenate([x[:ROWS] + 0, x[ROWS:]]), y))
    assert len(tasks.keys) == N_CHUNKS / 2


def test_what_only_one_chunk_needs_is_no_task_of_its_own(data):
    x, y = lazy(data)
    shifted = (x + 1).map_blocks(lambda block: block - 1)
    other = da.from_array(data[1], chunks=ROWS).map_blocks(np.sin)
    with Tasks() as tasks:
        equations = all_equations(open_stream(shifted, y + 0 * shifted + 0 * other))
    assert len(tasks.keys) == N_CHUNKS / 2
    np.testing.assert_allclose(bits(equations), bits(all_equations(open_stream(x, y))), rtol=1e-9)


def test_what_several_chunks_need_is_not_computed_for_each(data):
    calls = []

    def count(block):
        calls.append(block.size)
        return block

    x, y = lazy(data)
    pieces = da.from_array(data[1], chunks=ROWS * 5).map_blocks(count, meta=np.empty(0))
    equations = all_equations(open_stream(x, pieces.rechunk(ROWS)))
    # A piece at the border of two requests is computed for both.
    assert N_CHUNKS // 5 <= len(calls) <= N_CHUNKS // 5 + 2
    assert bits(equations) == bits(all_equations(open_stream(x, y)))


def test_pieces_of_a_large_chunk_are_read_side_by_side(data):
    pieces = computed(data)
    with Tasks() as tasks:
        equations = all_equations(open_stream(*(p.rechunk(N_ROWS // 3) for p in pieces)))
    assert len(tasks.keys) >= 2 * N_CHUNKS
    assert bits(equations) == bits(all_equations(open_stream(*lazy(data, N_ROWS // 3))))


def test_a_graph_of_tuples_is_computed_as_one_of_tasks(data):
    layers = {("old", i): (np.copy, data[1][i * ROWS : (i + 1) * ROWS]) for i in range(N_CHUNKS)}
    graph = HighLevelGraph.from_collections("old", layers)
    y = da.Array(graph, "old", chunks=((ROWS,) * N_CHUNKS,), dtype=float)
    x = lazy(data)[0]
    expected = bits(all_equations(open_stream(*lazy(data))))
    assert bits(all_equations(open_stream(x, y))) == expected
    with dask.config.set({"optimization.fuse.active": False}):
        assert bits(all_equations(open_stream(x, y))) == expected


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("first", [0, 1, 150])
def test_a_pass_begins_at_any_chunk_with_the_same_bits(data, scheduler, first):
    expected = bits(all_equations(open_stream(*lazy(data))))
    with dask.config.set(scheduler=scheduler, num_workers=2):
        assert bits(all_equations(open_stream(*lazy(data)), first)) == expected[first:]


def replaced(column, index, function):
    def change(block, block_info=None):
        return function(block) if block_info[0]["chunk-location"] == (index,) else block

    return column.map_blocks(change, dtype=float, meta=np.empty(0))


def unreadable(block):
    raise OSError("the disk is gone")


@pytest.mark.parametrize("index", [0, 7, 298, 299])
def test_the_chunk_is_named_though_its_task_computes_others_too(data, index):
    x, y = lazy(data)
    first = index * ROWS
    words = rf"Chunk {index} \(rows {first} to {first + ROWS - 1}\) .*OSError: the disk is gone"
    with pytest.raises(ChunkError, match=words) as caught:
        all_equations(open_stream(x, replaced(replaced(y, 299, unreadable), index, unreadable)))
    assert isinstance(caught.value.__cause__, OSError)


def test_what_fails_for_several_chunks_is_told_for_the_first(data):
    x = lazy(data)[0]
    pieces = replaced(da.from_array(data[1], chunks=ROWS * 5), 4, unreadable)
    with pytest.raises(ChunkError, match=rf"Chunk 20 \(rows {20 * ROWS} .*OSError"):
        all_equations(open_stream(x, pieces.rechunk(ROWS)))


def test_the_first_bad_row_of_a_shared_task_is_named(data):
    y = data[1].copy()
    y[[7777, 7790, 14_000]] = np.nan
    with pytest.raises(InvalidRowError, match="y is nan in row 7777"):
        all_equations(open_stream(*lazy((data[0], y))))


@pytest.mark.parametrize("first", [0, 150])
def test_values_are_looked_at_until_a_whole_pass_has_seen_them(data, monkeypatch, first):
    looked_at = []
    original = ArrayStream.trust
    monkeypatch.setattr(ArrayStream, "trust", lambda rows: looked_at.append(0) or original(rows))
    stream = open_stream(*lazy(data))
    expected = bits(all_equations(stream))[first:]
    assert looked_at == []
    resumed = open_stream(*lazy(data))
    assert bits(all_equations(resumed, first)) == expected
    assert looked_at == []
    assert bits(all_equations(resumed, first)) == expected
    assert len(looked_at) == (0 if first else N_CHUNKS)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_only_one_chunk_a_worker_is_in_memory(data, scheduler):
    alive = most = 0
    lock = threading.Lock()

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            if self.base is None:
                with lock:
                    alive -= 1

    def make(block):
        nonlocal alive, most
        counted = np.ndarray.__new__(Counted, block.shape)
        counted[:] = block
        with lock:
            alive += 1
            most = max(most, alive)
        return counted

    x, y = lazy(data)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        all_equations(open_stream(x, y.map_blocks(make, meta=np.empty(0))))
    assert alive == 0
    # The next chunk is made while the last one is not yet gone.
    assert most <= (2 if scheduler == "synchronous" else 4)


def test_a_fit_resumed_within_a_task_ends_in_the_same_bits(data, tmp_path):
    X, y = lazy(data)[0][:, None], lazy(data)[1]
    saves = []

    class EnoughError(Exception):
        pass

    def stop(path):
        saves.append(path)
        if len(saves) == 10:
            raise EnoughError

    def fit(**options):
        options = {"checkpoint": JSONCheckpoint(tmp_path, **options), "warm_start": True}
        return StreamingCurveFitRegressor(decay, p0=[1, 1, 1], **options).fit(X, y)

    with pytest.raises(EnoughError):
        fit(interval=0, on_save=stop)
    [latest] = tmp_path.rglob("checkpoint_latest.json")
    assert json.loads(latest.read_text())["chunk"] == [9, N_CHUNKS]
    resumed = []
    fitted = fit(on_resume=resumed.append)
    assert len(resumed) == 1
    undisturbed = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(X, y)
    assert fitted.popt_.tolist() == undisturbed.popt_.tolist()
    assert fitted.pcov_.tolist() == undisturbed.pcov_.tolist()


def test_keys_are_the_same_in_each_process(data):
    def keys():
        with Tasks() as tasks, dask.config.set(scheduler="synchronous"):
            all_equations(open_stream(*lazy(data)))
        return sorted(tasks.keys)

    assert keys() == keys()


@pytest.mark.parametrize(
    ("n_rows", "rows", "least", "most_runs"),
    [
        (16_000, 500, 16_000, 16_000),
        (60_000, 300, 58_000, 9000),
        (130_000, 511, 128_000, 9000),
        (4_000_000, 100_000, 240_000, 9000),
    ],
)
def test_the_sample_has_most_of_the_rows_that_it_may_have_in_few_runs(
    n_rows, rows, least, most_runs
):
    numbers = da.arange(float(n_rows), chunks=rows)
    taken = open_stream(numbers, numbers).sample(n_rows).rows().y
    assert taken.size >= least
    assert (np.diff(taken) > 0).all()
    assert np.count_nonzero(np.diff(taken) > 1) < most_runs
