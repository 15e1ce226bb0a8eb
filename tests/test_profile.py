"""The profile of the data that first guesses are made from."""

import dask.array as da
import numpy as np
import pytest

from nlsq_sklearn import InvalidRowError
from nlsq_sklearn._streams import Profile, open_stream, profile_rows

N_ROWS = 300_000


def arrays_of(profile):
    return [*profile[:4], np.array(profile.x_range), np.array(profile.y_range)]


def assert_same_bits(one, other):
    for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 5, N_ROWS)
    return x, np.sin(x) + rng.normal(0, 0.1, N_ROWS)


def profile_of(x, y, chunk_size=20_000, **options):
    return profile_rows(open_stream(x, y, chunk_size=chunk_size, **options))


def test_few_rows_are_their_own_bins_in_the_order_of_x():
    x, y = np.array([3.0, 1.0, 2.0]), np.array([30.0, 10.0, 20.0])
    profile = profile_of(x, y)
    np.testing.assert_array_equal(profile.x, [1, 2, 3])
    np.testing.assert_array_equal(profile.y, [10, 20, 30])
    np.testing.assert_array_equal(profile.n_rows, [1, 1, 1])
    assert (profile.x_range, profile.y_range) == ((1, 3), (10, 30))


def test_rows_of_equal_x_are_one_bin_with_their_exact_mean():
    doses = np.array([0.0, 0.1, 1.0, 10.0])
    x = np.tile(doses, 50_000)
    y = 3 * x + np.repeat([0.25, 0.75], 100_000)
    profile = profile_of(x, y)
    np.testing.assert_array_equal(profile.x, doses)
    np.testing.assert_allclose(profile.y, 3 * doses + 0.5, rtol=1e-12)
    np.testing.assert_array_equal(profile.n_rows, [50_000] * 4)


@pytest.mark.parametrize("order", ["random", "sorted", "reversed", "interleaved"])
def test_the_order_of_the_rows_hardly_matters(rows, order):
    x, y = rows
    places = np.argsort(x)
    if order == "random":
        places = np.arange(N_ROWS)
    elif order == "reversed":
        places = places[::-1]
    elif order == "interleaved":
        places = np.ravel(places.reshape(-1, 1000).T)
    profile = profile_of(x[places], y[places])
    assert 500 <= profile.x.size <= 1024
    assert profile.n_rows.sum() == N_ROWS
    assert profile.n_rows.max() <= 4 * N_ROWS / 1024
    # Some 300 rows a bin, each with noise of 0.1; the curve bends by 1e-5 within a bin.
    np.testing.assert_allclose(profile.y, np.sin(profile.x), atol=5 * 0.1 / np.sqrt(150))
    assert profile.x_range == (x.min(), x.max())
    assert profile.y_range == (y.min(), y.max())


def test_bins_follow_the_rows_over_many_decades():
    x = np.random.default_rng(1).permutation(np.geomspace(1e-6, 1e6, N_ROWS))
    profile = profile_of(x, x)
    ratios = profile.x[1:] / profile.x[:-1]
    assert ratios.max() < 1.2  # evenly spaced they would be 1.027
    np.testing.assert_allclose(profile.y, profile.x, rtol=1e-12)


def test_the_same_rows_give_the_same_bits_from_numpy_and_memory_maps(rows, tmp_path):
    x, y = rows
    expected = profile_of(x, y)
    maps = []
    for name, values in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", values)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert_same_bits(profile_of(*maps), expected)
    assert_same_bits(profile_of(x, y), expected)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_dask_array_gives_the_bits_of_its_chunks_on_every_scheduler(rows, scheduler):
    import dask

    x, y = (da.from_array(values, chunks=20_000) for values in rows)
    with dask.config.set(scheduler=scheduler):
        assert_same_bits(profile_of(x, y), profile_of(*rows))


def test_weights_and_sigma_count_and_rows_of_weight_0_do_not():
    x = np.array([1.0, 1.0, 2.0, 2.0, 9.0])
    y = np.array([0.0, 4.0, 0.0, 4.0, 1e6])
    profile = profile_of(x, y, weight=np.array([1.0, 3.0, 1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(profile.x, [1, 2])
    np.testing.assert_array_equal(profile.y, [3, 2])
    assert (profile.x_range, profile.y_range) == ((1, 2), (0, 4))
    sigma = np.array([2.0, 1.0, 1.0, 1.0, 1e3])
    np.testing.assert_allclose(profile_of(x, y, sigma=sigma).y, [16 / 5, 2, 1e6])
    np.testing.assert_allclose(profile_of(x, y, sigma=sigma).weight, [1.25, 2, 1e-6])


def test_of_many_rows_a_share_is_looked_at_evenly(rows, monkeypatch):
    from nlsq_sklearn._streams import profile as module

    monkeypatch.setattr(module, "_MOST_ROWS", 30_000)
    x, y = rows
    order = np.argsort(x)
    profile = profile_of(x[order], y[order])
    assert profile.n_rows.sum() == 30_000
    np.testing.assert_allclose(profile.y, np.sin(profile.x), atol=5 * 0.1 / np.sqrt(15))
    np.testing.assert_allclose(profile.x_range, (-3, 5), atol=1e-2)


def test_all_weights_zero_are_refused():
    x = np.arange(5.0)
    with pytest.raises(ValueError, match="no row counts"):
        profile_of(x, x, weight=np.zeros(5))
    with pytest.raises(ValueError, match="no row counts"):
        Profile.of(x, x, np.zeros(5))


def test_a_value_that_is_not_finite_is_named(rows):
    x, y = rows
    y[123_456] = np.nan
    with pytest.raises(InvalidRowError, match="row 123456"):
        profile_of(x, y)
