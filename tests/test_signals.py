"""SIGTERM, SIGHUP and Ctrl-C save once more, cut no save in two; handlers are put back."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from nlsq_sklearn import JSONCheckpoint
from nlsq_sklearn._signals import SignalGuard
from tests.fork_server import ForkServer
from tests.interrupted_fit import N_CHUNKS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are sent to processes")

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)
BOTH = pytest.mark.parametrize("signum", [INT, TERM], ids=["SIGINT", "SIGTERM"])
ALL = pytest.mark.parametrize("signum", [INT, TERM, HUP], ids=["SIGINT", "SIGTERM", "SIGHUP"])


@pytest.fixture(scope="module")
def server():
    with ForkServer("tests.interrupted_fit") as server:
        yield lambda name, *arguments: server.do(f"tests.interrupted_fit:{name}", *arguments)


@pytest.fixture(scope="module")
def expected(server):
    return server("fit", None).answer


@pytest.fixture
def handlers():
    """Put the handlers of this process back, and return what was called."""
    found = {signum: signal.getsignal(signum) for signum in (INT, TERM, HUP)}
    calls = []
    signal.signal(TERM, lambda signum, frame: calls.append(signum))
    yield calls
    for signum, handler in found.items():
        signal.signal(signum, handler)


def ended_by(outcome, signum):
    return outcome.is_interrupted if signum == INT else outcome.signal == signum


def load(directory):
    """Return the newest record, of a directory in which all files are whole."""
    names = sorted(os.listdir(directory))
    assert len(JSONCheckpoint(directory).list()) == len(names) - 1, "no temporary file is left"
    return JSONCheckpoint(directory).load()


# Fits


@ALL
def test_a_signal_in_mid_pass_saves_all_chunks_summed_so_far(server, expected, tmp_path, signum):
    outcome = server("fit_and_signal_in_a_chunk", str(tmp_path), signum)
    assert ended_by(outcome, signum)
    record = load(tmp_path)
    assert record["phase"] == "streaming"
    assert record["chunk"] == [17 - N_CHUNKS, N_CHUNKS]
    assert server("fit", str(tmp_path)).answer == expected


@BOTH
@pytest.mark.parametrize("name", ["fsync", "link", "replace", "unlink"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("n_calls", [1, 9])
def test_a_signal_in_a_save_waits_until_its_files_are_whole(
    server, expected, tmp_path, signum, name, after, n_calls
):
    outcome = server("fit_and_signal_in_a_save", str(tmp_path), signum, name, n_calls, after)
    assert ended_by(outcome, signum)
    record = load(tmp_path)
    newest = JSONCheckpoint(tmp_path).list()[-1].path
    assert json.loads(Path(newest).read_text()) == json.loads(
        (tmp_path / "checkpoint_latest.json").read_text()
    )
    assert record["phase"] != "finished"
    assert server("fit", str(tmp_path)).answer == expected


@pytest.mark.parametrize("second", [INT, TERM])
@pytest.mark.parametrize("first", [INT, TERM])
def test_a_second_signal_does_not_cut_the_last_save(server, expected, tmp_path, first, second):
    outcome = server("fit_and_signal_twice", str(tmp_path), first, second)
    assert outcome.mark == [first, second]
    assert ended_by(outcome, TERM if TERM in (first, second) else INT)
    assert load(tmp_path)["chunk"][0] > 0
    assert server("fit", str(tmp_path)).answer == expected


def test_a_handler_of_the_users_that_exits_has_its_exit_status(server, expected, tmp_path):
    outcome = server("fit_with_a_handler_that_exits", str(tmp_path))
    assert (outcome.signal, outcome.code) == (None, 3)
    assert load(tmp_path)["chunk"] == [17 - N_CHUNKS, N_CHUNKS]
    assert server("fit", str(tmp_path)).answer == expected


def test_a_handler_of_the_users_that_goes_on_is_called_once_and_the_fit_saves(
    server, expected, tmp_path
):
    answer = server("fit_with_a_handler_that_goes_on", str(tmp_path)).answer
    assert answer["calls"] == [TERM]
    assert answer["bits"] == expected
    first, asked_for, *_, last = answer["saves"]
    assert (first, asked_for, last) == (0, 18 - N_CHUNKS, 0)
    assert len(answer["saves"]) == 3


@BOTH
def test_a_signal_that_python_dropped_acts_at_the_next_chunk(server, expected, tmp_path, signum):
    outcome = server("fit_with_a_signal_that_is_dropped", str(tmp_path), signum)
    assert ended_by(outcome, signum)
    assert outcome.mark == [1, 17 - N_CHUNKS]
    assert load(tmp_path)["chunk"][0] == 18 - N_CHUNKS
    assert server("fit", str(tmp_path)).answer == expected


def test_a_last_save_that_fails_does_not_stop_sigterm(server, expected, tmp_path):
    outcome = server("fit_on_a_full_disk_and_signal", str(tmp_path))
    assert outcome.signal == TERM
    assert len(JSONCheckpoint(tmp_path).list()) == 1
    assert server("fit", str(tmp_path)).answer == expected


@BOTH
def test_a_fit_within_a_fit_saves_both(server, expected, tmp_path, signum):
    outcome = server("nested_fit", str(tmp_path), signum)
    assert ended_by(outcome, signum)
    assert load(tmp_path / "inner")["chunk"] == [17 - N_CHUNKS, N_CHUNKS]
    [outer] = (tmp_path / "outer").iterdir()
    assert load(outer)["chunk"] == [2, N_CHUNKS]
    assert server("fit", str(tmp_path / "inner")).answer == expected


@ALL
def test_a_signal_in_partial_fit_saves_the_batch(server, tmp_path, signum):
    expected = server("stream", None).answer
    directory = str(tmp_path / "stream")
    assert ended_by(server("stream", directory, signum, 7), signum)
    assert load(directory)["iteration"] == 7
    assert server("stream", directory).answer == expected


# The guard


def test_the_handlers_found_are_put_back_and_signals_that_waited_are_sent_again(handlers):
    found = signal.getsignal(INT), signal.getsignal(TERM)

    def guarded():
        with SignalGuard():
            signal.raise_signal(INT)
            signal.raise_signal(TERM)
            signal.raise_signal(TERM)
            assert handlers == []

    with pytest.raises(KeyboardInterrupt):
        guarded()
    assert handlers == [TERM]
    assert (signal.getsignal(INT), signal.getsignal(TERM)) == found


def test_released_signals_act_at_once_and_those_that_waited_first(handlers):
    with SignalGuard() as guard:
        signal.raise_signal(TERM)
        with guard.released():
            assert handlers == [TERM]
            signal.raise_signal(TERM)
            assert handlers == [TERM, TERM]
            with guard.held():
                signal.raise_signal(TERM)
                assert handlers == [TERM, TERM]
            assert handlers == [TERM, TERM, TERM]
        signal.raise_signal(TERM)
        assert len(handlers) == 3
    assert len(handlers) == 4


def test_after_an_exception_of_a_handler_further_signals_wait_for_the_end(handlers):

    def guarded():
        with SignalGuard() as guard:
            try:
                with guard.released():
                    signal.raise_signal(INT)
            finally:
                signal.raise_signal(INT)
                signal.raise_signal(TERM)
                assert handlers == []

    with pytest.raises(KeyboardInterrupt):
        guarded()
    assert handlers == [TERM]


def test_guards_within_guards_put_back_what_each_found(handlers):
    found = signal.getsignal(INT), signal.getsignal(TERM)
    with SignalGuard() as outer:
        ours = signal.getsignal(TERM)
        with outer.released(), SignalGuard():
            signal.raise_signal(TERM)
            assert handlers == []
        assert handlers == [TERM]
        assert signal.getsignal(TERM) == ours
    assert (signal.getsignal(INT), signal.getsignal(TERM)) == found


def test_a_handler_that_is_installed_in_the_meantime_stays(handlers):
    with SignalGuard():
        ours = signal.getsignal(TERM)

        def chained(signum, frame):
            ours(signum, frame)

        signal.signal(TERM, chained)
    assert signal.getsignal(TERM) is chained
    signal.raise_signal(TERM)  # reaches the one that was there before
    assert handlers == [TERM]


@ALL
def test_an_ignored_signal_stays_ignored(handlers, signum):
    """Of a background job Ctrl-C is, under ``nohup`` SIGHUP."""
    signal.signal(signum, signal.SIG_IGN)
    with SignalGuard() as guard, guard.released():
        assert signal.getsignal(signum) == signal.SIG_IGN
        signal.raise_signal(signum)
    assert signal.getsignal(signum) == signal.SIG_IGN


def test_in_another_thread_nothing_is_installed(handlers):
    found, seen = (signal.getsignal(INT), signal.getsignal(TERM)), []

    def guarded():
        with SignalGuard() as guard, guard.released(), guard.held():
            seen.append((signal.getsignal(INT), signal.getsignal(TERM)))

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    assert seen == [found]


def test_a_fork_of_a_guarded_process_ends_by_sigterm_as_any_other(server):
    assert server("fork_in_a_guard").answer == TERM


def test_a_handler_that_raises_while_they_are_put_back_leaves_none_of_ours(handlers):
    found, hang_up = signal.getsignal(INT), signal.getsignal(HUP)

    def fail(signum, frame):
        raise LookupError

    signal.signal(TERM, fail)
    with pytest.raises(LookupError), SignalGuard():
        signal.raise_signal(TERM)
    assert signal.getsignal(INT) == found
    assert signal.getsignal(TERM) is fail
    assert signal.getsignal(HUP) == hang_up
