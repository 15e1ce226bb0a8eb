"""Pictures of fits: what the artists hold is what NumPy and SciPy make of the same rows."""

import subprocess
import sys

import dask.array as da
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import OptimizeWarning
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nlsq_sklearn.display.curve_fit
from nlsq_sklearn import (
    AdaptiveHybridStreamingOptimizer,
    CurveFitDisplay,
    StreamingCurveFitRegressor,
)
from nlsq_sklearn._streams import picture

matplotlib = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")

KINDS = ("fit", "residuals", "residual_histogram", "qq")
N_MANY = 40_000


def decay(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def plane(xt, a, b, c):
    x, t = xt
    return a + b * x + c * t


def root(x, a, b):
    return a * jnp.sqrt(x) + b


@pytest.fixture(autouse=True)
def _close_figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def _data(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 5, (n_rows, 1))
    return X, 2.5 * np.exp(-1.3 * X[:, 0]) + 0.5 + rng.normal(0, 0.05, n_rows)


FEW = _data(60)
MANY = _data(N_MANY)


@pytest.fixture(scope="module")
def few():
    return StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(*FEW)


@pytest.fixture(scope="module")
def many():
    return StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(*MANY)


def _residual(estimator, X, y):
    return y - estimator.predict(X)


def _mesh(display):
    """Return edges and counts of the image of a density."""
    corners = display.density_.get_coordinates()
    counts = np.ma.filled(display.density_.get_array(), 0)
    return corners[0, :, 0], corners[:, 0, 1], counts.reshape(corners.shape[0] - 1, -1).T


def _assert_is_numpys_histogram(display, x, y):
    x_edges, y_edges, counts = _mesh(display)
    is_visible = (y >= y_edges[0]) & (y < y_edges[-1])
    expected = np.histogram2d(x[is_visible], y[is_visible], [x_edges, y_edges])[0]
    np.testing.assert_array_equal(counts, expected)
    n_outside = np.count_nonzero(~is_visible)
    told = "" if display.note_ is None else display.note_.get_text()
    assert (f"{n_outside:,} rows lie outside" in told) == (n_outside > 0)


# The curve


def test_few_rows_are_points_and_the_curve_is_the_prediction_with_its_band(few):
    X, y = FEW
    display = CurveFitDisplay.from_estimator(few, X, y, confidence=0.9)
    np.testing.assert_array_equal(display.scatter_.get_offsets(), np.column_stack([X, y]))
    assert display.density_ is display.colorbar_ is None
    x, curve = display.line_.get_data()
    assert (x[0], x[-1]) == (X.min(), X.max())
    expected, std = few.predict(x[:, np.newaxis], return_std=True)
    np.testing.assert_allclose(curve, expected, rtol=1e-12)
    width = stats.t.ppf(0.95, y.size - 3) * std
    outline = display.band_.get_paths()[0].vertices
    for bound in (expected - width, expected + width):
        nearest = np.abs(outline[:, 1] - bound[:, np.newaxis]).min(axis=1)
        np.testing.assert_allclose(nearest, 0, atol=1e-12)
    assert "90 % band" in display.legend_.get_texts()[-1].get_text()
    assert [display.ax_.get_xlabel(), display.ax_.get_ylabel()] == ["x", "y"]
    assert display.figure_ is display.ax_.figure


def test_many_rows_are_a_density_with_the_counts_of_numpy(many):
    X, y = MANY
    display = CurveFitDisplay.from_estimator(many, X, y)
    assert display.scatter_ is None
    _assert_is_numpys_histogram(display, X[:, 0], y)
    assert _mesh(display)[2].sum() == N_MANY
    assert min(_mesh(display)[2].shape) >= 100
    assert display.density_.norm.vmin == 1
    assert "40,000 rows" in display.legend_.get_texts()[0].get_text()


@pytest.mark.parametrize("kind", KINDS)
def test_dask_arrays_in_any_chunks_and_order_give_the_same_picture(many, kind):
    X, y = MANY
    order = np.random.default_rng(1).permutation(N_MANY)
    whole = CurveFitDisplay.from_estimator(many, X, y, kind=kind)
    sizes = (1, 9_999, 0, 25_000, 5_000)
    lazy = [da.from_array(a[order]).rechunk({0: sizes}) for a in (X, y)]
    cut = CurveFitDisplay.from_estimator(many, *lazy, kind=kind)
    for name in ("data", "residuals", "residual"):
        a, b = (getattr(d.shown.picture, name) for d in (whole, cut))
        assert a.grid == b.grid
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(a.y_cells, b.y_cells)
    np.testing.assert_allclose(
        np.asarray(whole.line_.get_data()), np.asarray(cut.line_.get_data()), rtol=1e-12
    )


def test_all_four_kinds_take_one_pass_over_a_dask_array(many, monkeypatch):
    X, y = MANY
    computed = []

    def load(block, block_info=None):
        computed.append(block_info[0]["chunk-location"][0])
        return block

    lazy = da.from_array(y, chunks=1000).map_blocks(load, dtype=float, meta=np.empty(0))
    display = CurveFitDisplay.from_estimator(many, da.from_array(X, chunks=(1000, 1)), lazy)
    for kind in KINDS:
        display.plot(kind=kind)
    assert sorted(computed) == list(range(40))


def test_what_a_chunk_leaves_is_small(many):
    X, y = _data(1_000_000)
    model, stream = many._fitted_stream(X, y)
    view = picture.View.of(0.05, is_log=False, most_points=0)
    seen = picture.take_picture(stream, model, many.popt_, view)
    sizes = [h.counts.nbytes + h.y_cells.nbytes for h in (seen.data, seen.residuals, seen.residual)]
    assert sum(sizes) < 3e6


def test_single_row_chunks_are_points(few):
    X, y = FEW
    display = CurveFitDisplay.from_estimator(
        few, da.from_array(X[:7], chunks=(1, 1)), da.from_array(y[:7], chunks=1)
    )
    np.testing.assert_array_equal(display.scatter_.get_offsets(), np.column_stack([X, y])[:7])


def test_max_points_decides_between_points_and_density(few):
    for most, is_density in ((60, False), (59, True)):
        display = CurveFitDisplay.from_estimator(few, *FEW, max_points=most)
        assert (display.density_ is not None) == is_density


@pytest.mark.parametrize("kind", KINDS)
def test_rows_all_in_one_place_can_be_drawn(few, kind):
    X, y = np.full((9000, 1), 2.0), np.full(9000, 0.7)
    display = CurveFitDisplay.from_estimator(few, X, y, kind=kind)
    display.figure_.canvas.draw()
    if kind == "fit":
        assert _mesh(display)[2].sum() == 9000


# Residuals


def test_residuals_are_data_minus_curve_against_x(few, many):
    display = CurveFitDisplay.from_estimator(few, *FEW, kind="residuals")
    expected = np.column_stack([FEW[0], _residual(few, *FEW)])
    np.testing.assert_allclose(display.scatter_.get_offsets(), expected, atol=1e-15)
    assert set(display.line_.get_ydata()) == {0}
    display = CurveFitDisplay.from_estimator(many, *MANY, kind="residuals")
    _assert_is_numpys_histogram(display, MANY[0][:, 0], _residual(many, *MANY))
    assert np.ptp(np.diff(_mesh(display)[1])) == 0


@pytest.mark.parametrize("size", ["few", "many"])
def test_the_histogram_is_numpys_with_the_normal_density_of_the_fit(request, size):
    estimator, data = request.getfixturevalue(size), FEW if size == "few" else MANY
    display = CurveFitDisplay.from_estimator(estimator, *data, kind="residual_histogram")
    residual = _residual(estimator, *data)
    values, edges, _ = display.bars_.get_data()
    np.testing.assert_allclose(values, np.histogram(residual, edges, density=True)[0])
    x, density = display.line_.get_data()
    std = np.sqrt(np.sum(residual**2) / (residual.size - 3))
    np.testing.assert_allclose(density, stats.norm.pdf(x, scale=std), rtol=1e-9)


def test_quantiles_of_few_rows_are_those_of_scipys_probability_plot(few):
    display = CurveFitDisplay.from_estimator(few, *FEW, kind="qq")
    normal, ordered = stats.probplot(_residual(few, *FEW), fit=False)
    np.testing.assert_allclose(
        display.scatter_.get_offsets(), np.column_stack([normal, ordered]), atol=1e-12
    )
    x, y = display.line_.get_data()
    np.testing.assert_allclose(y / x, np.sqrt(2 * few.cost_ / (60 - 3)))


def test_quantiles_of_many_rows_are_off_by_no_more_than_the_picture_says(many):
    display = CurveFitDisplay.from_estimator(many, *MANY, kind="qq")
    width = display.shown.picture.residual.y_width
    assert f"resolved to {width:.1g}" in display.note_.get_text()
    normal, ordered = stats.probplot(_residual(many, *MANY), fit=False)
    for quantile, value in display.scatter_.get_offsets():
        i = int(np.searchsorted(normal, quantile - 1e-9))
        assert ordered[max(i - 1, 0)] - width <= value <= ordered[min(i + 1, N_MANY - 1)] + width
    assert width < 1e-3 * 0.05


def test_outliers_do_not_hide_the_others_and_are_counted():
    X, y = _data(100_000)
    y[::50] += np.random.default_rng(2).uniform(-500, 500, 2000)
    robust = StreamingCurveFitRegressor(decay, p0=[1, 1, 1], loss="cauchy", f_scale=0.05)
    robust.fit(X, y)
    residual = _residual(robust, X, y)
    display = CurveFitDisplay.from_estimator(robust, X, y, kind="residuals")
    _assert_is_numpys_histogram(display, X[:, 0], residual)
    _, edges, counts = _mesh(display)
    assert -0.35 < edges[0] < -0.25
    assert 0.25 < edges[-1] < 0.35
    assert counts.shape[1] > 100, "the others are seen in detail"
    display.plot(kind="residual_histogram")
    lower, upper = np.quantile(residual, [0.25, 0.75])
    std = (upper - lower) / (stats.norm.ppf(0.75) - stats.norm.ppf(0.25))
    x, density = display.line_.get_data()
    np.testing.assert_allclose(density, stats.norm.pdf(x, scale=std), rtol=0.02, atol=1e-5)
    assert "from quartiles" in display.legend_.get_texts()[-1].get_text()
    low, high = display.plot(kind="qq").ax_.get_ylim()
    assert -2 < low < high < 2
    assert "reach from -49" in display.note_.get_text()
    display.plot(kind="fit")
    _assert_is_numpys_histogram(display, X[:, 0], y)
    low, high = display.ax_.get_ylim()
    assert -1.5 < low < 0.5
    assert 3 < high < 5


def test_residuals_beyond_the_knee_unfold_to_themselves():
    view = picture.View.of(0.05, is_log=False, most_points=0)
    assert view.knee == 0.5
    residual = np.array([-1e30, -3, -0.5, -0.2, 0, 0.5, 0.51, 1, 7e9])
    folded = view.fold(residual)
    assert np.all(np.diff(folded) > 0)
    np.testing.assert_array_equal(folded[np.abs(residual) <= 0.5], [-0.5, -0.2, 0, 0.5])
    np.testing.assert_allclose(view.unfold(folded), residual, rtol=1e-12)
    for std in (0.0, np.inf, np.nan):
        unbent = picture.View.of(std, is_log=False, most_points=0)
        np.testing.assert_array_equal(unbent.unfold(unbent.fold(residual)), residual)


# Weights, features, scales


def test_residuals_are_weighted_and_rows_of_weight_0_are_not_drawn():
    rng = np.random.default_rng(3)
    X = rng.uniform(0, 5, (400, 1))
    sigma = 0.01 + 0.1 * X[:, 0]
    y = 2 * np.exp(-X[:, 0]) + rng.normal(0, sigma)
    weight = np.where(np.arange(400) % 4, 1 / sigma**2, 0)
    y[::4] = 1e6
    estimator = StreamingCurveFitRegressor(decay, p0=[1, 1, 0]).fit(X, y, sample_weight=weight)
    display = CurveFitDisplay.from_estimator(
        estimator, X, y, sample_weight=weight, kind="residuals"
    )
    expected = (np.sqrt(weight) * _residual(estimator, X, y))[weight > 0]
    np.testing.assert_allclose(display.scatter_.get_offsets()[:, 1], expected, rtol=1e-9)
    assert "weight" in display.ax_.get_ylabel()
    display.plot(kind="residual_histogram")
    assert "300 rows" in display.legend_.get_texts()[0].get_text()
    std = np.sqrt(np.sum(expected**2) / 297)
    assert f"std {std:.3g}" in display.legend_.get_texts()[1].get_text()
    lazy = [da.from_array(a, chunks=(100, 1)[: a.ndim]) for a in (X, y, weight)]
    from_dask = CurveFitDisplay.from_estimator(estimator, *lazy[:2], sample_weight=lazy[2])
    np.testing.assert_array_equal(from_dask.scatter_.get_offsets()[:, 1], y[weight > 0])
    with pytest.raises(ValueError, match="No row can be drawn"):
        CurveFitDisplay.from_estimator(estimator, X, y, sample_weight=np.zeros(400))


@pytest.mark.parametrize("n_rows", [300, 30_000])
def test_with_several_features_the_prediction_takes_the_place_of_x(n_rows):
    rng = np.random.default_rng(4)
    X = rng.normal(size=(n_rows, 2))
    y = 1 + X @ [2.0, -0.5] + rng.normal(0, 0.1, n_rows)
    estimator = StreamingCurveFitRegressor(plane, p0=[0, 0, 0]).fit(X, y)
    prediction = estimator.predict(X)
    display = CurveFitDisplay.from_estimator(estimator, X, y)
    assert display.ax_.get_xlabel() == "prediction f(x)"
    assert display.band_ is None
    x_line, y_line = display.line_.get_data()
    np.testing.assert_allclose(x_line, [prediction.min(), prediction.max()])
    np.testing.assert_array_equal(x_line, y_line)
    if n_rows == 300:
        expected = np.column_stack([prediction, y])
        np.testing.assert_allclose(display.scatter_.get_offsets(), expected)
    else:
        _assert_is_numpys_histogram(display, prediction, y)
    display.plot(kind="residuals")
    assert display.ax_.get_xlabel() == "prediction f(x)"


def test_on_a_logarithmic_axis_cells_are_equally_wide_in_the_logarithm(many):
    rng = np.random.default_rng(5)
    X = 10 ** rng.uniform(-6, 0, (N_MANY, 1))
    X[:12] = 0
    y = many.predict(X) + rng.normal(0, 0.05, N_MANY)
    display = CurveFitDisplay.from_estimator(many, X, y, xscale="log")
    assert display.ax_.get_xscale() == "log"
    x_edges, y_edges, counts = _mesh(display)
    np.testing.assert_allclose(np.diff(np.log2(x_edges)), np.log2(x_edges[1] / x_edges[0]))
    edges = [np.round(np.log2(x_edges) * 2**20) / 2**20, y_edges]
    expected = np.histogram2d(np.log2(X[12:, 0]), y[12:], edges)[0]
    np.testing.assert_array_equal(counts, expected)
    assert "12 rows have no place here" in display.note_.get_text()
    x = display.line_.get_xdata()
    np.testing.assert_allclose(np.diff(np.log(x)), np.log(x[1] / x[0]), rtol=1e-6)


def test_rows_where_the_curve_is_not_finite_are_left_out_and_counted():
    X = np.linspace(0.1, 4, 200)[:, np.newaxis]
    y = 2 * np.sqrt(X[:, 0]) + 1 + np.random.default_rng(6).normal(0, 0.1, 200)
    estimator = StreamingCurveFitRegressor(root, p0=[1, 0]).fit(X, y)
    X[:5] = -1
    display = CurveFitDisplay.from_estimator(estimator, X, y)
    assert len(display.scatter_.get_offsets()) == 195
    assert "5 rows have no place here" in display.note_.get_text()
    with pytest.raises(ValueError, match="the curve is not finite"):
        CurveFitDisplay.from_estimator(estimator, X[:5], y[:5])


def test_undetermined_parameters_leave_no_band_and_that_is_said():
    X, y = _data(100)
    estimator = StreamingCurveFitRegressor(lambda x, a, b: (a + b) * x, p0=[1, 1])
    with pytest.warns(OptimizeWarning, match="do not determine a, b"):
        estimator.fit(X, y)
    display = CurveFitDisplay.from_estimator(estimator, X, y)
    assert display.band_ is None
    assert "no confidence band" in display.note_.get_text()


def test_after_partial_fit_and_with_named_columns():
    X, y = _data(1000)
    estimator = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    frame = pd.DataFrame({"time / s": X[:, 0]})
    estimator.partial_fit(frame[:500], y[:500]).partial_fit(frame[500:], y[500:])
    display = CurveFitDisplay.from_estimator(estimator, frame, y)
    assert display.ax_.get_xlabel() == "time / s"
    x, curve = display.line_.get_data()
    expected = estimator.predict(pd.DataFrame({"time / s": x}))
    np.testing.assert_allclose(curve, expected, rtol=1e-12)


def test_the_result_of_the_optimizer_is_drawn_in_units_of_sigma():
    X, y = _data(500)
    x, sigma = X[:, 0], 0.02 + 0.01 * X[:, 0]
    result = AdaptiveHybridStreamingOptimizer(decay).fit(x, y, [1, 1, 1], sigma=sigma)
    display = CurveFitDisplay.from_result(result, decay, x, y, sigma=sigma, kind="residuals")
    expected = (y - np.asarray(decay(x, *result.popt))) / sigma
    np.testing.assert_allclose(display.scatter_.get_offsets()[:, 1], expected, rtol=1e-3, atol=1e-4)
    assert display.ax_.get_ylabel().endswith("/ sigma")
    robust = AdaptiveHybridStreamingOptimizer(decay).fit(x, y, [1, 1, 1], loss="huber", f_scale=0.1)
    display = CurveFitDisplay.from_result(robust, decay, x, y, kind="residual_histogram")
    assert "from quartiles" in display.legend_.get_texts()[-1].get_text()


# The manner of scikit-learn's displays


def test_a_display_is_drawn_again_without_a_look_at_the_data(many, monkeypatch):
    display = CurveFitDisplay.from_estimator(many, *MANY)
    monkeypatch.setattr(nlsq_sklearn.display.curve_fit, "take_picture", None)
    figure, axes = plt.subplots(2, 2)
    for kind, ax in zip(KINDS, axes.ravel(), strict=True):
        assert display.plot(ax, kind=kind) is display
        assert display.ax_ is ax
        assert display.figure_ is figure
    figure.canvas.draw()
    assert display.plot().density_ is not None, "the kind it was made for"


def test_axes_given_are_drawn_into(few):
    _, ax = plt.subplots()
    assert CurveFitDisplay.from_estimator(few, *FEW, ax=ax).ax_ is ax


def test_an_unfitted_estimator_is_refused():
    with pytest.raises(NotFittedError, match="not fitted yet"):
        CurveFitDisplay.from_estimator(StreamingCurveFitRegressor(decay), *FEW)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "histogram"}, "kind must be one of 'fit', 'residuals', "),
        ({"xscale": "symlog"}, "xscale must be 'linear' or 'log'"),
        ({"confidence": 95}, "confidence must lie between 0 and 1"),
    ],
)
def test_unknown_settings_are_refused_before_data_are_read(few, monkeypatch, settings, words):
    monkeypatch.setattr(nlsq_sklearn.display.curve_fit, "take_picture", None)
    with pytest.raises(ValueError, match=words):
        CurveFitDisplay.from_estimator(few, *FEW, **settings)


def test_an_unknown_kind_is_refused_by_plot(few):
    with pytest.raises(ValueError, match="'qq'"):
        CurveFitDisplay.from_estimator(few, *FEW).plot(kind="cdf")


def test_a_pipeline_is_told_what_to_give_instead():
    pipeline = make_pipeline(StandardScaler(), StreamingCurveFitRegressor()).fit(*FEW)
    with pytest.raises(TypeError, match="give the last step"):
        CurveFitDisplay.from_estimator(pipeline, *FEW)


def test_without_matplotlib_the_error_says_how_to_install_it(few, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "nlsq_sklearn\[plot\]"'):
        CurveFitDisplay.from_estimator(few, *FEW)


def test_the_displays_are_imported_without_matplotlib():
    code = (
        "import sys, nlsq_sklearn; assert 'sklearn' not in sys.modules;"
        "nlsq_sklearn.CurveFitDisplay, nlsq_sklearn.ConvergenceDisplay;"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Titles, sizes and grounds


@pytest.mark.parametrize("is_set_before", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_title_stands_above_the_legend(many, kind, is_set_before):
    figure, ax = plt.subplots(layout="constrained")
    if is_set_before:
        ax.set_title("Title")
    display = CurveFitDisplay.from_estimator(many, *MANY, kind=kind, ax=ax)
    if not is_set_before:
        ax.set_title("Title")
    figure.draw_without_rendering()
    assert ax.title.get_window_extent().y0 >= display.legend_.get_window_extent().y1
    assert ax.title.get_window_extent().y1 <= figure.bbox.y1
    assert figure.axes == [ax, *([display.colorbar_.ax] if display.colorbar_ else [])]


def test_a_legend_is_no_wider_than_small_axes(few):
    figure, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
    display = CurveFitDisplay.from_estimator(few, *FEW, ax=axes[1])
    figure.draw_without_rendering()
    legend = display.legend_.get_window_extent()
    assert legend.x1 <= figure.bbox.x1
    in_one_row = display.plot(plt.figure().subplots()).legend_.get_window_extent()
    assert legend.height > 1.5 * in_one_row.height


def test_a_new_figure_has_the_size_that_is_set(few):
    with plt.rc_context({"figure.figsize": (5, 3)}):
        figure = CurveFitDisplay.from_estimator(few, *FEW).figure_
    assert figure.get_size_inches().tolist() == [5, 3]


@pytest.mark.parametrize(("style", "is_dark"), [("default", False), ("dark_background", True)])
def test_rows_and_small_print_stand_out_from_the_ground(many, style, is_dark):
    def luminance(colour):
        return np.dot(matplotlib.colors.to_rgba(colour)[:3], (0.2126, 0.7152, 0.0722))

    with plt.style.context(style):
        display = CurveFitDisplay.from_estimator(many, *MANY, kind="residuals")
        ground = luminance(display.ax_.get_facecolor())
        assert (ground < 0.5) == is_dark
        colours = display.density_.cmap(np.linspace(0, 1, 20))
        assert min(abs(luminance(colour) - ground) for colour in colours) > 0.1
        fullest = abs(luminance(colours[-1]) - ground)
        assert fullest > 2 * abs(luminance(colours[0]) - ground)
        quantiles = display.plot(kind="qq")
        assert abs(luminance(quantiles.note_.get_color()) - ground) > 0.5


def test_a_picture_on_axes_without_a_ground_has_that_of_the_figure(many):
    ax = plt.figure(facecolor="black").subplots()
    ax.set_facecolor("none")
    colours = CurveFitDisplay.from_estimator(many, *MANY, ax=ax).density_.cmap
    assert sum(colours(1.0)[:3]) > sum(colours(0.0)[:3])
