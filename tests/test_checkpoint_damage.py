"""Damaged and hostile checkpoint files: an older record or an error, never another number."""

import gzip
import hashlib
import json
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointWarning,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    JSONCheckpoint,
)

LATEST = "checkpoint_latest.json"
DATED = "checkpoint_20240101_120000.json"


@pytest.fixture
def checkpoint(tmp_path):
    return JSONCheckpoint(tmp_path / "checkpoints")


def _record(iteration):
    return {"iteration": iteration, "params": [float(iteration), 0.1]}


def _signed(record):
    """Return a file as the program would write it, whatever the record: a forger can do that."""
    canonical = json.dumps(record, sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({**record, "digest": digest}).encode()


def _put(checkpoint, name, content):
    Path(checkpoint.directory).mkdir(exist_ok=True)
    (Path(checkpoint.directory) / name).write_bytes(content)


@pytest.fixture(scope="module")
def real_record(tmp_path_factory):
    """Return the record of a fit in mid-pass, as a text of JSON."""
    directory = tmp_path_factory.mktemp("fit")
    x = np.linspace(0, 3, 1000)
    y = 2 * np.exp(-x) + np.random.default_rng(0).normal(0, 0.1, x.size)
    texts = []
    optimizer = AdaptiveHybridStreamingOptimizer(
        lambda x, a, b: a * 2.718281828459045 ** (-b * x),
        checkpoint_dir=directory,
        checkpoint_interval=0,
        max_checkpoints=1000,
        chunk_size=300,
    )
    optimizer.fit(x, y, p0=[1, 0.5])
    texts = [path.read_text() for path in sorted(directory.glob("checkpoint_2*.json"))]
    return next(text for text in texts if json.loads(text)["chunk"] == [2, 4])


def _flip_a_bit(content):
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


DAMAGES = {
    "truncated": lambda content: content[:-20],
    "with a flipped bit": _flip_a_bit,
    "empty": lambda content: b"",
    "half written": lambda content: content[: len(content) // 2] + bytes(len(content) // 2),
    "with something behind it": lambda content: content + b"{}",
}


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_passed_over_with_a_warning_that_names_them(
    tmp_path, damage, compression
):
    checkpoint = JSONCheckpoint(tmp_path, compression=compression)
    oldest, middle, newest = (checkpoint.save(_record(i)) for i in range(3))
    latest = tmp_path / LATEST
    latest.write_bytes(damage(latest.read_bytes()))
    with pytest.warns(CheckpointWarning) as told:
        assert checkpoint.load() == _record(2)
    assert [str(latest) in str(w.message) and newest in str(w.message) for w in told] == [True]
    for path in (middle, newest):
        Path(path).write_bytes(damage(Path(path).read_bytes()))
    with pytest.warns(CheckpointWarning) as told:
        assert checkpoint.load() == _record(0)
    assert [w for w in told if oldest not in str(w.message)] == []
    for path, warning in zip([str(latest), newest, middle], told, strict=True):
        assert path in str(warning.message)
    assert [info.iteration for info in checkpoint.list()] == [0]
    Path(oldest).write_bytes(damage(Path(oldest).read_bytes()))
    with pytest.raises(CorruptCheckpointError) as refused:
        checkpoint.load()
    assert all(path in str(refused.value) for path in (oldest, middle, newest, str(latest)))
    assert checkpoint.list() == []


def _outcome(checkpoint, right):
    """Return what loading did; anything but the promised outcomes fails."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            record = checkpoint.load()
        except CorruptCheckpointError:
            return "refused"
    assert json.dumps(record) == json.dumps(right), "a silently different record"
    assert all(issubclass(w.category, CheckpointWarning) for w in told)
    return "passed over" if told else "right"


@pytest.mark.parametrize("name", [LATEST, DATED + ".gz"])
def test_a_file_cut_off_at_any_byte_is_refused(checkpoint, real_record, name):
    content = real_record.encode()
    content = gzip.compress(content, mtime=0) if name.endswith("gz") else content
    _put(checkpoint, name, content)
    right = checkpoint.load()
    for size in range(len(content)):
        _put(checkpoint, name, content[:size])
        assert _outcome(checkpoint, right) == "refused", size


def test_random_damage_gives_the_right_record_or_an_older_one_and_never_another(
    checkpoint, real_record
):
    content, random = real_record.encode(), np.random.default_rng(0)
    _put(checkpoint, LATEST, content)
    right = checkpoint.load()
    outcomes = []
    for trial in range(600):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), random.integers(1, 4)):
            damaged[place] ^= random.integers(1, 256) if trial % 2 else 1 << random.integers(8)
        _put(checkpoint, LATEST, damaged)
        for has_older in (False, True):
            if has_older:
                _put(checkpoint, DATED, content)
            outcomes.append(_outcome(checkpoint, right))
        (Path(checkpoint.directory) / DATED).unlink()
    assert outcomes.count("refused") > 550
    assert outcomes.count("passed over") > 550


# Hostile files


HOSTILE = {
    "deep nesting": lambda: b"[" * 1_000_000,
    "deep nesting, closed": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "NaN": lambda: _signed({**_record(1), "schema": 1, "radius": float("nan")}),
    "Infinity": lambda: _signed({**_record(1), "schema": 1, "radius": float("-inf")}),
    "a number too large": lambda: HOSTILE["Infinity"]().replace(b"Infinity", b"1e999"),
    "a key twice": lambda: b'{"iteration": 9, ' + _signed({**_record(1), "schema": 1})[1:],
    "a huge integer": lambda: b'{"iteration": ' + b"9" * 100_000 + b"}",
    "no object": lambda: b"[1, 2]",
    "another encoding": lambda: '{"iteration": "ä"}'.encode("latin-1"),
    "no digest": lambda: b'{"iteration": 1, "params": [1.0], "schema": 1}',
    "no schema": lambda: _signed(_record(1)),
    "a schema that is no number": lambda: _signed({**_record(1), "schema": True}),
    "a stamp that is none": lambda: _signed({**_record(1), "schema": 1, "stamp": [1]}),
    "a digest of the wrong type": lambda: b'{"iteration": 1, "digest": [1]}',
    "a surrogate": lambda: b'{"iteration": "\\ud800", "digest": "\\udfff"}',
}


@pytest.mark.parametrize("name", [LATEST, DATED + ".gz"])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused(checkpoint, make, name):
    content = make()
    _put(checkpoint, name, gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(CorruptCheckpointError):
        checkpoint.load()
    assert checkpoint.list() == []


@pytest.mark.parametrize("schema", [0, 2, 99])
@pytest.mark.parametrize("name", [LATEST, DATED + ".gz"])
def test_a_file_of_an_unknown_schema_is_refused_and_no_older_file_is_taken(
    checkpoint, name, schema
):
    """It is not damaged: another version of the package has gone on with the fit."""
    _put(checkpoint, "checkpoint_20230101_120000.json", _signed({**_record(1), "schema": 1}))
    content = _signed({**_record(2), "schema": schema})
    _put(checkpoint, name, gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(IncompatibleCheckpointError, match=rf"schema {schema}, .* reads 1"):
        checkpoint.load()
    assert [info.iteration for info in checkpoint.list()] == [1]


def test_a_file_that_is_signed_as_the_hostile_ones_are_is_taken(checkpoint):
    """So that they are refused for what is wrong with them, not for their signature."""
    _put(checkpoint, LATEST, _signed({**_record(1), "schema": 1}))
    assert checkpoint.load() == _record(1)


def test_a_record_without_iteration_and_params_is_not_listed(checkpoint):
    _put(checkpoint, DATED, _signed({"schema": 1}))
    assert checkpoint.list() == []


@pytest.mark.parametrize("names", [[LATEST], [DATED + ".gz"], [DATED, LATEST, DATED + ".gz"]])
def test_a_huge_file_is_refused_before_it_fills_the_memory(checkpoint, names):
    """70 MB of the disk, or a GB packed in one."""
    for name in names:
        if name.endswith(".gz"):
            packer = zlib.compressobj(1, wbits=31)
            pieces = [packer.compress(bytes(2**20)) for _ in range(1024)]
            _put(checkpoint, name, b"".join([*pieces, packer.flush()]))
        else:
            _put(checkpoint, name, b"")
            with open(Path(checkpoint.directory) / name, "ab") as file:
                file.truncate(70 * 2**20)
    started_at = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(CorruptCheckpointError):
            checkpoint.load()
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started_at < 20


def test_a_directory_or_a_link_in_the_place_of_a_file_is_passed_over(checkpoint, tmp_path):
    path = Path(checkpoint.save(_record(1)))
    latest = Path(checkpoint.directory) / LATEST
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(latest.read_bytes())
    for replace in (latest.mkdir, lambda: latest.symlink_to(elsewhere)):
        latest.rmdir() if latest.is_dir() else latest.unlink()
        replace()
        with pytest.warns(CheckpointWarning, match=LATEST):
            assert checkpoint.load() == _record(1)
    path.unlink()
    with pytest.raises(CorruptCheckpointError):
        checkpoint.load()


def test_a_dated_file_that_cannot_be_removed_does_not_stand_in_the_way_of_saving(tmp_path):
    """For instance one of another user in a shared directory; here a directory of that name."""
    checkpoint = JSONCheckpoint(tmp_path, max_checkpoints=2)
    (tmp_path / DATED).mkdir()
    for iteration in range(4):
        checkpoint.save(_record(iteration))
    assert checkpoint.load() == _record(3)
    assert [info.iteration for info in checkpoint.list()][-1] == 3
    assert len(checkpoint.list()) <= 2
