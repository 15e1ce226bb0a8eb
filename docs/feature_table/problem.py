"""The problem that every library is given, what its true answer is, and small helpers."""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

START = (1.0, 1.0, 1.0)


class Cell(NamedTuple):
    """An answer: yes, own (with code of your own), partly or no; with a note where it is not plain.

    Own code counts where the library has a place for it: an argument that takes your function, a
    method or class made to be replaced. What can be written beside any library doesn't.
    """

    answer: str
    note: str = ""


YES, NO = Cell("yes"), Cell("no")


def yes_if(condition, note=""):
    """Return yes or no, with a note for the no."""
    return YES if condition else Cell("no", note)


def own_if(condition, note):
    """Return an answer that takes code of your own, or no."""
    return Cell("own", note) if condition else NO


def decay(x, a, b, c, xp=np):
    """Return the curve of the problem, by NumPy or by a module like it."""
    return a * xp.exp(-b * x) + c


def data(n_rows=10_000, seed=0):
    """Return x and y of an exponential decay with noise of 0.05."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 5, n_rows)
    return x, decay(x, 2.5, 1.3, 0.5) + rng.normal(0, 0.05, n_rows)


def reference(x, y, **options):
    """Return the least-squares answer and its standard errors, by SciPy at its tightest."""
    from scipy.optimize import curve_fit

    popt, pcov = curve_fit(decay, x, y, START, ftol=1e-15, xtol=1e-15, gtol=1e-15, **options)
    return popt, np.sqrt(np.diag(pcov))


def is_least_squares(popt, x, y, **options):
    """Return whether an answer is the least-squares one, to a hundredth of a standard error."""
    expected, errors = reference(x, y, **options)
    return bool(np.all(np.abs(np.asarray(popt) - expected) < 0.01 * errors))


def are_standard_errors(errors, x, y, **options):
    """Return whether standard errors are right to a percent."""
    return bool(np.allclose(errors, reference(x, y, **options)[1], rtol=0.01))


JACOBIAN_NOTE = "finite differences, or a Jacobian of your own, which may be one by JAX"


def jacobian_by_jax(x, *params):
    """Return the Jacobian of the curve at parameters, of shape (n_rows, 3), in float64."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        derivative = jax.jacfwd(lambda params: decay(jnp.asarray(x), *params, xp=jnp))
        return np.array(derivative(jnp.asarray(params)))  # a copy: lmfit writes into it


def any_finite_difference(calls):
    """Return whether two calls in a row differ in one parameter alone, by a small part of it."""
    steps = np.abs(np.diff(np.array(calls), axis=0))
    sizes = steps.max(axis=1)
    is_one = np.count_nonzero(steps, axis=1) == 1
    return bool(np.any(is_one & (sizes > 1e-9) & (sizes < 1e-3)))


PEAK_LIMITS = ([0, 0, 0.5], [10, 100, 20.0])


def peak(x, height, center, width, xp=np):
    """Return a narrow peak, which is not found by going downhill from a distance."""
    return height * xp.exp(-0.5 * ((x - center) / width) ** 2)


def peak_data():
    """Return x and y of a peak of height 3 at 70, with width 2."""
    x = np.linspace(0, 100, 2000)
    return x, peak(x, 3, 70, 2)


def spoiled(x, y):
    """Return y with outliers in 3 of 100 rows."""
    y = y.copy()
    y[::33] += 3.0
    return y


def is_robust(popt):
    """Return whether an answer is not pulled by the outliers: near the true parameters."""
    return bool(np.all(np.abs(np.asarray(popt) - [2.5, 1.3, 0.5]) < 0.03))


# A subprocess, since a process never gives its largest memory back. The small fit before makes
# what is compiled, and what is imported late, part of the memory that counts before the large one.
_MEMORY_SCRIPT = """
import sys; sys.path.insert(0, {folder!r})
import numpy as np
from {module} import fit_memory_map
from problem import peak_memory
fit_memory_map({small!r})
before = peak_memory()
popt = fit_memory_map({large!r})
print(peak_memory() - before, *popt)
"""


def peak_memory():
    """Return the largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_map_cell(module, n_rows=30_000_000):
    """Return whether a memory map is fitted in less memory than half of its size.

    ``fit_memory_map(directory)`` of the module fits ``x.npy`` and ``y.npy`` and returns the answer.
    """
    folder = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as name:
        for size, rows in (("small", 400_000), ("large", n_rows)):
            directory = Path(name, size)
            directory.mkdir()
            for column, values in zip("xy", data(rows), strict=True):
                np.save(directory / f"{column}.npy", values)
        script = _MEMORY_SCRIPT.format(
            folder=folder, module=module, small=f"{name}/small", large=f"{name}/large"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        if done.returncode:
            return Cell("no", f"ended with {done.stderr.strip().splitlines()[-1][:80]}")
    grown, *popt = map(float, done.stdout.split()[-4:])
    size = 16 * n_rows
    if grown > size / 2:
        return Cell("no", f"took {grown / size:.1f} times the size of the file")
    off = np.max(np.abs(np.array(popt) - [2.5, 1.3, 0.5]) / [4.7e-5, 4.6e-5, 1.5e-5])
    if off > 5:
        return Cell("partly", f"in bounded memory, {off:.0f} standard errors off")
    return YES


def load_memory_map(directory):
    """Open the two columns without reading them."""
    return (np.load(Path(directory, f"{column}.npy"), mmap_mode="r") for column in "xy")


def correlated_rows(n_rows=200):
    """Return x, y and a covariance of the rows, which are correlated with their neighbours."""
    x, y = data(n_rows)
    covariance = 0.05**2 * (np.eye(n_rows) + 0.5 * np.eye(n_rows, k=1) + 0.5 * np.eye(n_rows, k=-1))
    return x, y, covariance


def undetermined_note(error):
    """Return the note on two constants whose sum alone is determined."""
    return f"two constants that are added get standard errors of {error:.1g}"


class Unreadable:
    """While it is entered, a Dask array that is turned into NumPy whole is an error."""

    def __enter__(self):
        import dask.array as da

        self._kept = da.Array.__array__

        def refuse(array, *args, **kwargs):
            raise MemoryError("the whole Dask array would be read into memory")

        da.Array.__array__ = refuse

    def __exit__(self, *details):
        import dask.array as da

        da.Array.__array__ = self._kept


def dask_data(n_rows=100_000):
    """Return the problem as Dask arrays, x with one column."""
    import dask.array as da

    x, y = data(n_rows)
    return da.from_array(x[:, None], chunks=(10_000, 1)), da.from_array(y, chunks=10_000)


def has_command(distribution):
    """Return whether a package installs a command."""
    from importlib.metadata import entry_points

    return any(
        point.dist.name.lower().replace("-", "_") == distribution
        for point in entry_points(group="console_scripts")
        if point.dist is not None
    )
