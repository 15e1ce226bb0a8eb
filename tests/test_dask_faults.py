"""Chunks that can't be computed, workers that die or hang, a scheduler that goes away."""

import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import jax.numpy as jnp
import numpy as np
import pytest
from distributed import Client, LocalCluster

from nlsq_sklearn import (
    ChunkError,
    InvalidRowError,
    JSONCheckpoint,
    SchedulerLostError,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._streams.dask_arrays import DaskStream
from tests.cluster_fit import make_data

ROOT = Path(__file__).parents[1]

# Clusters leave sockets and loops to the garbage collector, which warns of them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*[Ss]ending large graph.*:UserWarning"),
]


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def fit(X, y, **options):
    return StreamingCurveFitRegressor(decay, p0=[1, 1, 1], **options).fit(X, y)


def bits(fitted):
    return [*fitted.popt_.tolist(), *fitted.pcov_.ravel().tolist(), fitted.cost_]


def in_threads(X, y):
    with dask.config.set(scheduler="threads"):
        return fit(X, y)


@pytest.fixture(autouse=True)
def _scheduler_as_before():
    """Put the scheduler back that a client sets, and leaves when it loses its cluster."""
    before = dask.config.get("scheduler", None)
    yield
    dask.config.set(scheduler=before)


@pytest.fixture(scope="module")
def undisturbed():
    return bits(in_threads(*make_data(1_000_000)))


@pytest.fixture(params=["threads", "cluster"])
def scheduler(request):
    if request.param == "threads":
        with dask.config.set(scheduler="threads"):
            yield
        return
    with cluster(1) as client, dask.config.set(scheduler=client):
        yield


@contextlib.contextmanager
def cluster(n_workers):
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0") as local,
        Client(local) as client,
    ):
        yield client
    gc.collect()  # here, where its warnings of sockets are ignored, and not in a later test


def replaced_block(y, index, function):
    """Return ``y`` with the block of an index mapped."""

    def change(block, block_info=None):
        return function(block) if block_info[0]["chunk-location"] == (index,) else block

    return y.map_blocks(change, dtype=float, meta=np.empty(0))


def unreadable(block):
    raise OSError("the disk of chunk 7 is gone")


def test_a_task_that_raises_is_named_with_its_chunk_and_rows(scheduler):
    X, y = make_data(1_000_000)
    with pytest.raises(ChunkError, match=r"Chunk 7 \(rows 700000 to 799999\).*OSError") as caught:
        fit(X, replaced_block(y, 7, unreadable))
    assert isinstance(caught.value.__cause__, OSError)
    assert str(caught.value.__cause__) == "the disk of chunk 7 is gone"


def test_a_chunk_of_another_size_than_it_says_is_named(scheduler):
    X, y = make_data(1_000_000)
    with pytest.raises(ChunkError, match=r"Chunk 3 \(rows 300000 to 399999\).*99999"):
        fit(X, replaced_block(y, 3, lambda block: block[1:]))


def test_a_chunk_whose_arrays_all_lack_rows_is_named(scheduler):
    # Nothing else could tell: they fit each other.
    X, y = make_data(1_000_000)
    X = replaced_block(X[:, 0], 3, lambda block: block[1:])[:, np.newaxis]
    words = r"Chunk 3 \(rows 300000 to 399999\).*X has the shape \(99999, 1\).*\(100000, 1\)"
    with pytest.raises(ChunkError, match=words):
        fit(X, replaced_block(y, 3, lambda block: block[1:]))


def with_nan(block):
    return np.where(np.arange(block.size) == 25, np.nan, block)


def test_a_chunk_with_nan_is_named_by_its_row(scheduler):
    X, y = make_data(1_000_000)
    y = replaced_block(replaced_block(y, 8, with_nan), 4, with_nan)
    with pytest.raises(InvalidRowError, match="y is nan in row 400025"):
        fit(X, y)


def test_a_chunk_without_rows_changes_no_bit(scheduler, undisturbed):
    X, y = make_data(1_000_000)
    empty = (0, *y.chunks[0][:5], 0, 0, *y.chunks[0][5:], 0)

    def with_empty(array):
        pieces = [array.blocks[i] for i in range(array.numblocks[0])]
        for place in (len(pieces), 5, 5, 0):
            pieces.insert(place, array[:0])
        joined = da.concatenate(pieces, allow_unknown_chunksizes=True)
        assert joined.shape == array.shape
        return joined

    X, y = with_empty(X), with_empty(y)
    if y.chunks[0] != empty:  # Dask leaves pieces without rows out where it can
        X, y = X.rechunk((empty, 1)), y.rechunk((empty,))
    fitted = fit(X, y)
    # The sample of the warm-up is another one, so the last steps are too.
    np.testing.assert_allclose(bits(fitted)[:3], undisturbed[:3], rtol=1e-7)


def test_the_error_of_a_batch_names_its_chunk_and_leaves_those_before():
    X, y = make_data(500_000)
    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    with pytest.raises(ChunkError, match="Chunk 3"):
        regressor.partial_fit(X, replaced_block(y, 3, unreadable))
    assert regressor.n_batches_seen_ == 3


def slow(data):
    """Return the data with chunks that take their time, so that a fault meets some at work."""

    def wait(block):
        time.sleep(0.1)
        return block

    return data[0], data[1].map_blocks(wait, dtype=float, meta=np.empty(0))


def each_pass(monkeypatch, act):
    """Have ``act`` called in each pass, while its first chunks are computed, with its number."""
    original = DaskStream.equations
    timers = []

    def equations(self, objective, points, first, *stop):
        if first > 0:  # the rest of a pass
            yield from original(self, objective, points, first, *stop)
            return
        timers.append(threading.Timer(0.25, act, [len(timers) + 1]))
        timers[-1].start()
        yield from original(self, objective, points, first, *stop)
        timers[-1].join()

    monkeypatch.setattr(DaskStream, "equations", equations)
    return timers


def test_a_worker_killed_in_each_pass_changes_no_bit(monkeypatch, undisturbed):
    killed = []
    with cluster(2) as client:

        def kill_one(n_pass):
            workers = sorted(client.run(os.getpid).values())
            killed.append(workers[n_pass % len(workers)])
            os.kill(killed[-1], signal.SIGKILL)

        each_pass(monkeypatch, kill_one)
        fitted = fit(*slow(make_data(1_000_000)))
    assert len(set(killed)) == fitted.n_passes_ >= 2
    assert bits(fitted) == undisturbed


def test_a_worker_paused_beyond_its_timeout_changes_no_bit(monkeypatch, undisturbed):
    paused = []

    def pause_one(n_pass):
        if n_pass == 1:
            paused.append(min(pids.values()))
            os.kill(paused[0], signal.SIGSTOP)

    each_pass(monkeypatch, pause_one)
    with dask.config.set({"distributed.scheduler.worker-ttl": "2s"}), cluster(2) as client:
        pids = client.run(os.getpid)
        try:
            fitted = fit(*slow(make_data(1_000_000)))
        finally:
            for pid in paused:
                with contextlib.suppress(ProcessLookupError):  # its nanny has replaced it
                    os.kill(pid, signal.SIGCONT)
    assert len(paused) == 1
    assert bits(fitted) == undisturbed


def test_a_chunk_that_kills_its_workers_is_told_with_its_rows():
    def die(block):
        os.kill(os.getpid(), signal.SIGKILL)

    X, y = make_data(300_000)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster(1),
        pytest.raises(ChunkError, match=r"Workers died while .*rows 0 to 299999"),
    ):
        fit(X, replaced_block(y, 1, die))


@contextlib.contextmanager
def scheduler_process(directory):
    """Yield a scheduler in a process of its own, and the client of it and of its worker."""
    file = directory / "scheduler.json"
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, **quiet) as process:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1"]
        command += ["--no-nanny", *options]
        with subprocess.Popen(command, env=environment, **quiet) as worker:
            try:
                with Client(scheduler_file=str(file), timeout="30s") as client:
                    client.wait_for_workers(1, timeout=60)
                    yield process, client
            finally:
                for child in (worker, process):
                    child.kill()


def test_the_scheduler_gone_stops_the_fit_and_a_new_one_resumes_to_the_same_bits(
    tmp_path, monkeypatch
):
    X, y = slow(make_data(1_000_000))
    messages = []
    checkpoint = JSONCheckpoint(tmp_path / "checkpoints", interval=0, on_resume=messages.append)
    options = {"checkpoint": checkpoint, "warm_start": True}
    (tmp_path / "first").mkdir()
    with (
        monkeypatch.context() as patch,
        scheduler_process(tmp_path / "first") as (process, client),
    ):
        each_pass(patch, lambda n_pass: n_pass == 2 and process.kill())
        with pytest.raises(SchedulerLostError, match="resume=True") as caught:
            fit(X, y, **options)
        client.close(timeout=1)  # it would try for long to connect again
    assert re.search(r"scheduler tcp://.* was lost while chunks \d+ to \d+", str(caught.value))
    assert caught.value.__cause__ is not None
    [latest] = (tmp_path / "checkpoints").rglob("checkpoint_latest.json")
    assert json.loads(latest.read_text())["state"]["n_passes"] == 1
    with dask.config.set(scheduler="threads"):
        assert bits(fit(X, y, **options)) == bits(fit(X, y))
    assert len(messages) == 1
