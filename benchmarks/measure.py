"""Time and memory: of functions side by side, and of functions in a process of their own."""

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class MeasurementFailedError(RuntimeError):
    """A function in a process of its own raised."""


class TookTooLongError(MeasurementFailedError):
    """A function in a process of its own was not done in time."""


def in_new_process(function: Callable[..., Any], *, timeout: float, **arguments: Any) -> Any:
    """Return what a function of a module of ours returns in a fresh process.

    Parameters
    ----------
    function : callable
        Its arguments and its result must be JSON.
    timeout : float
        Seconds after which the process is killed.

    Raises
    ------
    MeasurementFailedError
        If the function raises.
    TookTooLongError
        If it is not done in time.
    """
    name = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-m", "benchmarks.child", name, json.dumps(arguments)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise TookTooLongError(f"longer than {timeout:g} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise MeasurementFailedError(lines[-1])
    return json.loads(done.stdout)


def seconds_of(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    started_at = time.perf_counter()
    function()
    return time.perf_counter() - started_at


def alternately(
    functions: Mapping[str, Callable[[], Any]], repetitions: int
) -> dict[str, list[float]]:
    """Return the seconds of each call, functions in turn, so that all meet the same machine.

    The order turns round from one repetition to the next: none always runs in the other's wake.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    gc.freeze()  # so that collecting what a call leaves behind takes no time
    for repetition in range(repetitions):
        names = list(functions) if repetition % 2 == 0 else list(reversed(functions))
        for name in names:
            seconds[name].append(seconds_of(functions[name]))
            gc.collect()
    gc.unfreeze()
    return seconds


def reset_peak_memory() -> None:
    """Let the peak that the system keeps of this process begin anew, where it can be had."""
    handle = Path("/proc/self/clear_refs")
    if handle.exists():
        handle.write_text("5")


def memory_mb(field: str) -> float | None:
    """Return VmRSS (now) or VmHWM (peak) of this process in MB, None where it can't be had."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    [line] = [line for line in status.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024 / 1e6
