"""A child process that fits memory maps or arrays, and prints what it took as JSON."""

import json
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer


def damped(x, a, b, c, d):
    return a * jnp.exp(-b * x) * jnp.sin(c * x) + d


def memory_mb(field):
    """Return VmRSS (now) or VmHWM (peak) of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1000
    raise ValueError(field)


def main(directory, mmap_mode):
    jnp.zeros(1).block_until_ready()  # the imports are done when JAX has started its client
    before = memory_mb("VmRSS")
    x, y = (
        np.load(Path(directory) / f"{name}.npy", mmap_mode=mmap_mode if mmap_mode != "no" else None)
        for name in "xy"
    )
    started_at = time.perf_counter()
    result = AdaptiveHybridStreamingOptimizer(damped).fit(x, y, [1.5, 0.03, 0.48, 0.5])
    seconds = time.perf_counter() - started_at
    report = {
        "success": bool(result.success),
        "popt": result.popt.tolist(),
        "perr": result.perr.tolist(),
        "n_passes": result.n_passes,
        "seconds": seconds,
        "peak_mb": memory_mb("VmHWM"),
        "above_imports_mb": memory_mb("VmHWM") - before,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
