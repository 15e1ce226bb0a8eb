"""Signals that a process sends itself amid a save: at a call, not by hoping to hit it."""

import os
import stat
from pathlib import Path

STEPS = {
    "write": ("fsync",),
    "rename": ("link", "replace", "rename"),
    "prune": ("unlink", "remove"),
}


def arm(directory, step=None, n_calls=0, when="before", signum=0):
    """Send a signal at a call of a step of a save; return how often each step is called.

    Parameters
    ----------
    directory : str or None
        Only what happens to files below it counts.
    step : {"write", "rename", "prune"} or None
    n_calls : int
        At which of its calls.
    when : {"before", "after", "half"}
        Whether the call is made; half cuts the file that is written, as if not all of it had
        reached the disk.
    signum : int
    """
    counts = dict.fromkeys(STEPS, 0)
    if directory is not None:
        for counted, functions in STEPS.items():
            hit = (n_calls, when, signum) if counted == step else (0, when, signum)
            for function in functions:
                _patch(function, counted, directory, counts, hit)
    return counts


def _patch(function, step, directory, counts, hit):
    original = getattr(os, function)
    n_calls, when, signum = hit

    def patched(*arguments, **keywords):
        if not _counts(step, directory, arguments):
            return original(*arguments, **keywords)
        counts[step] += 1
        is_hit = counts[step] == n_calls
        if is_hit and when == "half":
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        if is_hit and when != "after":
            os.kill(os.getpid(), signum)
        try:
            return original(*arguments, **keywords)
        finally:
            if is_hit and when == "after":
                os.kill(os.getpid(), signum)

    setattr(os, function, patched)


def _counts(step, directory, arguments):
    if step == "write":
        return stat.S_ISREG(os.fstat(arguments[0]).st_mode)
    target = Path(arguments[-1])
    is_dated = target.name.startswith("checkpoint_2")
    return target.is_relative_to(directory) and (step == "rename" or is_dated)
