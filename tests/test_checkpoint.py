"""Checkpoint files: their names, what damage does to them, and what hostile files can't do."""

import copy
import gzip
import itertools
import json
import logging
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import nlsq_sklearn.checkpoint
from nlsq_sklearn import (
    CheckpointDirectoryError,
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    JSONCheckpoint,
)

LATEST = "checkpoint_latest.json"


@pytest.fixture
def checkpoint(tmp_path):
    return JSONCheckpoint(tmp_path / "checkpoints")


@pytest.fixture
def clock(monkeypatch):
    """Return a clock whose ``now``, in seconds since 1970, is set by the test."""
    clock = SimpleNamespace(now=1_704_110_400)  # 2024-01-01 12:00:00 UTC
    substitute = SimpleNamespace(gmtime=lambda: time.gmtime(clock.now), strftime=time.strftime)
    monkeypatch.setattr(nlsq_sklearn.checkpoint, "time", substitute)
    return clock


def _record(iteration, **more):
    return {"iteration": iteration, "params": [float(iteration), 0.1], **more}


def _names(checkpoint):
    return sorted(os.listdir(checkpoint.directory))


def _dated(checkpoint):
    return [name for name in _names(checkpoint) if name != LATEST]


# Names


def test_the_name_is_the_time_in_utc_whatever_the_time_zone(checkpoint, monkeypatch):
    monkeypatch.setenv("TZ", "UTC-11")
    time.tzset()
    try:
        before = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
        path = Path(checkpoint.save(_record(1)))
        after = datetime.now(UTC).replace(tzinfo=None)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert before <= datetime.strptime(path.name, "checkpoint_%Y%m%d_%H%M%S.json") <= after
    assert _names(checkpoint) == [path.name, LATEST]


def test_two_in_one_second_get_a_counter_and_sort_in_their_order(checkpoint, clock):
    names = [Path(checkpoint.save(_record(i))).name for i in range(3)]
    assert names == [
        "checkpoint_20240101_120000.json",
        "checkpoint_20240101_120000_000001.json",
        "checkpoint_20240101_120000_000002.json",
    ]
    assert [info.iteration for info in checkpoint.list()] == [0, 1, 2]


@given(
    jumps=st.lists(st.integers(-100_000, 100_000) | st.just(0), min_size=1, max_size=20),
    compressed=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_a_new_name_sorts_last_whatever_the_clock_does(jumps, compressed):
    now, names = 1_704_110_400, []
    for jump, compression in zip(jumps, compressed, strict=False):
        now += jump
        name = nlsq_sklearn.checkpoint._next_name(
            sorted([*names, LATEST]), time.gmtime(now), compression=compression
        )
        assert name.endswith(".json.gz" if compression else ".json")
        assert all(name > other for other in names)
        assert name < LATEST
        names.append(name)


def test_a_counter_that_is_used_up_is_followed_by_a_name_that_sorts_last():
    """After a clock was set back far, a save after each chunk comes to a million in a while."""
    full = "checkpoint_20240101_120000_999999.json"
    name = nlsq_sklearn.checkpoint._next_name([full], time.gmtime(1_704_110_400), compression=False)
    names = [full, name]
    names.append(
        nlsq_sklearn.checkpoint._next_name(names, time.gmtime(1_704_110_400), compression=False)
    )
    assert sorted(set(names)) == names


def test_compressed_dated_files_and_a_plain_latest_hold_the_same(tmp_path):
    checkpoint = JSONCheckpoint(tmp_path, compression=True)
    path = Path(checkpoint.save(_record(7)))
    assert path.name.endswith(".json.gz")
    packed, plain = gzip.decompress(path.read_bytes()), (tmp_path / LATEST).read_bytes()
    assert packed == plain
    assert json.loads(plain)["params"] == [7.0, 0.1]
    (tmp_path / LATEST).unlink()
    assert checkpoint.load() == _record(7)
    assert checkpoint.list() == [(str(path), 7, [7.0, 0.1])]


@pytest.mark.parametrize("max_checkpoints", [1, 3])
def test_the_newest_dated_files_are_kept_and_the_latest_is_never_pruned(
    tmp_path, clock, max_checkpoints
):
    foreign = ["checkpoint_mine.json", "checkpoint_2024.json", "notes.txt"]
    for name in foreign:
        (tmp_path / name).write_text("{}")
    checkpoint = JSONCheckpoint(tmp_path, max_checkpoints=max_checkpoints)
    for iteration in range(5):
        clock.now += iteration % 2
        checkpoint.save(_record(iteration))
    expected = list(range(5 - max_checkpoints, 5))
    assert [info.iteration for info in checkpoint.list()] == expected
    assert len(_names(checkpoint)) == max_checkpoints + 1 + len(foreign)
    assert {LATEST, *foreign} < set(_names(checkpoint))
    (tmp_path / checkpoint.list()[-1].path).unlink()
    checkpoint.prune()
    assert checkpoint.load() == _record(4)


def test_threads_that_save_in_one_directory_lose_nothing(tmp_path):
    checkpoint = JSONCheckpoint(tmp_path, max_checkpoints=1000)

    def save(thread):
        return [checkpoint.save(_record(100 * thread + i)) for i in range(30)]

    with ThreadPoolExecutor(4) as pool:
        paths = list(itertools.chain(*pool.map(save, range(4))))
    assert len(set(paths)) == 120
    found = {info.path: info.iteration for info in checkpoint.list()}
    expected = [100 * thread + i for thread in range(4) for i in range(30)]
    assert [found[path] for path in paths] == expected
    assert len(_names(checkpoint)) == 121


# What comes back


_finite = st.floats(allow_nan=False, allow_infinity=False)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | _finite,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
_keys = st.sampled_from(["digest", "schema", "state"]) | st.text()
_ours = {
    "iteration": st.integers(0, 10**9),
    "params": st.lists(_finite, max_size=4),
}


@settings(deadline=None, max_examples=60)
@given(ours=st.fixed_dictionaries(_ours), others=st.dictionaries(_keys, _values, max_size=3))
def test_what_save_takes_load_gives_back_bit_for_bit(tmp_path_factory, ours, others):
    checkpoint = JSONCheckpoint(tmp_path_factory.mktemp("any"))
    record = {**others, **ours}
    try:
        path = checkpoint.save(record)
    except ValueError:
        assert not _names(checkpoint), "a record that is refused leaves no file"
        assert others.keys() & {"digest", "schema"}, "only the program's own keys may be refused"
        return
    assert repr(sorted(checkpoint.load().items())) == repr(sorted(record.items()))
    assert checkpoint.list() == [(path, record["iteration"], record["params"])]


NOT_JSON = [float("nan"), float("inf"), -float("inf"), {1: 2, 10: 3}, {"a", "b"}, np.int64(3)]


@pytest.mark.parametrize("value", NOT_JSON, ids=str)
def test_a_record_that_json_cannot_hold_is_refused_and_older_files_stay(checkpoint, value):
    checkpoint.save(_record(1))
    names = _names(checkpoint)
    with pytest.raises((TypeError, ValueError)):
        checkpoint.save(_record(2, more=[value]))
    assert _names(checkpoint) == names
    assert checkpoint.load() == _record(1)


def test_a_missing_latest_is_replaced_by_the_newest_dated_one(checkpoint):
    for iteration in range(2):
        checkpoint.save(_record(iteration))
    (Path(checkpoint.directory) / LATEST).unlink()
    assert checkpoint.load() == _record(1)


# Around them


def test_without_a_checkpoint_loading_says_what_to_do(checkpoint, tmp_path):
    with pytest.raises(CheckpointNotFoundError, match=r"^Checkpoint not found in .*resume"):
        checkpoint.load()
    assert checkpoint.list() == []
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "notes.json").write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match=r"^Checkpoint not found"):
        checkpoint.load()


def test_a_checkpoint_that_another_writer_removes_meanwhile_is_not_found(checkpoint, monkeypatch):
    checkpoint.save(_record(1))
    names = _names(checkpoint)
    for name in names:
        (Path(checkpoint.directory) / name).unlink()
    monkeypatch.setattr(nlsq_sklearn._storage.local.LocalDirectory, "names", lambda self: names)
    with pytest.raises(CheckpointNotFoundError):
        checkpoint.load()


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (CheckpointNotFoundError, FileNotFoundError),
        (IncompatibleCheckpointError, ValueError),
        (CorruptCheckpointError, ValueError),
        (CheckpointDirectoryError, OSError),
    ],
)
def test_an_error_is_also_the_builtin_that_callers_catch(error, builtin):
    assert issubclass(error, builtin)
    assert issubclass(error, CheckpointError)
    copied = pickle.loads(pickle.dumps(error("what happened")))
    assert (type(copied), str(copied)) == (error, "what happened")


def test_on_save_gets_the_path_of_each_file_once_it_is_whole(tmp_path):
    told = []

    def on_save(path):
        told.append((path, json.loads(Path(path).read_text())["iteration"]))

    checkpoint = JSONCheckpoint(tmp_path, on_save=on_save)
    paths = [checkpoint.save(_record(i)) for i in range(2)]
    assert told == [(paths[0], 0), (paths[1], 1)]
    assert all(isinstance(path, str) and Path(path).is_absolute() for path in paths)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"directory": 3}, TypeError, "directory.*3"),
        ({"directory": None}, TypeError, "directory.*None"),
        ({"directory": b"bytes"}, TypeError, "directory.*bytes"),
        ({"directory": ""}, ValueError, "directory"),
        ({"interval": "60"}, TypeError, "interval.*'60'"),
        ({"interval": True}, TypeError, "interval.*True"),
        ({"interval": None}, TypeError, "interval.*None"),
        ({"interval": -1}, ValueError, "interval.*-1"),
        ({"interval": float("nan")}, ValueError, "interval.*nan"),
        ({"max_checkpoints": 0}, ValueError, "max_checkpoints.*0"),
        ({"max_checkpoints": 2.0}, TypeError, "max_checkpoints.*2.0"),
        ({"max_checkpoints": True}, TypeError, "max_checkpoints.*True"),
        ({"on_save": "print"}, TypeError, "on_save.*'print'"),
        ({"on_resume": 1}, TypeError, "on_resume.*1"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_and_value(tmp_path, parameters, error, words):
    with pytest.raises(error, match=words):
        JSONCheckpoint(**{"directory": tmp_path, **parameters})


@pytest.mark.parametrize(
    "parameters", [{"interval": np.float64(2)}, {"interval": 0}, {"max_checkpoints": np.int64(5)}]
)
def test_numbers_of_any_kind_are_taken(tmp_path, parameters):
    checkpoint = JSONCheckpoint(tmp_path, **parameters)
    for iteration in range(7):
        checkpoint.save(_record(iteration))
    assert [info.iteration for info in checkpoint.list()] == [2, 3, 4, 5, 6]


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda checkpoint: pickle.loads(pickle.dumps(checkpoint)),
    "clone": lambda checkpoint: clone(checkpoint, safe=False),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_it_survives_copies(tmp_path, duplicate):
    checkpoint = JSONCheckpoint(tmp_path, 5.0, 2, True, on_save=print, on_resume=os.path.basename)
    copied = duplicate(checkpoint)
    assert copied == checkpoint
    assert [getattr(copied, name) for name in ("interval", "max_checkpoints")] == [5.0, 2]
    assert (copied.compression, copied.on_save, copied.on_resume) == (True, print, os.path.basename)


def test_it_prints_what_it_was_made_with(tmp_path):
    text = repr(JSONCheckpoint(tmp_path / "here", interval=7, max_checkpoints=9))
    assert text.startswith("JSONCheckpoint(")
    assert all(part in text for part in (str(tmp_path / "here"), "interval=7", "max_checkpoints=9"))


def test_saves_are_logged_at_info(checkpoint, caplog):
    with caplog.at_level(logging.INFO, logger="nlsq_sklearn"):
        path = checkpoint.save(_record(12))
    messages = [(r.name, r.levelno, r.getMessage()) for r in caplog.records]
    assert messages == [("nlsq_sklearn", logging.INFO, f"checkpoint saved: {path} (iteration 12)")]
