"""How y scatters about its mean, summed without losing digits."""

import numpy as np
import pytest

from nlsq_sklearn._engine.spread import NO_SPREAD, Spread, r2


def exact(y, weight=None):
    """Return the spread in extended precision."""
    y = np.asarray(y, dtype=np.longdouble)
    weight = np.ones_like(y) if weight is None else np.asarray(weight, dtype=np.longdouble)
    mean = (weight @ y) / weight.sum()
    return float(weight.sum()), float(mean), float(weight @ (y - mean) ** 2)


@pytest.mark.parametrize("mean", [0.0, 1.0, -1e3, 1e6, 1e9])
@pytest.mark.parametrize("n_rows", [1, 2, 100, 8192, 20_000])
def test_no_digits_are_lost_where_the_mean_is_large(n_rows, mean):
    y = mean + np.random.default_rng(0).normal(size=n_rows)
    np.testing.assert_allclose(Spread.of(y), exact(y), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_rows_count_by_their_weight(mean):
    rng = np.random.default_rng(1)
    y, weight = mean + rng.normal(size=20_000), rng.uniform(0, 2, 20_000)
    np.testing.assert_allclose(Spread.of(y, weight), exact(y, weight), rtol=1e-9)


def test_parts_add_up_to_the_whole():
    y = 1e5 + np.random.default_rng(2).normal(size=10_000).cumsum()
    total = NO_SPREAD
    for part in np.array_split(y, 7):
        total += Spread.of(part)
    np.testing.assert_allclose(total, exact(y), rtol=1e-12)


def test_rows_without_weight_leave_no_trace():
    spread = Spread.of(np.array([1.0, 3.0]))
    assert Spread.of(np.array([5.0]), np.zeros(1)) == NO_SPREAD
    assert spread + NO_SPREAD == NO_SPREAD + spread == spread == (2.0, 2.0, 2.0)


def test_scaled_weights():
    y = np.arange(5.0)
    np.testing.assert_allclose(Spread.of(y).scaled(0.5), Spread.of(y, np.full(5, 0.5)))


def test_r2_of_data_that_do_not_scatter():
    flat = Spread.of(np.ones(5))
    assert (r2(0.0, flat), r2(1.0, flat)) == (1.0, 0.0)
