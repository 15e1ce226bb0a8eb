"""The examples run, at a small size."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_example(name, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout


def test_the_fit_that_is_killed_ends_in_the_same_bits():
    output = run_example("survive_being_killed.py", "--rows", "3000000")
    assert "chunks of pass 2 summed up" in output
    assert output.count("==") == 9
    assert "The resumed fit ended in the same bits as the undisturbed one." in output
