"""The estimator: scikit-learn's contracts, and each of its parameters."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.optimize import Bounds, curve_fit
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nlsq_sklearn import JSONCheckpoint, StreamingCurveFitRegressor
from nlsq_sklearn.exceptions import ConvergenceWarning

START = [1.0, 1.0, 1.0]
CHECKS = """
import json, warnings
import jax.numpy as jnp
from sklearn.utils.estimator_checks import check_estimator
from nlsq_sklearn import StreamingCurveFitRegressor

# The checks use up to 30 features; the slopes of features that are not there stay undetermined.
names = ", ".join(f"slope{{i}}" for i in range(30))
exec(
    "def plane(x, intercept, " + names + "):\\n"
    "    columns = [x] if x.ndim == 1 else list(x)\\n"
    "    return intercept + sum(s * c for s, c in zip([" + names + "], columns))"
)

warnings.simplefilter("ignore")
estimator = StreamingCurveFitRegressor({model})
results = check_estimator(estimator, on_fail=None, on_skip=None)
print(json.dumps([[r["check_name"], r["status"], repr(r["exception"])] for r in results]))
"""


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def decay_numpy(x, a, b, c):
    return a * np.exp(-b * x) + c


def decay_data(n_rows=5000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n_rows)
    return x[:, np.newaxis], decay_numpy(x, 2.5, 1.3, 0.5) + rng.normal(0, 0.05, n_rows)


def regressor(**options):
    return StreamingCurveFitRegressor(decay, **{"p0": START, **options})


@pytest.mark.parametrize("model", ["", "plane"])
def test_check_estimator_passes_with_no_failed_and_no_skipped_check(model):
    code = CHECKS.format(model=model)
    output = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},  # without it scikit-learn skips a check
    ).stdout
    results = json.loads(output.splitlines()[-1])
    assert len(results) > 50
    assert [result for result in results if result[1] != "passed"] == []


def test_the_answer_and_its_errors_are_those_of_curve_fit():
    X, y = decay_data()
    fitted = regressor().fit(X, y)
    popt, pcov = curve_fit(decay_numpy, X[:, 0], y, START, xtol=1e-14, ftol=1e-14)
    np.testing.assert_allclose(fitted.popt_, popt, rtol=1e-7)
    np.testing.assert_allclose(fitted.pcov_, pcov, rtol=1e-5)
    np.testing.assert_array_equal(fitted.perr_, np.sqrt(np.diag(fitted.pcov_)))
    assert fitted.param_names_ == ("a", "b", "c")
    assert fitted.converged_
    assert fitted.n_samples_seen_ == 5000
    assert fitted.cost_ == fitted.result_.cost == fitted.history_[-1]["cost"]
    assert fitted.n_passes_ == len(fitted.history_) == fitted.n_iter_ + 1
    assert "parameter" in str(fitted.result_)


def test_sample_weight_is_inverse_variance():
    X, y = decay_data()
    sigma = 0.02 + 0.05 * X[:, 0]
    fitted = regressor().fit(X, y, sample_weight=1 / sigma**2)
    popt, pcov = curve_fit(decay_numpy, X[:, 0], y, START, sigma, xtol=1e-14, ftol=1e-14)
    np.testing.assert_allclose(fitted.popt_, popt, rtol=1e-7)
    np.testing.assert_allclose(fitted.pcov_, pcov, rtol=1e-5)


def test_rows_of_weight_zero_count_for_nothing():
    X, y = decay_data()
    weight = np.ones(5000)
    weight[::3] = 0
    fitted = regressor().fit(X, y, sample_weight=weight)
    kept = regressor().fit(X[weight > 0], y[weight > 0])
    np.testing.assert_allclose(fitted.popt_, kept.popt_, rtol=1e-9)
    np.testing.assert_allclose(fitted.pcov_, kept.pcov_, rtol=1e-9)


def test_without_a_model_a_plane_is_fitted():
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.normal(size=(100, 2)), columns=["u", "v"])
    y = 1 + X["u"] * 2 - X["v"] * 3
    fitted = StreamingCurveFitRegressor().fit(X, y)
    np.testing.assert_allclose(fitted.popt_, [1, 2, -3], rtol=1e-12)
    assert fitted.param_names_ == ("intercept", "u", "v")
    assert list(fitted.feature_names_in_) == ["u", "v"]


def test_a_model_of_several_features_unpacks_them():
    def product(xt, a, b):
        x, t = xt
        return a * x * jnp.exp(-b * t)

    rng = np.random.default_rng(1)
    X = rng.uniform(0, 2, (1000, 2))
    y = 3 * X[:, 0] * np.exp(-0.5 * X[:, 1])
    fitted = StreamingCurveFitRegressor(product).fit(X, y)
    np.testing.assert_allclose(fitted.popt_, [3, 0.5], rtol=1e-10)


def test_predict_return_std_is_the_delta_method():
    X, y = decay_data()
    fitted = regressor().fit(X, y)
    prediction, std = fitted.predict(X[:50], return_std=True)
    x, (a, b, c) = X[:50, 0], fitted.popt_
    np.testing.assert_allclose(prediction, decay_numpy(x, a, b, c), rtol=1e-13)
    jacobian = np.stack([np.exp(-b * x), -a * x * np.exp(-b * x), np.ones_like(x)], axis=1)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", jacobian, fitted.pcov_, jacobian))
    np.testing.assert_allclose(std, expected, rtol=1e-9)


@pytest.mark.parametrize("chunk_size", [None, 777])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_score_is_r2(chunk_size, is_weighted):
    X, y = decay_data()
    weight = np.random.default_rng(2).uniform(0, 2, y.size) if is_weighted else None
    fitted = regressor(chunk_size=chunk_size).fit(X, y)
    expected = r2_score(y, fitted.predict(X), sample_weight=weight)
    assert fitted.score(X, y, weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": lambda x, a, b, c: a * jnp.exp(-b * x) - c},
        {"bounds": (0, [2, 5, 5])},
        {"bounds": Bounds([0, 0, 0], [2, 5, 5])},
        {"loss": "huber", "f_scale": 0.05},
        {"loss": "huber", "f_scale": 0.02},
        {"chunk_size": 7},
        {"ftol": 0.1, "gtol": 0, "xtol": 0},
        {"gtol": 0.1, "ftol": 0, "xtol": 0},
        {"xtol": 0.1, "gtol": 0, "ftol": 0},
    ],
    ids=str,
)
def test_each_parameter_changes_the_result(changed):
    X, y = decay_data()
    plain = {"loss": "huber"} if "f_scale" in changed else {}
    reference = regressor(**plain).fit(X, y)
    other = regressor().set_params(**changed).fit(X, y)
    assert (other.popt_.tolist(), other.cost_) != (reference.popt_.tolist(), reference.cost_)


def test_p0_is_where_the_fit_starts():
    X, y = decay_data()
    assert regressor(p0=[2, 0.5, 0.3]).fit(X, y).history_[0]["params"] == [2, 0.5, 0.3]


def test_max_iter_limits_the_steps_and_says_so():
    X, y = decay_data()
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        fitted = regressor(p0=[30, 20, -10], max_iter=1).fit(X, y)
    assert not fitted.converged_
    assert fitted.n_iter_ == 1


def test_n_starts_and_random_state_choose_the_starts():
    def wave(x, amplitude, frequency, phase):
        return amplitude * jnp.sin(frequency * x + phase)

    x = np.linspace(0, 10, 2000)
    y = 2 * np.sin(4.4 * x + 0.3) + np.random.default_rng(5).normal(0, 0.1, x.size)
    options = {"p0": [1, 1.2, 0], "bounds": ([0.5, 0.5, -1], [5, 10, 1])}
    one = StreamingCurveFitRegressor(wave, **options).fit(x[:, None], y)
    many = StreamingCurveFitRegressor(wave, n_starts=40, **options).fit(x[:, None], y)
    assert many.cost_ < 0.02 * one.cost_
    drawn = [
        StreamingCurveFitRegressor(wave, n_starts=2, random_state=seed, **options)
        .fit(x[:, None], y)
        .popt_.tolist()
        for seed in (0, 0, *range(1, 8))
    ]
    assert drawn[0] == drawn[1]
    assert len({tuple(popt) for popt in drawn}) > 1


def test_warm_start_goes_on_from_the_last_parameters():
    X, y = decay_data()
    fitted = regressor(warm_start=True).fit(X, y)
    popt = fitted.popt_.tolist()
    fitted.fit(X, y)
    assert fitted.history_[0]["params"] == popt
    assert fitted.n_passes_ == 1


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"loss": "l1"}, "'loss' parameter"),
        ({"n_starts": 0}, "'n_starts' parameter"),
        ({"f_scale": -1}, "'f_scale' parameter"),
        ({"forgetting": 1.5}, "'forgetting' parameter"),
        ({"chunk_size": 0}, "'chunk_size' parameter"),
        ({"model": 3}, "'model' parameter"),
        ({"checkpoint": 3}, "'checkpoint' parameter"),
    ],
)
def test_a_parameter_out_of_range_is_refused_in_fit(bad, word):
    with pytest.raises(ValueError, match=word):
        regressor().set_params(**bad).fit(*decay_data(50))


def test_before_fit_there_is_no_prediction():
    with pytest.raises(NotFittedError):
        regressor().predict([[1.0]])


def test_it_pickles_before_and_after_fit():
    X, y = decay_data()
    fitted = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(regressor())).fit(X, y)))
    np.testing.assert_array_equal(fitted.predict(X), regressor().fit(X, y).predict(X))


def test_it_clones_with_a_checkpoint(tmp_path):
    checkpoint = JSONCheckpoint(tmp_path, interval=3)
    assert clone(regressor(checkpoint=checkpoint)).checkpoint == checkpoint


def test_the_html_repr_shows_the_parameters():
    assert "StreamingCurveFitRegressor" in regressor()._repr_html_()


def test_cross_validation_uses_score():
    X, y = decay_data()
    scores = cross_val_score(regressor(), X, y, cv=3)
    assert np.all(scores > 0.9)


def test_memory_maps_and_frames_give_the_bits_of_arrays(tmp_path):
    X, y = decay_data()
    reference = regressor(chunk_size=500).fit(X, y).popt_.tolist()
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    frame = pd.DataFrame({"x": X[:, 0]})
    assert regressor(chunk_size=500).fit(mapped, y).popt_.tolist() == reference
    assert regressor(chunk_size=500).fit(frame, pd.Series(y)).popt_.tolist() == reference


def test_metadata_routing_hands_on_the_weights():
    X, y = decay_data(600)
    weight = np.random.default_rng(0).uniform(0.1, 5, y.size)
    with sklearn.config_context(enable_metadata_routing=True):
        step = regressor().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(
            make_pipeline(FunctionTransformer(), step),
            {"streamingcurvefitregressor__loss": ["linear"]},
            cv=2,
        ).fit(X, y, sample_weight=weight)
    popt = search.best_estimator_[-1].popt_
    np.testing.assert_array_equal(popt, regressor().fit(X, y, weight).popt_)


class Recorder:
    """A callback that writes down what it is told, and stops when it is told to."""

    def __init__(self, stop_after=None):
        self.tasks = []
        self.stop_after = stop_after

    def setup(self, estimator, context):
        self.tasks.append("setup")

    def teardown(self, estimator, context):
        self.tasks.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append(f"{context.task_name} begins")

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.tasks.append(f"{context.task_name} ends")
        if context.task_name == "pass":
            assert fitted_estimator.predict([[1.0]]).shape == (1,)
        return context.task_name == self.stop_after


def test_callbacks_see_the_fit_its_passes_and_their_chunks():
    X, y = decay_data()
    recorder = Recorder()
    fitted = regressor(chunk_size=2500).set_callbacks(recorder).fit(X, y)
    one_pass = ["pass begins", *["chunk begins", "chunk ends"] * 2, "pass ends"]
    expected = ["setup", "fit begins", *one_pass * fitted.n_passes_, "fit ends", "teardown"]
    assert recorder.tasks == expected


def test_a_callback_can_stop_the_fit_which_then_says_so():
    X, y = decay_data()
    with pytest.warns(ConvergenceWarning, match="stopped by a callback"):
        fitted = regressor().set_callbacks(Recorder(stop_after="pass")).fit(X, y)
    assert fitted.n_passes_ == 1
    assert not fitted.converged_


def test_scikit_learns_own_callbacks_work():
    X, y = decay_data()
    monitor = ScoringMonitor(scoring="r2")
    fitted = regressor().set_callbacks(monitor, ProgressBar()).fit(X, y)
    assert fitted.converged_
    scores = [entry["r2"] for entry in monitor.get_logs().data if "r2" in entry]
    assert scores[-1] == pytest.approx(fitted.score(X, y), rel=1e-9)


def test_progress_bars_on_a_pipeline_and_on_a_search_reach_the_fit():
    X, y = decay_data()
    pipeline = make_pipeline(StandardScaler(), regressor(p0=[1, 0.5, 1]))
    for outer in (pipeline, GridSearchCV(clone(pipeline), {}, cv=2)):
        recorder = PropagatedRecorder()
        outer.set_callbacks(recorder, ProgressBar()).fit(X, y)
        assert {"pass begins", "pass ends", "chunk begins", "chunk ends"} <= set(recorder.tasks)
        assert max(recorder.depths) >= 3  # search or pipeline, step, pass, chunk


class PropagatedRecorder(Recorder):
    """A recorder that is handed on to the estimators inside."""

    max_propagation_depth = None

    def __init__(self):
        super().__init__()
        self.depths = []

    def on_fit_task_begin(self, estimator, context):
        super().on_fit_task_begin(estimator, context)
        self.depths.append(depth_of(context))

    def on_fit_task_end(self, estimator, context):
        self.tasks.append(f"{context.task_name} ends")
        self.depths.append(depth_of(context))


def depth_of(context):
    return 0 if context.parent is None else 1 + depth_of(context.parent)
