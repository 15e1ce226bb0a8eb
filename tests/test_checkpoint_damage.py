"""Damaged and hostile checkpoint files: an older record or an error, never another number."""

import contextlib
import copy
import gzip
import hashlib
import json
import sys
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointError,
    CheckpointWarning,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._format import SCHEMA, decode
from nlsq_sklearn._resume import restore

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


def _curve(x, a, b):
    return a * 2.718281828459045 ** (-b * x)


@pytest.fixture(scope="module")
def real_files(tmp_path_factory):
    """Return the content of each kind of file that real runs leave, by its kind."""
    x = np.linspace(0, 3, 1000)
    y = 2 * np.exp(-x) + np.random.default_rng(0).normal(0, 0.1, x.size)
    contents = {}
    for suffix in (".json", ".json.gz"):
        directory = tmp_path_factory.mktemp("fit")
        optimizer = AdaptiveHybridStreamingOptimizer(
            _curve,
            checkpoint_dir=directory,
            checkpoint_interval=0,
            checkpoint_compression=suffix.endswith("gz"),
            max_checkpoints=1000,
            chunk_size=300,
        )
        optimizer.fit(x, y, p0=[1, 0.5])
        for info in JSONCheckpoint(directory).list():
            content = Path(info.path).read_bytes()
            if decode(content, is_compressed=suffix.endswith("gz")).record["chunk"] == [2, 4]:
                contents["mid-pass" + suffix] = content
        contents["dated" + suffix] = content
        contents["latest.json"] = (directory / LATEST).read_bytes()
    checkpoint = JSONCheckpoint(tmp_path_factory.mktemp("stream"), interval=0, compression=True)
    stream = StreamingCurveFitRegressor(_curve, p0=[1, 0.5], checkpoint=checkpoint)
    stream.partial_fit(x[:10, np.newaxis], y[:10])
    contents["partial_fit.json"] = (Path(checkpoint.directory) / LATEST).read_bytes()
    stream.partial_fit(x[10:, np.newaxis], y[10:])
    contents["partial_fit.json.gz"] = Path(checkpoint.list()[-1].path).read_bytes()
    return contents


KINDS = [
    *("dated.json", "dated.json.gz", "latest.json", "mid-pass.json", "mid-pass.json.gz"),
    *("partial_fit.json", "partial_fit.json.gz"),
]


@pytest.fixture(params=KINDS)
def real_file(request, real_files):
    """Return the name and the content of a file of a real run."""
    name = LATEST if request.param == "latest.json" else DATED
    return name + ".gz" * request.param.endswith("gz"), real_files[request.param]


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
    assert told[0].filename == __file__, "a warning points to the user's line"
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


OLDER = "checkpoint_20230101_120000.json"


def _put_older(checkpoint):
    """Write an older checkpoint; return its record."""
    _put(checkpoint, OLDER, _signed({**_record(7), "schema": 1}))
    return _record(7)


def test_a_file_cut_off_at_any_byte_is_passed_over_or_refused(checkpoint, real_file):
    name, content = real_file
    _put(checkpoint, name, content)
    right = checkpoint.load()
    for size in range(len(content)):
        _put(checkpoint, name, content[:size])
        assert _outcome(checkpoint, right) == "refused", size
        older = _put_older(checkpoint)
        assert _outcome(checkpoint, older) == "passed over", size
        (Path(checkpoint.directory) / OLDER).unlink()
    _put(checkpoint, name, content)
    assert _outcome(checkpoint, right) == "right"


def test_random_damage_gives_the_right_record_or_an_older_one_and_never_another(
    checkpoint, real_file
):
    """2,000 files, half of them with a flipped bit, half with bytes changed at random."""
    (name, content), random = real_file, np.random.default_rng(0)
    _put(checkpoint, name, content)
    right = checkpoint.load()
    outcomes = []
    for trial in range(2000):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), random.integers(1, 4)):
            damaged[place] ^= random.integers(1, 256) if trial % 2 else 1 << random.integers(8)
        _put(checkpoint, name, damaged)
        # Some bits mean nothing, as those of the header of gzip that tell of the system.
        outcome = _outcome(checkpoint, right)
        outcomes.append(outcome)
        older = _put_older(checkpoint)
        expected = {"refused": ("passed over", older), "right": ("right", right)}[outcome]
        assert _outcome(checkpoint, expected[1]) == expected[0]
        (Path(checkpoint.directory) / OLDER).unlink()
    assert outcomes.count("refused") > 1900


_any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["params", "state", "n_rows", "y", "gram"]), inner)
    ),
    max_leaves=6,
)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200) | st.builds(lambda v: json.dumps(v).encode(), _any_json))
def test_any_bytes_are_refused(checkpoint, content):
    for name in (LATEST, DATED + ".gz"):
        _put(checkpoint, name, content)
    with pytest.raises(CorruptCheckpointError):
        checkpoint.load()


def _replaced(value, path, new):
    """Return a copy of a record in which the value at a path is another."""
    if not path:
        return new
    copied = copy.copy(value)
    copied[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copied


def _paths(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(inner, (*path, key))


WRONG = [None, True, -1, 1.5, 10**30, "nan", "x", [], {}, [[]], [1, "x"], {"a": 1}, 1e308]


@pytest.mark.parametrize("kind", ["mid-pass.json", "partial_fit.json"])
def test_a_signed_record_with_any_part_replaced_is_resumed_or_refused(checkpoint, real_files, kind):
    """A forger can sign: the digest is no secret. Whatever is resumed has the right types."""
    record = json.loads(real_files[kind])
    del record["digest"]
    for path in list(_paths(record))[1:]:
        for new in WRONG:
            forged = _replaced(record, path, new)
            _put(checkpoint, LATEST, _signed(forged))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CheckpointWarning)  # of other versions
                with contextlib.suppress(CheckpointError):
                    _resume_forged(checkpoint, kind, record["identity"])


def _resume_forged(checkpoint, kind, identity):
    if kind == "mid-pass.json":
        content = identity["data"]["content"]
        state, past = restore(checkpoint, identity, 4, lambda *read: content)
        numbers = [state.params, state.scale, state.candidates[0], np.array([state.radius])]
        assert isinstance(past.elapsed, float)
    else:
        estimator = StreamingCurveFitRegressor(_curve, p0=[1, 0.5])
        estimator.load_checkpoint(checkpoint)
        numbers = [estimator.popt_, estimator.pcov_.ravel()]
        assert type(estimator.n_batches_seen_) is int
        assert type(estimator.n_samples_seen_) is int
    assert all(array.dtype == np.float64 for array in numbers)
    assert all(array.ndim == 1 for array in numbers)


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


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, 99])
@pytest.mark.parametrize("name", [LATEST, DATED + ".gz"])
def test_a_file_of_an_unknown_schema_is_refused_and_no_older_file_is_taken(
    checkpoint, name, schema
):
    """It is not damaged: another version of the package has gone on with the fit."""
    _put(checkpoint, "checkpoint_20230101_120000.json", _signed({**_record(1), "schema": 1}))
    content = _signed({**_record(2), "schema": schema})
    _put(checkpoint, name, gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(IncompatibleCheckpointError, match=rf"schema {schema}, .* reads {SCHEMA}"):
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


class _Audit:
    """Notes what Python does that leaves traces: files, processes, sockets, imports, code."""

    KINDS = ("open", "import", "exec", "compile", "os.", "subprocess.", "socket.", "shutil.")

    def __init__(self):
        self.is_on = False
        self.events = []
        sys.addaudithook(self._note)  # for the life of the process: it can't be taken away

    def _note(self, event, arguments):
        if self.is_on and event.startswith(self.KINDS):
            self.events.append((event, arguments[0]))

    def __enter__(self):
        self.is_on = True
        return self.events

    def __exit__(self, *error):
        self.is_on = False


@pytest.mark.parametrize("kind", ["mid-pass.json", "partial_fit.json"])
@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../elsewhere.json", "file:///etc/passwd", "s3://bucket/key", "$(id)"],
)
def test_a_path_in_a_file_leads_nowhere_and_no_code_runs(checkpoint, real_files, kind, path):
    """Wherever it stands: all that is opened is in the directory."""
    record = json.loads(real_files[kind])
    del record["digest"]
    audit = _Audit()
    for place in list(_paths(record))[1:]:
        _put(checkpoint, LATEST, _signed(_replaced(record, place, path)))
        with audit as events, contextlib.suppress(CheckpointError), warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)  # of other versions
            _resume_forged(checkpoint, kind, record["identity"])
    _put(checkpoint, LATEST, _signed({**record, "directory": path, "path": path}))
    with audit as events:
        _resume_forged(checkpoint, kind, record["identity"])
    # What is open already has a number.
    touched = {(event, str(what)) for event, what in events if not isinstance(what, int)}
    directory = str(checkpoint.directory)
    assert touched == {("os.scandir", directory), ("open", f"{directory}/{LATEST}")}


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
