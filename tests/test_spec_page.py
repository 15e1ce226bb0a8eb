"""Every code block of the page on streaming checkpoints, and each of its promises."""

import json
import logging
import os
import re
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointNotFoundError,
    IncompatibleCheckpointError,
    JSONCheckpoint,
)

PAGE = (Path(__file__).parent / "data" / "streaming_checkpoints.rst").read_text()
DATED = re.compile(r"checkpoint_\d{8}_\d{6}(_\d{6})?\.json")


def code_blocks():
    """Return the page's Python blocks in order, with the import renamed."""
    pattern = r"^( *)\.\. code-block:: python\n\n((?:\1   +.*\n|\n)+)"
    blocks = [textwrap.dedent(match[2]) for match in re.finditer(pattern, PAGE, re.MULTILINE)]
    return [block.replace("from nlsq import", "from nlsq_sklearn import") for block in blocks]


def decay_data(n_rows=20_000):
    x = np.linspace(0, 5, n_rows)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + np.random.default_rng(1).normal(0, 0.05, n_rows)
    return x, y


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def optimizer_in(directory, **options):
    return AdaptiveHybridStreamingOptimizer(decay, checkpoint_dir=directory, **options)


def test_the_page_has_the_blocks_that_are_run_here():
    assert PAGE.count(".. code-block:: python") == len(code_blocks()) == 11


def test_every_code_block_runs_in_the_order_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = decay_data()
    names = {"x_data": x, "y_data": y, "x": x, "y": y, "p0": [2.0, 0.5, 0.3]}
    for block in code_blocks():
        exec(compile(block, "page", "exec"), names)
    output = capsys.readouterr().out
    assert "checkpoint_latest.json: iteration" in output
    assert "Fitting 5,000,000 points with checkpointing" in output
    assert "Cleaned up checkpoints" in output
    assert not (tmp_path / "my_fit_checkpoints").exists()
    np.testing.assert_allclose(names["result"].popt, [2.0, 0.02, 0.5, 1.0], rtol=1e-3)


def test_the_directory_holds_dated_files_and_the_latest(tmp_path):
    optimizer_in(tmp_path / "ckpt", checkpoint_interval=0).fit(*decay_data())
    names = sorted(os.listdir(tmp_path / "ckpt"))
    assert names[-1] == "checkpoint_latest.json"
    assert len(names) > 1
    assert all(DATED.fullmatch(name) for name in names[:-1])


def test_a_checkpoint_contains_what_the_page_says(tmp_path):
    records = []
    x, y = decay_data(40_000)
    optimizer = optimizer_in(tmp_path, checkpoint_interval=0, chunk_size=4096, max_checkpoints=99)
    result = optimizer.fit(x, y, p0=[1, 1, 1])
    for path in sorted(tmp_path.glob("checkpoint_2*.json")):
        records.append(json.loads(path.read_text()))
    last = json.loads((tmp_path / "checkpoint_latest.json").read_text())
    assert last == records[-1]
    assert last["params"] == result.popt.tolist()
    assert last["iteration"] == result.n_iter
    assert last["state"]["equations"]["gradient"]
    assert [1, 10] in [record["chunk"] for record in records]
    assert any(record["state"]["partial"] for record in records)
    seconds = [record["elapsed_seconds"] for record in records]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[-1] <= result.elapsed


def test_a_finished_checkpoint_of_three_parameters_has_about_a_kilobyte(tmp_path):
    optimizer_in(tmp_path).fit(*decay_data(), p0=[2.5, 1.3, 0.5])
    assert (tmp_path / "checkpoint_latest.json").stat().st_size < 2500


def test_the_defaults_are_those_of_the_page(tmp_path):
    checkpoint = JSONCheckpoint(tmp_path)
    assert (checkpoint.interval, checkpoint.max_checkpoints, checkpoint.compression) == (
        60,
        5,
        False,
    )


def test_max_checkpoints_is_the_number_of_dated_files_kept(tmp_path):
    x, y = decay_data(40_000)
    options = {"checkpoint_interval": 0, "chunk_size": 2048}
    optimizer_in(tmp_path, max_checkpoints=10, **options).fit(x, y, p0=[1, 1, 1])
    assert len(list(tmp_path.glob("checkpoint_2*.json"))) == 10


def test_the_interval_is_the_time_between_saves(tmp_path):
    x, y = decay_data(40_000)
    options = {"chunk_size": 2048, "max_checkpoints": 999}
    optimizer_in(tmp_path, checkpoint_interval=3600, **options).fit(x, y, p0=[1, 1, 1])
    assert len(list(tmp_path.glob("checkpoint_2*.json"))) == 2  # the first state and the last


def test_compressed_checkpoints_leave_the_latest_readable_as_json(tmp_path):
    optimizer_in(tmp_path, checkpoint_compression=True).fit(*decay_data())
    assert list(tmp_path.glob("checkpoint_2*.json.gz"))
    assert not list(tmp_path.glob("checkpoint_2*.json"))
    assert "iteration" in json.loads((tmp_path / "checkpoint_latest.json").read_text())


def test_saves_appear_in_the_log_at_info(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        optimizer_in(tmp_path).fit(*decay_data())
    saves = [r for r in caplog.records if "checkpoint saved" in r.message]
    assert saves
    assert all(r.levelno == logging.INFO and r.name == "nlsq_sklearn" for r in saves)


def test_a_missing_checkpoint_is_told_in_the_words_of_the_page(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="Checkpoint not found"):
        optimizer_in(tmp_path / "none").fit(*decay_data(), resume=True)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": lambda x, a, b, c: a * jnp.exp(-b * x) - c}, "model structure"),
        ({"model": lambda x, a, b: a * jnp.exp(-b * x)}, "number of parameters"),
        ({"loss": "huber"}, "settings loss changed from 'linear' to 'huber'"),
    ],
)
def test_what_a_checkpoint_is_tied_to_is_told_when_it_changes(tmp_path, change, word):
    x, y = decay_data()
    optimizer_in(tmp_path).fit(x, y)
    model = change.pop("model", decay)
    other = AdaptiveHybridStreamingOptimizer(model, checkpoint_dir=tmp_path)
    with pytest.raises(IncompatibleCheckpointError, match="Incompatible checkpoint") as error:
        other.fit(x, y, resume=True, **change)
    assert word in str(error.value)
