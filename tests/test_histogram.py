"""Histograms that grow: the counts are NumPy's, whatever the order and the parts of the points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nlsq_sklearn._histogram import Grid, Histogram, Limits

LIMITS = Limits(columns=16, filled=32)
RNG = np.random.default_rng(0)


def _points(n_points=4000, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 5, n_points)
    return x, np.sin(x) + rng.normal(0, 0.1, n_points)


def _same(a, b):
    assert (a.limits, a.grid, a.x_first) == (b.limits, b.grid, b.x_first)
    np.testing.assert_array_equal(a.y_cells, b.y_cells)
    np.testing.assert_array_equal(a.counts, b.counts)


def _numpy_counts(histogram, x, y):
    """Return what `numpy.histogram2d` counts in the cells that are filled."""
    width = histogram.y_width
    edges = np.append(histogram.y_edges, histogram.y_edges[-1] + width)
    edges = np.unique(np.concatenate([edges, histogram.y_edges + width]))
    counts = np.histogram2d(x, y, [histogram.x_edges, edges])[0]
    assert counts.sum() == x.size, "each point is in a cell"
    return counts[:, np.isin(edges[:-1], histogram.y_edges)]


# Of all scales, zero included; not so far apart that their ratio underflows.
FINITE = st.floats(-1e150, 1e150).filter(lambda v: v == 0 or abs(v) > 1e-150)


@pytest.mark.parametrize("limits", [LIMITS, Limits(1, 500), Limits(256, 2048)])
def test_the_counts_are_those_of_numpy(limits):
    x, y = _points()
    histogram = Histogram.of(np.zeros(x.size) if limits.columns == 1 else x, y, limits)
    if limits.columns == 1:
        x = np.zeros(x.size)
    np.testing.assert_array_equal(histogram.counts, _numpy_counts(histogram, x, y))
    assert histogram.n_points == x.size
    assert len(histogram.counts) <= limits.columns
    assert histogram.y_cells.size <= limits.filled


def test_the_cells_are_the_finest_within_the_limits():
    x, y = _points()
    histogram = Histogram.of(x, y, LIMITS)
    finer = 2.0 ** (histogram.grid.y_exponent - 1)
    assert np.unique(np.floor(y / finer)).size > LIMITS.filled
    finer = 2.0 ** (histogram.grid.x_exponent - 1)
    assert np.floor(x.max() / finer) - np.floor(x.min() / finer) + 1 > LIMITS.columns


@settings(deadline=None, max_examples=200)
@given(
    arrays(np.float64, st.integers(2, 60), elements=FINITE),
    st.randoms(use_true_random=False),
    st.integers(1, 59),
)
def test_neither_order_nor_parts_change_a_count(values, random, cut):
    y = values
    x = np.roll(values, 1)
    order = list(range(y.size))
    random.shuffle(order)
    cut = 1 + cut % (y.size - 1)
    whole = Histogram.of(x, y, LIMITS)
    parts = [Histogram.of(x[part], y[part], LIMITS) for part in (order[:cut], order[cut:])]
    _same(parts[0] + parts[1], whole)
    _same(parts[1].packed() + parts[0].packed(), whole)


def test_many_parts_of_sorted_points_add_up_to_the_whole():
    x, y = _points(20_000)
    y[::1000] *= 1e6  # outliers
    order = np.argsort(x)
    total = None
    for part in np.array_split(order, 33):
        # The grid so far may be handed on: it spares work and changes nothing.
        grid = Grid() if total is None else total.grid
        seen = Histogram.of(x[part], y[part], LIMITS, grid).packed()
        total = seen if total is None else total + seen
    _same(total, Histogram.of(x, y, LIMITS))


def test_outliers_leave_the_cells_of_the_others_fine():
    x, y = _points(100_000)
    limits = Limits(16, 1024)
    alone = Histogram.of(x, y, limits)
    y[:10] = 10.0 ** np.arange(3, 13)
    assert Histogram.of(x, y, limits).grid.y_exponent <= alone.grid.y_exponent + 1


def test_a_window_is_the_histogram_of_numpy_with_even_edges():
    x, y = _points()
    histogram = Histogram.of(x, y, Limits(16, 512))
    edges, counts = histogram.window(-0.5, 0.7, 20)
    assert edges[0] <= -0.5
    assert edges[-1] > 0.7
    assert 10 <= counts.shape[1] <= 20
    assert np.ptp(np.diff(edges)) == 0
    inside = (y >= edges[0]) & (y < edges[-1])
    expected = np.histogram2d(x[inside], y[inside], [histogram.x_edges, edges])[0]
    np.testing.assert_array_equal(counts, expected)


def test_quantiles_are_off_by_less_than_a_cell():
    _, y = _points(50_000)
    histogram = Histogram.of(np.zeros(y.size), y, Limits(1, 1000))
    levels = np.array([0, 1e-4, 0.01, 0.25, 0.5, 0.9, 0.999, 1])
    expected = np.quantile(y, levels, method="hazen")
    assert np.abs(histogram.quantiles(levels) - expected).max() <= histogram.y_width


@pytest.mark.parametrize("value", [0.0, 1.0, -1e-310, 1.7e308, 3.0**0.5])
def test_points_in_one_place_are_one_cell_that_holds_it(value):
    values = np.full(5, value)
    histogram = Histogram.of(values, values, LIMITS)
    assert histogram.counts.tolist() == [[5]]
    assert histogram.y_edges[0] <= value < histogram.y_edges[0] + histogram.y_width
    edges, counts = histogram.window(value, value, 8)
    assert counts.sum() == 5
    assert np.all(np.diff(edges) > 0)
