"""A fit that was interrupted goes on from its checkpoint and ends in the same bits."""

import errno
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointDirectoryError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWarning,
    IncompatibleCheckpointError,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._engine.state import FitState
from nlsq_sklearn._progress import ProgressBar
from nlsq_sklearn._streams import ArrayStream
from nlsq_sklearn._streams.arrays import sample_rows
from nlsq_sklearn.exceptions import ConvergenceWarning

LATEST = "checkpoint_latest.json"
N_ROWS, CHUNK_ROWS = 40_000, 4096
N_CHUNKS = 10
P0 = (1.5, 0.3, 4.0, 0.5)


def model(x, a, b, c, d):
    return a * jnp.exp(-b * x) * jnp.sin(c * x) + d


def _data(seed=0):
    x = np.linspace(0, 5, N_ROWS)
    y = 2 * np.exp(-0.4 * x) * np.sin(3.5 * x) + 1
    return x, y + np.random.default_rng(seed).normal(0, 0.1, N_ROWS)


X, Y = _data()


def _fit(directory=None, y=Y, interval=0.0, **settings):
    """Fit; the interval of infinity leaves only the saves at the start and on the way out."""
    optimizer = AdaptiveHybridStreamingOptimizer(
        model, 4, checkpoint_dir=directory, checkpoint_interval=interval, chunk_size=CHUNK_ROWS
    )
    return optimizer.fit(X, y, P0, **settings)


def _bits(result):
    """Return all that a fit answers, to the last bit."""
    numbers = [*result.popt, *result.pcov.ravel(), *result.perr, result.cost]
    counts = (result.n_iter, result.n_passes, result.n_rows, result.status, result.message)
    return [float(number).hex() for number in numbers], counts, result.history


@pytest.fixture(scope="module")
def uninterrupted():
    """Return the answer of a fit that has never heard of checkpoints."""
    result = _fit()
    assert result.success
    assert result.n_passes >= 4
    np.testing.assert_allclose(result.popt, [2, 0.4, 3.5, 1], rtol=0.02)
    return _bits(result)


def _load(directory):
    return json.loads((Path(directory) / LATEST).read_text())


def _fail_in_mid_pass(monkeypatch, error):
    """Let the reading of the fifth chunk raise in the second pass."""
    read, visits = ArrayStream.chunk, itertools.count(1)

    def chunk(self, index):
        if self.n_rows == N_ROWS and index == 4 and next(visits) == 2:
            raise error
        return read(self, index)

    monkeypatch.setattr(ArrayStream, "chunk", chunk)


# The answer does not depend on checkpoints


def test_checkpoints_do_not_change_a_bit(tmp_path, uninterrupted):
    assert _bits(_fit(tmp_path)) == uninterrupted


def test_resuming_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"^Checkpoint not found"):
        _fit(tmp_path, resume=True)
    with pytest.raises(ValueError, match="checkpoint_dir"):
        _fit(resume=True)


# Interrupted


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError("no more"), OSError("gone")])
def test_an_error_while_reading_in_mid_pass_leaves_a_state_that_ends_in_the_same_bits(
    tmp_path, monkeypatch, uninterrupted, error
):
    with monkeypatch.context() as patch:
        if not isinstance(error, Exception):  # does not wait for chunks that other threads are at
            patch.setenv("OMP_NUM_THREADS", "1")
        _fail_in_mid_pass(patch, error)
        with pytest.raises(type(error)) as raised:
            _fit(tmp_path, interval=float("inf"))
    assert raised.value is error
    record = _load(tmp_path)
    assert record["phase"] == "streaming"
    assert record["chunk"] == [4, N_CHUNKS]
    assert _bits(_fit(tmp_path, interval=float("inf"), resume=True)) == uninterrupted
    assert _load(tmp_path)["phase"] == "finished"


N_SAMPLED = 8192  # of 120,000 rows


def _killed_in_first_pass(directory, monkeypatch, x, y, **settings):
    """Leave the checkpoint of a fit that has read four chunks."""
    add_chunk = FitState.add_chunk

    def fail(state, equations):
        if state.next_chunk == 4:
            raise OSError("gone")
        return add_chunk(state, equations)

    optimizer = AdaptiveHybridStreamingOptimizer(
        model, checkpoint_dir=directory, checkpoint_interval=np.inf, chunk_size=CHUNK_ROWS
    )
    with monkeypatch.context() as patch:
        patch.setattr(FitState, "add_chunk", fail)
        with pytest.raises(OSError, match="gone"):
            optimizer.fit(x, y, **settings)
    assert _load(directory)["chunk"][0] == 4
    assert _load(directory)["state"]["n_passes"] == 0
    return optimizer


@pytest.mark.parametrize("n_rows", [N_ROWS, 3 * N_ROWS])
def test_data_that_differ_where_the_fit_has_not_read_give_their_own_answer(
    tmp_path, monkeypatch, n_rows
):
    x = np.linspace(0, 5, n_rows)
    y = 2 * np.exp(-0.4 * x) * np.sin(3.5 * x) + 1
    y += 0.01 * np.cos(99 * x)
    optimizer = _killed_in_first_pass(tmp_path, monkeypatch, x, y.copy(), p0=P0)
    unread = np.arange(5 * CHUNK_ROWS, n_rows)
    if n_rows > N_ROWS:
        unread = np.setdiff1d(unread, sample_rows(n_rows, N_SAMPLED))
    y[unread[[0, 77, -1]]] += 0.1
    resumed = optimizer.fit(x, y, P0, resume=True)
    assert [place["chunk"] for place in resumed.resumes] == [4]
    fresh = AdaptiveHybridStreamingOptimizer(model, chunk_size=CHUNK_ROWS).fit(x, y, P0)
    assert _bits(resumed) == _bits(fresh)


@pytest.mark.parametrize("what", ["read", "sampled", "auto", "starts", "finished"])
def test_data_that_differ_where_the_fit_has_read_are_refused(tmp_path, monkeypatch, what):
    n_rows = 3 * N_ROWS if what == "sampled" else N_ROWS
    x = np.linspace(0, 5, n_rows)
    y = 2 * np.exp(-0.4 * x) * np.sin(3.5 * x) + 1 + 0.01 * np.cos(99 * x)
    settings = {"p0": "auto" if what == "auto" else P0}
    if what == "starts":
        settings |= {"n_starts": 3, "bounds": (-9, 9)}
    monkeypatch.setattr(model, "guess", lambda profile: P0, raising=False)
    optimizer = _killed_in_first_pass(tmp_path, monkeypatch, x, y, **settings)
    if what == "finished":
        optimizer.fit(x, y, resume=True, **settings)
    unread = np.arange(5 * CHUNK_ROWS, n_rows)
    sampled = np.intersect1d(unread, sample_rows(n_rows, N_SAMPLED))
    row = {"read": 4 * CHUNK_ROWS - 1, "sampled": sampled[9]}.get(what, n_rows - 1)
    y[row] += 0.1
    with pytest.raises(IncompatibleCheckpointError, match="data content changed"):
        optimizer.fit(x, y, resume=True, **settings)


def test_another_size_of_chunks_is_not_taken_for_other_data(tmp_path, monkeypatch):
    _killed_in_first_pass(tmp_path, monkeypatch, X, Y, p0=P0)
    optimizer = AdaptiveHybridStreamingOptimizer(model, checkpoint_dir=tmp_path, chunk_size=5000)
    with pytest.raises(IncompatibleCheckpointError, match="chunk_size changed") as refused:
        optimizer.fit(X, Y, P0, resume=True)
    assert "content" not in str(refused.value)


@pytest.mark.parametrize("method", ["on_chunk", "on_pass"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("display gone")])
def test_an_error_in_an_observer_leaves_a_state_that_ends_in_the_same_bits(
    tmp_path, monkeypatch, uninterrupted, error, method
):
    calls = []

    def fail(self, state):
        calls.append(state.next_chunk)
        if len(calls) == (17 if method == "on_chunk" else 3):
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, method, fail)
        with pytest.raises(type(error)):
            _fit(tmp_path, interval=float("inf"), show_progress=True)
    # The chunk that the observer was told of is in the checkpoint.
    assert _load(tmp_path)["chunk"] == [calls[-1], N_CHUNKS]
    assert _bits(_fit(tmp_path, resume=True)) == uninterrupted


TO_THE_LIMIT = {"ftol": 0, "xtol": 0, "gtol": 0}


@pytest.mark.parametrize("settings", [{}, TO_THE_LIMIT], ids=["defaults", "limit of float64"])
def test_any_checkpoint_of_a_fit_leads_to_the_same_bits(tmp_path, monkeypatch, settings):
    """Each file that a fit with a save after each chunk wrote, each a place to be killed at."""
    expected = _bits(_fit(**settings))
    with monkeypatch.context() as patch:
        patch.setattr(JSONCheckpoint, "prune", lambda self: None)
        _fit(tmp_path / "all", **settings)
    paths = sorted((tmp_path / "all").glob("checkpoint_2*.json"))
    records = [json.loads(path.read_text()) for path in paths]
    phases = [record["phase"] for record in records]
    assert len(paths) > N_CHUNKS * expected[1][1]
    assert [phases[0], phases[1], phases[-1]] == ["warm-up", "streaming", "finished"]
    assert [r["chunk"][0] for r in records[: N_CHUNKS + 1]] == list(range(N_CHUNKS + 1))
    for path in [*paths[:25:3], *paths[25::9], paths[-5], paths[-1]]:
        directory = tmp_path / path.stem
        directory.mkdir()
        shutil.copy(path, directory / LATEST)
        resumed = _fit(directory, interval=60, resume=True, **settings)
        assert _bits(resumed) == expected, path.name


def test_a_fit_that_stopped_at_max_iter_goes_on_as_if_it_had_not(tmp_path, uninterrupted):
    for max_iter in (1, 2):
        with pytest.warns(ConvergenceWarning):
            result = _fit(tmp_path, max_iter=max_iter, resume=max_iter > 1)
        assert (result.success, result.status, result.n_iter) == (False, 0, max_iter)
    assert _bits(_fit(tmp_path, resume=True)) == uninterrupted


def test_resuming_with_the_same_max_iter_reads_nothing_and_says_again_that_it_is_reached(
    tmp_path, evaluations
):
    with pytest.warns(ConvergenceWarning):
        first = _fit(tmp_path, max_iter=2)
    evaluations.clear()
    with pytest.warns(ConvergenceWarning):
        assert _bits(_fit(tmp_path, max_iter=2, resume=True)) == _bits(first)
    assert evaluations == []


def test_a_finished_fit_is_given_back_without_reading_a_chunk(
    tmp_path, monkeypatch, uninterrupted, evaluations
):
    _fit(tmp_path)
    calls = evaluations
    calls.clear()
    monkeypatch.setattr(ArrayStream, "chunk", lambda *arguments: calls.append(arguments))
    for _ in range(2):
        assert _bits(_fit(tmp_path, resume=True)) == uninterrupted
    assert calls == []


def test_a_finished_fit_that_is_given_back_leaves_no_file_of_a_killed_writer(tmp_path):
    _fit(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftover = tmp_path / f".nlsq_sklearn-{socket.gethostname()}-{ended.pid}-0f89792e"
    leftover.write_bytes(b"half a file")
    _fit(tmp_path, resume=True)
    assert not leftover.exists()


def test_elapsed_adds_up_over_interruptions(tmp_path):
    _fit(tmp_path)
    checkpoint = JSONCheckpoint(tmp_path)
    checkpoint.save({**checkpoint.load(), "elapsed_seconds": 1000.0})
    assert 1000 < _fit(tmp_path, resume=True).elapsed < 1100
    assert _load(tmp_path)["elapsed_seconds"] == 1000  # a finished fit is not saved again


def test_two_fits_at_once_in_one_directory_do_no_harm_to_each_other(tmp_path):
    ys = [_data(seed)[1] for seed in range(2)]
    alone = [_bits(_fit(y=y)) for y in ys]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda y: _bits(_fit(tmp_path, y)), ys * 2))
    assert together == alone * 2
    names = sorted(os.listdir(tmp_path))
    assert len(JSONCheckpoint(tmp_path).list()) == len(names) - 1 <= 5
    assert _load(tmp_path)["phase"] == "finished"


# Saves that fail


def _full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _break_after(monkeypatch, n_saves, n_broken, owner, name):
    """Let a system call fail from one save on, for so many saves; return the errors' number."""
    save, working, count = JSONCheckpoint.write, getattr(owner, name), []

    def counted_save(self, record):
        count.append(None)
        is_broken = n_saves < len(count) <= n_saves + n_broken
        monkeypatch.setattr(owner, name, _full if is_broken else working)
        return save(self, record)

    monkeypatch.setattr(JSONCheckpoint, "write", counted_save)
    return count


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("n_broken", [3, 10**6])
def test_saves_that_fail_warn_once_and_the_fit_ends_right(
    tmp_path, monkeypatch, uninterrupted, owner, name, n_broken
):
    count = _break_after(monkeypatch, 13, n_broken, owner, name)
    with pytest.warns(CheckpointWarning) as told:
        result = _fit(tmp_path)
    monkeypatch.undo()
    assert len(told) == 1
    assert str(tmp_path) in str(told[0].message)
    assert "No space left" in str(told[0].message)
    assert len(count) > 13 + 20, "saving is tried again"
    assert _bits(result) == uninterrupted
    # Files written earlier stay whole, and nothing is left of the broken ones.
    assert len(JSONCheckpoint(tmp_path).list()) == len(os.listdir(tmp_path)) - 1
    record = JSONCheckpoint(tmp_path).load()
    # Where no name can be replaced, new ones can be made: the last dated file has it.
    has_last = n_broken == 3 or name == "replace"
    assert record["phase"] == ("finished" if has_last else "streaming")
    assert record["chunk"] == ([0, N_CHUNKS] if has_last else [1, N_CHUNKS])
    assert _bits(_fit(tmp_path, resume=True)) == uninterrupted


def test_dated_files_do_not_pile_up_where_the_latest_cannot_be_written(tmp_path, monkeypatch):
    """For instance because another program on Windows holds it open."""
    _break_after(monkeypatch, 13, 10**6, Path, "replace")
    with pytest.warns(CheckpointWarning):
        _fit(tmp_path)
    assert len(JSONCheckpoint(tmp_path).list()) <= 5


def test_each_cause_is_told_once(tmp_path, monkeypatch):
    save, count = JSONCheckpoint.write, []

    def failing_save(self, record):
        count.append(None)
        if len(count) > 1:
            code = (errno.ENOSPC, errno.EACCES)[len(count) % 2]
            raise OSError(code, os.strerror(code))
        return save(self, record)

    monkeypatch.setattr(JSONCheckpoint, "write", failing_save)
    with pytest.warns(CheckpointWarning) as told:
        _fit(tmp_path)
    assert len(told) == 2


def test_a_file_system_without_hard_links_is_good_enough(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setattr(os, "link", _full)
    assert _bits(_fit(tmp_path)) == uninterrupted
    assert len(JSONCheckpoint(tmp_path).list()) == 5
    assert len(os.listdir(tmp_path)) == 6


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_in_the_place_of_the_directory_stops_the_fit_at_its_start(
    tmp_path, monkeypatch, resume
):
    (tmp_path / "file").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError if resume else CheckpointDirectoryError, match="file"):
            _fit(directory, resume=resume)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("has_file", [False, True])
def test_a_directory_that_is_removed_in_mid_fit_does_not_stop_it(
    tmp_path, monkeypatch, uninterrupted, has_file
):
    """It is made again; where a file takes its place, the fit goes on without."""
    directory, calls = tmp_path / "checkpoints", []

    def remove(self, state):
        calls.append(state)
        if len(calls) == 15:
            shutil.rmtree(directory)
            if has_file:
                directory.write_text("")

    monkeypatch.setattr(ProgressBar, "on_chunk", remove)
    if has_file:
        with pytest.warns(CheckpointWarning, match="could not be saved"):
            result = _fit(directory, show_progress=True)
    else:
        result = _fit(directory, show_progress=True)
        assert _load(directory)["phase"] == "finished"
    assert _bits(result) == uninterrupted


def test_the_file_of_a_fit_of_four_parameters_and_three_passes_is_small(tmp_path):
    optimizer = AdaptiveHybridStreamingOptimizer(
        model, checkpoint_dir=tmp_path, checkpoint_interval=0, max_checkpoints=1000, chunk_size=4096
    )
    assert optimizer.fit(X, Y, [2, 0.401, 3.501, 1]).n_passes == 3
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) > 3 * N_CHUNKS
    assert max(sizes) < 4096


def test_an_error_in_on_save_is_the_users_own(tmp_path):
    def upload(path):
        raise ConnectionError("upload failed")

    x, y = _data(0)
    checkpoint = JSONCheckpoint(tmp_path, on_save=upload)
    with pytest.raises(ConnectionError, match="upload failed"):
        StreamingCurveFitRegressor(checkpoint=checkpoint).fit(x[:, np.newaxis], y)


def test_a_relative_directory_stays_where_it_was_when_the_fit_began(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def change_directory(path):
        monkeypatch.chdir(tmp_path / "elsewhere")

    x, y = _data(0)
    checkpoint = JSONCheckpoint("here", interval=0, on_save=change_directory)
    StreamingCurveFitRegressor(checkpoint=checkpoint).fit(x[:, np.newaxis], y)
    assert list((tmp_path / "here").iterdir())
    assert not list((tmp_path / "elsewhere").iterdir())
