"""What `scipy.optimize.curve_fit` does."""

import inspect
import warnings

import numpy as np
import scipy
from problem import (
    NO,
    START,
    YES,
    Cell,
    Unreadable,
    are_standard_errors,
    dask_data,
    data,
    decay,
    has_command,
    is_least_squares,
    is_robust,
    load_memory_map,
    memory_map_cell,
    spoiled,
    undetermined_note,
    yes_if,
)
from scipy.optimize import OptimizeWarning, curve_fit

NAME, VERSIONS = "SciPy `curve_fit`", {"SciPy": scipy.__version__}


def curve():
    x, y = data()
    return yes_if(is_least_squares(curve_fit(decay, x, y, START)[0], x, y))


def errors():
    x, y = data()
    return yes_if(are_standard_errors(np.sqrt(np.diag(curve_fit(decay, x, y, START)[1])), x, y))


def derivatives():
    x, y = data()
    calls = []

    def counted(x, *params):
        calls.append(params)
        return decay(x, *params)

    curve_fit(counted, x, y, START)
    steps = np.abs(np.diff(np.array(calls), axis=0))
    # A finite difference changes one parameter by a tiny part of it.
    is_difference = (np.count_nonzero(steps, axis=1) == 1) & (steps.max(axis=1) < 1e-5)
    return yes_if(not any(is_difference), "finite differences, or a function of yours")


def sigma():
    x, y = data()
    noise = 0.02 + x / 20
    popt, pcov = curve_fit(decay, x, y, START, sigma=noise)
    return yes_if(
        is_least_squares(popt, x, y, sigma=noise)
        and are_standard_errors(np.sqrt(np.diag(pcov)), x, y, sigma=noise)
    )


def bounds():
    x, y = data()
    popt = curve_fit(decay, x, y, START, bounds=([0, 0, 0], [9, 1.2, 9]))[0]
    return yes_if(abs(popt[1] - 1.2) < 1e-6)


def robust():
    x, y = data()
    y = spoiled(x, y)
    popt = curve_fit(decay, x, y, START, loss="cauchy", f_scale=0.1, method="trf")[0]
    return yes_if(is_robust(popt))


def starts():
    names = set(inspect.signature(curve_fit).parameters)
    return yes_if(
        {"n_starts", "multistart"} & names, "`scipy.optimize` has global minimisers beside it"
    )


def ready():
    try:
        curve_fit(decay, *data(), p0="auto")
    except (ValueError, TypeError):
        return NO
    return YES


def expressions():
    return yes_if({"constraints", "expr"} & set(inspect.signature(curve_fit).parameters))


def row_covariance():
    x, y = data(200)
    covariance = 0.05**2 * (np.eye(200) + 0.5 * np.eye(200, k=1) + 0.5 * np.eye(200, k=-1))
    plain = curve_fit(decay, x, y, START)[0]
    return yes_if(not np.allclose(curve_fit(decay, x, y, START, sigma=covariance)[0], plain))


def profile():
    return yes_if(any("conf" in name for name in inspect.signature(curve_fit).parameters))


def band():
    return yes_if(len(curve_fit(decay, *data(), START)) > 2)


def fit_memory_map(directory):
    return curve_fit(decay, *load_memory_map(directory), START)[0]


def memory_map():
    return memory_map_cell("probe_scipy")


def dask():
    X, y = dask_data()
    try:
        with Unreadable():
            curve_fit(decay, X[:, 0], y, START)
    except MemoryError as error:
        return Cell("no", str(error))
    return YES


def cluster():
    return dask()  # what turns an array into NumPy does so on a cluster too


def batches():
    return yes_if(hasattr(curve_fit, "partial_fit"))


def grid_search():
    return yes_if(hasattr(curve_fit, "get_params"))


def check_estimator():
    return grid_search()


def resume():
    names = set(inspect.signature(curve_fit).parameters)
    return yes_if(any("checkpoint" in name or "resume" in name for name in names))


def resume_search():
    return resume()


def not_converged():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            curve_fit(decay, *data(), (50, 9, -7), maxfev=2)
    except (RuntimeError, Warning):
        return YES
    return NO


def undetermined():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pcov = curve_fit(lambda x, a, b, c: a + b + c * x, *data(), START)[1]
    is_told = any(w.category is OptimizeWarning for w in caught) or not np.isfinite(pcov).all()
    return yes_if(is_told, undetermined_note(np.sqrt(pcov[0, 0])))


def nan():
    x, y = data()
    y[7] = np.nan
    try:
        curve_fit(decay, x, y, START)
    except ValueError:
        return YES
    return NO


def callback():
    calls = []

    def stop(intermediate_result):
        calls.append(intermediate_result)
        raise StopIteration

    try:
        curve_fit(decay, *data(), START, method="trf", callback=stop)
    except (TypeError, RuntimeError) as error:
        return yes_if(calls, str(error)[:60])
    return yes_if(len(calls) == 1)


def report():
    return yes_if(hasattr(curve_fit(decay, *data(), START), "summary"))


def plot():
    return yes_if(hasattr(curve_fit(decay, *data(), START), "plot"))


def command():
    return yes_if(has_command("scipy"))
