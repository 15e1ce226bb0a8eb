"""What `tests.fork_server` does in forks that a signal interrupts."""

import errno
import os
import signal
import sys
import warnings

import dask.array as da
import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointWarning,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._progress import ProgressBar
from nlsq_sklearn._signals import SignalGuard
from tests.fork_server import bits, note

N_CHUNKS = 10
_CHUNK_ROWS = 1000
_sent = []


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def _data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 5, N_CHUNKS * _CHUNK_ROWS)
    return x, 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, x.size)


def _send_at(n_calls, signum, owner, name, after=False):
    """Let a function send a signal to this process when it is called for that time."""
    original, calls = getattr(owner, name), []

    def send():
        _sent.append(signum)
        note(_sent)
        os.kill(os.getpid(), signum)

    def sending(*arguments, **keywords):
        calls.append(None)
        if len(calls) == n_calls and not after:
            send()
        try:
            return original(*arguments, **keywords)
        finally:
            if len(calls) == n_calls and after:
                send()

    setattr(owner, name, sending)


def _fit(directory, **options):
    x, y = _data()
    optimizer = AdaptiveHybridStreamingOptimizer(
        decay, checkpoint_dir=directory, chunk_size=_CHUNK_ROWS, **options
    )
    resume = bool(directory and os.path.exists(directory) and os.listdir(directory))
    result = optimizer.fit(x, y, [1, 1, 1], resume=resume, show_progress=True)
    return bits(result.popt, result.pcov, result.cost, result.n_passes)


def fit(directory):
    return _fit(directory)


def fit_and_signal_in_a_chunk(directory, signum):
    """Only the first state is saved by the interval, of a minute."""
    _send_at(17, signum, ProgressBar, "on_chunk")
    return _fit(directory)


def fit_and_signal_in_a_save(directory, signum, name, n_calls, after):
    _send_at(n_calls, signum, os, name, after)
    return _fit(directory, checkpoint_interval=0)


def fit_with_a_handler_that_exits(directory):
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(3))
    return fit_and_signal_in_a_chunk(directory, signal.SIGTERM)


def fit_with_a_handler_that_goes_on(directory):
    calls = []
    signal.signal(signal.SIGTERM, lambda signum, frame: calls.append(signum))
    _send_at(17, signal.SIGTERM, ProgressBar, "on_chunk")
    saves = []
    original = JSONCheckpoint.write

    def write(self, record):
        saves.append(record["chunk"][0])
        return original(self, record)

    JSONCheckpoint.write = write
    return {"bits": _fit(directory), "calls": calls, "saves": saves}


def fit_with_a_signal_that_is_dropped(directory, signum):
    """Python drops what is raised in a weak reference's function, or in a ``__del__``."""

    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), signum)

    calls, original = [], ProgressBar.on_chunk

    def on_chunk(self, state):
        original(self, state)
        calls.append(None)
        note([state.n_passes, state.next_chunk])
        if len(calls) == 17:
            Dropping()

    ProgressBar.on_chunk = on_chunk
    sys.unraisablehook = lambda dropped: None
    return _fit(directory)


def fit_and_signal_twice(directory, first, second):
    """Send the second while the fit saves on its way out."""
    _send_at(17, first, ProgressBar, "on_chunk")
    # Each save flushes two files and twice the directory.
    _send_at(6, second, os, "fsync")
    return _fit(directory)


def fit_on_a_full_disk_and_signal(directory):
    _send_at(17, signal.SIGTERM, ProgressBar, "on_chunk")
    original, saves = JSONCheckpoint.write, []

    def write(self, record):
        saves.append(None)
        if len(saves) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, record)

    JSONCheckpoint.write = write
    warnings.simplefilter("ignore", CheckpointWarning)
    return _fit(directory)


def nested_fit(directory, signum):
    """Fit in the ``on_save`` of a fit, and send the signal there."""
    x, y = _data()
    calls = []

    def on_save(path):
        calls.append(path)
        if len(calls) == 3:
            fit_and_signal_in_a_chunk(f"{directory}/inner", signum)

    checkpoint = JSONCheckpoint(f"{directory}/outer", interval=0, on_save=on_save)
    regressor = StreamingCurveFitRegressor(
        decay, p0=[1, 1, 1], chunk_size=_CHUNK_ROWS, checkpoint=checkpoint
    )
    regressor.fit(x[:, np.newaxis], y)


def stream(directory, signum=None, n_batches=7):
    """Take the chunks of a Dask array as batches; only the first is saved by the interval."""
    x, y = _data()
    X = da.from_array(x[:, np.newaxis], chunks=(_CHUNK_ROWS, 1))
    y = da.from_array(y, chunks=_CHUNK_ROWS)
    checkpoint = JSONCheckpoint(directory) if directory else None
    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1], checkpoint=checkpoint)
    if directory and os.path.exists(directory):
        regressor.load_checkpoint(directory)
    if signum is not None:
        _send_at(n_batches, signum, StreamingCurveFitRegressor, "_store_batch")
    seen = getattr(regressor, "n_samples_seen_", 0)
    regressor.partial_fit(X[seen:], y[seen:])
    return bits(regressor.popt_, regressor.pcov_, regressor.cost_, regressor.n_batches_seen_)


def fork_in_a_guard():
    """Return how a fork ends that is sent SIGTERM where its parent guards itself against it."""
    with SignalGuard() as guard, guard.released():
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        return os.WTERMSIG(os.waitpid(pid, 0)[1])
