"""The examples run, at a small size."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_example(name, *arguments, warnings="error"):
    return subprocess.run(
        [sys.executable, "-W", warnings, str(ROOT / "examples" / name), *arguments],
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


def test_a_dask_array_is_fitted_scored_and_predicted():
    output = run_example("larger_than_memory.py", "--rows", "400000")
    assert "success: Converged" in output
    assert "R2 = 0.99" in output
    assert "dask.array<" in output


def test_a_grid_search_that_was_killed_does_only_what_was_not_done():
    output = run_example("resumable_grid_search.py", "--rows", "20000")
    assert output.count("best: decay") == 2


def test_the_estimate_that_forgets_follows_the_drift():
    output = run_example("stream_with_drift.py", "--batches", "50")
    last = output.splitlines()[-1].split()
    assert last[:2] == ["50", "1.500"]
    assert abs(float(last[2]) - 1.5) < 0.1 < abs(float(last[5]) - 1.5)


def test_a_cluster_gives_the_bits_of_threads():
    # distributed leaves sockets to the garbage collector, which warns of them.
    output = run_example("distributed_cluster.py", "--rows", "800000", warnings="default")
    assert "The same bits in threads: True" in output
