"""`nlsq-sklearn fit` gives the answer of SciPy, and says what to do where it can't."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy.optimize import curve_fit

from nlsq_sklearn import JSONCheckpoint
from nlsq_sklearn._cli import main

N_ROWS, N_GROUPS = 6000, 12
ROOT = Path(__file__).parent.parent.parent
MODELS = """
import math

import jax.numpy as jnp
import numpy as np


def decay(t, amplitude, rate, offset):
    return amplitude * jnp.exp(-rate * t) + offset


def plane(xt, a, b, c):
    x, t = xt
    return a * x + b * t + c


def with_numpy(t, a, b):
    return a * np.exp(-b * t)


def with_a_typo(t, a):
    return a * jnp.exp(tt)


def nothing(t, a):
    pass
"""
FIT = ["fit", "models.py:decay", "data.parquet", "--x", "time", "--y", "counts"]


def decay(t, amplitude, rate, offset):
    return amplitude * np.exp(-rate * t) + offset


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    t = np.linspace(0, 5, N_ROWS)
    error = rng.uniform(0.02, 0.1, N_ROWS)
    return {
        "time": t,
        "place": rng.uniform(0, 1, N_ROWS),
        "counts": decay(t, 2.5, 1.3, 0.5) + error * rng.normal(size=N_ROWS),
        "error": error,
        "precision": error**-2,
        "label": np.array(["a"] * N_ROWS),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory, table):
    root = tmp_path_factory.mktemp("data")
    (root / "models.py").write_text(MODELS)
    numbers = {name: column for name, column in table.items() if name != "label"}
    pq.write_table(pa.table(table), root / "data.parquet", row_group_size=N_ROWS // N_GROUPS)
    np.savetxt(
        root / "data.csv",
        np.column_stack(list(numbers.values())),
        fmt="%.17g",
        delimiter=",",
        header=",".join(numbers),
        comments="",
    )
    np.save(root / "data.npy", np.column_stack(list(numbers.values())))
    return root


@pytest.fixture
def directory(made, tmp_path, monkeypatch):
    """Return a working directory of the test's own, with links to the data."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    # Parquet files are so small here that all row groups would be one chunk.
    monkeypatch.setattr("nlsq_sklearn._files.parquet.ROWS_AT_ONCE", N_ROWS // N_GROUPS)
    return tmp_path


def run(*arguments, code=0):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result.stdout, result.stderr


def fit(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code)[0])


def refusal(*arguments):
    stdout, stderr = run(*arguments, code=2)
    assert stdout == ""
    return stderr


def bits(answer):
    numbers = [p["value"] for p in answer["parameters"].values()]
    return [value.hex() for value in [*numbers, *np.ravel(answer["covariance"]), answer["cost"]]]


@pytest.mark.parametrize("file", ["data.parquet", "data.csv", "data.npy"])
def test_the_answer_is_that_of_scipy(directory, table, file):
    names = {"time": "0", "counts": "2", "error": "3"} if file == "data.npy" else {}
    x, y, sigma = (names.get(name, name) for name in ("time", "counts", "error"))
    arguments = ["fit", "models.py:decay", file, "--x", x, "--y", y, "--sigma", sigma]
    answer = fit(*arguments, "--p0", "1,1,1")
    popt, pcov = curve_fit(decay, table["time"], table["counts"], sigma=table["error"])
    values = [parameter["value"] for parameter in answer["parameters"].values()]
    errors = [parameter["standard_error"] for parameter in answer["parameters"].values()]
    assert list(answer["parameters"]) == ["amplitude", "rate", "offset"]
    np.testing.assert_allclose(values, popt, rtol=1e-6)
    np.testing.assert_allclose(errors, np.sqrt(np.diag(pcov)), rtol=1e-5)
    np.testing.assert_allclose(answer["covariance"], pcov, rtol=1e-4, atol=1e-12)
    assert answer["success"] is True
    assert answer["rows"] == N_ROWS


def test_absolute_sigma_takes_the_errors_as_they_are(directory, table):
    answer = fit(*FIT, "--sigma", "error", "--absolute-sigma")
    _, pcov = curve_fit(
        decay, table["time"], table["counts"], sigma=table["error"], absolute_sigma=True
    )
    np.testing.assert_allclose(answer["covariance"], pcov, rtol=1e-4, atol=1e-12)


def test_a_weight_is_the_inverse_square_of_sigma(directory):
    by_weight, by_sigma = fit(*FIT, "--weight", "precision"), fit(*FIT, "--sigma", "error")
    np.testing.assert_allclose(by_weight["covariance"], by_sigma["covariance"], rtol=1e-6)


def test_several_predictors_come_in_the_order_of_the_options(directory, table):
    arguments = ["fit", "models.py:plane", "data.parquet", "--x", "place", "--x", "time"]
    answer = fit(*arguments, "--y", "counts")
    design = np.column_stack([table["place"], table["time"], np.ones(N_ROWS)])
    expected = np.linalg.lstsq(design, table["counts"])[0]
    values = [parameter["value"] for parameter in answer["parameters"].values()]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_bounds_losses_and_starts_reach_the_fit(directory):
    free = fit(*FIT)["parameters"]
    bound = fit(*FIT, "--lower", "0,1.5,-inf", "--upper", "inf", "--p0", "1,2,-0.5")
    assert bound["parameters"]["rate"]["value"] == 1.5
    assert fit(*FIT, "--loss", "cauchy", "--f-scale", "0.01")["parameters"] != free
    assert fit(*FIT, "--lower", "-9", "--upper", "9", "--n-starts", "3")["success"]


def test_the_table_names_each_parameter(directory):
    table, notes = run(*FIT)
    for word in ("amplitude", "rate", "offset", "success", "6,000 rows"):
        assert word in table
    assert "pass 1: cost" in notes
    assert run(*FIT, "--quiet")[1] == ""


def test_the_result_goes_to_a_file_too(directory):
    printed, _ = run(*FIT, "-o", "result.json")
    answer = json.loads((directory / "result.json").read_text())
    assert f"{answer['parameters']['rate']['value']:.10g}" in printed
    assert answer["columns"] == {"x": ["time"], "y": "counts", "sigma": None, "weight": None}
    assert "no directory" in refusal(*FIT, "-o", "nowhere/result.json")


def test_a_fit_that_did_not_converge_prints_its_result_and_exits_with_1(directory):
    answer = fit(*FIT, "--p0", "9,9,9", "--max-iter", "1", code=1)
    assert answer["success"] is False
    assert "max_iter" in answer["message"]
    table, notes = run(*FIT, "--p0", "9,9,9", "--max-iter", "1", code=1)
    assert "FAILED" in table
    assert "Warning: The fit did not converge" in notes


def test_parameters_that_the_data_do_not_determine_are_null_and_told(directory):
    (directory / "flat.py").write_text("def twice(t, a, b):\n    return (a + b) * t\n")
    arguments = ["fit", "flat.py:twice", "data.parquet", "--x", "time", "--y", "counts"]
    stdout, stderr = run(*arguments, "--json")
    assert json.loads(stdout)["parameters"]["a"]["standard_error"] is None
    assert "do not determine a, b" in stderr


def test_a_ready_model_guesses_its_start_and_brings_its_bounds(directory, table):
    arguments = ["fit", "exponential_decay", *FIT[2:]]
    popt, _ = curve_fit(decay, table["time"], table["counts"])
    for options in ([], ["--p0", "auto"], ["--p0", "1,1,1"]):
        answer = fit(*arguments, *options)
        values = [parameter["value"] for parameter in answer["parameters"].values()]
        np.testing.assert_allclose(values, popt, rtol=1e-6)
    saved = [*arguments, "--checkpoint", "saved", "--resume"]
    assert bits(fit(*saved)) == bits(fit(*saved))
    assert "amplitude" in run("checkpoints", "show", "saved")[0]
    assert "Did you mean 'gaussian'?" in refusal("fit", "gausian", *FIT[2:])


def test_the_ready_models_are_listed_with_their_parameters():
    models = json.loads(run("models", "--json")[0])
    assert models["gaussian"]["parameters"] == ["amplitude", "center", "sigma", "offset"]
    assert len(models) >= 13
    table = run("models")[0]
    assert all(name in table for name in models)


def test_a_model_of_any_number_of_parameters_takes_it_from_p0(directory):
    (directory / "star.py").write_text("def line(t, *p):\n    return p[0] + p[1] * t\n")
    arguments = ["fit", "star.py:line", *FIT[2:]]
    assert list(fit(*arguments, "--p0", "1,1")["parameters"]) == ["p0", "p1"]
    assert "p0: one start for each" in refusal(*arguments)


def test_a_model_may_live_in_a_module(directory):
    arguments = ["fit", "models:decay", *FIT[2:]]
    assert fit(*arguments)["parameters"] == fit(*FIT)["parameters"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({1: "models.py:decai"}, "no function 'decai'. Did you mean 'decay'?"),
        ({1: "model.py:decay"}, "There is no file model.py"),
        ({1: "nowhere:decay"}, "There is no module 'nowhere'"),
        ({1: "models.py"}, "models.py:decay, models.py:plane"),
        ({1: "models.py:with_numpy"}, "jnp.exp for np.exp"),
        ({1: "models.py:with_a_typo"}, "name 'tt' is not defined (models.py, line 22)"),
        ({1: "models.py:nothing"}, "got NoneType"),
        ({2: "dat.parquet"}, "Did you mean data.parquet?"),
        ({2: "models.py"}, "is of no kind that is read"),
        ({4: "tme"}, "no column 'tme'. Did you mean 'time'?"),
        ({6: "label"}, "holds text"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(directory, changes, words):
    assert words in refusal(*(changes.get(i, word) for i, word in enumerate(FIT)))


def test_a_model_file_that_imports_what_is_not_there_is_named(directory):
    Path("unrunnable.py").write_text("import not_there\n")
    message = refusal(FIT[0], "unrunnable.py:decay", *FIT[2:])
    assert "unrunnable.py could not be run: No module named 'not_there'." in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--p0", "1,2"], "3 parameters: amplitude, rate, offset"),
        (["--p0", "1,2,b"], "numbers with commas between them"),
        (["--p0", "-1,2,3", "--lower", "0"], "amplitude starts at -1, outside [0, inf]"),
        (["--lower", "1,2"], "each of the 3 parameters"),
        (["--lower", "5", "--upper", "1"], "below its upper one"),
        (["--loss", "hubber"], "'linear', 'huber'"),
        (["--resume"], "needs --checkpoint DIR"),
        (["--sigma", "error", "--weight", "precision"], "not both"),
        (["--absolute-sigma"], "needs --sigma"),
        (["--checkpoint", "models.py"], "is a file"),
        (["--n-starts", "3"], "Give finite bounds"),
    ],
)
def test_an_option_that_makes_no_sense_is_answered_with_what_would(directory, options, words):
    assert words in refusal(*FIT, *options)


def test_the_row_of_a_missing_value_is_told_with_its_column(directory, table):
    counts = table["counts"].copy()
    counts[4321] = np.nan
    pq.write_table(pa.table({**table, "counts": counts}), "holes.parquet")
    message = refusal("fit", "models.py:decay", "holes.parquet", *FIT[3:])
    assert "y is nan in row 4321" in message
    assert "x is the column time, y is counts; the first row is row 0" in message


def test_debug_shows_where_an_error_arose(directory):
    result = CliRunner().invoke(main, [*FIT, "--p0", "1,2", "--debug"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_resume_starts_where_there_is_nothing_and_gives_back_what_is_finished(directory):
    first = [*FIT, "--checkpoint", "saved", "--resume", "--interval", "0"]
    _, notes = run(*first)
    assert "no checkpoint in saved yet: the fit starts" in notes
    answer, again = fit(*first), fit(*first)
    assert bits(again) == bits(answer) == bits(fit(*FIT))
    _, notes = run(*first)
    assert "going on from the checkpoint in saved (converged)" in notes
    assert "pass" not in notes


def test_without_resume_older_checkpoints_are_told_to_be_replaced(directory):
    run(*FIT, "--checkpoint", "saved")
    _, notes = run(*FIT, "--checkpoint", "saved")
    assert "saved holds checkpoints of an earlier fit (converged)" in notes
    assert "--resume would go on from them" in notes


def test_the_checkpoint_of_another_fit_is_refused(directory):
    run(*FIT, "--checkpoint", "saved")
    for change, words in (
        (["--loss", "huber"], "settings loss changed from 'linear' to 'huber'"),
        (["--sigma", "error"], "data content changed"),
    ):
        message = refusal(*FIT, *change, "--checkpoint", "saved", "--resume")
        assert "Incompatible checkpoint" in message
        assert words in message
    for path in (directory / "saved").iterdir():
        path.write_text("{")
    assert "No checkpoint can be read" in refusal(*FIT, "--checkpoint", "saved", "--resume")


class _Fit:
    """A fit in a process of its own, until it is well in a pass over the data."""

    def __init__(self, directory, arguments):
        command = [sys.executable, "-m", "nlsq_sklearn", *arguments]
        command += ["--checkpoint", "saved", "--interval", "0", "--json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._saved = JSONCheckpoint(directory / "saved")

    def stop_in_mid_pass(self, signum):
        """Send a signal when some chunks are summed; return the process when it has ended."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            if any(1 < self._chunk(info.path) < N_GROUPS - 2 for info in self._saved.list()[-1:]):
                self._process.send_signal(signum)
                break
            time.sleep(0.002)
        stdout, stderr = self._process.communicate(timeout=60)
        return subprocess.CompletedProcess((), self._process.returncode, stdout, stderr)

    @staticmethod
    def _chunk(path):
        try:
            return json.loads(Path(path).read_text())["chunk"][0]
        except FileNotFoundError:
            return 0


@pytest.mark.parametrize("file", ["data.parquet", "data.csv"])
def test_a_fit_that_is_killed_and_resumed_ends_in_the_same_bits(directory, file):
    if file == "data.parquet":  # row groups of real size, which are chunks of their own
        columns = pq.read_table("data.parquet", columns=["time", "counts"])
        many = pa.concat_tables([columns] * 44 * N_GROUPS)
        pq.write_table(many, "long.parquet", row_group_size=44 * N_ROWS)
        arguments = ["fit", "models.py:decay", "long.parquet", *FIT[3:]]
    else:
        arguments = ["fit", "models.py:decay", file, *FIT[3:]]
        arguments += ["--chunk-size", str(N_ROWS // N_GROUPS)]
    done = _Fit(directory, arguments).stop_in_mid_pass(signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (line,) = json.loads(run("checkpoints", "list", "saved", "--json")[0])
    assert 0 < line["newest"]["share_of_pass"] < 1
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        if file == "data.parquet":
            patch.setattr("nlsq_sklearn._files.parquet.ROWS_AT_ONCE", 262_144)
        expected = fit(*arguments)
        resumed, notes = run(*arguments, "--checkpoint", "saved", "--resume", "--json")
    assert f"going on from the checkpoint in saved (pass {line['newest']['passes'] + 1}," in notes
    assert bits(json.loads(resumed)) == bits(expected)


def test_ctrl_c_saves_and_says_how_to_go_on(directory):
    arguments = [*FIT[:2], "data.csv", *FIT[3:], "--chunk-size", str(N_ROWS // N_GROUPS)]
    done = _Fit(directory, arguments).stop_in_mid_pass(signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Interrupted at pass ")
    assert last.endswith("run the same command again with --resume.")
    assert "Traceback" not in done.stderr
    resumed = fit(*arguments, "--checkpoint", "saved", "--resume")
    assert bits(resumed) == bits(fit(*arguments))
