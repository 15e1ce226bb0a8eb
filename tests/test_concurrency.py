"""Fits side by side in one directory: threads, processes, the very same fit twice."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nlsq_sklearn import JSONCheckpoint
from tests.concurrent_fits import FITS, fit_all

ROOT = Path(__file__).parents[1]
N_THREADS, N_PROCESSES = 8, 4
KINDS = pytest.mark.parametrize("kind", FITS)


@pytest.fixture(scope="module")
def alone():
    """Return the bits of each fit, of which none knows of a checkpoint."""
    return {kind: [fit(None, seed) for seed in range(N_THREADS)] for kind, fit in FITS.items()}


class _Watcher:
    """Reads all checkpoints below a directory again and again while others write them."""

    def __init__(self, directory):
        self._directory = Path(directory)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.damaged = []
        self.n_read = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._is_over.set()
        self._thread.join()

    def _watch(self):
        while not self._is_over.is_set():
            for path in self._directory.rglob("checkpoint_*"):
                try:
                    content = path.read_bytes()
                    json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
                    self.n_read += 1
                except FileNotFoundError:  # pruned in the meantime
                    continue
                except (ValueError, OSError, EOFError) as error:
                    self.damaged.append(f"{path}: {error!r}")
            time.sleep(0.01)


def _check_folders(directory, n_folders, n_files):
    """Check that each folder holds whole files, not too many of them, and nothing else."""
    folders = [Path(path) for path, _, names in os.walk(directory) if names]
    assert len(folders) == n_folders
    for folder in folders:
        dated = JSONCheckpoint(folder).list()
        assert {path.name for path in folder.iterdir()} == {
            "checkpoint_latest.json",
            *(Path(info.path).name for info in dated),
        }
        assert 1 <= len(dated) <= n_files
        assert JSONCheckpoint(folder).load()["phase"] == "finished"


def _run_processes(kind, directory, seeds_of_each):
    """Return the bits of the fits of some processes, let loose at one moment."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.concurrent_fits", kind, directory, *map(str, seeds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seeds in seeds_of_each
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return [json.loads(answer) for answer in answers]


@KINDS
def test_eight_threads_in_one_directory_end_as_if_each_were_alone(tmp_path, alone, kind):
    with _Watcher(tmp_path) as watcher:
        together = fit_all(kind, tmp_path, range(N_THREADS))
    assert together == alone[kind]
    assert watcher.damaged == []
    assert watcher.n_read > 20
    _check_folders(tmp_path, N_THREADS if kind == "regressor" else 1, 3)


@KINDS
def test_four_processes_in_one_directory_end_as_if_each_were_alone(tmp_path, alone, kind):
    with _Watcher(tmp_path) as watcher:
        together = _run_processes(kind, str(tmp_path), [[seed] for seed in range(N_PROCESSES)])
    assert [answer for [answer] in together] == alone[kind][:N_PROCESSES]
    assert watcher.damaged == []
    _check_folders(tmp_path, N_PROCESSES if kind == "regressor" else 1, 3)


@KINDS
def test_the_very_same_fit_in_two_processes_ends_right_in_both(tmp_path, alone, kind):
    with _Watcher(tmp_path) as watcher:
        # Two threads each: the same folder for four of them.
        together = _run_processes(kind, str(tmp_path), [[1, 1]] * 2)
    assert together == [[alone[kind][1]] * 2] * 2
    assert watcher.damaged == []
    _check_folders(tmp_path, 1, 3)


def test_writers_that_prune_the_same_files_keep_the_newest(tmp_path):
    def write(number):
        checkpoint = JSONCheckpoint(tmp_path, max_checkpoints=2)
        for iteration in range(40):
            checkpoint.save({"iteration": iteration, "params": [float(number)] * 100})
            checkpoint.load()

    with _Watcher(tmp_path) as watcher:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(N_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert watcher.damaged == []
    assert [info.iteration for info in JSONCheckpoint(tmp_path).list()][-1] == 39
    assert len(os.listdir(tmp_path)) <= 3
