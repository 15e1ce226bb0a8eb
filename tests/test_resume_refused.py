"""A checkpoint of another fit is refused, in words; one of the same fit, however put, is not."""

import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import Bounds

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointError,
    CheckpointWarning,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
    JSONCheckpoint,
)
from nlsq_sklearn._engine.record import from_record, to_record
from nlsq_sklearn._resume import restore

LATEST = "checkpoint_latest.json"


def model(x, a, b, c):
    return a * jnp.exp(-b * x) + c


X = np.linspace(0, 4, 2000)
Y = 2 * np.exp(-1.1 * X) + 0.3 + np.random.default_rng(0).normal(0, 0.1, X.size)
SETTINGS = {
    "p0": [1.0, 0.5, 0.1],
    "bounds": ([0.0, 0.0, -1.0], [9.0, 8.0, 7.0]),
    "loss": "huber",
    "f_scale": 0.5,
    "n_starts": 2,
    "ftol": 1e-7,
    "xtol": 1e-9,
    "gtol": 1e-10,
}
MADE_WITH = {"n_params": 3, "chunk_size": 500, "checkpoint_interval": 0}


def _fit(directory, x=X, y=Y, function=model, made_with=MADE_WITH, **changes):
    optimizer = AdaptiveHybridStreamingOptimizer(function, checkpoint_dir=directory, **made_with)
    return optimizer.fit(x, y, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Return a directory with a checkpoint in mid-pass, which each test leaves as it was."""
    path = tmp_path_factory.mktemp("fit")
    result = _fit(path, made_with={**MADE_WITH, "max_checkpoints": 1000})
    assert result.success
    texts = [file.read_text() for file in sorted(path.glob("checkpoint_2*.json"))]
    in_mid_pass = [text for text in texts if json.loads(text)["chunk"] == [2, 4]]
    assert len(in_mid_pass) >= 2
    for file in path.iterdir():
        file.unlink()
    (path / LATEST).write_text(in_mid_pass[1])
    return path


@pytest.fixture
def saved(directory, tmp_path):
    """Return a directory of the test's own with that checkpoint, and nothing else, in it."""
    (tmp_path / LATEST).write_bytes((directory / LATEST).read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return _bits(_fit(tmp_path_factory.mktemp("whole")))


def _bits(result):
    return [float(number).hex() for number in (*result.popt, *result.pcov.ravel(), result.cost)]


def _changed(values, index):
    """Return the values with one of them moved to the next number of float64."""
    changed = values.copy()
    changed[index] = np.nextafter(changed[index], np.inf)
    return changed


def _refused(directory, **changes):
    """Return what the refusal says, which changes no file."""
    before = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
    with pytest.raises(IncompatibleCheckpointError, match=r"^Incompatible checkpoint: ") as refusal:
        _fit(directory, resume=True, **changes)
    assert {path.name: path.read_bytes() for path in Path(directory).iterdir()} == before
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "changes"),
    [
        ("p0", [1.0, 0.5, 0.1], [1.0, 0.5, 0.2], {"p0": [1.0, 0.5, 0.2]}),
        ("lower bounds", [0.0, 0.0, -1.0], [None] * 3, {"bounds": (-np.inf, [9, 8, 7])}),
        ("upper bounds", [9.0, 8.0, 7.0], [9.0] * 3, {"bounds": ([0, 0, -1], 9)}),
        ("loss", "huber", "cauchy", {"loss": "cauchy"}),
        ("f_scale", 0.5, 0.25, {"f_scale": 0.25}),
        ("n_starts", 2, 3, {"n_starts": 3}),
        ("ftol", 1e-7, 1e-8, {"ftol": 1e-8}),
        ("xtol", 1e-9, 1e-8, {"xtol": 1e-8}),
        ("gtol", 1e-10, 0.0, {"gtol": 0}),
        ("chunk_size", 500, 501, {"made_with": {**MADE_WITH, "chunk_size": 501}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_setting_is_refused_with_its_old_and_its_new_value(saved, name, old, new, changes):
    if name == "lower bounds":  # open bounds need a single start
        changes = {**changes, "n_starts": 1}
    text = _refused(saved, **changes)
    assert f"{name} changed from {old!r} to {new!r}" in text
    assert text.count(" changed from ") == (2 if name == "lower bounds" else 1)
    assert str(saved) in text


def test_all_that_changed_is_told_at_once(saved):
    text = _refused(saved, loss="arctan", ftol=1e-3)
    assert "loss changed from 'huber' to 'arctan'" in text
    assert "ftol changed from 1e-07 to 0.001" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"y": _changed(Y, 1234)},
        {"x": _changed(X, 7)},
        {"x": X[::-1], "y": Y[::-1]},
        {"sigma": np.full(X.size, 0.1)},
        {"sigma": 0.1},
    ],
    ids=["a value of y", "a value of x", "the order", "sigma", "a scalar sigma"],
)
def test_other_data_are_refused(saved, changes):
    text = _refused(saved, **changes)
    assert "data content changed: values of x, y or sigma are others" in text
    assert text.count(" changed") == 1


def test_other_numbers_of_rows_and_predictors_are_refused_by_their_number(saved):
    assert "data rows changed from 2000 to 1999" in _refused(saved, x=X[:-1], y=Y[:-1])
    text = _refused(saved, x=np.stack([X, X]), function=lambda x, a, b, c: model(x[0], a, b, c))
    assert "data predictors changed from 1 to 2" in text


def test_another_model_is_refused(saved):
    text = _refused(saved, function=lambda x, a, b, c: a * jnp.exp(-b * x) - c)
    assert "model structure changed: the model's formula" in text
    assert text.count(" changed") == 1
    text = _refused(saved, function=lambda x, a, b, offset: model(x, a, b, offset))
    assert "model parameters changed from ['a', 'b', 'c'] to ['a', 'b', 'offset']" in text
    text = _refused(
        saved,
        function=lambda x, a, b: a * jnp.exp(-b * x),
        p0=[1.0, 0.5],
        bounds=([0, 0], [9, 8]),
        made_with={**MADE_WITH, "n_params": 2},
    )
    assert "number of parameters changed from 3 to 2" in text


def _with_number(number):
    return lambda x, a, b, c: model(x, a, b, c) * number


def _with_table(number):
    table = np.full(5, number)
    return lambda x, a, b, c: model(x, a, b, c) * jnp.interp(x, jnp.arange(5.0), table)


def _with_table_of_a_compiled_function(number):
    table = np.full(5, number)
    efficiency = jax.jit(lambda x: jnp.interp(x, jnp.arange(5.0), table))
    return lambda x, a, b, c: model(x, a, b, c) * efficiency(x)


@pytest.mark.parametrize(
    "make",
    [_with_number, _with_table, _with_table_of_a_compiled_function],
    ids=lambda f: f.__name__,
)
def test_another_constant_that_the_model_closes_over_is_refused(tmp_path, make):
    first = _fit(tmp_path, function=make(1.25))
    assert _bits(_fit(tmp_path, function=make(1.25), resume=True)) == _bits(first)
    assert "model structure" in _refused(tmp_path, function=make(np.nextafter(1.25, 2)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"function": lambda x, a, b, c: a * jnp.exp(-b * x) + c},
        {"x": list(X), "y": list(Y)},
        {"p0": np.array(SETTINGS["p0"]), "bounds": Bounds(*SETTINGS["bounds"])},
        {"max_iter": 999, "absolute_sigma": False, "show_progress": True},
        {"made_with": {"chunk_size": np.int64(500), "checkpoint_compression": True}},
        {"made_with": {"chunk_size": 500, "max_checkpoints": 1, "checkpoint_interval": 9}},
    ],
    ids=["as it was", "defined again", "lists", "types", "fit", "compressed", "saving"],
)
def test_the_same_fit_put_otherwise_is_not_refused(saved, uninterrupted, changes):
    assert _bits(_fit(saved, resume=True, **changes)) == uninterrupted


def test_a_compressed_checkpoint_is_resumed_where_the_latest_is_missing(tmp_path, uninterrupted):
    made_with = {**MADE_WITH, "checkpoint_compression": True, "max_checkpoints": 1000}
    _fit(tmp_path, made_with=made_with)
    names = sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        if name != names[6]:
            (tmp_path / name).unlink()
    assert names[6].endswith(".json.gz")
    assert _bits(_fit(tmp_path, resume=True, made_with=made_with)) == uninterrupted


def _resave(directory, change):
    """Change the checkpoint and let the program write it again, with a digest that fits."""
    checkpoint = JSONCheckpoint(directory)
    record = checkpoint.load()
    change(record)
    checkpoint.save(record)


@pytest.mark.parametrize("name", ["jax", "nlsq_sklearn"])
def test_other_versions_are_told_and_the_fit_goes_on(saved, uninterrupted, name):
    _resave(saved, lambda record: record["versions"].update({name: "0.0.1"}))
    with pytest.warns(CheckpointWarning, match=f"{name} changed from '0.0.1' to "):
        assert _bits(_fit(saved, resume=True)) == uninterrupted


def test_on_resume_is_called_with_the_path(saved):
    told = []
    checkpoint = JSONCheckpoint(saved, on_resume=told.append)
    record = checkpoint.load()
    content = record["identity"]["data"]["content"]
    state, past = restore(checkpoint, record["identity"], 4, lambda *read: content)
    assert told == [str(saved / LATEST)]
    assert past.elapsed == record["elapsed_seconds"]
    assert [state.next_chunk, 4] == record["chunk"]
    with pytest.raises(IncompatibleCheckpointError):
        restore(checkpoint, {**record["identity"], "data": {}}, 4, lambda *read: content)
    assert len(told) == 1, "a fit that is refused does not go on"


# Forged files: the digest fits, the content does not


def _places(value, path=()):
    """Yield the path of each value inside a record."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)):
            yield from _places(inner, (*path, key))
        else:
            yield (*path, key)


FORGERIES = [None, True, -1, 1.5, 10**400, 1e308, "x", "nan", "1", [], {}, [[]], "absent"]


@pytest.mark.parametrize("forgery", FORGERIES, ids=lambda value: repr(value)[:6])
def test_a_forged_value_anywhere_is_refused_or_taken_for_what_it_is(directory, forgery):
    """Nothing but the errors of checkpoints, and no value is quietly turned into another."""
    content = (directory / LATEST).read_text()
    identity = json.loads(content)["identity"]
    token = identity["data"]["content"]
    n_refused = 0

    class Forged(JSONCheckpoint):
        def load_with_path(self):
            return LATEST, record

    for path in _places(json.loads(content)):
        record = json.loads(content)
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        if forgery == "absent":
            del inner[path[-1]]
        else:
            inner[path[-1]] = forgery
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CheckpointWarning)  # of other versions
                state, _ = restore(Forged(directory), identity, 4, lambda *read: token)
        except CheckpointError:
            n_refused += 1
        else:
            assert to_record(state) == {**record["state"], "params": record["params"]}, path
    assert n_refused > 20


@pytest.mark.parametrize("status", [1, -10], ids=["finished", "running"])
def test_a_forged_state_without_the_equations_of_its_point_is_refused(saved, status):
    _resave(saved, lambda record: record["state"].update(status=status, equations=None))
    with pytest.raises(CorruptCheckpointError):
        _fit(saved, resume=True)


def test_a_state_with_numbers_that_are_not_finite_goes_to_json_and_back(directory):
    """Such as the radius of a trust region around 1e200: saving must not be what ends the fit."""
    record = json.loads((directory / LATEST).read_text())
    saved = {**record["state"], "params": record["params"]}
    state = from_record(saved, 3, 4)
    step = state.step._replace(predicted_reduction=np.inf, damping=np.inf, length=np.inf)
    history = tuple({**entry, "radius": np.inf, "params": [np.inf] * 3} for entry in state.history)
    state = state._replace(radius=np.inf, remaining=np.inf, step=step, history=history)
    text = json.dumps(to_record(state), allow_nan=False)
    restored = from_record(json.loads(text), 3, 4)
    assert repr(restored) == repr(state)
