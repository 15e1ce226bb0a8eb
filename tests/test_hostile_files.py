"""Hostile checkpoint files cost little time and memory, run nothing and lead nowhere else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile_files import NAMES, write

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process can't be measured"
)


@pytest.fixture(scope="module")
def loader():
    """Return a function that loads a directory in a process with an address space of 4 GB."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile_files"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def load(directory):
        process.stdin.write(f"{directory}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert line, "the process died; its error stands above"
        return json.loads(line)

    yield load
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_is_refused_within_bounds(tmp_path, loader, name):
    write(tmp_path, name)
    outcome = loader(tmp_path)
    assert outcome["error"].startswith("No checkpoint can be read: ")
    assert len(outcome["error"]) < 1000, "an error does not show megabytes of the file"
    assert outcome["MB"] < 300
    assert outcome["seconds"] < 20  # two files; 4 seconds at most on an idle core
