"""How a fit came to its answer, drawn: the history in the artists, and where it was resumed."""

import itertools
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CheckpointNotFoundError,
    ConvergenceDisplay,
    CorruptCheckpointError,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._streams import ArrayStream, arrays

plt = pytest.importorskip("matplotlib.pyplot")

N_ROWS, N_CHUNKS = 4000, 10
X = np.linspace(0, 5, N_ROWS)
Y = 2 * np.exp(-0.4 * X) * np.sin(3.5 * X) + 1
Y += np.random.default_rng(0).normal(0, 0.1, N_ROWS)
P0 = (1.5, 0.3, 4.0, 0.5)
LATEST = "checkpoint_latest.json"


def model(x, a, b, c, d):
    return a * jnp.exp(-b * x) * jnp.sin(c * x) + d


@pytest.fixture(autouse=True)
def _close_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def _fit(directory=None, **settings):
    optimizer = AdaptiveHybridStreamingOptimizer(
        model, checkpoint_dir=directory, chunk_size=N_ROWS // N_CHUNKS
    )
    return optimizer.fit(X, Y, P0, **settings)


def _interrupt(monkeypatch, directory, n_chunks, **settings):
    """Fit, and be interrupted at the reading of a chunk after so many of passes."""
    read, numbers = ArrayStream.chunk, itertools.count()

    def chunk(self, index):
        if self.n_rows == N_ROWS and next(numbers) == n_chunks:
            raise KeyboardInterrupt
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ArrayStream, "chunk", chunk)
        patch.setattr(arrays, "n_threads", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            _fit(directory, **settings)


@pytest.fixture(scope="module")
def undisturbed():
    return _fit()


@pytest.fixture
def resumed(monkeypatch, tmp_path):
    """Return the result of a fit that was interrupted twice, and its directory."""
    _interrupt(monkeypatch, tmp_path, 24)
    _interrupt(monkeypatch, tmp_path, 13, resume=True)
    return _fit(tmp_path, resume=True), tmp_path


# Where a fit was resumed


def test_the_result_tells_where_the_fit_was_resumed(resumed, undisturbed):
    result, _ = resumed
    places = [(p["n_passes"], p["chunk"], p["n_chunks"]) for p in result.resumes]
    assert places == [(2, 4, 10), (3, 7, 10)]
    assert undisturbed.resumes == []


def test_resumes_leave_no_trace_in_the_answer(resumed, undisturbed):
    result, _ = resumed
    assert result.history == undisturbed.history
    assert result.popt.tobytes() == undisturbed.popt.tobytes()
    assert result.pcov.tobytes() == undisturbed.pcov.tobytes()


def test_a_finished_fit_that_is_given_back_keeps_its_resumes_and_adds_none(resumed):
    result, directory = resumed
    assert _fit(directory, resume=True).resumes == result.resumes


def test_a_fit_that_starts_afresh_forgets_the_resumes_of_the_one_before(resumed):
    _, directory = resumed
    assert _fit(directory).resumes == []
    assert JSONCheckpoint(directory).load()["resumes"] == []


def test_a_checkpoint_from_before_resumes_were_kept_is_resumed(resumed, undisturbed):
    _, directory = resumed
    checkpoint = JSONCheckpoint(directory)
    record = checkpoint.load()
    del record["resumes"]
    checkpoint.save(record)
    result = _fit(directory, resume=True)
    assert result.resumes == []
    assert result.history == undisturbed.history


@pytest.mark.parametrize("forged", [3, [[1]], [[1, -2]], [["1", 2]], [[1, 2, 3]], {"a": 1}])
def test_forged_resumes_are_refused(resumed, forged):
    _, directory = resumed
    checkpoint = JSONCheckpoint(directory)
    checkpoint.save({**checkpoint.load(), "resumes": forged})
    with pytest.raises(CorruptCheckpointError, match="is not the checkpoint of a fit"):
        _fit(directory, resume=True)


# The picture


def _markers(lines):
    """Return the points of each of the axes."""
    return [[tuple(point) for point in line.get_xydata()] for line in lines]


def test_markers_are_the_history_and_rejected_trials_are_told_apart():
    x = np.linspace(0.1, 2, 40)
    result = AdaptiveHybridStreamingOptimizer(lambda x, a, b: a * x**b).fit(x, 3 * x**6, [50, 1])
    display = ConvergenceDisplay.from_result(result)
    assert any(not entry["accepted"] for entry in result.history)
    keys = ("cost", "damping", "step_length")
    for is_accepted, lines in ((True, display.accepted_), (False, display.rejected_)):
        entries = [e for e in result.history if e["accepted"] is is_accepted]
        for key, drawn in zip(keys, _markers(lines), strict=True):
            expected = [(e["n_passes"], np.nan if e[key] is None else e[key]) for e in entries]
            if key == "cost":
                highest = max(e["cost"] for e in result.history if e["accepted"])
                expected = [(n, c if c <= 10 * highest else np.nan) for n, c in expected]
            np.testing.assert_array_equal(drawn, expected)
    colours = {lines[0].get_color() for lines in (display.accepted_, display.rejected_)}
    assert len(colours) == 2
    assert [t.get_text() for t in display.legend_.get_texts()] == ["accepted", "rejected"]


def test_a_trial_without_a_finite_cost_stands_at_the_upper_edge():
    history = [
        {"n_passes": 1, "cost": 5.0, "accepted": True, "damping": None, "step_length": None},
        {"n_passes": 2, "cost": None, "accepted": False, "damping": 0.0, "step_length": 3.0},
        {"n_passes": 3, "cost": 1e9, "accepted": False, "damping": 0.1, "step_length": 1.0},
        {"n_passes": 4, "cost": 0.5, "accepted": True, "damping": 0.2, "step_length": 0.5},
    ]
    display = ConvergenceDisplay(history).plot()
    edge = [line for line in display.axes_[0].lines if not line.get_clip_on()]
    assert _markers(edge) == [[(2, 1), (3, 1)]]
    assert [axes.get_yscale() for axes in display.axes_] == ["log", "symlog", "log"]
    display.figure_.canvas.draw()


def test_vertical_lines_stand_where_the_fit_was_resumed(resumed):
    result, directory = resumed
    for display in (
        ConvergenceDisplay.from_result(result),
        ConvergenceDisplay.from_checkpoint(directory),
    ):
        assert len(display.resumes_) == 3
        for lines in display.resumes_:
            assert [line.get_xdata()[0] for line in lines] == [2.4, 3.7]
        texts = [text.get_text() for text in display.legend_.get_texts()]
        assert texts.count("resumed") == 1
        assert "Converged" in display.axes_[-1].get_xlabel()
    assert display.history == tuple(result.history)


def test_the_checkpoint_of_an_unfinished_fit_shows_how_far_it_is(monkeypatch, tmp_path):
    _interrupt(monkeypatch, tmp_path, 24)
    display = ConvergenceDisplay.from_checkpoint(JSONCheckpoint(tmp_path))
    label = display.axes_[-1].get_xlabel()
    assert label.split("\n") == ["pass", "Not finished: 4 of 10 chunks of pass 3"]
    assert len(display.history) == 2


def test_a_fit_in_its_first_pass_has_an_empty_picture(monkeypatch, tmp_path):
    _interrupt(monkeypatch, tmp_path, 3)
    display = ConvergenceDisplay.from_checkpoint(tmp_path)
    assert "3 of 10 chunks of pass 1" in display.axes_[-1].get_xlabel()
    display.figure_.canvas.draw()


def test_a_checkpoint_of_schema_1_is_drawn(tmp_path):
    old = Path(__file__).parent / "data" / "schema_1" / "finished.json"
    shutil.copy(old, tmp_path / LATEST)
    display = ConvergenceDisplay.from_checkpoint(tmp_path)
    costs = [entry[2] for entry in json.loads(old.read_text())["state"]["history"]]
    assert [entry["cost"] for entry in display.history] == costs
    assert display.resumes_ == [[], [], []]


def test_the_estimator_shows_its_history(undisturbed):
    estimator = StreamingCurveFitRegressor(model, p0=P0, chunk_size=N_ROWS // N_CHUNKS)
    display = ConvergenceDisplay.from_estimator(estimator.fit(X[:, np.newaxis], Y))
    assert display.history == undisturbed.history


def test_the_directory_of_an_estimator_shows_its_fit_if_it_is_the_only_one(tmp_path):
    estimator = StreamingCurveFitRegressor(model, p0=P0, checkpoint=tmp_path)
    history = estimator.fit(X[:, np.newaxis], Y).history_
    assert ConvergenceDisplay.from_checkpoint(tmp_path).history == tuple(history)
    estimator.fit(X[:, np.newaxis], Y[::-1])
    with pytest.raises(CheckpointNotFoundError, match=r"of 2 fits\. Give the folder of one.*fit_"):
        ConvergenceDisplay.from_checkpoint(tmp_path)


def test_axes_given_are_drawn_into(undisturbed):
    figure, axes = plt.subplots(1, 3)
    display = ConvergenceDisplay.from_result(undisturbed, ax=axes)
    assert display.figure_ is figure
    assert [axes.get_ylabel() for axes in display.axes_] == ["cost", "damping", "step length"]
    with pytest.raises(ValueError, match="three Axes"):
        display.plot(axes[0])


def test_without_a_fit_there_is_nothing_to_show(tmp_path):
    with pytest.raises(ValueError, match=r"no passes to show\. Call fit before"):
        ConvergenceDisplay.from_estimator(StreamingCurveFitRegressor())
    with pytest.raises(CheckpointNotFoundError):
        ConvergenceDisplay.from_checkpoint(tmp_path)
    with pytest.raises(CheckpointNotFoundError):
        ConvergenceDisplay.from_checkpoint(tmp_path / "missing")


def test_a_stream_of_batches_has_no_passes_to_show(tmp_path):
    stream = StreamingCurveFitRegressor(checkpoint=tmp_path)
    stream.partial_fit(X[:, np.newaxis], Y)
    with pytest.raises(ValueError, match="keeps no history"):
        ConvergenceDisplay.from_estimator(stream)
    with pytest.raises(CorruptCheckpointError, match="partial_fit"):
        ConvergenceDisplay.from_checkpoint(tmp_path)


@pytest.mark.parametrize("record", [{}, {"phase": "finished", "chunk": [1]}, {"chunk": "ab"}])
def test_a_record_that_is_no_fits_is_refused(tmp_path, record):
    JSONCheckpoint(tmp_path).save({"iteration": 1, "params": [1.0], **record})
    with pytest.raises(CorruptCheckpointError, match="is not the checkpoint of a fit"):
        ConvergenceDisplay.from_checkpoint(tmp_path)


def test_the_title_stands_above_the_legend_and_the_status_has_even_lines():
    result = _fit()
    small, axes = plt.subplots(3, figsize=(3, 4), layout="constrained")
    display = ConvergenceDisplay.from_result(result, ax=axes)
    axes[0].set_title("Title")
    small.draw_without_rendering()
    assert axes[0].title.get_window_extent().y0 >= display.legend_.get_window_extent().y1
    _, *lines = axes[-1].get_xlabel().split("\n")
    assert " ".join(lines) == result.message
    assert len(lines) > 1
    assert max(map(len, lines)) < 2 * min(map(len, lines))


def test_a_resume_is_seen_on_a_dark_ground():
    history = _fit().history
    place = {"n_passes": 1, "chunk": 3, "n_chunks": N_CHUNKS}
    with plt.style.context("dark_background"):
        display = ConvergenceDisplay(history, [place]).plot()
    assert {line.get_color() for lines in display.resumes_ for line in lines} == {"white"}
