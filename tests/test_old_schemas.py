"""Files that old versions wrote are loaded with the numbers that they had."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from nlsq_sklearn import IncompatibleCheckpointError, JSONCheckpoint, _batches, _resume
from tests.data.make_checkpoints import P0, data, optimizer, regressor

DATA = Path(__file__).parent / "data"
ANSWER = [2.5000385143852824, 1.3001465794865292, 0.5000630869492101]
RECORDS = {
    "schema_1/finished": (5, "finished", ANSWER),
    "schema_1/mid_pass": (0, "streaming", [1.0, 1.0, 1.0]),
    "schema_1/partial_fit": (
        *(10, "partial_fit"),
        [2.5001529968002756, 1.2998024911104606, 0.4998313765556883],
    ),
    "schema_1/partial_fit_few_rows": (
        *(1, "partial_fit"),
        [2.2780317359138826, 1.4470815664352992, 0.7233945352281029],
    ),
    "schema_2/finished": (5, "finished", ANSWER),
    "schema_2/mid_pass": (0, "streaming", [1.0, 1.0, 1.0]),
    "schema_2/partial_fit": (
        *(10, "partial_fit"),
        [2.5001529968002756, 1.2998024911104606, 0.4998313765556883],
    ),
    "schema_2/partial_fit_few_rows": (
        *(1, "partial_fit"),
        [2.2780317359138618, 1.447081566435315, 0.723394535228124],
    ),
    "schema_3/finished": (5, "finished", ANSWER),
    "schema_3/mid_pass": (0, "streaming", [1.0, 1.0, 1.0]),
    "schema_3/partial_fit": (
        *(10, "partial_fit"),
        [2.5001529968002756, 1.2998024911104606, 0.4998313765556883],
    ),
    "schema_3/partial_fit_few_rows": (
        *(1, "partial_fit"),
        [2.2780317359138618, 1.447081566435315, 0.723394535228124],
    ),
}
FITS = [name for name in RECORDS if name.endswith(("finished", "mid_pass"))]
STREAMS = [name for name in RECORDS if name not in FITS]


@pytest.fixture
def directory(request, tmp_path):
    shutil.copy(DATA / f"{request.param}.json", tmp_path / "checkpoint_latest.json")
    return tmp_path


def saved_identity(directory):
    """Return what the file is tied to: other versions of JAX and Dask name it otherwise."""
    return json.loads((directory / "checkpoint_latest.json").read_text())["identity"]


@pytest.mark.parametrize(
    ("directory", "expected"), RECORDS.items(), indirect=["directory"], ids=RECORDS
)
def test_a_record_of_each_schema_is_loaded_with_its_numbers(directory, expected):
    record = JSONCheckpoint(directory).load()
    assert (record["iteration"], record["phase"], record["params"]) == expected


@pytest.mark.parametrize("directory", FITS, indirect=True)
@pytest.mark.filterwarnings("ignore:The checkpoint was saved by other versions")
def test_a_fit_of_each_schema_goes_on_to_the_known_answer(directory, monkeypatch, request):
    identity = saved_identity(directory)
    monkeypatch.setattr(_resume, "identify", lambda problem, stream, content: identity)
    content = identity["data"]["content"]
    monkeypatch.setattr(_resume, "_content_read", lambda problem, stream, *read: content)
    x, y = data()
    result = optimizer(directory).fit(x, y, P0, resume=True)
    assert result.success
    np.testing.assert_allclose(result.popt, ANSWER, rtol=1e-9)
    assert result.history[0]["n_passes"] == 1
    # Files of schema 1 don't know how y scatters; a fit that goes on finds out.
    is_unknown = "schema_1/finished" in request.node.callspec.id
    expected = 1 - 2 * result.cost / np.sum((y - y.mean()) ** 2)
    np.testing.assert_allclose(result.r2, np.nan if is_unknown else expected, rtol=1e-9)


@pytest.mark.parametrize("directory", STREAMS, indirect=True)
def test_a_stream_of_each_schema_goes_on(directory, monkeypatch):
    identity, record = saved_identity(directory), JSONCheckpoint(directory).load()
    monkeypatch.setattr(_batches, "identify_model", lambda problem: identity)
    stream = regressor().load_checkpoint(directory)
    assert stream.popt_.tolist() == record["params"]
    assert stream.n_samples_seen_ == record["n_samples"] == 50 * stream.n_batches_seen_
    x, y = data()
    stream.partial_fit(x[stream.n_samples_seen_ :, None], y[stream.n_samples_seen_ :])
    np.testing.assert_allclose(stream.popt_, ANSWER, rtol=0.01)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([100] * 10, "10 chunks: 10 of 100 rows"),
        ([100] * 9 + [0, 50, 50], "12 chunks: 9 of 100 rows, 1 of 0 rows, 2 of 50 rows"),
    ],
)
@pytest.mark.filterwarnings("ignore:The checkpoint was saved by other versions")
@pytest.mark.parametrize("directory", ["schema_1/mid_pass"], indirect=True)
def test_the_list_of_the_sizes_of_chunks_is_taken_as_what_stands_for_it_now(
    directory, sizes, words
):
    record = JSONCheckpoint(directory).load()
    record["identity"]["settings"]["chunk_size"] = sizes
    JSONCheckpoint(directory).save(record)
    now = {**record["identity"]["settings"], "chunk_size": words}

    def restore(settings):
        identity = {**record["identity"], "settings": settings}
        content = identity["data"]["content"]
        return _resume.restore(JSONCheckpoint(directory), identity, 10, lambda *read: content)

    state, _ = restore(now)
    assert state.next_chunk == 4
    other = {**now, "chunk_size": words.replace("100", "101")}
    with pytest.raises(IncompatibleCheckpointError, match=f"from '{words}' to '.*101 rows"):
        restore(other)


def test_the_sizes_of_many_chunks_are_told_by_a_digest_that_others_do_not_have():
    def identity(sizes):
        return _resume.with_few_words({"settings": {"chunk_size": sizes}})["settings"]["chunk_size"]

    sizes = [10, 11, 12, 13, 14] * 20_000
    assert re.fullmatch(
        r"100000 chunks: 1 of 10 rows, 1 of 11 rows, .*\(digest [0-9a-f]{64}\)", identity(sizes)
    )
    assert len(identity(sizes)) < 300
    assert identity(sizes) == identity(list(sizes))
    assert identity(sizes) != identity([*sizes[:-2], 14, 13])
