"""Kill a fit of 5,000,000 rows in mid-pass, resume it, and compare with one never killed.

Run it as ``python examples/survive_being_killed.py``. The fit runs in a child process, which is
killed by SIGKILL (it can't catch that, and gets no chance to tidy up) as soon as its checkpoint
shows that it is in the middle of a pass over the data.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer


def damped(x, amplitude, decay, frequency, offset):
    """Damped oscillation."""
    return amplitude * jnp.exp(-decay * x) * jnp.sin(frequency * x) + offset


def make_data(directory, n_rows):
    """Write the rows as two .npy files, to be read as memory maps."""
    x = np.linspace(0, 100, n_rows)
    y = 2.0 * np.exp(-0.02 * x) * np.sin(0.5 * x) + 1.0
    y += np.random.default_rng(42).normal(0.0, 0.1, n_rows)
    np.save(directory / "x.npy", x)
    np.save(directory / "y.npy", y)


def fit(directory, checkpoints, *, resume):
    """Fit the rows of a directory and write the answer, with all its bits, as JSON."""
    optimizer = AdaptiveHybridStreamingOptimizer(
        damped, checkpoint_dir=checkpoints, checkpoint_interval=0
    )
    result = optimizer.fit(
        np.load(directory / "x.npy", mmap_mode="r"),
        np.load(directory / "y.npy", mmap_mode="r"),
        p0=[1.5, 0.03, 0.48, 0.5],
        resume=resume,
        show_progress=True,
    )
    print(result, flush=True)
    bits = [value.hex() for value in [*result.popt, *result.perr, result.cost]]
    (checkpoints.parent / f"{checkpoints.name}.json").write_text(json.dumps(bits))


def start_child(directory, checkpoints, *options):
    """Start the fit in a process of its own."""
    command = [sys.executable, __file__, "--data", str(directory), "--checkpoints"]
    return subprocess.Popen([*command, str(checkpoints), *options])


def wait_for_mid_pass(child, checkpoints):
    """Wait until the checkpoint tells that a quarter of the second pass is done."""
    latest = checkpoints / "checkpoint_latest.json"
    while child.poll() is None:
        if latest.exists():
            record = json.loads(latest.read_text())
            done, total = record["chunk"]
            if record["iteration"] >= 0 and record["state"]["n_passes"] == 1 and 4 * done >= total:
                return record
        time.sleep(0.001)
    raise SystemExit("The fit ended before it could be killed.")


def main(n_rows):
    """Run the three fits and compare."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print(f"Writing {n_rows:,} rows to {directory}")
        make_data(directory, n_rows)

        print("\n1. A fit that nobody disturbs")
        start_child(directory, directory / "undisturbed").wait()

        print("\n2. The same fit, killed with SIGKILL in the middle of its second pass")
        child = start_child(directory, directory / "killed")
        wait_for_mid_pass(child, directory / "killed")
        child.kill()
        child.wait()
        record = json.loads((directory / "killed" / "checkpoint_latest.json").read_text())
        done, total = record["chunk"]
        print(f"Killed. Its checkpoint has {done} of {total} chunks of pass 2 summed up.")

        print("\n3. Resumed from the checkpoint, in a new process")
        start_child(directory, directory / "killed", "--resume").wait()

        bits = [
            json.loads((directory / f"{n}.json").read_text()) for n in ("undisturbed", "killed")
        ]
        for one, other in zip(*bits, strict=True):
            print(f"{one:>24} {'==' if one == other else '!='} {other}")
        if bits[0] != bits[1]:
            raise SystemExit("The answers differ.")
        print("The resumed fit ended in the same bits as the undisturbed one.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--data", type=Path, help="used by the child processes")
    parser.add_argument("--checkpoints", type=Path, help="used by the child processes")
    parser.add_argument("--resume", action="store_true", help="used by the child processes")
    arguments = parser.parse_args()
    if arguments.data:
        fit(arguments.data, arguments.checkpoints, resume=arguments.resume)
    else:
        main(arguments.rows)
