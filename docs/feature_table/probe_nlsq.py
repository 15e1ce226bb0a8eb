"""What NLSQ does: `curve_fit`, and its streaming optimizer where that is meant for the task."""

import logging
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import nlsq
import numpy as np
from nlsq import AdaptiveHybridStreamingOptimizer, HybridStreamingConfig, curve_fit
from problem import (
    START,
    Cell,
    Unreadable,
    are_standard_errors,
    dask_data,
    data,
    has_command,
    is_least_squares,
    is_robust,
    load_memory_map,
    memory_map_cell,
    spoiled,
    undetermined_note,
    yes_if,
)
from problem import decay as numpy_decay

logging.disable(logging.WARNING)
NAME, VERSIONS = "NLSQ", {"NLSQ": nlsq.__version__, "JAX": jax.__version__}


def decay(x, a, b, c):
    return numpy_decay(x, a, b, c, xp=jnp)


def fit(x, y, p0=START, **options):
    popt, pcov = curve_fit(decay, x, y, p0=np.array(p0), **options)
    return np.asarray(popt), np.sqrt(np.diag(pcov))


def curve():
    x, y = data()
    return yes_if(is_least_squares(fit(x, y)[0], x, y))


def errors():
    x, y = data()
    return yes_if(are_standard_errors(fit(x, y)[1], x, y))


def derivatives():
    is_traced = []

    def watched(x, a, b, c):
        is_traced.append(isinstance(a, jax.core.Tracer))
        return decay(x, a, b, c)

    curve_fit(watched, *data(), p0=np.array(START))
    return yes_if(all(is_traced))


def sigma():
    x, y = data()
    noise = 0.02 + x / 20
    popt, perr = fit(x, y, sigma=noise)
    return yes_if(
        is_least_squares(popt, x, y, sigma=noise) and are_standard_errors(perr, x, y, sigma=noise)
    )


def bounds():
    popt, _ = fit(*data(), bounds=(np.zeros(3), np.array([9, 1.2, 9])))
    return yes_if(abs(popt[1] - 1.2) < 1e-4)


def robust():
    x, y = data()
    return yes_if(is_robust(fit(x, spoiled(x, y), loss="cauchy", f_scale=0.1)[0]))


def starts():
    def peak(x, height, center, width):
        return height * jnp.exp(-0.5 * ((x - center) / width) ** 2)

    x = np.linspace(0, 100, 2000)
    y = 3 * np.exp(-0.5 * ((x - 70) / 2) ** 2)
    limits = (np.array([0, 0, 0.5]), np.array([10, 100, 20.0]))
    found = curve_fit(peak, x, y, p0=np.ones(3), bounds=limits, multistart=True, n_starts=30)
    return yes_if(abs(found.popt[1] - 70) < 0.01)


def ready():
    from nlsq.core.functions import exponential_decay

    popt, _ = curve_fit(exponential_decay, *data(), p0="auto")
    return yes_if(np.allclose(popt, [2.5, 1.3, 0.5], rtol=0.02))


def expressions():
    try:
        popt, _ = fit(*data(), constraints={"b": "a / 2"})
    except TypeError:
        return yes_if(False)
    return yes_if(popt[1] == popt[0] / 2)


def row_covariance():
    x, y = data(200)
    covariance = 0.05**2 * (np.eye(200) + 0.5 * np.eye(200, k=1) + 0.5 * np.eye(200, k=-1))
    return yes_if(not np.allclose(fit(x, y, sigma=covariance)[0], fit(x, y)[0]))


def profile():
    return yes_if(any("profile" in name for name in dir(nlsq.result.CurveFitResult)))


def band():
    x, y = data()
    result = curve_fit(decay, x, y, p0=np.array(START))
    low, high = np.asarray(result.confidence_band(np.array([1.0]), alpha=0.6827)).ravel()[-2:]
    a, b, _ = result.popt
    columns = np.array([np.exp(-b), -a * np.exp(-b), 1.0])
    return yes_if(abs((high - low) / 2 / np.sqrt(columns @ result.pcov @ columns) - 1) < 0.05)


def stream(x, y, **settings):
    optimizer = AdaptiveHybridStreamingOptimizer(HybridStreamingConfig(verbose=0, **settings))
    return optimizer.fit((x, y), decay, np.array(START), verbose=0)


def fit_memory_map(directory):
    x, y = load_memory_map(directory)
    return np.asarray(stream(x, y)["x"])


def memory_map():
    return memory_map_cell("probe_nlsq")


def dask():
    X, y = dask_data()
    try:
        with Unreadable():
            stream(X[:, 0], y)
    except (MemoryError, TypeError, ValueError) as error:
        return Cell("no", str(error)[:80])
    return yes_if(True)


def cluster():
    return dask()  # what turns an array into NumPy does so on a cluster too


def batches():
    return yes_if(any(hasattr(face, "partial_fit") for face in (nlsq.CurveFit, nlsq)))


def grid_search():
    return yes_if(hasattr(nlsq.CurveFit, "get_params"))


def check_estimator():
    return grid_search()


class StopError(Exception):
    pass


def iterations_until_stopped(directory):
    """Run a streaming fit with checkpoints until its fifth iteration; return their numbers."""
    seen = []

    def stop(params, loss, iteration):
        seen.append(iteration)
        if len(seen) == 5:
            raise StopError

    config = HybridStreamingConfig(
        verbose=0,
        enable_checkpoints=True,
        checkpoint_frequency=1,
        checkpoint_dir=directory,
        callback_frequency=1,
    )
    optimizer = AdaptiveHybridStreamingOptimizer(config)
    try:
        optimizer.fit(data(2000), decay, np.array(START), callback=stop, verbose=0)
    except StopError:
        pass
    return seen[:5]


def resume():
    with tempfile.TemporaryDirectory() as directory:
        first = iterations_until_stopped(directory)
        n_files = len(list(Path(directory).iterdir()))
        second = iterations_until_stopped(directory)
    assert len(first) == 5
    if second[0] > first[0]:
        return yes_if(True)
    note = "its streaming `fit` writes checkpoints and reads none" if n_files else ""
    return Cell("no", note)


def resume_search():
    return grid_search()


def not_converged():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = curve_fit(decay, *data(), p0=np.array([50.0, 9, -7]), max_nfev=2)
        except RuntimeError:
            return yes_if(True)
    return yes_if(not result.success)


def undetermined():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = curve_fit(lambda x, a, b, c: a + b + c * x, *data(), p0=np.ones(3))
    is_told = any(issubclass(w.category, nlsq.OptimizeWarning) for w in caught)
    error = np.sqrt(result.pcov[0, 0])
    return yes_if(is_told or not np.isfinite(error), undetermined_note(error))


def nan():
    x, y = data()
    y[7] = np.nan
    try:
        popt, _ = fit(x, y)
    except ValueError:
        return yes_if(True)
    return Cell("no", f"gives {popt[0]:.3g}")


def callback():
    calls = []

    def stop(**state):
        calls.append(state)
        raise nlsq.StopOptimization

    fit(*data(), callback=stop)
    return yes_if(len(calls) == 1)


def report():
    result = curve_fit(decay, *data(), p0=np.array(START))
    return yes_if(callable(result.summary))


def plot():
    result = curve_fit(decay, *data(200), p0=np.array(START))
    return yes_if(result.plot() is not None)


def command():
    return yes_if(has_command("nlsq"))
