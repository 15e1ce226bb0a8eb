"""`nlsq-sklearn checkpoints` tells from outside how fits are, and leaves no trace."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._cli import main
from nlsq_sklearn._format import SCHEMA, digest_of

LATEST = "checkpoint_latest.json"
N_CHUNKS = 8


def decay(x, amplitude, rate, offset):
    return amplitude * jnp.exp(-rate * x) + offset


X = np.linspace(0, 5, 4000)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + np.random.default_rng(0).normal(0, 0.05, X.size)


class StoppedError(Exception):
    pass


def finish(directory, n_chunks=N_CHUNKS):
    optimizer = AdaptiveHybridStreamingOptimizer(
        decay,
        checkpoint_dir=directory,
        checkpoint_interval=0,
        chunk_size=X.size // n_chunks,
    )
    return optimizer.fit(X, Y, [1, 1, 1], bounds=([0, -np.inf, 0], [9, np.inf, 9]))


def interrupt(directory, n_saves, **settings):
    """Fit in a folder of the estimator's, and stop after so many saves."""
    seen = []

    def count(path):
        seen.append(path)
        if len(seen) == n_saves:
            raise StoppedError

    checkpoint = JSONCheckpoint(directory, interval=0, on_save=count, compression=True)
    regressor = StreamingCurveFitRegressor(
        decay, p0=[1, 1, 1], chunk_size=X.size // N_CHUNKS, checkpoint=checkpoint, **settings
    )
    with pytest.raises(StoppedError):
        regressor.fit(X[:, np.newaxis], Y)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a directory with fits of all kinds below it."""
    root = tmp_path_factory.mktemp("made")
    result = finish(root / "finished")
    interrupt(root / "search", 1)
    interrupt(root / "search", N_CHUNKS + 6, loss="huber")  # the first save has no chunk
    stream = StreamingCurveFitRegressor(decay, p0=[1, 1, 1], checkpoint=root / "stream")
    stream.partial_fit(X[::2, np.newaxis], Y[::2])
    JSONCheckpoint(root / "own").save({"iteration": 3, "params": [1.5, 2.5]})
    (root / "empty").mkdir()
    (root / "search" / "notes.txt").write_text("not ours")
    return root, result


@pytest.fixture
def directory(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "made")
    return tmp_path / "made"


def run(*arguments, code=0):
    """Return standard output, checked to be alone on it, and standard error."""
    result = CliRunner().invoke(main, ["checkpoints", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


def run_json(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code)[0])


def contents(directory):
    """Return all that can be seen of the files below a directory."""
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_size, path.is_file() and path.read_bytes())
        for path in sorted(Path(directory).rglob("*"))
    }


def test_list_tells_how_far_each_fit_below_a_directory_is(directory):
    found = {Path(line["directory"]).parent.name: line for line in run_json("list", directory)}
    lines = run_json("list", directory)
    assert len(lines) == 5
    assert set(found) == {"made", "search"}
    by_name = {Path(line["directory"]).relative_to(directory).parts[0]: line for line in lines}
    finished = by_name["finished"]
    assert finished["newest"]["phase"] == "finished"
    assert finished["newest"]["converged"] is True
    assert finished["files"] == len(list((directory / "finished").iterdir()))
    assert finished["bytes"] == sum(
        path.stat().st_size for path in (directory / "finished").iterdir()
    )
    assert 0 <= finished["newest"]["age_seconds"] < 600
    assert by_name["stream"]["newest"]["phase"] == "partial_fit"
    assert by_name["stream"]["newest"]["rows"] == X.size // 2
    assert by_name["own"]["newest"]["iteration"] == 3
    searches = [line for line in lines if "search" in line["directory"]]
    warm_up, streaming = sorted(
        (line["newest"] for line in searches), key=lambda newest: newest["passes"]
    )
    assert warm_up["phase"] == "warm-up"
    assert warm_up["share_of_pass"] is None
    assert streaming["phase"] == "streaming"
    assert streaming["passes"] == 1
    assert 0 < streaming["share_of_pass"] < 1
    assert [line["format"] for line in searches] == ["gz", "gz"]


def test_the_table_of_list_says_the_same_in_words(directory):
    table, _ = run("list", directory)
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert "converged" in lines["finished"]
    assert "batch 1" in lines["stream"]
    assert "not a fit" in lines["own"]
    streaming = run_json("list", directory)
    share = next(
        line["newest"]["share_of_pass"] for line in streaming if line["newest"]["share_of_pass"]
    )
    assert f"pass 2, {100 * share:.0f} %" in table
    assert "warm-up" in table


def test_show_gives_the_parameters_that_the_fit_gave(made, directory):
    result = made[1]
    shown = run_json("show", directory / "finished")
    names = [parameter["name"] for parameter in shown["parameters"]]
    assert names == ["amplitude", "rate", "offset"]
    assert [parameter["value"] for parameter in shown["parameters"]] == result.popt.tolist()
    errors = [parameter["standard_error"] for parameter in shown["parameters"]]
    assert errors == result.perr.tolist()
    assert [parameter["start"] for parameter in shown["parameters"]] == [1, 1, 1]
    assert [parameter["lower"] for parameter in shown["parameters"]] == [0, None, 0]
    assert shown["cost"] == result.cost
    assert [entry["cost"] for entry in shown["history"]] == [e["cost"] for e in result.history]
    assert shown["identity"]["data"]["rows"] == X.size
    assert set(shown["versions"]) == {"jax", "jaxlib", "numpy", "nlsq_sklearn"}
    table, _ = run("show", directory / "finished")
    for word in ("amplitude", f"{result.popt[0]:.10g}", "Converged", "loss linear", "jaxlib"):
        assert word in table


def test_show_takes_a_file_a_directory_and_the_start_of_a_folder_s_name(directory):
    latest = directory / "finished" / LATEST
    assert run_json("show", latest)["path"] == str(latest)
    dated = sorted((directory / "finished").glob("checkpoint_2*"))[0]
    assert run_json("show", dated)["share_of_pass"] is not None
    packed = sorted((directory / "search").rglob("*.gz"))[0]
    assert run_json("show", packed)["path"] == str(packed)
    folder = next((directory / "search").glob("fit_*"))
    shown = run_json("show", directory / "search" / folder.name[:12])
    assert Path(shown["path"]).parent == folder
    assert run_json("show", directory / "own")["parameters"][1]["name"] == "p1"
    assert "batch 1" in run("show", directory / "stream")[0]


def test_show_of_several_fits_names_them(directory):
    message = run("show", directory / "search", code=2)[1]
    assert "holds 2 fits" in message
    for folder in (directory / "search").glob("fit_*"):
        assert str(folder) in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "nowhere"], "There is no directory"),
        (["show", "nowhere"], "There is no directory"),
        (["verify", "nowhere"], "There is no directory"),
        (["prune", "--keep", "1", "nowhere"], "There is no directory"),
        (["list", "finished/checkpoint_latest.json"], "is a file"),
        (["show", "empty"], "No checkpoints in"),
        (["verify", "empty"], "No checkpoints in"),
        (["show", "search/notes.txt"], "not a checkpoint that can be read"),
        (["list", "nonsense://bucket"], "nonsense"),
    ],
)
def test_what_is_not_there_is_told_with_exit_status_2(directory, arguments, words, monkeypatch):
    monkeypatch.chdir(directory)
    assert words in run(*arguments, code=2)[1]


def test_an_empty_directory_has_an_empty_list(directory):
    assert run_json("list", directory / "empty") == []
    assert "No checkpoints" in run("list", directory / "empty")[1]


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def _empty(path):
    path.write_bytes(b"")


def _forge(path):
    """Write a record with the right digest that is not the state of a fit."""
    record = json.loads(path.read_text())
    record.pop("digest")
    record["state"]["n_passes"] = -1
    path.write_text(json.dumps({**record, "digest": digest_of(record)}))


@pytest.mark.parametrize("damage", [_flip, _cut, _empty, _forge])
def test_verify_names_each_damaged_file(directory, damage):
    assert all(file["whole"] for file in run_json("verify", directory))
    path = sorted((directory / "finished").glob("checkpoint_2*.json"))[1]
    damage(path)
    files = {file["path"]: file for file in run_json("verify", directory, code=1)}
    assert [name for name, file in files.items() if not file["whole"]] == [str(path)]
    assert files[str(path)]["why"]
    table, _ = run("verify", directory, code=1)
    (line,) = (line for line in table.splitlines() if path.name in line)
    assert "damaged" in line
    assert f"{len(files)} files, 1 damaged." in table
    assert run("verify", path, code=1)
    assert "1 file, 0 damaged." in run("verify", directory / "finished" / LATEST)[0]


def test_a_file_of_another_version_is_not_called_damaged(directory):
    path = directory / "finished" / LATEST
    record = json.loads(path.read_text())
    record.pop("digest")
    record["schema"] = SCHEMA + 1
    path.write_text(json.dumps({**record, "digest": digest_of(record)}))
    table, _ = run("verify", directory / "finished")
    assert f"it has the schema {SCHEMA + 1}" in table
    assert "another version" in run("list", directory)[1]


def test_damaged_files_are_told_by_list_and_show_which_go_on_with_an_older_one(directory):
    _cut(directory / "finished" / LATEST)
    newest = sorted((directory / "finished").glob("checkpoint_2*"))[-1]
    table, errors = run("list", directory)
    assert "converged" in table
    assert LATEST in errors
    assert run_json("show", directory / "finished")["path"] == str(newest)
    for path in (directory / "finished").iterdir():
        _empty(path)
    assert "unreadable" in run("list", directory)[0]
    assert "No checkpoint can be read" in run("show", directory / "finished", code=2)[1]


def test_prune_keeps_the_newest_and_the_latest(directory):
    before = sorted((directory / "finished").glob("checkpoint_2*"))
    assert len(before) > 2
    planned = run_json("prune", directory, "--keep", 2, "--dry-run")
    assert sorted((directory / "finished").glob("checkpoint_2*")) == before
    removed = run_json("prune", directory, "--keep", 2)
    assert removed["removed"] == planned["removed"]
    assert set(map(str, before[:-2])) <= set(removed["removed"])
    assert sorted((directory / "finished").glob("checkpoint_2*")) == before[-2:]
    for folder in (directory / "search").glob("fit_*"):
        assert (folder / LATEST).exists()
        assert len(list(folder.glob("*.gz"))) <= 2
    assert run_json("show", directory / "finished")["converged"]
    assert "0 files removed" in run("prune", directory, "--keep", 2)[0]


def test_prune_touches_nothing_that_is_not_ours(directory):
    finished = directory / "finished"
    ours = sorted(finished.glob("checkpoint_2*"))
    foreign = finished / "checkpoint_20200101_000000.json"
    foreign.write_text('{"iteration": 1, "params": [1]}')
    other = finished / "checkpoint_notes.json"
    other.write_text("{}")
    link = finished / "checkpoint_20200101_000001.json"
    link.symlink_to(directory / "search" / "notes.txt")
    _cut(ours[0])
    _, errors = run("prune", directory, "--keep", 1)
    assert f"left alone, not a whole checkpoint: {foreign}" in errors
    assert str(ours[0]) in errors
    left = {foreign, other, link, ours[0], ours[-1], finished / LATEST}
    assert set(finished.iterdir()) == left
    assert (directory / "search" / "notes.txt").read_text() == "not ours"


def test_prune_keeps_at_least_one(directory):
    result = CliRunner().invoke(main, ["checkpoints", "prune", str(directory), "--keep", "0"])
    assert result.exit_code == 2
    assert "0 is not in the range" in result.stderr


def test_looking_leaves_no_trace(directory):
    # What a killed writer left: the next save sweeps it, a look does not.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = f".nlsq_sklearn-{os.uname().nodename}-{gone.pid}-0123abcd"
    (directory / "finished" / name).write_text("{")
    _cut(directory / "finished" / LATEST)
    before = contents(directory)
    run("list", directory)
    run("show", directory / "finished")
    run("verify", directory, code=1)
    run("prune", directory, "--keep", 1, "--dry-run")
    assert contents(directory) == before


def test_characters_that_would_act_on_a_terminal_are_shown_as_text(directory):
    path = directory / "finished" / LATEST
    record = json.loads(path.read_text())
    record.pop("digest")
    record["identity"]["model"]["parameters"] = ["\x1b[2J", "a\rb", "c\u202e"]
    record["versions"]["jax"] = "\x1b]0;title\x07"
    path.write_text(json.dumps({**record, "digest": digest_of(record)}))
    output = "".join(run("show", path) + run("list", directory) + run("show", path, "--json"))
    assert "\\x1b[2J" in output
    assert not any(character in output for character in "\x1b\r\x07\u202e")


def test_checkpoints_in_a_store_are_read_too():
    url = f"memory://{uuid.uuid4().hex}/run"
    result = finish(url)
    interrupt(f"{url}/search", N_CHUNKS + 3)
    lines = run_json("list", url)
    assert [line["directory"].startswith(url) for line in lines] == [True, True]
    assert lines[0]["newest"]["cost"] == result.cost
    assert lines[0]["bytes"] > 0
    assert run_json("show", f"{url}/{LATEST}")["cost"] == result.cost
    assert all(file["whole"] for file in run_json("verify", url))
    assert run_json("prune", url, "--keep", 1)["removed"]
    assert run_json("list", url)[0]["files"] == 2


_WRITER = """
import sys
from tests.cli.test_checkpoints import finish
result = finish(sys.argv[1], n_chunks=20)
print([float(value).hex() for value in (*result.popt, *result.pcov.ravel(), result.cost)])
"""


def test_a_fit_that_is_looked_at_all_the_time_ends_in_the_same_bits(tmp_path):
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    result = finish(tmp_path.with_name("alone"), n_chunks=20)
    expected = [float(value).hex() for value in (*result.popt, *result.pcov.ravel(), result.cost)]
    phases = set()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as writer:
        while writer.poll() is None:
            for line in run_json("list", tmp_path):
                assert line["faults"] == []
                if line["newest"] is not None:
                    phases.add(line["newest"]["phase"])
                    assert run_json("verify", tmp_path)
        assert writer.stdout.read().strip() == str(expected)
    assert {"streaming"} <= phases
    assert run_json("list", tmp_path)[0]["newest"]["converged"]


def test_the_commands_run_as_a_module():
    command = [sys.executable, "-m", "nlsq_sklearn", "checkpoints", "list", "/nowhere at all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: There is no directory /nowhere at all.\n"


def test_packed_files_are_read_as_what_they_hold(directory):
    packed = sorted((directory / "search").rglob("*.gz"))[-1]
    record = json.loads(gzip.decompress(packed.read_bytes()))
    values = [parameter["value"] for parameter in run_json("show", packed)["parameters"]]
    assert values == record["params"]
