"""The progress bar: on a terminal only, and the terminal is as before when the fit is over."""

import contextlib
import itertools
import os
import re
import sys
import termios
import threading
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, _progress
from nlsq_sklearn._streams import ArrayStream, arrays

N_CHUNKS = 10
X = np.linspace(0, 4, 5000)
Y = 2 * np.exp(-1.1 * X) + 0.3 + np.random.default_rng(0).normal(0, 0.1, X.size)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def model(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def _fit(terminal=None, checkpoint_dir=None, **settings):
    """Fit with the terminal, if there is one, as standard error."""
    optimizer = AdaptiveHybridStreamingOptimizer(
        model, chunk_size=X.size // N_CHUNKS, checkpoint_dir=checkpoint_dir
    )
    stream = sys.stderr if terminal is None else terminal.stream
    # Not in the fixture: pytest sets standard error anew before it calls the test.
    with contextlib.redirect_stderr(stream):
        try:
            return optimizer.fit(X, Y, [2, 1, 0.3], **{"show_progress": True, **settings})
        finally:
            assert sys.stderr is stream


class _Terminal:
    """A terminal that keeps all that is written to it."""

    def __init__(self):
        self._master, self.slave = os.openpty()
        self.stream = os.fdopen(self.slave, "w", encoding="utf-8")
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                piece = os.read(self._master, 2**16)
            except OSError:  # Linux says so when the other side is closed
                return
            if not piece:
                return
            self._written += piece

    def close(self):
        """Return what was written."""
        if not self.stream.closed:
            self.stream.close()
            self._reader.join(10)
            os.close(self._master)
        return self._written.decode()


@pytest.fixture
def terminal(monkeypatch):
    terminal = _Terminal()
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    yield terminal
    terminal.close()


def _read_slowly(monkeypatch, seconds, fail_at=None):
    """Let the reading of a chunk, one after the other, take its time, and that of one fail."""
    read, numbers = ArrayStream.chunk, itertools.count(1)

    def chunk(self, index):
        if self.n_chunks == N_CHUNKS:
            number = next(numbers)
            time.sleep(seconds)
            if number == fail_at:
                raise KeyboardInterrupt
        return read(self, index)

    monkeypatch.setattr(ArrayStream, "chunk", chunk)
    monkeypatch.setattr(arrays, "n_threads", lambda: 1)


def _frames(written):
    """Return the lines that the bar showed, one after the other, as a reader sees them."""
    lines = re.split(r"[\r\n]+", ESCAPES.sub("", written))
    return [" ".join(line.split()) for line in lines if line.strip()]


def test_the_bar_shows_pass_percent_and_cost(terminal, monkeypatch):
    _read_slowly(monkeypatch, 0.05)
    result = _fit(terminal)
    frames = _frames(terminal.close())
    assert frames[0].startswith("preparing (warm-up on a sample)")
    shown = [re.search(r"^pass (\d+) .*?(\d+) % .*cost (\S+)", frame) for frame in frames]
    shown = [(int(m[1]), int(m[2]), m[3]) for m in shown if m]
    assert {number for number, _, _ in shown} >= set(range(1, result.n_passes + 1))
    assert shown == sorted(shown, key=lambda entry: entry[:2]), "passes and percents only rise"
    assert len({percent for number, percent, _ in shown if number == 1}) >= 3
    assert {percent % 10 for _, percent, _ in shown} == {0}, "a tenth of the rows is 10 %"
    assert {cost for number, percent, cost in shown if number == 1 and percent < 100} == {"-"}
    costs = [f"{entry['cost']:.6g}" for entry in result.history]
    assert {cost for number, _, cost in shown if number == 2} <= {costs[0], costs[1]}


def test_the_last_frame_is_the_last_pass_complete_with_the_cost_of_the_result(
    terminal, monkeypatch
):
    _read_slowly(monkeypatch, 0.02)
    result = _fit(terminal)
    last = _frames(terminal.close())[-1]
    assert last.startswith(f"pass {result.n_passes} ")
    assert " 100 % " in last
    assert f"cost {result.cost:.6g}" in last


@pytest.mark.parametrize("fail_at", [None, 13], ids=["finished", "interrupted"])
def test_the_terminal_is_as_before_when_the_fit_is_over(terminal, monkeypatch, fail_at):
    _read_slowly(monkeypatch, 0.02, fail_at)
    settings, stdout = termios.tcgetattr(terminal.slave), sys.stdout
    with contextlib.nullcontext() if fail_at is None else pytest.raises(KeyboardInterrupt):
        _fit(terminal)
    assert termios.tcgetattr(terminal.slave) == settings
    assert sys.stdout is stdout
    for thread in threading.enumerate():
        if "rich" in type(thread).__module__:
            thread.join(10)
            assert not thread.is_alive()
    written = terminal.close()
    assert HIDE_CURSOR in written, "the bar was shown"
    assert written.rindex(SHOW_CURSOR) > written.rindex(HIDE_CURSOR)
    assert written.endswith("\n") or written.rindex("\n") > written.rindex("%")


def test_the_bar_of_a_resumed_fit_goes_on_where_the_checkpoint_is(terminal, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        _read_slowly(patch, 0.0, fail_at=18)
        with pytest.raises(KeyboardInterrupt):
            _fit(checkpoint_dir=tmp_path)
    _read_slowly(monkeypatch, 0.05)
    _fit(terminal, tmp_path, resume=True)
    frames = [frame for frame in _frames(terminal.close()) if frame.startswith("pass ")]
    number, percent = re.search(r"^pass (\d+) .*?(\d+) %", frames[0]).groups()
    assert int(number) == 2
    assert int(percent) >= 50


def test_the_speed_counts_no_rows_of_before_the_resume(terminal, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        _read_slowly(patch, 0.0, fail_at=6)  # in the first pass
        with pytest.raises(KeyboardInterrupt):
            _fit(checkpoint_dir=tmp_path)
    _read_slowly(monkeypatch, 0.16)
    _fit(terminal, tmp_path, resume=True)
    frames = [frame for frame in _frames(terminal.close()) if frame.startswith("pass 1 ")]
    rates = [float(m[1]) for frame in frames if (m := re.search(r"([\d.]+) k rows/s", frame))]
    chunk_rows = X.size / N_CHUNKS
    assert rates, "after half a second a rate is told"
    assert max(rates) < 1e-3 * chunk_rows / 0.16


def test_rows_per_second_and_the_time_left_belong_to_the_percentage(terminal, monkeypatch):
    _read_slowly(monkeypatch, 0.12)
    _fit(terminal)
    frames = _frames(terminal.close())
    told = [re.search(r"(\d+) % ([\d.]+) k rows/s (\d+):(\d\d) left", f) for f in frames]
    told = [tuple(map(float, match.groups())) for match in told if match]
    assert told
    for percent, rate, minutes, seconds in told:
        left = (1 - percent / 100) * X.size / (1000 * rate)
        assert abs(60 * minutes + seconds - left) <= 0.6
    assert any(re.search(r" 100 % [\d.]+ k rows/s 0:01 cost", frame) for frame in frames)


def test_a_look_between_two_bursts_of_chunks_does_not_slow_the_rate(monkeypatch):
    """Dask's chunks come some dozens at once, with a pause before."""
    clock = itertools.chain([0.0] * 4, [10.0] * 4, itertools.repeat(17.0))
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(clock))
    bar = _progress.ProgressBar(1000, 100)
    shown = []
    bar._bar = SimpleNamespace(update=lambda task, **fields: shown.append(fields["numbers"]))
    states = [SimpleNamespace(next_chunk=n, n_passes=0, equations=None) for n in range(1, 9)]
    for state in states:
        bar.on_chunk(state)
    for _ in range(3):
        bar._look()
    assert {*shown} == {"  8 %  7 rows/s  2:11 left  cost -"}


def test_a_finished_fit_that_is_restored_leaves_nothing_on_the_screen(terminal, tmp_path):
    _fit(checkpoint_dir=tmp_path)
    _fit(terminal, tmp_path, resume=True)
    written = terminal.close()
    assert written.count("\x1b[2K") >= 1, "the line is cleared"
    assert written.endswith("\x1b[2K") or written.rindex("\x1b[2K") > written.rindex("preparing")
    assert "pass" not in written


def test_without_a_terminal_nothing_is_written(capfd):
    result = _fit()
    assert result.success
    assert capfd.readouterr() == ("", "")


def test_without_show_progress_nothing_is_written_to_a_terminal(terminal):
    _fit(terminal, show_progress=False)
    assert terminal.close() == ""


def test_without_a_standard_error_the_fit_goes_on(monkeypatch):
    """As under pythonw on Windows."""
    monkeypatch.setattr(sys, "stderr", None)
    assert _fit().success


def test_the_bar_changes_no_bit_of_the_answer(terminal):
    with_bar, without = _fit(terminal), _fit(show_progress=False)
    assert HIDE_CURSOR in terminal.close()
    assert with_bar.popt.tobytes() == without.popt.tobytes()
    assert with_bar.history == without.history
