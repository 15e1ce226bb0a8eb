"""Follow a parameter that drifts, batch by batch, with `partial_fit`.

Run it as ``python examples/stream_with_drift.py``. Each batch is seen once and not kept. With
``forgetting`` below 1 older batches count less, and the estimate follows.
"""

import argparse

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import StreamingCurveFitRegressor


def decay(x, amplitude, rate, offset):
    """Exponential decay."""
    return amplitude * jnp.exp(-rate * x) + offset


def main(n_batches):
    """Compare an estimator that forgets with one that does not."""
    rng = np.random.default_rng(0)
    follower = StreamingCurveFitRegressor(decay, p0=[1, 1, 1], forgetting=0.8)
    keeper = StreamingCurveFitRegressor(decay, p0=[1, 1, 1])
    print(f"{'batch':>5}  {'true rate':>9}  {'forgetting 0.8':>16}  {'forgetting 1':>16}")
    for batch in range(1, n_batches + 1):
        rate = 1.0 + 0.5 * batch / n_batches
        X = rng.uniform(0, 5, (2000, 1))
        y = 2.5 * np.exp(-rate * X[:, 0]) + 0.5 + rng.normal(0, 0.05, 2000)
        follower.partial_fit(X, y)
        keeper.partial_fit(X, y)
        if batch % (n_batches // 10) == 0:
            cells = [f"{e.popt_[1]:.3f} +- {e.perr_[1]:.3f}" for e in (follower, keeper)]
            print(f"{batch:>5}  {rate:>9.3f}  {cells[0]:>16}  {cells[1]:>16}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=200)
    main(parser.parse_args().batches)
