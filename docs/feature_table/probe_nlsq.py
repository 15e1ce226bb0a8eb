"""What NLSQ does: `curve_fit`, and its streaming optimizer where that is meant for the task."""

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import nlsq
import numpy as np
from nlsq import AdaptiveHybridStreamingOptimizer, HybridStreamingConfig, curve_fit
from nlsq.global_optimization import CMAESConfig
from nlsq.global_optimization.checkpoint import HPCCheckpointManager
from problem import (
    PEAK_LIMITS,
    START,
    Cell,
    Unreadable,
    are_standard_errors,
    correlated_rows,
    dask_data,
    data,
    has_command,
    is_least_squares,
    is_robust,
    load_memory_map,
    memory_map_cell,
    peak,
    peak_data,
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
    def jax_peak(x, height, center, width):
        return peak(x, height, center, width, xp=jnp)

    options = {"bounds": PEAK_LIMITS, "multistart": True, "n_starts": 30}
    found = curve_fit(jax_peak, *peak_data(), p0=np.ones(3), **options)
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
    x, y, covariance = correlated_rows()
    return yes_if(is_least_squares(fit(x, y, sigma=covariance)[0], x, y, sigma=covariance))


def profile():
    return yes_if(any("profile" in name for name in dir(nlsq.result.CurveFitResult)))


def band():
    x, y = data()
    result = curve_fit(decay, x, y, p0=np.array(START))
    low, high = np.asarray(result.confidence_band(np.array([1.0]), alpha=0.6827)).ravel()[-2:]
    a, b, _ = result.popt
    columns = np.array([np.exp(-b), -a * np.exp(-b), 1.0])
    return yes_if(abs((high - low) / 2 / np.sqrt(columns @ result.pcov @ columns) - 1) < 0.05)


def stream(source):
    optimizer = AdaptiveHybridStreamingOptimizer(HybridStreamingConfig(verbose=0))
    return np.asarray(optimizer.fit(source, decay, np.array(START), verbose=0)["x"])


def by_chunks(source):
    p0, limit = np.array(START), 0.125  # in GB
    return np.asarray(nlsq.fit_large_dataset(decay, *source, p0=p0, memory_limit_gb=limit)["popt"])


def fit_memory_map(directory):
    return by_chunks(load_memory_map(directory))


def memory_map():
    # Its stream is no way: of a million rows it took 112 times the size of the file.
    return memory_map_cell("probe_nlsq")


def dask():
    X, y = dask_data()
    for way in (by_chunks, stream):
        try:
            with Unreadable():
                popt = way((X[:, 0], y))
        except (MemoryError, TypeError, ValueError) as error:
            note = str(error)[:80]
        else:
            if is_least_squares(popt, *data(100_000)):
                return yes_if(True)
    return Cell("no", note)


def cluster():
    return dask()  # what turns an array into NumPy does so on a cluster too


def batches():
    x, y = data()
    try:
        stream(iter([(x[rows], y[rows]) for rows in np.array_split(np.arange(x.size), 50)]))
    except NotImplementedError:
        return yes_if(any(hasattr(face, "partial_fit") for face in (nlsq.CurveFit, nlsq)))
    return yes_if(True)


def grid_search():
    return yes_if(hasattr(nlsq.CurveFit, "get_params"))


def check_estimator():
    return grid_search()


class StopError(Exception):
    pass


def search_resumes():
    """Return whether a search by CMA-ES goes on from its checkpoint, and ends in the same bits."""
    options = {"workflow": "hpc", "method": "cmaes", "seed": 0, "p0": np.array(START)}
    options["bounds"] = (np.zeros(3), np.full(3, 9.0))
    options["cmaes_config"] = CMAESConfig(restart_strategy="none", max_generations=40)

    def search(directory):
        names = {"checkpoint_dir": directory, "run_id": "a", "model_id": "decay"}
        names["checkpoint_interval"] = 5
        return np.asarray(nlsq.fit(decay, *data(2000), **options, **names).popt)

    save = HPCCheckpointManager.save
    saved = []

    def save_and_stop(manager, *args):
        save(manager, *args)
        saved.append(args)
        if len(saved) == 3:
            raise StopError

    with (
        tempfile.TemporaryDirectory() as undisturbed,
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(HPCCheckpointManager, "save", save_and_stop),
    ):
        try:
            search(directory)
        except StopError:
            pass
        assert len(saved) == 3
        popt = search(directory)
        n_saved = len(saved)
        expected = search(undisturbed)
    assert n_saved - 3 < len(saved) - n_saved  # the second search went on
    return np.array_equal(popt, expected)


def first_iterations(directory):
    """Run a short streaming fit with checkpoints; return the numbers of its first iterations."""
    seen = []
    config = HybridStreamingConfig(
        verbose=0,
        enable_checkpoints=True,
        checkpoint_frequency=1,
        checkpoint_dir=directory,
        callback_frequency=1,
        warmup_iterations=4,
        max_warmup_iterations=4,
        gauss_newton_max_iterations=2,
    )
    optimizer = AdaptiveHybridStreamingOptimizer(config)
    record = lambda params, loss, iteration: seen.append(iteration)  # noqa: E731
    optimizer.fit(data(2000), decay, np.array(START), callback=record, verbose=0)
    return seen


def resume():
    with tempfile.TemporaryDirectory() as directory:
        first = first_iterations(directory)
        n_files = len(list(Path(directory).iterdir()))
        second = first_iterations(directory)
    if second[0] > first[0]:
        return yes_if(True)
    assert n_files
    if search_resumes():
        note = (
            'its search for a start (`workflow="hpc"`, CMA-ES); '
            "the streaming `fit` writes checkpoints and reads none"
        )
        return Cell("partly", note)
    return Cell("no")


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


def sum_of_constants(x, a, b, c):
    return a + b + c * x


def undetermined():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = curve_fit(sum_of_constants, *data(), p0=np.ones(3))
        error = np.sqrt(result.pcov[0, 0])
        if not np.isfinite(error) or any(w.category is nlsq.OptimizeWarning for w in caught):
            return yes_if(True)
        asked = curve_fit(sum_of_constants, *data(), p0=np.ones(3), compute_diagnostics=True)
    if asked.diagnostics.identifiability.numerical_rank == 2:
        return Cell(
            "partly", f"when asked (`compute_diagnostics`); else {undetermined_note(error)}"
        )
    return Cell("no", undetermined_note(error))


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
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        result.summary()
    return yes_if(str(round(float(result.popt[0]), 3)) in printed.getvalue())


def plot():
    result = curve_fit(decay, *data(200), p0=np.array(START))
    return yes_if(result.plot() is not None)


def command():
    return yes_if(has_command("nlsq"))
