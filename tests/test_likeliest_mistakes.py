"""The likeliest mistakes of a newcomer, each with the words of the answer that say what to do.

`tests/test_bad_input.py` looks at all that may be wrong; this table at what will be.
"""

import math
import pickle

import dask.array as da
import dask.dataframe as dd
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import OptimizeWarning
from scipy.special import erf
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, StreamingCurveFitRegressor

N_ROWS = 300
T = np.linspace(0, 5, N_ROWS)
Y = 2.5 * np.exp(-1.3 * T) + 0.5
FRAME = pd.DataFrame({"t": T, "y": Y})


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def plane(x, a, b):
    x1, x2 = x
    return a * x1 + b * x2


def optimize(model=decay, x=T, y=Y, p0=None, directory=None, **settings):
    return AdaptiveHybridStreamingOptimizer(model, checkpoint_dir=directory).fit(
        x, y, p0, **settings
    )


def regress(model=decay, X=T[:, np.newaxis], y=Y, sample_weight=None, **settings):
    return StreamingCurveFitRegressor(model, **settings).fit(X, y, sample_weight)


BOTH = (optimize, regress)


def _numpy(x, a, b):
    return a * np.exp(-b * x)


def _numpy_where(x, a, b):
    return np.where(x > b, a, 0)


def _math(x, a, b):
    return a * math.exp(-b * x)


def _scipy(x, a, b):
    return a * erf(b * x)


def _if_on_a_parameter(x, a, b):
    return a * x if b > 0 else x


def _if_on_x(x, a):
    if x > 2:
        return a * x
    return x


def _loop(x, a):
    y = np.zeros(len(x))
    for i in range(len(x)):
        y[i] = a * x[i]
    return y


def _in_place(x, a):
    x[0] = 0
    return a * x


def _no_return(x, a):
    a * x


def _two_values(x, a, b):
    return a * x, b


def _one_row_less(x, a):
    return a * jnp.diff(x)


def _params_first(params, x):
    a, b, c = params
    return a * jnp.exp(-b * x) + c


def _vector_of_params(x, params):
    a, b, c = params
    return a * jnp.exp(-b * x) + c


def _vector_by_index(x, params):
    return params[0] * jnp.exp(-params[1] * x)


def _unpacked_x(x, a, b):
    x1, x2 = x
    return a * x1 + b * x2


def _by_keyword(x, *, a, b):
    return a * x + b


def _keyword_behind(x, a, *, b):
    return a * x + b


def _any_number(x, *params):
    return params[0] * x + params[1]


def _mean(x, a, b):
    return a * (x - jnp.mean(x)) + b


class _Curve:
    def __call__(self, x, a):
        return a * x


# Of each: the model, and words of the answer, which is the same on both faces.
MODELS = {
    "numpy instead of jax.numpy": (_numpy, "jax.numpy (jnp.exp for np.exp"),
    "numpy.where": (_numpy_where, "jax.numpy"),
    "math": (_math, "jax.numpy (jnp.exp for np.exp and math.exp)"),
    "scipy.special": (_scipy, "or of jax.scipy"),
    "if on a parameter": (_if_on_a_parameter, "write jnp.where(condition, a, b)"),
    "if on x": (_if_on_x, "write jnp.where(condition, a, b)"),
    "a loop that fills an array": (_loop, "jax.numpy"),
    "a change in place": (_in_place, "build a new one"),
    "no return": (_no_return, "got NoneType: return the curve's value for each row"),
    "two values": (_two_values, "got tuple: return the curve's value for each row"),
    "another number of rows": (_one_row_less, "one value for each row"),
    "parameters before x": (_params_first, "x comes first, then each parameter by itself"),
    "a vector of parameters": (_vector_of_params, "lambda x, *params: model(x, params)"),
    "a vector by index": (_vector_by_index, "write it as model(x, a, b, c)"),
    "one predictor unpacked": (_unpacked_x, "With one predictor x has the shape (n_rows,)"),
    "keyword-only parameters": (_by_keyword, "it must be a function model(x, *params)"),
    "a keyword-only one": (_keyword_behind, "given by position: write no * before them"),
    "*params without p0": (_any_number, "Give n_params, or p0: one start for each"),
    "a mean over rows": (_mean, "compute such numbers before the fit"),
    "a class": (_Curve, "Give an instance that can be called, _Curve(...)"),
    "a name": ("decay", "callable"),
}


@pytest.mark.parametrize("fit", BOTH)
@pytest.mark.parametrize(("model", "words"), MODELS.values(), ids=MODELS)
def test_a_mistake_in_the_model(fit, model, words):
    if model == "decay" and fit is optimize:
        words = "model must be a function model(x, *params), got str: 'decay'"
    with pytest.raises((TypeError, ValueError)) as caught:
        fit(model)
    assert words in str(caught.value)


def test_a_mistyped_name_in_the_model_keeps_its_own_words():
    def typo(x, a):
        return a * jnp.exp(xx)  # noqa: F821

    for fit in BOTH:
        with pytest.raises(NameError, match="xx"):
            fit(typo)


def _with(values, row, value):
    changed = np.array(values)
    changed[row] = value
    return changed


# Of each: the face, its arguments, and words of the answer.
DATA = {
    "X of one dimension": (regress, {"X": T}, "reshape(-1, 1)"),
    "X is a series": (regress, {"X": FRAME["t"]}, "Pass a DataFrame"),
    "X of one dimension, Dask": (
        regress,
        {"X": da.from_array(T), "y": da.from_array(Y)},
        "X[:, None]",
    ),
    "x as a table": (optimize, {"model": plane, "x": np.stack([T, T], 1)}, "pass x.T"),
    "x as a column": (optimize, {"x": T[:, np.newaxis]}, "pass x.T"),
    "x as a data frame": (optimize, {"model": plane, "x": FRAME}, "pass x.T"),
    "x as a table, Dask": (
        optimize,
        {"model": plane, "x": da.from_array(np.stack([T, T], 1)), "y": da.from_array(Y)},
        "pass x.T",
    ),
    "two features for a curve of one": (regress, {"X": FRAME}, "`x1, x2 = x` works in the model"),
    "y as a column": (optimize, {"y": Y[:, np.newaxis]}, "Give y[:, 0]"),
    "y as a column, Dask": (
        regress,
        {"X": da.from_array(T[:, np.newaxis]), "y": da.from_array(Y[:, np.newaxis])},
        "Give y[:, 0]",
    ),
    "y of two columns": (regress, {"y": np.stack([Y, Y], 1)}, "y should be a 1d array"),
    "no y": (regress, {"y": None}, "requires y to be passed"),
    "other lengths": (optimize, {"y": Y[1:]}, "x has 300 rows and y has 299"),
    "other lengths, estimator": (regress, {"y": Y[1:]}, "X has 300 rows and y has 299"),
    "NaN in y": (optimize, {"y": _with(Y, 7, np.nan)}, "y is nan in row 7. Leave out or mend"),
    "NaN in X": (
        regress,
        {"X": _with(T, 7, np.nan)[:, None]},
        "X is nan in row 7. Leave out or mend",
    ),
    "numbers as text": (
        optimize,
        {"y": Y.astype(str)},
        "Convert it first, for instance by .astype(float)",
    ),
    "numbers as text, estimator": (regress, {"y": Y.astype(str)}, ".astype(float)"),
    "text in X": (
        regress,
        {"X": np.array([["a"]] * N_ROWS)},
        "Convert your data to numeric values",
    ),
    "a column of text": (
        regress,
        {"X": FRAME.assign(site="north")},
        "X has columns that hold no numbers: 'site'. Leave them out, or convert them",
    ),
    "a column of times beside numbers": (
        regress,
        {"X": FRAME.assign(day=pd.Timestamp("2026-01-01"))},
        "X has columns that hold no numbers: 'day'",
    ),
    "masked rows of y": (
        regress,
        {"y": np.ma.masked_greater(Y, 2)},
        "y is a masked array: leave the masked rows out",
    ),
    "masked rows of X": (
        regress,
        {"X": np.ma.masked_greater(T, 2)[:, np.newaxis]},
        "X is a masked array: leave the masked rows out",
    ),
    "no model": (
        regress,
        {"model": None, "p0": [1, 1, 1]},
        "No model is given. The curve that is fitted then, intercept + slopes @ x, has 2 param",
    ),
    "objects": (optimize, {"x": T.astype(object)}, ".astype(float)"),
    "times": (
        optimize,
        {"x": pd.date_range("2026", periods=N_ROWS)},
        "(t - t[0]) / numpy.timedelta64(1, 's')",
    ),
    "complex numbers": (optimize, {"y": Y + 1j}, "Fit the real and the imaginary part"),
    "complex numbers, estimator": (regress, {"y": Y + 1j}, "Complex data not supported"),
    "the name of a file": (optimize, {"x": "data.npy"}, "Read the file first"),
    "the model given to fit": (optimize, {"x": decay}, "fit takes the data alone"),
    "sigma of zeros": (
        optimize,
        {"sigma": np.zeros(N_ROWS)},
        "sigma is 0 in row 0. It is the standard",
    ),
    "a negative weight": (
        regress,
        {"sample_weight": _with(Y, 3, -1)},
        "sample_weight is -1 in row 3. Leave out rows that shall not count",
    ),
    "a covariance matrix": (
        optimize,
        {"sigma": np.eye(N_ROWS)},
        "Give the standard deviation of each row",
    ),
    "fewer rows than parameters": (optimize, {"x": T[:2], "y": Y[:2]}, "at least as many rows as"),
    "unknown chunks": (
        regress,
        {
            "X": dd.from_pandas(FRAME, npartitions=2)[["t"]].values,
            "y": dd.from_pandas(FRAME, npartitions=2)["y"].values,
        },
        "Call X.compute_chunk_sizes() before",
    ),
}


@pytest.mark.parametrize(("fit", "arguments", "words"), DATA.values(), ids=DATA)
def test_a_mistake_in_the_data(fit, arguments, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        fit(**arguments)
    assert words in str(caught.value)


def test_masked_rows_are_not_predicted_nor_scored_as_if_they_were_data():
    regressor = regress()
    masked = np.ma.masked_greater(T, 2)[:, np.newaxis]
    for call in (regressor.predict, lambda X: regressor.score(X, Y)):
        with pytest.raises(TypeError, match="X is a masked array"):
            call(masked)


def test_constants_of_a_model_have_all_digits_unless_jax_made_them_outside_of_it():
    y, outside, table = 0.1 * 3 * T, jnp.array(0.1), np.array([0.1])
    for model in (lambda x, a: a * 0.1 * x, lambda x, a: a * table[0] * x):
        assert regress(model, y=y).popt_[0] == pytest.approx(3, rel=1e-14)
    assert outside.dtype == np.float32  # as docs/limits.md says
    assert regress(lambda x, a: a * outside * x, y=y).popt_[0] != pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize("n_rows", [2, 3])
def test_too_few_rows_for_errors_are_told_as_the_reason(n_rows):
    with pytest.warns(OptimizeWarning, match=f"{n_rows} rows can't tell the errors of 3 parameter"):
        fitted = regress(X=T[:n_rows, np.newaxis], y=Y[:n_rows])
    assert np.isinf(fitted.perr_).all()


@pytest.mark.parametrize("fit", BOTH)
def test_a_warning_of_the_fit_points_to_the_users_line(fit):
    def useless(x, a, b):
        return a * x + 0 * b

    with pytest.warns(OptimizeWarning) as caught:
        fit(useless)
    assert caught[0].filename == __file__
    with pytest.warns(ConvergenceWarning) as caught:
        fit(decay, max_iter=1)
    assert caught[0].filename == __file__


def test_the_start_tells_how_many_parameters_there_are():
    expected = np.polyfit(T, Y, 1)[::-1]
    for fit in BOTH:
        fitted = fit(lambda x, *params: params[0] + params[1] * x, p0=[1, 1])
        popt = fitted.popt if fit is optimize else fitted.popt_
        np.testing.assert_allclose(popt, expected, rtol=1e-6)


def test_whole_numbers_and_columns_of_y_in_the_estimator_are_no_mistake():
    line = optimize(lambda x, a, b: a * x + b, x=np.arange(9), y=3 * np.arange(9) + 1)
    np.testing.assert_allclose(line.popt, [3, 1])
    with pytest.warns(UserWarning, match=r"ravel\(\)"):
        regress(y=Y[:, np.newaxis])


PAIRS = [(0, 5), (0, 5), (0, 5)]
SETTINGS = {
    "too few starts": ({"p0": [1, 2]}, "p0 has 2 numbers, but the model has 3 parameters: a, b, c"),
    "starts by name": ({"p0": {"a": 1, "b": 1, "c": 1}}, "a, b, c"),
    "a start outside the bounds": (
        {"p0": [1, 7, 1], "bounds": (0, 5)},
        "b starts at 7, outside [0, 5]",
    ),
    "a start that is too far off": ({"p0": [1, -900, 1]}, "Choose a p0 at which it is finite"),
    "bounds as pairs": ({"bounds": PAIRS}, "turn them: tuple(zip(*bounds))"),
    "open bounds as None in pairs": ({"bounds": [(0, None)] * 3}, "-inf and inf for None"),
    "bounds swapped": ({"bounds": (5, 0)}, "Lower and upper ones are swapped"),
    "a parameter held by its bounds": (
        {"bounds": ([0, 1, 0], [5, 1, 5])},
        "held fixed by leaving it out of the model",
    ),
    "too few bounds": ({"bounds": ([0, 0], 5)}, "one for each of the 3 parameters"),
    "an open bound as None": ({"bounds": (None, 5)}, "write -inf or inf for an open one"),
    "an unknown loss": ({"loss": "l2"}, "soft_l1"),
    "several starts without bounds": ({"n_starts": 4}, "Give finite bounds"),
    "max_iter as a float": ({"max_iter": 1e3}, "max_iter"),
}


@pytest.mark.parametrize("fit", BOTH)
@pytest.mark.parametrize(("settings", "words"), SETTINGS.values(), ids=SETTINGS)
def test_a_mistake_in_a_setting(fit, settings, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        fit(**settings)
    assert words in str(caught.value)


def test_pairs_of_two_parameters_are_told_too():
    for fit in BOTH:
        with pytest.raises(ValueError, match=r"turn them: tuple\(zip\(\*bounds\)\)"):
            fit(lambda x, a, b: a * x + b, bounds=[(0, 5), (0, 6)])
    turned = tuple(zip(*PAIRS, strict=True))
    assert optimize(bounds=turned).popt == pytest.approx([2.5, 1.3, 0.5])


def test_predictions_before_a_fit_and_of_other_features():
    with pytest.raises(NotFittedError, match="Call 'fit'"):
        StreamingCurveFitRegressor(decay).predict(T[:, np.newaxis])
    regressor = regress()
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 1"):
        regressor.predict(FRAME.to_numpy())
    with pytest.raises(ValueError, match=r"reshape\(-1, 1\)"):
        regressor.predict(T)


RESUMED = {
    "another start": ({"p0": [2, 2, 2]}, "settings p0 changed from [1.0, 1.0, 1.0]"),
    "other data": ({"y": Y + 1}, "data content changed: values of x, y or sigma are others"),
    "another model": (
        {"model": lambda x, a, b, c: a * jnp.exp(-b * x) - c},
        "model structure changed: the model's formula",
    ),
    "another loss": ({"loss": "huber"}, "settings loss changed from 'linear' to 'huber'"),
}


@pytest.mark.parametrize(("changes", "words"), RESUMED.values(), ids=RESUMED)
def test_a_fit_that_is_resumed_with_something_changed(tmp_path, changes, words):
    optimize(directory=tmp_path)
    with pytest.raises(ValueError, match="Incompatible checkpoint") as caught:
        optimize(directory=tmp_path, resume=True, **changes)
    assert words in str(caught.value)
    assert "Give what it was made with, or remove the directory" in str(caught.value)


def test_a_fit_that_is_resumed_where_there_is_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="Start the fit without resume"):
        optimize(directory=tmp_path, resume=True)
    with pytest.raises(ValueError, match="needs a checkpoint_dir"):
        optimize(resume=True)


def test_a_file_in_the_place_of_the_checkpoint_directory(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OSError, match=r"a file of this name exists.*Give a directory that can"):
        optimize(directory=file)
    with pytest.raises(OSError, match=r"Not a directory.*Give one that can"):
        optimize(directory=file, resume=True)
    with pytest.raises(OSError, match=r"Not a directory.*Give a directory that can"):
        regress(checkpoint=file)
    assert file.read_text() == "mine"


def test_a_lambda_can_be_pickled_by_what_joblib_and_dask_use_only():
    cloudpickle = pytest.importorskip("cloudpickle")
    regressor = regress(lambda x, a, b, c: decay(x, a, b, c))
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(regressor)
    again = pickle.loads(cloudpickle.dumps(regressor))
    np.testing.assert_array_equal(again.predict(T[:, None]), regressor.predict(T[:, None]))
