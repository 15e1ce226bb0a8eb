"""Feeds checkpoint files that atheris makes up: ``python -m tests.fuzz.fuzz_checkpoint``.

Needs the extra ``fuzz``. Options of libFuzzer follow, for instance ``-max_total_time=300``. A
finding is an exception that is no `CheckpointError`, a resumed fit that can't go on, or more memory
or time than a file may cost.
"""

import contextlib
import copy
import gzip
import json
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path
from random import Random

import atheris
import numpy as np

# Not where arrays are compared again and again: atheris never frees what a comparison returns.
_LOADING = ["_format", "_storage", "checkpoint", "_resume", "_batches", "_engine.record"]
with atheris.instrument_imports(include=[f"nlsq_sklearn.{name}" for name in _LOADING]):
    from nlsq_sklearn import CheckpointError, JSONCheckpoint, StreamingCurveFitRegressor, _format
    from nlsq_sklearn._engine.equations import Equations
    from nlsq_sklearn._engine.state import Status
    from nlsq_sklearn._engine.subproblem import Bounds
    from nlsq_sklearn._engine.trust_region import Tolerances, begin, judge, propose
    from nlsq_sklearn._resume import Past, restore

KEPT = Path(__file__).parents[1] / "data" / "schema_1"
# Of the processor, not of the clock: whoever shares the machine is no finding.
_MOST_SECONDS = 5
_MOST_PASSES = 20
_ODD = (
    *(None, True, False, 0, -1, 1, 3, 10**30, 2**63, 1.5, -0.0, 5e-324, 1e308, -1e308),
    *("", "x", "nan", "inf", "-inf", [], [[]], {}, {"a": 1}, [1.0, "x"]),
)
_directory = Path(tempfile.mkdtemp())
_x = np.linspace(-1, 1, 8)
_jacobian = np.stack([_x, _x**2, np.ones(8)])
_bounds = Bounds(np.full(3, -np.inf), np.full(3, np.inf))
_tolerances = Tolerances(1e-8, 1e-8, 1e-8, 10**6)


def _regressor():
    return StreamingCurveFitRegressor(lambda x, a, b, c: a * x + b * x**2 + c, p0=[1, 1, 1])


_stream = _regressor()


def mutate(content, max_size, seed):
    """Return another file: one byte or so is another, or one part of the record."""
    random, record = Random(seed), _parsed(content)
    if record is None or random.random() < 0.3:
        return atheris.Mutate(content, max_size)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        _change(record, random)
    changed = _signed(record)
    changed = gzip.compress(changed, 1) if random.random() < 0.1 else changed
    return changed if len(changed) <= max_size else atheris.Mutate(content, max_size)


def _parsed(content):
    try:
        content = gzip.decompress(content) if content[:1] == b"\x1f" else content
        record = json.loads(content)
    except (ValueError, OSError, EOFError, RecursionError, zlib.error):
        return None
    return record if isinstance(record, dict) and record else None


def _change(record, random):
    """Change one part of a record, wherever it is nested."""
    places = [(record, key) for key in record]
    for value, key in places:
        inner = value[key]
        if isinstance(inner, dict):
            places += [(inner, k) for k in inner]
        elif isinstance(inner, list):
            places += [(inner, i) for i in range(len(inner))]
    if not places:
        return
    value, key = random.choice(places)
    other, other_key = random.choice(places)
    how = random.randrange(5)
    if how == 0:
        del value[key]
    elif how == 1:
        value[key] = copy.deepcopy(other[other_key])
    elif how == 2 and isinstance(value[key], (int, float)):
        value[key] *= random.choice((-1, 0.5, 2, 1e-300, 1e300))
    elif how == 3 and isinstance(value, list):
        value.insert(key, copy.deepcopy(random.choice(_ODD)))
    else:
        value[key] = copy.deepcopy(random.choice(_ODD))


def _signed(record):
    """Return a file with the digest that belongs to it, so that what is behind is reached."""
    record = {key: value for key, value in record.items() if key != "digest"}
    try:
        return json.dumps({**record, "digest": _format.digest_of(record)}).encode()
    except (ValueError, RecursionError, TypeError):
        return json.dumps(record).encode()


def test_one_input(content):
    """Load a file as a fit and as a stream would, plain, packed and signed, and go on from it."""
    name = "checkpoint_latest.json"
    if content[:1] == b"\x1f":
        name = "checkpoint_20240101_120000.json.gz"
    parsed = None if name.endswith(".gz") else _parsed(content)
    variants = {content} if parsed is None else {content, _signed(parsed)}
    for variant in variants:
        for path in _directory.iterdir():
            path.unlink()
        (_directory / name).write_bytes(variant)
        checkpoint = JSONCheckpoint(_directory)
        for resume in (_as_fit, _as_stream):
            started_at = time.process_time()
            with contextlib.suppress(CheckpointError):
                resume(checkpoint)
            seconds = time.process_time() - started_at
            assert seconds < _MOST_SECONDS, f"{seconds} s for {len(content)} bytes"


def _as_fit(checkpoint):
    """Restore the state of a fit, whatever it is of, and go on with the fit of a parabola."""
    identity = checkpoint.load().get("identity")
    identity = identity if isinstance(identity, dict) else {}
    data = identity.get("data")
    content = data.get("content") if isinstance(data, dict) else None
    identity = {**identity, "number of parameters": 3}
    state, past = restore(checkpoint, identity, 10, lambda *read: content)
    assert isinstance(past, Past)
    if state.status in (Status.MAX_ITER, Status.STOPPED):
        state = state._replace(status=Status.RUNNING)
    for _ in range(_MOST_PASSES):
        if state.status is not Status.RUNNING:
            break
        if state.equations is not None and state.step is None:
            state = propose(state, _bounds, _tolerances)
            continue
        while state.next_chunk < 10:
            state = state.add_chunk(tuple(_equations(point) for point in state.points))
        if state.equations is None:
            state = begin(state, state.partial)
        else:
            state = judge(state, state.partial[0], _bounds)


def _equations(params):
    residuals = params @ _jacobian - _x
    cost, norm = 0.5 * residuals @ residuals, 0.5 * np.sum((params @ _jacobian) ** 2)
    gram = _jacobian @ _jacobian.T
    return Equations(gram, _jacobian @ residuals, float(cost), float(norm), _x.size)


def _as_stream(checkpoint):
    """Load the state of a stream of batches, whose identity must be that of a parabola."""
    identity = checkpoint.load().get("identity")
    _put_identity(identity if isinstance(identity, dict) else {})
    _stream.load_checkpoint(checkpoint)
    assert type(_stream.n_batches_seen_) is int
    assert _stream.popt_.shape == (3,)


def _put_identity(identity):
    """Have the stream take itself for the one that a file is of."""
    from nlsq_sklearn import _batches

    _batches.identify_model = lambda problem: identity
    _stream._batch_settings = dict


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    # libFuzzer writes what it makes up into the first directory.
    corpus = [tempfile.mkdtemp(), str(KEPT)]
    # The limit of time is one of the clock; see `_MOST_SECONDS` for ours.
    options = ["-rss_limit_mb=2048", "-timeout=600", "-max_len=20000"]
    atheris.Setup(
        [sys.argv[0], *options, *sys.argv[1:], *corpus], test_one_input, custom_mutator=mutate
    )
    atheris.Fuzz()
