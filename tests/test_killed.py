"""Processes that are killed at any moment leave whole files, and the fit ends in the same bits."""

import gzip
import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from nlsq_sklearn import JSONCheckpoint
from tests.fork_server import ForkServer
from tests.killed_fit import N_CHUNKS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes can't be forked")

LATEST = "checkpoint_latest.json"
N_KILLS = 30


@pytest.fixture(scope="module")
def server():
    with ForkServer("tests.killed_fit") as server:
        yield server


def _temporaries(directory):
    return {path.name for path in Path(directory).glob(".*")}


def _check_that_all_files_are_whole(directory):
    """Raise if one is not; return how many dated files there are."""
    names = sorted(path.name for path in Path(directory).glob("*.json*"))
    for name in names:
        content = (directory / name).read_bytes()
        record = json.loads(gzip.decompress(content) if name.endswith(".gz") else content)
        assert record["digest"]
    dated = [Path(info.path).name for info in JSONCheckpoint(directory).list()]
    assert dated == [name for name in names if name != LATEST]
    if names:
        JSONCheckpoint(directory).load()  # a warning of damage would be an error
    return len(dated)


class _Killer:
    """Runs fits and kills them at random moments of their life, a number of times in all."""

    def __init__(self, server, n_kills):
        self._server = server
        self._random = np.random.default_rng(0)
        self.kills_left = n_kills
        self.uninterrupted_seconds = 0.0
        self.resumed_at = []

    def run(self, directory):
        """Return the answer of a fit, or None if it was killed; check what it left behind."""
        delay = None
        if self.kills_left and self.uninterrupted_seconds:
            delay = self._random.uniform(0.02, 1.0) * self.uninterrupted_seconds
        is_resumed = (directory / LATEST).exists()
        if is_resumed:
            self.resumed_at.append(JSONCheckpoint(directory).load()["chunk"])
        left = _temporaries(directory)
        outcome = self._server.do("tests.killed_fit:fit", str(directory), after=delay)
        answer = outcome.answer
        assert answer is not None or (delay and outcome.signal == signal.SIGKILL)
        if answer is None:
            self.kills_left -= 1
        elif not is_resumed:  # the machine may be busier or idler now
            self.uninterrupted_seconds = outcome.seconds
        _check_that_all_files_are_whole(directory)
        if answer is not None:
            assert _temporaries(directory) == set(), "whoever saves sweeps what the dead left"
        else:
            assert len(_temporaries(directory) - left) <= 1
        return answer


def test_a_fit_that_is_killed_again_and_again_ends_in_the_same_bits(server, tmp_path):
    expected = server.do("tests.killed_fit:fit", None).answer
    assert expected["success"]
    found = [float.fromhex(bits) for bits in expected["bits"][:4]]
    np.testing.assert_allclose(found, [2, 0.02, 0.5, 1], rtol=0.01)

    killer = _Killer(server, N_KILLS)
    assert killer.run(tmp_path / "never killed") == expected
    for chain in itertools.count():
        directory = tmp_path / str(chain)
        while (answer := killer.run(directory)) is None:
            pass
        assert answer == expected
        assert json.loads((directory / LATEST).read_text())["phase"] == "finished"
        if killer.kills_left == 0:
            break
    assert {n_chunks for _, n_chunks in killer.resumed_at} == {N_CHUNKS}
    in_mid_pass = [chunk for chunk, _ in killer.resumed_at if chunk > 0]
    assert len(in_mid_pass) >= 5
    assert len(set(in_mid_pass)) >= 3, "the kills are spread over the pass"


def test_a_save_that_is_killed_at_any_of_its_steps_costs_no_older_file(server, tmp_path):
    n_leftovers = 0
    for n_calls in itertools.count(1):
        directory = tmp_path / str(n_calls)
        checkpoint = JSONCheckpoint(directory, max_checkpoints=2, compression=True)
        for iteration in (1, 2):
            checkpoint.save({"iteration": iteration, "params": [iteration / 3] * 2000})
        outcome = server.do("tests.killed_fit:save", str(directory), 3, n_calls)
        assert outcome.answer is not None or outcome.signal == signal.SIGKILL
        n_leftovers += len(_temporaries(directory))
        assert _check_that_all_files_are_whole(directory) >= 2
        iterations = [info.iteration for info in checkpoint.list()]
        assert iterations in ([1, 2], [1, 2, 3], [2, 3])
        # The dated file appears first: the latest is never newer than it.
        assert checkpoint.load()["iteration"] in (2, iterations[-1])
        checkpoint.save({"iteration": 4, "params": [0.0]})
        assert _temporaries(directory) == set()
        assert [info.iteration for info in checkpoint.list()] == [iterations[-1], 4]
        if outcome.answer is not None:
            break
    assert iterations == [2, 3]
    assert n_calls > 30, "opening, writing, flushing, linking, renaming, removing"
    assert n_leftovers > 10
