"""Memory maps and arrays are never copied whole: measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)

TRUTH = np.array([2.0, 0.02, 0.5, 1.0])


def write_data(directory, n_rows):
    """Write x.npy and y.npy piece by piece."""
    rng = np.random.default_rng(42)
    piece = 1_000_000
    arrays = [
        np.lib.format.open_memmap(directory / f"{name}.npy", "w+", np.float64, (n_rows,))
        for name in "xy"
    ]
    for first in range(0, n_rows, piece):
        x = np.arange(first, min(first + piece, n_rows)) * (100 / n_rows)
        arrays[0][first : first + piece] = x
        y = 2.0 * np.exp(-0.02 * x) * np.sin(0.5 * x) + 1.0
        arrays[1][first : first + piece] = y + rng.normal(0, 0.1, x.size)
    for array in arrays:
        array.flush()


def measure(directory, mmap_mode):
    output = subprocess.run(
        [sys.executable, "-m", "tests.measured_fit", str(directory), mmap_mode],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    ).stdout
    return json.loads(output.splitlines()[-1])


def is_near_the_truth(report):
    return np.all(np.abs(report["popt"] - TRUTH) < 5 * np.array(report["perr"]))


def test_a_memory_map_of_50_million_rows_takes_less_memory_than_it_has_bytes(tmp_path):
    write_data(tmp_path, 50_000_000)
    report = measure(tmp_path, "r")
    print(report)
    assert report["success"]
    assert is_near_the_truth(report)
    assert report["above_imports_mb"] <= 300


def test_five_million_rows_in_memory_take_400_mb_beside_the_data(tmp_path):
    write_data(tmp_path, 5_000_000)
    report = measure(tmp_path, "no")
    print(report)
    assert report["success"]
    assert is_near_the_truth(report)
    assert report["peak_mb"] <= 80 + 400
