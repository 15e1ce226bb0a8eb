"""SIGTERM and Ctrl-C in the workers of joblib and of Dask: fits go on to the same bits."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import joblib
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from nlsq_sklearn import JSONCheckpoint
from tests.signalled_fits import N_CHUNKS, SENT, data, fit_rows, regressor, search

ROOT = Path(__file__).parents[1]
INT, TERM = signal.SIGINT, signal.SIGTERM
BOTH = pytest.mark.parametrize("signum", [TERM, INT], ids=["SIGTERM", "SIGINT"])

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals are sent to processes"),
    # Clusters leave sockets and loops to the garbage collector, which warns of them.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # joblib tells of a worker that did not end by itself.
    pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning"),
]


def bits(searched):
    scores = [searched.cv_results_[f"split{i}_test_score"].tolist() for i in range(2)]
    best = searched.best_estimator_
    return [*scores, best.popt_.tolist(), best.pcov_.tolist(), best.cost_, best.n_passes_]


@pytest.fixture(scope="module")
def expected():
    return bits(search(None, n_jobs=1).fit(*data()))


@pytest.fixture(scope="module")
def notes_of_all(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTS_NOTES", str(tmp_path_factory.mktemp("notes")))
        yield Path(os.environ["TESTS_NOTES"])


@pytest.fixture
def notes(notes_of_all):
    """Return the directory in which each process that reads a chunk notes itself."""
    for path in notes_of_all.iterdir():
        path.unlink()
    return notes_of_all


def in_second_pass(notes, seconds=60):
    """Return a process once it is in the second pass of its fit."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in notes.iterdir():
            if path.stat().st_size > 1.5 * N_CHUNKS:
                return int(path.name)
        time.sleep(0.01)
    raise TimeoutError("no process came to its second pass")


@contextlib.contextmanager
def signal_in_second_pass(notes, signum):
    """Send a signal to a worker, after which all go on at full speed."""

    def send():
        os.kill(in_second_pass(notes), signum)
        (notes / SENT).touch()

    sender = threading.Thread(target=send)
    sender.start()
    yield
    sender.join()


def folders(directory):
    return [Path(path) for path, _, names in os.walk(directory) if names]


def phases(directory):
    """Return how far each fit is, all of whose files must be whole."""
    found = []
    for folder in folders(directory):
        n_files = len(list(folder.glob("checkpoint_*")))
        assert len(JSONCheckpoint(folder).list()) == n_files - 1
        record = JSONCheckpoint(folder).load()
        found.append(f"{record['phase']}, {min(record['state']['n_passes'], 1)} passes")
    return found


def assert_goes_on(directory, expected, monkeypatch):
    """Run the search again, in this process, and look for what should not be left."""
    monkeypatch.delenv("TESTS_NOTES")
    assert bits(search(directory, n_jobs=1).fit(*data())) == expected
    left = [p for folder in folders(directory) for p in folder.iterdir() if p.name[0] == "."]
    assert left == []
    assert {phase.partition(",")[0] for phase in phases(directory)} == {"finished"}


@pytest.mark.parametrize(
    ("signum", "error"),
    [(TERM, TerminatedWorkerError), (INT, KeyboardInterrupt)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_to_a_worker_of_joblib_saves_its_fit(
    tmp_path, notes, monkeypatch, expected, signum, error
):
    directory = tmp_path / "checkpoints"
    with joblib.parallel_config(backend="loky"):
        # Fresh workers, which inherit the environment of now.
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
        with signal_in_second_pass(notes, signum), pytest.raises(error):
            search(directory, n_jobs=2).fit(*data())
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)
    # The interval is infinite: what is in the file was saved on the way out.
    assert "streaming, 1 passes" in phases(directory)
    assert_goes_on(directory, expected, monkeypatch)


@BOTH
def test_a_signal_to_all_processes_of_a_search_ends_them_all_and_saves(
    tmp_path, notes, monkeypatch, expected, signum
):
    """As Ctrl-C in a terminal, and as a service manager that stops all of a service."""
    directory = tmp_path / "checkpoints"
    # Imported, not run: what is defined in a main module has another name there.
    run = "from tests.signalled_fits import main; main()"
    command = [sys.executable, "-c", run, str(directory)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    with subprocess.Popen(command, start_new_session=True, **quiet) as process:
        in_second_pass(notes)
        os.killpg(process.pid, signum)
        (notes / SENT).touch()
        process.wait(60)
        assert process.returncode == -signum
    end = time.monotonic() + 30
    while any(is_running(path.name) for path in notes.iterdir() if path.name != SENT):
        assert time.monotonic() < end, "a worker goes on"
        time.sleep(0.05)
    assert_goes_on(directory, expected, monkeypatch)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def client(notes_of_all):
    from distributed import Client, LocalCluster

    scheduler = dask.config.get("scheduler", None)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client
    dask.config.set(scheduler=scheduler)
    gc.collect()  # here, where its warnings of sockets are ignored, and not in a later test


@BOTH
def test_a_signal_to_a_worker_that_sums_chunks_changes_no_bit(client, notes, signum):
    with signal_in_second_pass(notes, signum):
        fitted = regressor(None).fit(*data())
    with dask.config.set(scheduler="threads"):
        undisturbed = regressor(None).fit(*data())
    assert fitted.popt_.tolist() == undisturbed.popt_.tolist()
    assert fitted.pcov_.tolist() == undisturbed.pcov_.tolist()


def test_a_fit_that_is_a_task_goes_on_in_another_worker(client, tmp_path, notes):
    """Tasks run in threads, where no handler runs: what the interval saved is there.

    Not with SIGINT, after which a worker waits half a minute for its threads.
    """
    directory = tmp_path / "checkpoints"
    with signal_in_second_pass(notes, TERM):
        numbers, n_resumed = client.submit(fit_rows, str(directory), pure=False).result(60)
    assert n_resumed == 1
    assert numbers == fit_rows(None)[0]
    assert phases(directory) == ["finished, 1 passes"]
