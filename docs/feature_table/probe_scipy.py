"""What `scipy.optimize.curve_fit` does."""

import inspect
import warnings

import numpy as np
import scipy
from problem import (
    JACOBIAN_NOTE,
    NO,
    PEAK_LIMITS,
    START,
    YES,
    Cell,
    Unreadable,
    any_finite_difference,
    are_standard_errors,
    correlated_rows,
    dask_data,
    data,
    decay,
    has_command,
    is_least_squares,
    is_robust,
    jacobian_by_jax,
    load_memory_map,
    memory_map_cell,
    own_if,
    peak,
    peak_data,
    spoiled,
    undetermined_note,
    yes_if,
)
from scipy.optimize import OptimizeWarning, curve_fit, differential_evolution

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
    if not any_finite_difference(calls):
        return YES
    calls.clear()
    popt, _ = curve_fit(counted, x, y, START, jac=jacobian_by_jax)
    assert not any_finite_difference(calls)
    return own_if(is_least_squares(popt, x, y), JACOBIAN_NOTE)


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
    if {"n_starts", "multistart"} & set(inspect.signature(curve_fit).parameters):
        return YES
    x, y = peak_data()

    def cost(params):
        return np.sum((peak(x, *params) - y) ** 2)

    found = differential_evolution(cost, list(zip(*PEAK_LIMITS, strict=True)), rng=0)
    popt = curve_fit(peak, x, y, found.x)[0]
    return own_if(abs(popt[1] - 70) < 0.01, "by `differential_evolution`, with a cost of your own")


def ready():
    try:
        curve_fit(decay, *data(), p0="auto")
    except (ValueError, TypeError):
        return NO
    return YES


def expressions():
    return yes_if({"constraints", "expr"} & set(inspect.signature(curve_fit).parameters))


def row_covariance():
    x, y, covariance = correlated_rows()
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
