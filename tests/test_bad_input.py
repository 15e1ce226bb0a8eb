"""Bad input gets an error that says what was wrong, what was expected and how to mend it."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer

N_ROWS = 1000


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


@pytest.fixture
def data():
    x = np.linspace(0, 5, N_ROWS)
    return x, 2.5 * np.exp(-1.3 * x) + 0.5


def refusal(x, y, p0=None, model=decay, error=ValueError, chunk_size=100, **options):
    """Return the message of the error that a fit must raise."""
    optimizer = AdaptiveHybridStreamingOptimizer(model, chunk_size=chunk_size)
    with pytest.raises(error) as caught:
        optimizer.fit(x, y, p0, **options)
    return str(caught.value)


def test_wrong_lengths_are_named(data):
    x, y = data
    assert "x has 1000 rows and y has 999" in refusal(x, y[:-1])
    assert "sigma has the shape (5,), expected (1000,)" in refusal(x, y, sigma=np.ones(5))


def test_predictors_in_columns_are_told_to_be_turned(data):
    x, y = data
    assert "pass x.T" in refusal(np.stack([x, x], axis=1), y)


def test_empty_data_are_refused():
    assert "empty" in refusal(np.array([]), np.array([]))


def test_fewer_rows_than_parameters_are_refused(data):
    x, y = data
    message = refusal(x[:2], y[:2])
    assert "2 rows for 3 parameters (a, b, c)" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["x", "y", "sigma"])
@pytest.mark.parametrize("row", [0, 537, 999])
def test_the_first_row_that_is_not_finite_is_named(data, name, value, row):
    arrays = {"x": data[0].copy(), "y": data[1].copy(), "sigma": np.ones(N_ROWS)}
    arrays[name][row] = value
    arrays[name][-1] = value
    message = refusal(arrays["x"], arrays["y"], sigma=arrays["sigma"])
    assert message.startswith(f"{name} must be finite: {name} is {value} in row {row}.")


def test_the_first_bad_row_is_named_in_data_that_are_sampled_first():
    x = np.linspace(0, 5, 300_000)
    y = np.ones_like(x)
    x[123_456:] = np.nan
    assert "x is nan in row 123456" in refusal(x, y, chunk_size=None)


def test_the_predictor_with_a_bad_row_is_named(data):
    x, y = data
    x = np.stack([x, x])
    x[1, 7] = np.nan

    def model(x, a):
        return a * x[0] * x[1]

    assert "x[1] is nan in row 7" in refusal(x, y, model=model)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_sigma_must_be_positive(data, value):
    sigma = np.ones(N_ROWS)
    sigma[321] = value
    assert f"sigma is {value:g} in row 321" in refusal(*data, sigma=sigma)


def test_a_covariance_matrix_as_sigma_is_refused_with_a_reason(data):
    assert "covariance matrix" in refusal(*data, sigma=np.eye(N_ROWS))


@pytest.mark.parametrize("values", [["a"] * N_ROWS, np.ones(N_ROWS, dtype=complex)])
def test_what_is_no_real_number_is_refused(data, values):
    assert "must hold real numbers" in refusal(data[0], values, error=TypeError)


def test_a_start_outside_the_bounds_is_named(data):
    message = refusal(*data, [1, 7, 1], bounds=(0, [5, 5, 5]))
    assert "b starts at 7, outside [0, 5]" in message


def test_a_start_of_the_wrong_size_names_the_parameters(data):
    assert "the model has 3 parameters: a, b, c" in refusal(*data, [1, 2])
    assert "b is nan" in refusal(*data, [1, np.nan, 1])
    assert "3 numbers" in refusal(*data, "abc")


def test_bounds_that_make_no_sense_are_refused(data):
    assert "parameter 1 has (2, 1)" in refusal(*data, bounds=([0, 2, 0], [1, 1, 1]))
    assert "expected a number, or one for each of the 3" in refusal(*data, bounds=([0, 0], 5))
    assert "a pair (lower, upper)" in refusal(*data, bounds=3)
    assert "NaN" in refusal(*data, bounds=(np.nan, 5))


def test_a_wrong_number_of_parameters_is_told_when_the_optimizer_is_made():
    with pytest.raises(ValueError, match=r"n_params is 4, but the model takes 3 .*: a, b, c"):
        AdaptiveHybridStreamingOptimizer(decay, n_params=4)


@pytest.mark.parametrize("model", [42, None, "decay"])
def test_a_model_that_is_no_function_is_refused(model):
    with pytest.raises(TypeError, match=r"model must be a function model\(x, \*params\)"):
        AdaptiveHybridStreamingOptimizer(model)


def _with_numpy(x, a, b, c):
    return a * np.exp(-b * x) + c


def _with_math(x, a, b, c):
    return a * math.exp(-b) * x + c


def _with_if(x, a, b, c):
    return a * x + c if b > 0 else a * x


@pytest.mark.parametrize("model", [_with_numpy, _with_math, _with_if])
def test_a_model_that_jax_cannot_trace_is_told_to_use_jax_numpy(data, model):
    message = refusal(*data, model=model, error=TypeError)
    assert "jax.numpy" in message


def test_a_model_of_the_wrong_shape_is_refused(data):
    message = refusal(*data, model=lambda x, a, b: a * x[:-1] + b)
    assert "one value for each row" in message
    message = refusal(*data, model=lambda x, a, b: (a * x, b * x))
    assert "got tuple" in message
    message = refusal(*data, model=lambda x, a, b: a * jnp.exp(1j * b * x))
    assert "complex" in message


def test_a_model_that_is_not_finite_at_the_start_names_the_row(data):
    x, y = data
    message = refusal(x, y, [1, -1], model=lambda x, a, b: a * jnp.log(x + b))
    assert "The model is nan at the start p0 (a=1, b=-1), first in row 0 (x = 0.0)" in message


def test_a_derivative_that_is_not_finite_at_the_start_names_the_rows(data):
    message = refusal(*data, [1, 0], model=lambda x, a, b: a * x + jnp.sqrt(b))
    assert "The derivative of the model is not finite" in message
    assert "rows 0 to 99" in message


def _minus_mean(x, a, b):
    return a * (x - jnp.mean(x)) + b


def _cumulated(x, a, b):
    return a * jnp.cumsum(x) + b


def _sorted(x, a, b):
    return a * jnp.sort(x) + b


def _normalised(x, a, b):
    return a * x / jnp.max(x) + b


def _differences(x, a, b):
    return a * jnp.diff(x, prepend=0.0) + b


@pytest.mark.parametrize("model", [_minus_mean, _cumulated, _sorted, _normalised, _differences])
@pytest.mark.parametrize("n_rows", [5, N_ROWS, 200_000])
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_a_model_that_mixes_rows_is_found(model, n_rows, is_shuffled):
    x = np.linspace(0, 5, n_rows)
    if is_shuffled:
        np.random.default_rng(0).shuffle(x)
    message = refusal(x, 2 * x + 1, model=model, chunk_size=None)
    assert "Each row must stand for itself" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "l1"}, "one of linear, huber, soft_l1, cauchy, arctan; got 'l1'"),
        ({"f_scale": 0}, "f_scale must be a positive number"),
        ({"ftol": -1}, "ftol must be 0 or more"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"n_starts": 0}, "n_starts must be at least 1"),
        ({"n_starts": 5}, "open for a, b, c"),
        ({"resume": True}, "needs a checkpoint_dir"),
        ({"chunk_size": 0}, "chunk_size must be at least 1 row"),
    ],
)
def test_a_setting_out_of_range_is_refused(data, options, words):
    assert words in refusal(*data, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ftol": "small"}, "ftol must be a number"),
        ({"max_iter": 1.5}, "max_iter must be a whole number"),
        ({"chunk_size": 1e5}, "chunk_size must be a number of rows"),
    ],
)
def test_a_setting_of_the_wrong_type_is_refused(data, options, words):
    assert words in refusal(*data, error=TypeError, **options)


def test_a_directory_that_cannot_be_written_to_is_refused_before_the_fit(data, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    optimizer = AdaptiveHybridStreamingOptimizer(decay, checkpoint_dir=tmp_path / "file")
    with pytest.raises(OSError, match="can't be written to"):
        optimizer.fit(*data)
