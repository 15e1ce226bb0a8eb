"""What lmfit's `Model` does."""

import inspect
import warnings

import lmfit
import numpy as np
from lmfit import Model
from problem import (
    JACOBIAN_NOTE,
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
    reference,
    spoiled,
    undetermined_note,
    yes_if,
)

NAME, VERSIONS = "lmfit `Model`", {"lmfit": lmfit.__version__}


def fit(x, y, **options):
    model = Model(decay, independent_vars=["x", "xp"])
    return model.fit(y, x=x, xp=np, **dict(zip("abc", START, strict=True)), **options)


def values(result):
    return [result.params[name].value for name in "abc"]


def curve():
    x, y = data()
    return yes_if(is_least_squares(values(fit(x, y)), x, y))


def errors():
    x, y = data()
    result = fit(x, y)
    return yes_if(are_standard_errors([result.params[name].stderr for name in "abc"], x, y))


def derivatives():
    x, y = data()
    calls = []

    def counted(x, a, b, c):
        calls.append((a, b, c))
        return decay(x, a, b, c)

    # Of the residual of a `Model`, which is data minus curve.
    def derivative(params, y, weights, x):
        return -jacobian_by_jax(x, *params.valuesdict().values())

    Model(counted).fit(y, x=x, a=1, b=1, c=1)
    if not any_finite_difference(calls):
        return YES
    calls.clear()
    result = Model(counted).fit(y, x=x, a=1, b=1, c=1, fit_kws={"Dfun": derivative})
    assert not any_finite_difference(calls)
    return own_if(is_least_squares(values(result), x, y), JACOBIAN_NOTE)


def sigma():
    x, y = data()
    noise = 0.02 + x / 20
    result = fit(x, y, weights=1 / noise)
    found = [result.params[name].stderr for name in "abc"]
    return yes_if(
        is_least_squares(values(result), x, y, sigma=noise)
        and are_standard_errors(found, x, y, sigma=noise)
    )


def bounds():
    x, y = data()
    model = Model(decay, independent_vars=["x", "xp"])
    params = model.make_params(a=1, b={"value": 1, "max": 1.2}, c=1)
    return yes_if(abs(model.fit(y, params, x=x, xp=np).params["b"].value - 1.2) < 1e-4)


def robust():
    x, y = data()
    options = {"loss": "cauchy", "f_scale": 0.1}
    result = fit(x, spoiled(x, y), method="least_squares", fit_kws=options)
    return yes_if(is_robust(values(result)))


def starts():
    x, y = peak_data()
    model = Model(lambda x, height, center, width: peak(x, height, center, width))
    params = model.make_params(height=1, center=1, width=1)
    for name, low, high in zip(params, *PEAK_LIMITS, strict=True):
        params[name].set(min=low, max=high)
    result = model.fit(y, params, x=x, method="differential_evolution", fit_kws={"rng": 0})
    return yes_if(abs(result.params["center"].value - 70) < 0.01)


def ready():
    x, y = data()
    model = lmfit.models.ExponentialModel()
    result = model.fit(y - 0.5, model.guess(y - 0.5, x=x), x=x)
    return yes_if(abs(result.params["amplitude"].value - 2.5) < 0.05)


def expressions():
    x, y = data()
    model = Model(decay, independent_vars=["x", "xp"])
    params = model.make_params(a=1, b={"expr": "a / 2"}, c=1)
    params = model.fit(y, params, x=x, xp=np).params
    return yes_if(params["b"].value == params["a"].value / 2)


def row_covariance():
    x, y, covariance = correlated_rows()
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    try:
        if is_least_squares(values(fit(x, y, weights=whiten)), x, y, sigma=covariance):
            return YES
    except ValueError:
        pass

    def residual(params):
        return whiten @ (decay(x, *params.valuesdict().values()) - y)

    params = lmfit.create_params(a=1, b=1, c=1)
    popt = list(lmfit.minimize(residual, params).params.valuesdict().values())
    note = "by `minimize`, with a residual of your own"
    return own_if(is_least_squares(popt, x, y, sigma=covariance), note)


def profile():
    interval = fit(*data(500)).conf_interval()["b"]
    return yes_if(len(interval) == 7)  # three levels on each side, and the best


def band():
    x, y = data()
    result = fit(x, y)
    popt, _ = reference(x, y)
    found = result.eval_uncertainty(x=np.array([1.0]), xp=np)[0]
    columns = np.array([np.exp(-popt[1]), -popt[0] * np.exp(-popt[1]), 1.0])
    return yes_if(abs(found / np.sqrt(columns @ result.covar @ columns) - 1) < 0.05)


def fit_memory_map(directory):
    return values(fit(*load_memory_map(directory)))


def memory_map():
    return memory_map_cell("probe_lmfit")


def dask():
    X, y = dask_data()
    try:
        with Unreadable():
            fit(X[:, 0], y)
    except MemoryError as error:
        return Cell("no", str(error))
    return yes_if(True)


def cluster():
    return dask()  # what turns an array into NumPy does so on a cluster too


def batches():
    return yes_if(hasattr(Model, "partial_fit"))


def grid_search():
    return yes_if(hasattr(Model, "get_params"))


def check_estimator():
    return grid_search()


def resume():
    names = {*inspect.signature(Model.fit).parameters, *dir(Model), *dir(lmfit.model.ModelResult)}
    return yes_if(
        any("checkpoint" in name or "resume" in name for name in names),
        "saves results of finished fits (`save_modelresult`)"
        if hasattr(lmfit.model, "save_modelresult")
        else "",
    )


def resume_search():
    return grid_search()


def not_converged():
    x, y = data()
    result = Model(decay, independent_vars=["x", "xp"]).fit(
        y, x=x, xp=np, a=50, b=9, c=-7, max_nfev=5
    )
    return yes_if(not result.success)


def undetermined():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x, y = data()
        result = Model(lambda x, a, b, c: a + b + c * x).fit(y, x=x, a=1, b=1, c=1)
    error = result.params["a"].stderr
    return yes_if(caught or not result.errorbars, undetermined_note(error or np.nan))


def nan():
    x, y = data()
    y[7] = np.nan
    try:
        fit(x, y)
    except ValueError:
        return yes_if(True)
    return yes_if(False)


def callback():
    calls = []

    def stop(params, iteration, residual, *args, **kwargs):
        calls.append(iteration)
        return True

    fit(*data(), iter_cb=stop)
    return yes_if(len(calls) < 5)


def report():
    return yes_if("+/-" in fit(*data()).fit_report())


def plot():
    x, y = data(200)
    figure = Model(lambda x, a, b, c: decay(x, a, b, c)).fit(y, x=x, a=1, b=1, c=1).plot()
    return yes_if(len(figure.axes) == 2)


def command():
    return yes_if(has_command("lmfit"))
