"""Fit, score and predict a Dask array that is larger than memory.

Run it as ``python examples/larger_than_memory.py``. The rows are computed when they are needed,
as they would be read from Zarr or Parquet files; none of them are kept.
"""

import argparse

import dask.array as da
import jax.numpy as jnp

from nlsq_sklearn import StreamingCurveFitRegressor


def decay(x, amplitude, rate, offset):
    """Exponential decay."""
    return amplitude * jnp.exp(-rate * x) + offset


def main(n_rows):
    """Fit, score and predict."""
    chunk = min(1_000_000, n_rows // 4)
    noise = da.random.default_rng(0).normal(0, 0.05, n_rows, chunks=chunk)
    x = da.arange(n_rows, chunks=chunk, dtype=float) * (5 / n_rows)
    y = 2.5 * da.exp(-1.3 * x) + 0.5 + noise
    X = x[:, None]
    print(f"{n_rows:,} rows, {(X.nbytes + y.nbytes) / 1e9:.1f} GB, in {X.numblocks[0]} chunks")

    regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(X, y)
    print(regressor.result_)
    print(f"R2 = {regressor.score(X, y):.6f}")
    print("The prediction is lazy:", regressor.predict(X))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000_000)
    main(parser.parse_args().rows)
