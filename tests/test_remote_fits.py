"""Fits, searches and streams whose checkpoints lie in a store."""

import json
import uuid
import warnings

import fsspec
import jax.numpy as jnp
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sklearn.model_selection import GridSearchCV

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointDirectoryError,
    CheckpointNotFoundError,
    CheckpointWarning,
    CorruptCheckpointError,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)

LATEST = "checkpoint_latest.json"
P0 = (1, 1, 1)


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


X = np.linspace(0, 5, 4000)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + np.random.default_rng(0).normal(0, 0.05, X.size)


@pytest.fixture
def store():
    return fsspec.filesystem("memory")


@pytest.fixture
def url(store):
    root = f"memory://{uuid.uuid4().hex}"
    yield f"{root}/checkpoints"
    if store.exists(root):
        store.rm(root, recursive=True)


def fit(directory=None, y=Y, **settings):
    optimizer = AdaptiveHybridStreamingOptimizer(
        decay, checkpoint_dir=directory, checkpoint_interval=0, chunk_size=500
    )
    return optimizer.fit(X, y, P0, **settings)


def bits(result):
    return [float(v).hex() for v in (*result.popt, *result.pcov.ravel(), result.cost)]


def names(store, url):
    return sorted(path.rpartition("/")[2] for path in store.ls(url, detail=False))


def fail_uploads(monkeypatch, how_many, error):
    """Let uploads of a number fail after the first ten; return a list that counts all."""
    pipe_file, calls = MemoryFileSystem.pipe_file, []

    def fail(self, *arguments, **keywords):
        calls.append(arguments)
        if 10 < len(calls) <= 10 + how_many:
            raise error
        return pipe_file(self, *arguments, **keywords)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fail)
    return calls


def test_a_fit_that_was_interrupted_goes_on_from_the_store_in_the_same_bits(url, monkeypatch):
    with monkeypatch.context() as patch:
        # At the 15th file, in mid-pass: Ctrl-C.
        fail_uploads(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            fit(url)
    record = JSONCheckpoint(url).load()
    assert record["phase"] == "streaming"
    assert bits(fit(url, resume=True)) == bits(fit())
    assert JSONCheckpoint(url).load()["phase"] == "finished"


def test_the_store_holds_the_newest_files_and_nothing_else(url, store):
    told = []
    checkpoint = JSONCheckpoint(url, max_checkpoints=2, compression=True, on_save=told.append)
    for iteration in range(5):
        checkpoint.save({"iteration": iteration, "params": [0.5]})
    found = names(store, url)
    assert [name.endswith(".json.gz") for name in found] == [True, True, False]
    assert found[-1] == LATEST
    assert [info.iteration for info in checkpoint.list()] == [3, 4]
    assert told[-2:] == [info.path for info in checkpoint.list()]
    assert all(path.startswith(f"{url}/checkpoint_2") for path in told)
    assert json.loads(store.cat(f"{url}/{LATEST}"))["iteration"] == 4


def test_damaged_objects_are_passed_over_with_a_warning(url, store):
    checkpoint = JSONCheckpoint(url)
    for iteration in range(3):
        path = checkpoint.save({"iteration": iteration, "params": [0.5]})
    for damaged in (f"{url}/{LATEST}", path):
        store.pipe(damaged, store.cat(damaged)[:-9])
    with pytest.warns(CheckpointWarning, match=url) as told:
        assert checkpoint.load()["iteration"] == 1
    assert len(told) == 2
    for name in names(store, url):
        store.pipe(f"{url}/{name}", b"")
    with pytest.raises(CorruptCheckpointError):
        checkpoint.load()


def test_an_empty_store_has_nothing_to_resume(url):
    with pytest.raises(CheckpointNotFoundError, match=url):
        fit(url, resume=True)


class _ConnectionLostError(Exception):
    """As a client library's own: no OSError."""


@pytest.mark.parametrize("error", [_ConnectionLostError("gone"), ConnectionResetError("gone")])
def test_a_store_that_fails_for_a_while_is_warned_of_once_and_tried_again(url, monkeypatch, error):
    calls = fail_uploads(monkeypatch, 6, error)
    with pytest.warns(CheckpointWarning, match="could not be saved") as told:
        result = fit(url)
    assert len(told) == 1
    assert len(calls) > 20
    assert bits(result) == bits(fit())
    assert JSONCheckpoint(url).load()["phase"] == "finished"


def test_a_store_that_cannot_be_written_to_stops_the_fit_at_its_start(url, monkeypatch):
    def refuse(self, *arguments, **keywords):
        raise PermissionError("no credentials")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(CheckpointDirectoryError, match="no credentials"):
        fit(url)


def regressor(checkpoint, **settings):
    return StreamingCurveFitRegressor(
        decay, p0=P0, warm_start=True, checkpoint=checkpoint, **settings
    )


def test_a_search_done_again_restores_each_fit_from_its_folder(url, store, evaluations):
    grid = {"loss": ["linear", "huber"]}
    first = GridSearchCV(regressor(url), grid, cv=3).fit(X[:, None], Y)
    assert len(names(store, url)) == 2 * 3 + 1

    evaluations.clear()
    again = GridSearchCV(regressor(url), grid, cv=3).fit(X[:, None], Y)
    assert evaluations == []
    np.testing.assert_array_equal(
        first.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"]
    )


def test_a_stream_goes_on_from_the_store_to_the_same_bits(url):
    checkpoint = JSONCheckpoint(url, interval=0, storage_options={})
    batches = np.array_split(np.random.default_rng(1).permutation(X.size), 20)
    reference = StreamingCurveFitRegressor(decay, p0=P0)
    for rows in batches:
        reference.partial_fit(X[rows, None], Y[rows])
    killed = regressor(checkpoint)
    for rows in batches[:7]:
        killed.partial_fit(X[rows, None], Y[rows])
    for where in (url, checkpoint):
        resumed = regressor(checkpoint).load_checkpoint(where)
        assert resumed.n_batches_seen_ == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in batches[7:]:
            resumed.partial_fit(X[rows, None], Y[rows])
    assert resumed.popt_.tolist() == reference.popt_.tolist()
