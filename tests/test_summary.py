"""The summary of a fit: its numbers against lmfit, NIST and SciPy, and its words."""

import json
import pickle
from html.parser import HTMLParser

import dask.array as da
import jax
import jax.numpy as jnp
import lmfit
import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, StreamingCurveFitRegressor
from nlsq_sklearn.models import exponential_decay
from tests.problems import nist_problems

NIST = {problem.name: problem for problem in nist_problems()}


def decay_data(n_rows=5000, offset=0.5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n_rows)
    return x, 2.5 * np.exp(-1.3 * x) + offset + rng.normal(0, 0.05, n_rows)


def fit(x, y, model=exponential_decay, p0="auto", **options):
    return AdaptiveHybridStreamingOptimizer(model, chunk_size=1000).fit(x, y, p0, **options)


@pytest.fixture(scope="module")
def result():
    return fit(*decay_data())


# Numbers


@pytest.mark.parametrize("name", ["Misra1a", "Chwirut2", "Gauss1", "Thurber", "Rat43"])
def test_the_reduced_chi_square_is_that_of_nist(name):
    problem = NIST[name]
    result = fit(problem.x, problem.y, problem.model, problem.starts[1])
    assert result.dof == problem.y.size - len(problem.popt)
    np.testing.assert_allclose(result.chi_square, 2 * problem.cost, rtol=1e-9)
    np.testing.assert_allclose(result.reduced_chi_square, 2 * problem.cost / result.dof, rtol=1e-9)
    spread = np.sum((problem.y - problem.y.mean()) ** 2)
    np.testing.assert_allclose(result.r2, 1 - 2 * problem.cost / spread, rtol=1e-9)


@pytest.mark.parametrize("name", ["Misra1a", "Gauss1"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_measures_and_correlations_are_those_of_lmfit(name, is_weighted):
    problem = NIST[name]
    sigma = 0.5 + np.arange(problem.y.size) / problem.y.size if is_weighted else None
    result = fit(problem.x, problem.y, problem.model, problem.starts[1], sigma=sigma)
    params = lmfit.Parameters()
    for param, value in zip(result.param_names, result.popt, strict=True):
        params.add(param, value=value)

    def residual(params):
        values = np.asarray(problem.model(problem.x, *(p.value for p in params.values())))
        return (values - problem.y) / (1.0 if sigma is None else sigma)

    with jax.enable_x64(True):
        expected = lmfit.minimize(residual, params, xtol=1e-12, ftol=1e-12)
    for ours, theirs in [
        ("chi_square", "chisqr"),
        ("reduced_chi_square", "redchi"),
        ("aic", "aic"),
        ("bic", "bic"),
        ("dof", "nfree"),
    ]:
        np.testing.assert_allclose(result[ours], getattr(expected, theirs), rtol=1e-7)
    errors = np.sqrt(np.diag(expected.covar))
    np.testing.assert_allclose(
        result.correlation, expected.covar / np.outer(errors, errors), atol=1e-4
    )


def test_with_absolute_sigma_the_criteria_are_of_a_known_noise():
    x, y = decay_data()
    result = fit(x, y, sigma=0.05, absolute_sigma=True)
    assert result.aic == result.chi_square + 2 * 3
    np.testing.assert_allclose(result.bic, result.chi_square + 3 * np.log(5000))
    likelihood = stats.norm.logpdf(y, 2.5 * np.exp(-1.3 * x) + 0.5, 0.05).sum()
    constant = 5000 * np.log(2 * np.pi * 0.05**2)
    truth = np.sum(((y - 2.5 * np.exp(-1.3 * x) - 0.5) / 0.05) ** 2)
    np.testing.assert_allclose(-2 * likelihood - constant, truth, rtol=1e-9)
    assert result.chi_square < truth


@pytest.mark.parametrize("offset", [0.5, 1e7])
@pytest.mark.parametrize("kind", ["plain", "sigma", "weight", "dask"])
def test_r2_is_that_of_scikit_learn(kind, offset):
    x, y = decay_data(offset=offset)
    p0, weight = (2, 1, offset), 0.1 + x
    if kind == "sigma":
        result = fit(x, y, p0=p0, sigma=1 / np.sqrt(weight))
    else:
        X, sample_weight = x[:, None], weight if kind == "weight" else None
        if kind == "dask":
            X, target = da.from_array(X, chunks=(700, 1)), da.from_array(y, chunks=700)
        else:
            target = y
        estimator = StreamingCurveFitRegressor(exponential_decay, p0=p0, chunk_size=1000)
        result = estimator.fit(X, target, sample_weight).result_
        assert estimator.score(X, target, sample_weight) == pytest.approx(result.r2, rel=1e-7)
    a, b, c = result.popt
    expected = r2_score(
        y, a * np.exp(-b * x) + c, sample_weight=weight if kind in ("sigma", "weight") else None
    )
    np.testing.assert_allclose(result.r2, expected, rtol=1e-7)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_intervals_are_those_of_student(level):
    x, y = decay_data(8)
    result = fit(x, y, p0=(2, 1, 0.5))
    expected = stats.t.interval(level, 8 - 3, result.popt, result.perr)
    np.testing.assert_allclose(result.confidence_interval(level), np.transpose(expected))
    known = fit(x, y, p0=(2, 1, 0.5), sigma=0.05, absolute_sigma=True)
    expected = stats.norm.interval(level, known.popt, known.perr)
    np.testing.assert_allclose(known.confidence_interval(level), np.transpose(expected))


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, np.nan])
def test_a_level_that_is_no_probability_is_refused(result, level):
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        result.summary(level)


def test_a_robust_fit_has_no_measures_of_least_squares():
    result = fit(*decay_data(), loss="huber", f_scale=0.1)
    assert np.isnan([result.r2, result.chi_square, result.aic, result.bic]).all()
    assert "R2" not in result.summary()
    assert "huber loss" in result.summary()


# Interrupted


def test_r2_survives_an_interruption_in_mid_pass_to_the_last_bit(tmp_path, monkeypatch):
    from nlsq_sklearn._streams import ArrayStream

    x, y = decay_data()

    def optimizer(directory=None):
        return AdaptiveHybridStreamingOptimizer(
            exponential_decay, checkpoint_dir=directory, chunk_size=1000
        )

    whole = optimizer().fit(x, y, (2, 1, 0.5))
    read = ArrayStream.equations

    def equations(self, objective, points, first, *stop):
        for index, item in enumerate(read(self, objective, points, first, *stop), first):
            if index == 3:
                raise KeyboardInterrupt
            yield item

    with monkeypatch.context() as patch:
        patch.setattr(ArrayStream, "equations", equations)
        with pytest.raises(KeyboardInterrupt):
            optimizer(tmp_path).fit(x, y, (2, 1, 0.5))
    record = json.loads((tmp_path / "checkpoint_latest.json").read_text())
    assert record["chunk"] == [3, 5]
    resumed = optimizer(tmp_path).fit(x, y, (2, 1, 0.5), resume=True)
    assert resumed.r2.hex() == whole.r2.hex()
    assert not np.isnan(optimizer(tmp_path).fit(x, y, (2, 1, 0.5), resume=True).r2)


# Words


def test_the_summary_holds_what_there_is_to_say(result):
    text = result.summary(0.9)
    for part in [
        "exponential_decay: amplitude * exp(-rate * x) + offset",
        "standard error",
        "relative error",
        "90 % interval",
        "correlation",
        "R2",
        "chi-square",
        "reduced chi-square",
        "AIC",
        "BIC",
        "degrees of freedom",
        "success: Converged",
        "5,000 rows",
    ]:
        assert part in text
    assert "Warning" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert str(result).count("\n") == 6  # the short table stays short


def test_an_interval_shows_its_ends_apart(result):
    line = next(line for line in result.summary().splitlines() if line.startswith("rate"))
    lower, upper = (float(number) for number in line.split()[-3::2])
    np.testing.assert_allclose([lower, upper], result.confidence_interval()[1], rtol=1e-3)
    assert lower < result.popt[1] < upper


def two_same(x, a, b):
    return (a + b) * x


def line(x, slope, start):
    return slope * x + start


@pytest.mark.filterwarnings("ignore:The data do not determine", "ignore:The fit did not converge")
@pytest.mark.parametrize(
    ("model", "options", "warning"),
    [
        (line, {"bounds": ([-np.inf, 3.0], np.inf)}, "start is on its bound 3"),
        (line, {"bounds": ([0.0, -np.inf], np.inf)}, "slope is on its bound 0"),
        (two_same, {}, "the data do not determine a, b"),
        (exponential_decay, {"p0": (9, 9, 9), "max_iter": 1}, "the fit did not converge. The max"),
    ],
)
def test_what_should_not_be_believed_is_said_in_words(model, options, warning):
    x, y = decay_data()
    options = {"p0": None, **options}
    result = fit(x, y, model, **options)
    assert f"Warning: {warning}" in result.summary()
    assert warning in result._repr_html_()


def test_a_strong_correlation_is_said_in_words():
    x = np.linspace(1000, 1001, 500)
    result = fit(x, 2 * x + np.random.default_rng(0).normal(size=500), line, None)
    assert "Warning: strongly correlated: slope and start (-1)" in result.summary() or (
        "strongly correlated: slope and start (-0.99" in result.summary()
    )


def test_many_parameters_list_their_strongest_correlations():
    def polynomial(x, *c):
        return jnp.polyval(jnp.stack(c), x)

    x = np.linspace(-1, 1, 500)
    y = np.random.default_rng(0).normal(size=500)
    result = AdaptiveHybridStreamingOptimizer(polynomial, 10).fit(x, y)
    assert "strongest correlations" in result.summary()


# Estimators


def test_the_estimator_has_the_summary_of_its_result():
    x, y = decay_data()
    estimator = StreamingCurveFitRegressor(exponential_decay, p0="auto").fit(x[:, None], y)
    assert estimator.summary(0.9) == estimator.result_.summary(0.9)


def test_a_prompt_shows_the_lines_of_a_summary_as_print_does(result):
    for level in (0.95, 0.5):
        assert repr(result.summary(level)) == str(result.summary(level))
    x, y = decay_data()
    estimator = StreamingCurveFitRegressor(exponential_decay, p0="auto").fit(x[:, None], y)
    assert repr(estimator.summary()) == str(estimator.summary())
    assert "\n" in repr(pickle.loads(pickle.dumps(estimator.summary())))


def test_without_a_fit_there_is_no_summary():
    estimator = StreamingCurveFitRegressor(exponential_decay)
    with pytest.raises(NotFittedError):
        estimator.summary()
    assert "nlsq-sklearn-summary" not in estimator._repr_html_()


def test_batches_are_summarised_as_a_fit_of_all_of_them():
    x, y = decay_data(20_000)
    whole = StreamingCurveFitRegressor(exponential_decay, p0="auto").fit(x[:, None], y)
    stream = StreamingCurveFitRegressor(exponential_decay, p0="auto")
    for rows in np.array_split(np.arange(20_000), 20):
        stream.partial_fit(x[rows, None], y[rows])
    found, expected = stream._latest_result(), whole.result_
    np.testing.assert_allclose(found.r2, expected.r2, rtol=1e-4)
    np.testing.assert_allclose(found.reduced_chi_square, expected.reduced_chi_square, rtol=1e-3)
    assert found.dof == expected.dof
    assert "20 batches, each seen once." in stream.summary()
    whole.partial_fit(x[:100, None], y[:100])
    assert "2 batches, each seen once." in whole.summary()
    whole.fit(x[:, None], y)
    assert "Converged" in whole.summary()


class _Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "input", "link", "meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_html_is_whole_and_tells_the_same(result):
    page = _Balanced()
    page.feed(result._repr_html_())
    assert page.open == []
    text = " ".join(page.text)
    assert f"{result.popt[0]:.10g}" in text
    assert "95 % interval" in text


def test_names_can_not_break_the_html():
    def model(x, a):
        return a * x

    model.__name__ = "<script>"
    x = np.arange(10.0)
    assert "<script>" not in fit(x, x, model, None)._repr_html_()


def test_the_estimators_own_html_is_joined_by_the_summary():
    x, y = decay_data()
    estimator = StreamingCurveFitRegressor(exponential_decay, p0="auto").fit(x[:, None], y)
    for page in (estimator._repr_html_(), estimator._repr_mimebundle_()["text/html"]):
        assert "sk-top-container" in page
        assert page.endswith(estimator.result_._repr_html_())
