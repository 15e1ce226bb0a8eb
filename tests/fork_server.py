"""A process whose children do one task each, and are killed or interrupted at it.

It imports JAX once and starts it never, so that it may be forked: JAX starts in each fork, as in a
process of its own, and the two seconds that importing takes are spent once.
"""

import importlib
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

_LONGEST_SECONDS = 60
_INTERRUPTED = 130
_MARK_BYTES = 256

# Seen by the server and its forks alike: what a fork noted in it outlives its SIGKILL.
_mark = mmap.mmap(-1, _MARK_BYTES)


class Outcome(NamedTuple):
    """How a task ended.

    Attributes
    ----------
    answer : object
        What the task returned, None if it did not end by itself.
    seconds : float
    signal : int or None
        The signal that ended it.
    is_interrupted : bool
        Whether it ended by a `KeyboardInterrupt`.
    code : int
        Its exit status, if no signal ended it.
    mark : object
        What it noted last, see `note`.
    """

    answer: object
    seconds: float
    signal: int | None
    is_interrupted: bool
    code: int
    mark: object


class ForkServer:
    """The server, seen from the tests; a context manager.

    Parameters
    ----------
    *modules : str
        Whose functions are the tasks.
    """

    def __init__(self, *modules):
        # One thread of linear algebra: a process that forks should have no other threads.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from tests.fork_server import serve; serve()", *modules]
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def do(self, function, *arguments, signal=signal.SIGKILL, after=None, **keywords):
        """Return the `Outcome` of a function, ``module:name``, of what JSON can express.

        Parameters
        ----------
        signal : int
            Sent when so many seconds have passed.
        after : float or None
        """
        task = {"function": function, "arguments": arguments, "keywords": keywords}
        request = {"task": task, "signal": int(signal), "after": after}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the server failed; its error stands above"
        return Outcome(**json.loads(line))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0


def note(mark):
    """Note how far a task has come, in terms that JSON can express."""
    _mark[:] = json.dumps(mark).encode().ljust(_MARK_BYTES)


def serve():
    """Fork for each line of standard input, and print how it ended."""
    for module in sys.argv[1:]:
        importlib.import_module(module)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_fork(**json.loads(line))._asdict()), flush=True)


def _fork(task, signal, after):
    note(None)
    started_at = time.monotonic()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The one other thread that there may be is jemalloc's, which knows how to be forked.
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(reader)
        _answer(task, writer)
    os.close(writer)
    # It becomes readable when the fork answers or ends.
    if after is not None and not select.select([reader], [], [], after)[0]:
        os.kill(pid, signal)  # harmless if it has ended: it is not waited for yet
    if not select.select([reader], [], [], _LONGEST_SECONDS)[0]:
        os.kill(pid, 9)
        raise RuntimeError(f"a fork took too long: {task}")
    with os.fdopen(reader) as file:
        answer = file.read()
    _, status = os.waitpid(pid, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = 0 if ended_by else os.WEXITSTATUS(status)
    return Outcome(
        json.loads(answer) if answer else None,
        time.monotonic() - started_at,
        ended_by,
        code == _INTERRUPTED,
        code,
        json.loads(_mark[:]),
    )


def _answer(task, writer):
    """Do a task, write its answer and end the process."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        warnings.simplefilter("error")
        module, _, name = task["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        answer = json.dumps(function(*task["arguments"], **task["keywords"]))
        os.write(writer, answer.encode())
        code = 0
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def bits(*arrays):
    """Return numbers to the last bit, as strings."""
    return [float(v).hex() for array in arrays for v in np.ravel(array)]
