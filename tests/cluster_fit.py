"""A client with a cluster of its own, that fits with checkpoints and is killed."""

import sys

import dask.array as da
import jax.numpy as jnp

from nlsq_sklearn import JSONCheckpoint, StreamingCurveFitRegressor


def make_model(shift):
    """Return a curve that closes over a number."""

    def model(x, a, b, c):
        return a * jnp.exp(-b * (x - shift)) + c

    return model


def make_data(n_rows):
    """Return lazy rows, 100,000 a chunk."""
    rng = da.random.default_rng(7)
    x = da.arange(n_rows, chunks=100_000, dtype=float) * (5 / n_rows)
    y = 2.5 * da.exp(-1.3 * x) + 0.5 + rng.normal(0, 0.05, n_rows, chunks=100_000)
    return x[:, None], y


def main(directory):
    from distributed import Client, LocalCluster

    n_saved = 0

    def count(path):
        nonlocal n_saved
        n_saved += 1
        print("saved", n_saved, flush=True)

    checkpoint = JSONCheckpoint(
        directory, interval=0, on_save=count, on_resume=lambda path: print("resumed", flush=True)
    )
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        fitted = StreamingCurveFitRegressor(
            make_model(0.0), p0=[1, 1, 1], warm_start=True, checkpoint=checkpoint
        ).fit(*make_data(2_000_000))
        print(*(value.hex() for value in fitted.popt_.tolist()))


if __name__ == "__main__":
    main(sys.argv[1])
