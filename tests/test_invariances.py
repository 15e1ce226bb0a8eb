"""What must not change an answer does not: chunks, order, units, repeated and empty rows."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, StreamingCurveFitRegressor

N_ROWS = 300
# Sums in another order differ by rounding; at tight tolerances the answers differ by no more.
TIGHT = {"ftol": 1e-13, "xtol": 1e-13, "gtol": 1e-13}
LOSSES = pytest.mark.parametrize("loss", ["linear", "soft_l1"])
few = settings(max_examples=10, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
powers = st.integers(-200, 200)


def decay(x, amplitude, rate, offset):
    return amplitude * jnp.exp(-rate * x) + offset


def make_data(seed):
    """Return x and y, with a few outliers that a robust loss sees."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, N_ROWS)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, N_ROWS)
    y[rng.choice(N_ROWS, 5)] += 1.0
    return x, y


def fit(x, y, weight=None, **options):
    options = {"p0": [1.0, 1.0, 1.0], "f_scale": 0.1, **TIGHT, **options}
    return StreamingCurveFitRegressor(decay, **options).fit(x[:, np.newaxis], y, weight)


def stream(x, y, weight=None, n_batches=3, **options):
    """Return the estimate after one sweep in batches."""
    options = {"p0": [1.0, 1.0, 1.0], "f_scale": 0.1, **TIGHT, **options}
    fitted = StreamingCurveFitRegressor(decay, **options)
    for rows in np.array_split(np.arange(y.size), n_batches):
        fitted.partial_fit(x[rows, np.newaxis], y[rows], None if weight is None else weight[rows])
    return fitted


def assert_same_answer(fitted, reference, errors=True):
    """Hold parameters and covariance to 1e-9 of themselves, the cost to 1e-12."""
    assert fitted.converged_ == reference.converged_
    np.testing.assert_allclose(fitted.popt_, reference.popt_, rtol=1e-9, atol=0)
    np.testing.assert_allclose(fitted.cost_, reference.cost_, rtol=1e-12)
    if errors:
        np.testing.assert_allclose(fitted.pcov_, reference.pcov_, rtol=1e-9)


@LOSSES
@few
@given(seed=seeds, chunk_size=st.sampled_from([7, 64, 100, 299, 400]))
def test_the_size_of_chunks_changes_nothing(loss, seed, chunk_size):
    x, y = make_data(seed)
    assert_same_answer(fit(x, y, loss=loss, chunk_size=chunk_size), fit(x, y, loss=loss))


@LOSSES
@few
@given(seed=seeds)
def test_the_order_of_rows_changes_nothing(loss, seed):
    x, y = make_data(seed)
    order = np.random.default_rng(seed).permutation(N_ROWS)
    assert_same_answer(fit(x[order], y[order], loss=loss), fit(x, y, loss=loss))


@few
@given(seed=seeds)
def test_the_order_of_rows_in_a_batch_changes_nothing(seed):
    x, y = make_data(seed)
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(part) for part in np.array_split(range(N_ROWS), 3)])
    assert_same_answer(stream(x[order], y[order]), stream(x, y))


@LOSSES
@pytest.mark.parametrize("learn", [fit, stream])
@few
@given(seed=seeds)
def test_a_weight_is_a_number_of_rows(learn, loss, seed):
    x, y = make_data(seed)
    weight = np.random.default_rng(seed).integers(1, 4, N_ROWS)
    weight[::7] = 0
    # In one batch, so that batches hold the same rows.
    options = {"loss": loss} if learn is fit else {"loss": loss, "n_batches": 1}
    repeated = learn(np.repeat(x, weight), np.repeat(y, weight), **options)
    weighted = learn(x, y, weight, **options)
    assert_same_answer(weighted, repeated, errors=False)
    # The residuals of a weighted row count once for the noise, those of repeated rows each.
    freedom = np.count_nonzero(weight) - 3, weight.sum() - 3
    np.testing.assert_allclose(weighted.pcov_ * freedom[0], repeated.pcov_ * freedom[1], rtol=1e-8)


@LOSSES
@pytest.mark.parametrize("learn", [fit, stream])
@few
@given(seed=seeds, n_empty=st.integers(1, 300))
def test_rows_of_weight_0_change_nothing(learn, loss, seed, n_empty):
    x, y = make_data(seed)
    rng = np.random.default_rng(seed)
    # In one batch, so that batches hold the same rows that count.
    weight = np.concatenate([np.ones(N_ROWS), np.zeros(n_empty)])
    order = rng.permutation(weight.size)
    padded = np.concatenate([x, rng.uniform(-1e3, 1e3, n_empty)])[order]
    values = np.concatenate([y, rng.normal(0, 1e100, n_empty)])[order]
    options = {"loss": loss} if learn is fit else {"loss": loss, "n_batches": 1}
    assert_same_answer(learn(padded, values, weight[order], **options), learn(x, y, **options))


@LOSSES
@pytest.mark.parametrize("learn", [fit, stream])
@few
@given(seed=seeds, power=powers)
def test_another_unit_of_y_scales_the_answer_in_all_bits(learn, loss, seed, power):
    x, y = make_data(seed)
    unit = 2.0**power
    reference = learn(x, y, loss=loss)
    scaled = learn(x, unit * y, loss=loss, p0=[unit, 1.0, unit], f_scale=0.1 * unit)
    units = np.array([unit, 1.0, unit])
    assert (reference.popt_ * units).tolist() == scaled.popt_.tolist()
    assert (reference.pcov_ * np.outer(units, units)).tolist() == scaled.pcov_.tolist()
    assert reference.cost_ * unit**2 == scaled.cost_
    assert reference.n_iter_ == scaled.n_iter_


@LOSSES
@pytest.mark.parametrize("learn", [fit, stream])
@few
@given(seed=seeds, power=powers)
def test_another_unit_of_x_scales_the_answer_in_all_bits(learn, loss, seed, power):
    x, y = make_data(seed)
    unit = 2.0**power
    reference = learn(x, y, loss=loss)
    scaled = learn(unit * x, y, loss=loss, p0=[1.0, 1.0 / unit, 1.0])
    units = np.array([1.0, 1.0 / unit, 1.0])
    assert (reference.popt_ * units).tolist() == scaled.popt_.tolist()
    assert (reference.pcov_ * np.outer(units, units)).tolist() == scaled.pcov_.tolist()
    assert reference.cost_ == scaled.cost_


@few
@given(seed=seeds, power=powers)
def test_another_unit_of_sigma_changes_no_bit_but_the_cost(seed, power):
    x, y = make_data(seed)
    sigma = np.random.default_rng(seed).uniform(0.5, 2, N_ROWS)
    one, other = (
        AdaptiveHybridStreamingOptimizer(decay).fit(x, y, [1, 1, 1], sigma=unit * sigma)
        for unit in (1.0, 2.0**power)
    )
    assert one.popt.tolist() == other.popt.tolist()
    assert one.pcov.tolist() == other.pcov.tolist()
    assert one.cost == other.cost * 4.0**power


@pytest.mark.parametrize("bound", [2.25, 2.75])
@pytest.mark.parametrize("power", [-100, 100])
def test_units_scale_a_fit_at_a_bound_in_all_bits(bound, power):
    x, y = make_data(0)
    unit = 2.0**power
    bounds = ([bound, -9, -9], [9, 9, 9]) if bound > 2.5 else ([-9, -9, -9], [bound, 9, 9])
    start = [bound, 1.0, 1.0]
    units = np.array([unit, 1.0, unit])
    optimizer = AdaptiveHybridStreamingOptimizer(decay)
    one = optimizer.fit(x, y, start, bounds=bounds)
    other = optimizer.fit(
        x, unit * y, start * units, bounds=tuple(units * np.array(b) for b in bounds)
    )
    assert one.popt[0] == bound
    assert (one.popt * units).tolist() == other.popt.tolist()
    assert (one.pcov * np.outer(units, units)).tolist() == other.pcov.tolist()


@settings(few, max_examples=4)  # each compiles a model
@given(power=st.integers(-100, 100))
def test_another_unit_of_a_parameter_scales_it_in_all_bits(power):
    x, y = make_data(0)
    unit = 2.0**power

    def rescaled(x, amplitude, rate, offset):
        return decay(x, amplitude, rate / unit, offset)

    units = np.array([1.0, unit, 1.0])
    one = AdaptiveHybridStreamingOptimizer(decay).fit(x, y, [1, 1, 1])
    other = AdaptiveHybridStreamingOptimizer(rescaled).fit(x, y, units)
    assert (one.popt * units).tolist() == other.popt.tolist()
    assert (one.pcov * np.outer(units, units)).tolist() == other.pcov.tolist()


def test_parameters_from_1e_12_to_1e12_are_found_as_if_they_were_near_1():
    x, y = make_data(0)

    def rescaled(x, amplitude, rate, offset):
        return decay(x, 1e12 * amplitude, 1e-12 * rate, 1e3 * offset)

    units = np.array([1e-12, 1e12, 1e-3])
    one = AdaptiveHybridStreamingOptimizer(decay).fit(x, y, [1, 1, 1], **TIGHT)
    other = AdaptiveHybridStreamingOptimizer(rescaled).fit(x, y, units, **TIGHT)
    np.testing.assert_allclose(other.popt, one.popt * units, rtol=1e-10)
    np.testing.assert_allclose(other.perr, one.perr * units, rtol=1e-10)
    assert other.n_iter == one.n_iter
