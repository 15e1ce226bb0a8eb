"""p0="auto": the start that a model guesses from one pass over the data."""

import dask.array as da
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    IncompatibleCheckpointError,
    JSONCheckpoint,
    StreamingCurveFitRegressor,
    _problem,
)
from nlsq_sklearn._streams import ArrayStream, profile_rows
from nlsq_sklearn.models import (
    Profile,
    curve_model,
    gaussian,
    lorentzian,
    pseudo_voigt,
)

N_ROWS, CHUNK_ROWS, N_CHUNKS = 40_000, 4096, 10
TRUTH = (3.0, 42.0, 0.8, 1.0)


def peak_data(n_rows=N_ROWS, seed=0):
    """Return a narrow peak, which a fit from 1, 1, 1, 1 does not find, in random order."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 100, n_rows)
    height, center, sigma, offset = TRUTH
    y = height * np.exp(-0.5 * ((x - center) / sigma) ** 2) + offset
    return x, y + rng.normal(0, 0.1, n_rows)


X, Y = peak_data()


def optimizer(directory=None, model=gaussian, interval=0.0):
    return AdaptiveHybridStreamingOptimizer(
        model, checkpoint_dir=directory, checkpoint_interval=interval, chunk_size=CHUNK_ROWS
    )


def regressor(model=gaussian, **options):
    return StreamingCurveFitRegressor(model, **{"p0": "auto", **options})


def bits(result):
    numbers = [*result.popt, *result.pcov.ravel(), result.cost]
    return [float(n).hex() for n in numbers], result.n_passes, result.message, result.history


def assert_near_truth(popt, perr):
    assert np.all(np.abs(popt - TRUTH) < 5 * perr)


def forbid_guessing(monkeypatch):
    def fail(stream):
        raise AssertionError("a pass was made for a guess")

    monkeypatch.setattr(_problem, "profile_rows", fail)


# Both faces, all kinds of data


def test_the_optimizer_starts_at_the_guess():
    assert optimizer().fit(X, Y).popt[1] != pytest.approx(42, abs=1)
    result = optimizer().fit(X, Y, "auto")
    assert result.success
    assert_near_truth(result.popt, result.perr)


@pytest.mark.parametrize("kind", ["numpy", "memory map", "dask", "pandas"])
def test_the_estimator_starts_at_the_guess_whatever_the_data(kind, tmp_path):
    table, y = X[:, np.newaxis], Y
    if kind == "memory map":
        np.save(tmp_path / "x.npy", table)
        table = np.load(tmp_path / "x.npy", mmap_mode="r")
    elif kind == "dask":
        table, y = da.from_array(table, chunks=(7000, 1)), da.from_array(y, chunks=7000)
    elif kind == "pandas":
        import pandas as pd

        table = pd.DataFrame({"energy": X})
    fitted = regressor().fit(table, y)
    assert fitted.converged_
    assert_near_truth(fitted.popt_, fitted.perr_)


def test_the_data_are_looked_at_once_for_the_guess(monkeypatch):
    looks = []

    def counted(stream):
        looks.append(stream.n_rows)
        return profile_rows(stream)

    monkeypatch.setattr(_problem, "profile_rows", counted)
    optimizer().fit(X, Y, "auto")
    assert looks == [N_ROWS]


def test_sorted_rows_lead_to_the_same_answer():
    order = np.argsort(X)
    result = optimizer().fit(X[order], Y[order], "auto")
    np.testing.assert_allclose(result.popt, optimizer().fit(X, Y, "auto").popt, rtol=1e-7)


def test_weights_of_0_hide_rows_from_the_guess():
    x, y = np.concatenate([X, [10.0] * 2000]), np.concatenate([Y, [1e3] * 2000])
    weight = np.concatenate([np.ones(N_ROWS), np.zeros(2000)])
    assert_near_truth((fitted := regressor().fit(x[:, None], y, weight)).popt_, fitted.perr_)


def test_models_of_any_number_of_parameters_stand_in_one_grid():
    x = X[:5000]
    u = (x - 42) / 3
    y = 3 * (0.5 / (1 + u**2) + 0.5 * 2.0 ** -(u**2)) + Y[:5000] - Y[:5000].mean()
    search = GridSearchCV(regressor(), {"model": [gaussian, pseudo_voigt, lorentzian]}, cv=3)
    search.fit(x[:, np.newaxis], y)
    assert search.best_params_ == {"model": pseudo_voigt}
    assert clone(search.best_estimator_).model is pseudo_voigt


def test_other_starts_are_drawn_beside_the_guess():
    bounds = ([0, 0, 0.1, 0], [10, 100, 10, 10])
    result = optimizer().fit(X, Y, "auto", bounds=bounds, n_starts=4)
    assert_near_truth(result.popt, result.perr)


# Bounds


def test_a_models_own_bounds_hold_where_none_are_given():
    mirrored = (3.0, 42.0, -0.8, 1.0)
    with pytest.raises(ValueError, match=r"sigma starts at -0.8, outside \[0, inf\]"):
        optimizer().fit(X, Y, mirrored)
    with pytest.raises(ValueError, match=r"sigma starts at -0.8, outside \[0, inf\]"):
        regressor(p0=mirrored).fit(X[:, None], Y)


@pytest.mark.parametrize("face", ["optimizer", "estimator"])
def test_bounds_that_are_given_replace_those_of_the_model(face):
    mirrored, open_bounds = (3.0, 42.0, -0.8, 1.0), (-np.inf, np.inf)
    if face == "optimizer":
        popt = optimizer().fit(X, Y, mirrored, bounds=open_bounds).popt
    else:
        popt = regressor(p0=mirrored, bounds=open_bounds).fit(X[:, None], Y).popt_
    assert popt[2] == pytest.approx(-0.8, abs=0.05)


def test_a_guess_outside_the_bounds_is_moved_to_them():
    result = optimizer().fit(X, Y, "auto", bounds=([0, 0, 1.0, 0], [10, 100, 2, 10]))
    assert result.popt[2] == 1.0


# Models of one's own


def first_guess(profile):
    return [profile.y[-1], 0.1]


def my_line(x, height, slope):
    return height + slope * x


def test_attributes_may_be_assigned_or_decorated():
    def assigned(x, height, slope):
        return height + slope * x

    assigned.guess = first_guess
    assigned.bounds = ([-np.inf, 0], np.inf)
    decorated = curve_model(guess=first_guess, bounds=assigned.bounds, formula="a line")(my_line)
    assert decorated is my_line
    assert decorated.formula == "a line"
    x = np.linspace(0, 1, 100)
    for model in (assigned, decorated):
        result = AdaptiveHybridStreamingOptimizer(model).fit(x, 2 - x, "auto")
        assert result.popt[1] == 0  # on its bound
        np.testing.assert_allclose(result.popt[0], 1.5)


def plain(x, a, b):
    return a + b * x


@curve_model(guess=lambda profile: [np.nan, 1.0])
def without_luck(x, a, b):
    return a + b * x


@curve_model(guess=lambda profile: [1.0])
def too_short(x, a, b):
    return a + b * x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (plain, r"the model plain has none. Set plain.guess to a function of a .*Profile"),
        (lambda x, a: a * x, "the model <lambda> has none"),
        (without_luck, r"The guess of the model without_luck is \[nan  1.\]; expected 2 finite"),
        (too_short, r"The guess of the model too_short is \[1.\]; expected 2 finite"),
    ],
)
def test_a_model_that_can_not_guess_says_so(model, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveHybridStreamingOptimizer(model).fit(X, Y, "auto")
    with pytest.raises(ValueError, match=message):
        regressor(model).fit(X[:, None], Y)


@curve_model(guess=first_guess)
def plane(x, a, b):
    return a * x[0] + b * x[1]


def test_several_predictors_have_no_profile():
    with pytest.raises(ValueError, match=r"one predictor, and there are 2\. Give p0"):
        AdaptiveHybridStreamingOptimizer(plane).fit(np.stack([X, X]), Y, "auto")
    with pytest.raises(ValueError, match=r"one predictor, and there are 2\. Give p0"):
        regressor(plane).fit(np.stack([X, X], axis=1), Y)


def test_another_word_than_auto_is_refused():
    with pytest.raises(ValueError, match="or be \"auto\"; got 'atuo'"):
        optimizer().fit(X, Y, "atuo")
    with pytest.raises(ValueError, match="atuo"):
        regressor(p0="atuo").fit(X[:, None], Y)


def test_without_a_model_there_is_nothing_to_guess():
    with pytest.raises(ValueError, match="the model affine has none"):
        regressor(None).fit(X[:, None], Y)


# Checkpoints


@pytest.fixture(scope="module")
def uninterrupted():
    return bits(optimizer().fit(X, Y, "auto"))


def test_a_finished_fit_is_restored_without_a_guess(tmp_path, monkeypatch, uninterrupted):
    assert bits(optimizer(tmp_path).fit(X, Y, "auto")) == uninterrupted
    forbid_guessing(monkeypatch)
    assert bits(optimizer(tmp_path).fit(X, Y, "auto", resume=True)) == uninterrupted


def interrupt_at_chunk(monkeypatch, number):
    """Let the given chunk, counted from the start of the first pass of the fit, raise."""
    read = ArrayStream.equations

    def equations(self, objective, points, first, *stop):
        for index, item in enumerate(read(self, objective, points, first, *stop), first):
            if self.n_rows == N_ROWS and index == number:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(ArrayStream, "equations", equations)


@pytest.mark.parametrize("number", [0, 4])
def test_an_interrupted_fit_goes_on_without_a_guess_to_the_same_bits(
    tmp_path, monkeypatch, uninterrupted, number
):
    with monkeypatch.context() as patch:
        interrupt_at_chunk(patch, number)
        with pytest.raises(KeyboardInterrupt):
            optimizer(tmp_path, interval=np.inf).fit(X, Y, "auto")
    phase = JSONCheckpoint(tmp_path).load()["phase"]
    assert phase == ("streaming" if number else "warm-up")
    forbid_guessing(monkeypatch)
    assert bits(optimizer(tmp_path).fit(X, Y, "auto", resume=True)) == uninterrupted


def test_the_estimator_finds_its_own_finished_fit_without_a_guess(tmp_path, monkeypatch):
    first = regressor(checkpoint=str(tmp_path), warm_start=True).fit(X[:, None], Y)
    forbid_guessing(monkeypatch)
    again = regressor(checkpoint=str(tmp_path), warm_start=True).fit(X[:, None], Y)
    assert again.popt_.tobytes() == first.popt_.tobytes()
    assert again.n_passes_ == first.n_passes_


def test_a_warm_start_needs_no_guess(monkeypatch):
    fitted = regressor(warm_start=True).fit(X[:, None], Y)
    forbid_guessing(monkeypatch)
    fitted.fit(X[:, None], Y)
    assert_near_truth(fitted.popt_, fitted.perr_)


def test_a_fit_from_a_guess_is_not_one_from_a_start(tmp_path):
    result = optimizer(tmp_path).fit(X, Y, "auto")
    with pytest.raises(IncompatibleCheckpointError, match="p0 changed from 'auto' to"):
        optimizer(tmp_path).fit(X, Y, result.popt, resume=True)


# Batches


@pytest.mark.parametrize("size", [50, 5000])
def test_batches_start_at_the_guess_of_the_first_rows(size):
    stream = regressor()
    for first in range(0, N_ROWS // 4, size):
        rows = slice(first, first + size)
        stream.partial_fit(X[rows, None], Y[rows])
    assert_near_truth(stream.popt_, stream.perr_)


def test_a_stream_from_a_guess_goes_on_from_its_checkpoint(tmp_path):
    batches = [slice(first, first + 100) for first in range(0, 1000, 100)]
    whole, stream = regressor(), regressor(checkpoint=JSONCheckpoint(tmp_path, interval=0))
    for rows in batches:
        whole.partial_fit(X[rows, None], Y[rows])
    for rows in batches[:2]:
        stream.partial_fit(X[rows, None], Y[rows])
    resumed = regressor().load_checkpoint(tmp_path)
    for rows in batches[2:]:
        resumed.partial_fit(X[rows, None], Y[rows])
    assert resumed.popt_.tobytes() == whole.popt_.tobytes()


def test_a_model_is_told_its_profile():
    seen = []

    @curve_model(guess=lambda profile: seen.append(profile) or [1.0, 1.0])
    def line(x, a, b):
        return a + b * x

    AdaptiveHybridStreamingOptimizer(line).fit([1.0, 2.0, 3.0], [2.0, 4.0, 6.0], "auto")
    [profile] = seen
    assert isinstance(profile, Profile)
    np.testing.assert_array_equal(profile.y, [2, 4, 6])
