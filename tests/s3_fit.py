"""A fit with checkpoints in a bucket, and a connection to its server that can be cut."""

import contextlib
import json
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import JSONCheckpoint
from nlsq_sklearn._engine.model import trace_model
from nlsq_sklearn._fit import Problem
from nlsq_sklearn._problem import as_bounds, as_objective, as_tolerances
from nlsq_sklearn._resume import Resume, run_resumable
from nlsq_sklearn._streams import open_stream

X = np.linspace(0, 5, 4000)


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


class _Observer:
    def __init__(self, on_chunk):
        self._on_chunk = on_chunk
        self._n_chunks = 0

    def on_chunk(self, state):
        self._n_chunks += 1
        self._on_chunk(self._n_chunks)

    def on_pass(self, state):
        """Do nothing: chunks are enough."""


def fit(checkpoint, resume=Resume.NEVER, on_chunk=lambda n: None):
    """Return the bits of a fit."""
    y = 2.5 * np.exp(-1.3 * X) + 0.5 + np.random.default_rng(0).normal(0, 0.05, X.size)
    problem = Problem(
        as_objective(trace_model(decay, ("a", "b", "c"), 1), "linear", 1.0),
        as_bounds((-np.inf, np.inf), 3),
        as_tolerances(1e-8, 1e-8, 1e-8, 1000),
        np.ones((1, 3)),
    )
    stream = open_stream(X, y, chunk_size=500)
    state, _ = run_resumable(problem, stream, checkpoint, resume, [_Observer(on_chunk)])
    return [float(v).hex() for v in (*state.params, state.equations.cost)]


class Interrupter:
    """A port that passes connections on to a server, and cuts uploads half-way on demand."""

    def __init__(self, endpoint):
        url = urlsplit(endpoint)
        self._server = (url.hostname, url.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_uploads = False
        self.n_cut = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._sockets = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)
        for connection in self._sockets:
            connection.close()

    def cut_from_the_fifth_to_the_tenth(self, n_chunks):
        self.cut_uploads = 5 <= n_chunks < 10

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            for source, target, is_upward in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass_on, args=(source, target, is_upward), daemon=True
                ).start()

    def _pass_on(self, source, target, is_upward):
        is_cutting = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_upward and self.cut_uploads and (is_cutting or data.startswith(b"PUT ")):
                    head, body = (b"", data) if is_cutting else _split(data)
                    is_cutting = True
                    data = head + body[: len(body) // 2]
                    if body:
                        self.n_cut += 1
                        target.sendall(data)
                        break
                target.sendall(data)
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _split(request):
    """Return the head of a request and what has come of its body."""
    head, end, body = request.partition(b"\r\n\r\n")
    return head + end, body


def _pause(n_chunks):
    if n_chunks == 12:
        print("in mid-pass", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    where, what = sys.argv[1:]
    checkpoint = JSONCheckpoint(where, interval=0)
    if what == "pause":
        fit(checkpoint, on_chunk=_pause)
    print(json.dumps(fit(checkpoint, Resume.MUST)))
