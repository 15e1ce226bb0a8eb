"""What an operating system may do to a fit: stops, forks, limits, odd clocks and odd places."""

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import jax.numpy as jnp
import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score

from nlsq_sklearn import (
    CheckpointDirectoryError,
    CheckpointWarning,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._storage.local import LocalDirectory
from tests.fork_server import ForkServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes can't be forked")

X = np.linspace(0, 5, 4000)[:, np.newaxis]
Y = 2.5 * np.exp(-1.3 * X[:, 0]) + 0.5 + np.random.default_rng(0).normal(0, 0.05, len(X))


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def regressor(directory, **settings):
    checkpoint = None if directory is None else JSONCheckpoint(directory, interval=0, **settings)
    return StreamingCurveFitRegressor(
        decay, p0=(1, 1, 1), chunk_size=500, warm_start=True, checkpoint=checkpoint
    )


@pytest.fixture(scope="module")
def undisturbed():
    return regressor(None).fit(X, Y).popt_.tolist()


def folder_of_the_fit(directory):
    """Return the one folder below, whose files are whole and not too many."""
    [folder] = (path for path in Path(directory).iterdir() if path.name.startswith("fit_"))
    dated = {Path(info.path).name for info in JSONCheckpoint(folder).list()}
    assert {*dated, "checkpoint_latest.json"} == set(os.listdir(folder))
    assert 1 <= len(dated) <= 5
    return folder


def phase(directory):
    return JSONCheckpoint(folder_of_the_fit(directory)).load()["phase"]


# Processes


@pytest.fixture(scope="module")
def server():
    with ForkServer("tests.harsh_fits") as server:
        yield lambda name, *arguments: server.do(f"tests.harsh_fits:{name}", *arguments)


@pytest.fixture(scope="module")
def expected(server):
    return server("fit", None).answer[0]


@pytest.mark.parametrize("name", ["fit_that_is_stopped_in_a_save", "fit_with_a_fork_that_exits"])
def test_a_fit_that_is_stopped_or_forked_ends_in_the_same_bits(server, expected, tmp_path, name):
    """A batch system suspends jobs; a library that starts processes may fork one in mid-fit."""
    assert server(name, str(tmp_path)).answer == [expected, 0]
    assert phase(tmp_path) == "finished"


def test_sigterm_while_a_thread_fits_leaves_what_the_interval_saved(server, expected, tmp_path):
    assert server("fit_in_a_thread_and_end", str(tmp_path)).signal == 15
    assert JSONCheckpoint(folder_of_the_fit(tmp_path)).load()["state"]["n_passes"] == 1
    assert server("fit", str(tmp_path)).answer == [expected, 1]


def test_a_fit_that_can_open_no_more_files_goes_on_and_saves_when_it_can(
    server, expected, tmp_path
):
    answer, [told] = server("fit_with_too_many_open_files", str(tmp_path)).answer
    assert "Too many open files" in told
    assert answer == [expected, 0]
    assert phase(tmp_path) == "finished"


def test_a_checkpoint_that_can_not_be_opened_is_not_taken_for_damaged(server, expected, tmp_path):
    """The fit would start afresh, and prune what is whole."""
    told = server("resume_with_too_many_open_files", str(tmp_path)).answer
    assert "Too many open files" in told
    assert phase(tmp_path) == "streaming"
    assert server("fit", str(tmp_path)).answer == [expected, 1]


# The clock


def test_a_clock_that_runs_backwards_leaves_the_newest_state_last(
    tmp_path, monkeypatch, undisturbed
):
    gmtime, hours = time.gmtime, iter(range(10**6))
    monkeypatch.setattr("time.gmtime", lambda: gmtime(1.8e9 - 3600 * next(hours)))
    monkeypatch.setattr("time.time", lambda: 1.8e9 - 3600 * next(hours))
    assert regressor(tmp_path).fit(X, Y).popt_.tolist() == undisturbed
    folder = folder_of_the_fit(tmp_path)
    passes = [JSONCheckpoint(folder).load()["state"]["n_passes"]]
    for info in reversed(JSONCheckpoint(folder).list()):
        Path(info.path).rename(folder / "checkpoint_latest.json")
        passes.append(JSONCheckpoint(folder).load()["state"]["n_passes"])
    assert passes == sorted(passes, reverse=True)
    assert next(hours) > 40


def test_a_file_from_the_last_second_of_time_is_named_where_none_can_be_later(tmp_path):
    (tmp_path / "checkpoint_99991231_235959_999999.json").write_text("{}")
    with pytest.raises(OSError, match="no name is later"):
        JSONCheckpoint(tmp_path).save({"iteration": 1, "params": [1.0]})


# Places


FOREIGN = [
    *("notes.txt", ".hidden", "checkpoint_latest.json.bak", "checkpoint_20240101_120000.txt"),
    *("checkpoint_2024.json", "xcheckpoint_20240101_120000.json", "no line\nend", "Ärger"),
    os.fsdecode(b"not utf-8 \xff\xfe.json"),
]


def test_files_of_others_cost_little_and_stay_as_they_are(tmp_path):
    for number in range(3000):
        (tmp_path / f"{number}.csv").touch()
    for name in FOREIGN:
        (tmp_path / name).write_text("theirs")
    before = set(os.listdir(tmp_path))
    stream = StreamingCurveFitRegressor(decay, p0=(1, 1, 1), checkpoint=JSONCheckpoint(tmp_path, 0))
    started_at = time.process_time()
    for rows in np.array_split(np.arange(len(X)), 20):
        stream.partial_fit(X[rows], Y[rows])
    assert time.process_time() - started_at < 5
    ours = set(os.listdir(tmp_path)) - before
    assert before <= set(os.listdir(tmp_path))
    assert len(ours) == 6
    assert all((tmp_path / name).read_text() == "theirs" for name in FOREIGN)
    assert StreamingCurveFitRegressor(decay, p0=(1, 1, 1)).load_checkpoint(tmp_path).n_batches_seen_


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff\xfe"), "Größe £ 数", "a b\n", "x" * 255])
def test_a_directory_may_have_any_name(tmp_path, undisturbed, name):
    assert regressor(tmp_path / name).fit(X, Y).popt_.tolist() == undisturbed
    assert phase(tmp_path / name) == "finished"
    assert regressor(str(tmp_path / name)).fit(X, Y).popt_.tolist() == undisturbed


def test_a_warning_about_a_directory_whose_name_is_not_utf_8_is_given(tmp_path, monkeypatch):
    directory = tmp_path / os.fsdecode(b"\xff")
    with pytest.warns(CheckpointWarning, match="could not be saved"):
        _fit_where_saves_fail(directory, monkeypatch, lambda name: True)


@pytest.mark.parametrize("depth", [1, 30])
def test_a_path_that_is_too_long_is_told_before_the_data_are_read(tmp_path, depth):
    directory = tmp_path.joinpath(*["x" * (256 if depth == 1 else 200)] * depth)
    with pytest.raises(CheckpointDirectoryError, match="File name too long"):
        regressor(directory).fit(X, Y)


def test_a_link_to_a_directory_of_another_file_system_is_as_good_as_a_directory(
    tmp_path, undisturbed
):
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no file system in memory")
    elsewhere = Path("/dev/shm") / f"nlsq_sklearn-{os.getpid()}"
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(CheckpointDirectoryError, match="a file of this name exists"):
        regressor(tmp_path / "link").fit(X, Y)
    elsewhere.mkdir()
    try:
        assert regressor(tmp_path / "link").fit(X, Y).popt_.tolist() == undisturbed
        assert phase(elsewhere) == phase(tmp_path / "link") == "finished"
    finally:
        shutil.rmtree(elsewhere)


@pytest.fixture
def read_only(tmp_path):
    """Return a directory and a read-only view of it."""
    directory, view = tmp_path / "directory", tmp_path / "view"
    directory.mkdir()
    view.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a directory")
    mounted = subprocess.run(["mount", "--bind", directory, view], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is refused: {mounted.stderr.strip()}")
    subprocess.run(["mount", "-o", "remount,ro,bind", view], check=True)
    yield directory, view
    subprocess.run(["umount", "-l", view], check=True)


def test_a_finished_fit_is_given_back_from_a_read_only_mount_and_another_is_told(
    read_only, undisturbed
):
    directory, view = read_only
    with pytest.raises(CheckpointDirectoryError, match="Read-only file system"):
        regressor(view).fit(X, Y)
    regressor(directory).fit(X, Y)
    assert regressor(view).fit(X, Y).popt_.tolist() == undisturbed
    with pytest.raises(CheckpointDirectoryError, match="Read-only file system"):
        regressor(view).fit(X, 2 * Y)


# Files that can't be read or written


def _fit_where_saves_fail(directory, monkeypatch, fails):
    """Fit where new files of some names can't be written, but for the first."""
    write_new, names = LocalDirectory.write_new, []

    def failing(self, name, content):
        names.append(name)
        if len(names) > 1 and fails(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_new(self, name, content)

    monkeypatch.setattr(LocalDirectory, "write_new", failing)
    return regressor(directory, compression=True).fit(X, Y).popt_.tolist()


def test_a_dated_file_that_can_not_be_written_leaves_the_latest_as_it_was(
    tmp_path, monkeypatch, undisturbed
):
    with pytest.warns(CheckpointWarning, match="No space left") as told:
        answer = _fit_where_saves_fail(tmp_path, monkeypatch, lambda name: name.endswith(".gz"))
    assert len(told) == 1
    assert answer == undisturbed
    assert len(JSONCheckpoint(folder_of_the_fit(tmp_path)).list()) == 1
    assert phase(tmp_path) == "warm-up"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENFILE, errno.ESTALE])
def test_a_checkpoint_that_can_not_be_read_is_no_reason_to_start_afresh(
    tmp_path, monkeypatch, code
):
    regressor(tmp_path).fit(X, Y)
    before = {p: p.read_bytes() for p in folder_of_the_fit(tmp_path).iterdir()}

    def fail(self, name, max_bytes):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(LocalDirectory, "read", fail)
        with pytest.raises(CheckpointDirectoryError, match="may be whole") as told:
            regressor(tmp_path).fit(X, Y)
    assert os.strerror(code) in str(told.value)
    assert {p: p.read_bytes() for p in folder_of_the_fit(tmp_path).iterdir()} == before


# Searches within searches


@pytest.mark.filterwarnings("ignore:.*n_jobs.*:UserWarning")
def test_searches_within_a_cross_validation_share_a_directory(tmp_path, evaluations):
    def scores(directory):
        search = GridSearchCV(regressor(directory), {"loss": ["linear", "huber"]}, cv=2, n_jobs=2)
        with joblib.parallel_config(backend="threading"):
            return cross_val_score(search, X, Y, cv=2, n_jobs=2, error_score="raise").tolist()

    alone = scores(None)
    assert scores(tmp_path) == alone
    # Two folds: each of 2 x 2 fits, and the best again on the whole of it.
    assert len(list(tmp_path.iterdir())) == 2 * (2 * 2 + 1)
    evaluations.clear()
    assert scores(tmp_path) == alone
    assert evaluations == []
