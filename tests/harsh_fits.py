"""What `tests.fork_server` does in forks that their system treats badly."""

import os
import resource
import signal
import sys
import threading
import time
import warnings

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import (
    CheckpointDirectoryError,
    CheckpointWarning,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from tests.fork_server import bits

N_CHUNKS = 10
_CHUNK_ROWS = 1000


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def _fit(directory, on_save=None, interval=0):
    """Fit in a directory, or go on there; return the bits, and how often it went on."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, N_CHUNKS * _CHUNK_ROWS)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, x.size)
    checkpoint, resumed = None, []
    if directory is not None:
        checkpoint = JSONCheckpoint(
            directory, interval=interval, on_save=on_save, on_resume=resumed.append
        )
    regressor = StreamingCurveFitRegressor(
        decay, p0=[1, 1, 1], chunk_size=_CHUNK_ROWS, warm_start=True, checkpoint=checkpoint
    )
    regressor.fit(x[:, np.newaxis], y)
    return [
        bits(regressor.popt_, regressor.pcov_, regressor.cost_, regressor.n_passes_),
        len(resumed),
    ]


def fit(directory):
    return _fit(directory)


def _at(number, act):
    """Return a function for ``on_save`` that acts at the save of a number."""
    calls = []

    def on_save(path):
        calls.append(path)
        if len(calls) == number:
            act(path)

    return on_save


def fit_that_is_stopped_in_a_save(directory):
    """Stop in the flushing of a file, let others open the directory, and go on."""
    original, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(None)
        if len(calls) == 21:
            _stop_for_a_while(directory)
        original(descriptor)

    os.fsync = fsync
    return _fit(directory)


def _stop_for_a_while(directory):
    stopped = os.getpid()
    if os.fork() == 0:
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(0.1)
        for folder, _, _ in os.walk(directory):
            JSONCheckpoint(folder).prepare()
        os.kill(stopped, signal.SIGCONT)
        os._exit(0)
    os.wait()


def fit_with_a_fork_that_exits(directory):
    """Fork in mid-fit; the child leaves through the fit, as by an error, and saves as it goes."""

    def fork(path):
        if os.fork() == 0:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 3

    return _fit(directory, _at(17, fork))


def fit_in_a_thread_and_end(directory):
    """Fit in a thread; SIGTERM in the main thread ends the process at once."""
    is_in_second_pass = threading.Event()

    def wait(path):
        is_in_second_pass.set()
        time.sleep(60)

    threading.Thread(target=_fit, args=(directory, _at(17, wait)), daemon=True).start()
    is_in_second_pass.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def _let_open(n_files=None):
    """Let this process have so many files open, of which it has more, or as many as it may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if n_files is None else n_files, most))


def fit_with_too_many_open_files(directory):
    """Open no file in the saves 6 to 9; return the answer, and what was warned of."""
    original, calls = JSONCheckpoint.write, []

    def write(self, record):
        calls.append(None)
        if len(calls) in (6, 10):
            _let_open(3 if len(calls) == 6 else None)
        return original(self, record)

    JSONCheckpoint.write = write
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        answer = _fit(directory)
    return [answer, [str(w.message) for w in told if w.category is CheckpointWarning]]


def resume_with_too_many_open_files(directory):
    """Return the error of a fit that can open none of its checkpoints."""
    try:
        _fit(directory, _at(17, _interrupt))
    except KeyboardInterrupt:
        _let_open(3)
    try:
        _fit(directory)
    except CheckpointDirectoryError as error:
        return str(error)


def _interrupt(path):
    raise KeyboardInterrupt
