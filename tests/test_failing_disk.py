"""A disk that is full, read-only or broken: the fit goes on, and saves again when it can."""

import errno
import os
import pickle
import shutil
import subprocess
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointDirectoryError,
    CheckpointWarning,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._saving import Saver
from nlsq_sklearn._storage.local import LocalDirectory

P0 = (1, 1, 1)
X = np.linspace(0, 5, 4000)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + np.random.default_rng(0).normal(0, 0.05, X.size)


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def fit(directory, **settings):
    optimizer = AdaptiveHybridStreamingOptimizer(
        decay, checkpoint_dir=directory, checkpoint_interval=0, chunk_size=500
    )
    return optimizer.fit(X, Y, P0, **settings)


def regressor(checkpoint=None, **settings):
    return StreamingCurveFitRegressor(
        decay, p0=P0, chunk_size=500, checkpoint=checkpoint, **settings
    )


def saving_at_each_chunk(directory):
    return JSONCheckpoint(directory, interval=0)


def batches():
    for rows in np.array_split(np.random.default_rng(1).permutation(X.size), 20):
        yield X[rows, None], Y[rows]


def are_whole(directory):
    """Return how many files there are; raise if one is not whole or is a leftover."""
    names = [name for _, _, files in os.walk(directory) for name in files if name != "filler"]
    assert not [name for name in names if name.startswith(".")]
    folders = [folder for folder, _, _ in os.walk(directory)]
    listed = sum(len(JSONCheckpoint(folder).list()) for folder in folders)
    latest = sum(name == "checkpoint_latest.json" for name in names)
    assert listed + latest == len(names)
    return len(names)


@pytest.fixture
def disk(tmp_path):
    """Return an empty file system of 256 KB, which only root can mount."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk):
    """Fill the file system to its last byte."""

    def write_forever(file, size):
        while True:
            file.write(bytes(size))

    with open(disk / "filler", "ab", buffering=0) as file:
        for size in (4096, 1):
            with pytest.raises(OSError, match="No space left"):
                write_forever(file, size)


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def break_disk(monkeypatch, disk, first, last, breaks, mends):
    """Break a disk before the save of a number, and mend it before a later one."""
    save, calls = Saver.save, []

    def counted(self, record):
        calls.append(None)
        if len(calls) == first:
            breaks(disk)
        if len(calls) == last:
            mends(disk)
        return save(self, record)

    monkeypatch.setattr(Saver, "save", counted)


def empty(disk):
    (disk / "filler").unlink()


TROUBLES = {
    "full": (fill, empty, "No space left"),
    "read-only": (
        lambda disk: remount(disk, "ro"),
        lambda disk: remount(disk, "rw"),
        "Read-only",
    ),
}


@pytest.mark.parametrize("is_mended", [True, False])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_fit_goes_on_and_saves_again_when_it_can(disk, monkeypatch, trouble, is_mended):
    breaks, mends, words = TROUBLES[trouble]
    break_disk(monkeypatch, disk, 5, 12 if is_mended else 10**6, breaks, mends)
    with pytest.warns(CheckpointWarning, match=words) as told:
        result = fit(disk)
    assert len(told) == 1
    assert told[0].filename == __file__, "a warning points to the user's line"
    monkeypatch.undo()
    assert result.popt.tolist() == fit(None).popt.tolist()
    assert are_whole(disk) >= 2
    record = JSONCheckpoint(disk).load()
    assert record["phase"] == ("finished" if is_mended else "streaming")
    if not is_mended:
        mends(disk)
        assert fit(disk, resume=True).popt.tolist() == result.popt.tolist()


def test_a_full_disk_stops_a_fit_that_has_not_begun(disk):
    fill(disk)
    with pytest.raises(CheckpointDirectoryError, match="No space left"):
        fit(disk)
    assert os.listdir(disk) == ["filler"]


def test_a_search_goes_on_and_each_fit_warns_once(disk, monkeypatch, evaluations):
    search = GridSearchCV(
        regressor(saving_at_each_chunk(disk), warm_start=True),
        {"loss": ["linear", "huber"]},
        cv=2,
        error_score="raise",
    )
    undisturbed = GridSearchCV(regressor(), {"loss": ["linear", "huber"]}, cv=2).fit(X[:, None], Y)
    breaks, mends, words = TROUBLES["full"]
    break_disk(monkeypatch, disk, 5, 9, breaks, mends)
    with pytest.warns(CheckpointWarning, match=words) as told:
        search.fit(X[:, None], Y)
    assert len(told) == 1
    assert told[0].filename == __file__
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], undisturbed.cv_results_["mean_test_score"]
    )
    assert are_whole(disk) > 4
    evaluations.clear()
    search.fit(X[:, None], Y)
    assert evaluations == []  # all fits were saved, and none is done again


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_stream_of_batches_goes_on_and_saves_again_when_it_can(disk, trouble):
    breaks, mends, words = TROUBLES[trouble]
    stream, undisturbed = regressor(saving_at_each_chunk(disk)), regressor()
    told = []
    for number, (x, y) in enumerate(batches()):
        if number == 4:
            breaks(disk)
        if number == 9:
            assert regressor().load_checkpoint(disk).n_batches_seen_ == 4
            mends(disk)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stream.partial_fit(x, y)
        told += caught
        undisturbed.partial_fit(x, y)
    assert [words in str(w.message) for w in told] == [True]
    assert told[0].category is CheckpointWarning
    assert told[0].filename == __file__
    assert stream.popt_.tolist() == undisturbed.popt_.tolist()
    assert are_whole(disk) >= 2
    assert regressor().load_checkpoint(disk).n_batches_seen_ == 20


def test_a_stream_whose_directory_cannot_be_made_is_told_before_its_first_batch(tmp_path):
    (tmp_path / "file").write_text("mine")
    stream = regressor(tmp_path / "file")
    with pytest.raises(CheckpointDirectoryError):
        stream.partial_fit(X[:, None], Y)
    assert not hasattr(stream, "popt_")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_stream_whose_directory_is_removed_makes_it_again(tmp_path):
    stream = regressor(saving_at_each_chunk(tmp_path / "a" / "b"))
    for number, (x, y) in enumerate(batches()):
        stream.partial_fit(x, y)
        if number == 5:
            shutil.rmtree(tmp_path / "a")
    assert regressor().load_checkpoint(tmp_path / "a" / "b").n_batches_seen_ == 20


def test_a_stream_stays_in_its_directory_when_the_program_changes_its_own(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    stream = regressor(saving_at_each_chunk("ckpt"))
    for x, y in batches():
        stream.partial_fit(x, y)
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert os.listdir(tmp_path / "elsewhere") == []
    assert regressor().load_checkpoint(tmp_path / "ckpt").n_batches_seen_ == 20


def test_a_stream_that_was_pickled_saves_on_whatever_the_clock_of_its_new_process(
    tmp_path, monkeypatch
):
    """The clock counts from the start of the machine: here the new one started a month later."""
    stream = regressor(JSONCheckpoint(tmp_path, interval=3600))
    x, y = next(batches())
    stream.partial_fit(x, y)
    copied = pickle.loads(pickle.dumps(stream))
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    copied.partial_fit(x, y)
    assert regressor().load_checkpoint(tmp_path).n_batches_seen_ == 2


def test_batches_after_a_fit_are_saved(tmp_path):
    estimator = regressor(saving_at_each_chunk(tmp_path)).fit(X[:, None], Y)
    x, y = next(batches())
    estimator.partial_fit(x, y)
    assert regressor().load_checkpoint(tmp_path).n_batches_seen_ == 2


def test_new_files_do_not_pile_up_where_a_directory_cannot_be_flushed(tmp_path, monkeypatch):
    checkpoint = JSONCheckpoint(tmp_path)
    checkpoint.save({"iteration": 0, "params": [0.5]})
    names = sorted(os.listdir(tmp_path))

    def fail(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(LocalDirectory, "_flush_directory", fail)
    for iteration in range(1, 4):
        with pytest.raises(OSError, match="Input/output"):
            checkpoint.save({"iteration": iteration, "params": [0.5]})
    assert sorted(os.listdir(tmp_path)) == names
    assert checkpoint.load()["iteration"] == 0


def test_a_record_that_is_too_large_to_be_loaded_is_not_written(tmp_path):
    checkpoint = JSONCheckpoint(tmp_path)
    checkpoint.save({"iteration": 0, "params": [0.5]})
    for large in ({"params": [0.0] * 2**21}, {"text": "a" * 2**25}, {"lists": [[]] * 2**17}):
        with pytest.raises(OSError, match="too large"):
            checkpoint.save({"iteration": 1, **large})
    deep = []
    for _ in range(40):
        deep = [deep]
    for value in (deep, 10**4250):
        with pytest.raises(ValueError, match=r"deeper|bits"):
            checkpoint.save({"iteration": 1, "value": value})
    assert len(os.listdir(tmp_path)) == 2
    assert checkpoint.load()["iteration"] == 0


def test_a_newer_dated_file_is_preferred_to_a_latest_that_could_not_be_replaced(
    tmp_path, monkeypatch
):
    checkpoint = JSONCheckpoint(tmp_path)
    paths = [checkpoint.save({"iteration": i, "params": [0.5]}) for i in range(2)]

    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(LocalDirectory, "write", fail)
        for iteration in (2, 3):
            with pytest.raises(OSError, match="Input/output"):
                checkpoint.save({"iteration": iteration, "params": [0.5]})
    assert checkpoint.load()["iteration"] == 3
    # What is damaged of the newer ones is passed over, down to the latest.
    newest = [info.path for info in checkpoint.list() if info.path not in paths]
    assert len(newest) == 2
    for iteration, path in zip((2, 1), reversed(newest), strict=True):
        Path(path).write_bytes(b"")
        with pytest.warns(CheckpointWarning, match="Damaged"):
            assert checkpoint.load()["iteration"] == iteration
