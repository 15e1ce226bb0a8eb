"""Feeds checkpoint files that atheris makes up: ``python -m tests.fuzz.fuzz_checkpoint``.

Needs the extra ``fuzz``. Options of libFuzzer follow, for instance ``-max_total_time=300``. A
finding is an exception that is no `CheckpointError`, or more memory or time than a file may cost.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nlsq_sklearn._format", "nlsq_sklearn._engine.record"]):
    from nlsq_sklearn import CheckpointError, JSONCheckpoint, StreamingCurveFitRegressor, _format
    from nlsq_sklearn._resume import restore

KEPT = Path(__file__).parents[1] / "data" / "schema_1"
_directory = Path(tempfile.mkdtemp())
_stream = StreamingCurveFitRegressor(lambda x, a, b, c: a * x + b * x**2 + c, p0=[1, 1, 1])


def _sign(content):
    """Return the content with the digest that belongs to it, so that what is behind is reached."""
    try:
        record = _format.json.loads(content)
        record.pop("digest", None)
        record["digest"] = _format.digest_of(record)
        return _format.json.dumps(record).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return content


def test_one_input(content):
    """Load a file as a fit and as a stream would, plain, packed and signed."""
    name = (
        "checkpoint_20240101_120000.json.gz"
        if content[:1] == b"\x1f"
        else ("checkpoint_latest.json")
    )
    for variant in {content, _sign(content)}:
        for path in _directory.iterdir():
            path.unlink()
        (_directory / name).write_bytes(variant)
        checkpoint = JSONCheckpoint(_directory)
        for resume in (_as_fit, _stream.load_checkpoint):
            try:
                resume(checkpoint)
            except CheckpointError:
                continue


def _as_fit(checkpoint):
    """Restore the state of a fit, whatever it is of."""
    identity = checkpoint.load().get("identity")
    restore(checkpoint, {**_as_dict(identity), "number of parameters": 3}, 10)


def _as_dict(identity):
    return identity if isinstance(identity, dict) else {}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    # libFuzzer writes what it makes up into the first directory.
    corpus = [tempfile.mkdtemp(), str(KEPT)]
    atheris.Setup([*sys.argv, *corpus, "-rss_limit_mb=2048", "-timeout=20"], test_one_input)
    atheris.Fuzz()
