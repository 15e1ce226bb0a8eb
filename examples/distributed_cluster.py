"""Fit on a cluster of processes: the same code, and the same bits.

Run it as ``python examples/distributed_cluster.py``, with ``pip install distributed`` done. The
local cluster stands for any other that a ``distributed.Client`` connects to.
"""

import argparse

import dask
import dask.array as da
import jax.numpy as jnp
from distributed import Client, LocalCluster

from nlsq_sklearn import StreamingCurveFitRegressor


def decay(x, amplitude, rate, offset):
    """Exponential decay."""
    return amplitude * jnp.exp(-rate * x) + offset


def main(n_rows):
    """Fit on the cluster, and in the threads of this process."""
    chunk = min(1_000_000, n_rows // 8)
    noise = da.random.default_rng(0).normal(0, 0.05, n_rows, chunks=chunk)
    x = da.arange(n_rows, chunks=chunk, dtype=float) * (5 / n_rows)
    y = 2.5 * da.exp(-1.3 * x) + 0.5 + noise
    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        on_cluster = regressor.fit(x[:, None], y).popt_.tolist()
        print(regressor.result_)
    with dask.config.set(scheduler="threads"):
        in_threads = regressor.fit(x[:, None], y).popt_.tolist()
    print("The same bits in threads:", on_cluster == in_threads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    main(parser.parse_args().rows)
