"""What this package does."""

import subprocess
import sys
import tempfile
import warnings

import jax.numpy as jnp
import numpy as np
from problem import (
    PEAK_LIMITS,
    START,
    Unreadable,
    are_standard_errors,
    correlated_rows,
    dask_data,
    data,
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
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import nlsq_sklearn
from nlsq_sklearn import CurveFitDisplay, JSONCheckpoint, StreamingCurveFitRegressor, models

NAME, VERSIONS = "nlsq_sklearn", {"nlsq_sklearn": nlsq_sklearn.__version__}


def decay(x, a, b, c):
    return numpy_decay(x, a, b, c, xp=jnp)


def fit(x, y, weight=None, **options):
    options = {"p0": START, "model": decay, **options}
    return StreamingCurveFitRegressor(**options).fit(x.reshape(-1, 1), y, weight)


def curve():
    x, y = data()
    return yes_if(is_least_squares(fit(x, y).popt_, x, y))


def errors():
    x, y = data()
    return yes_if(are_standard_errors(fit(x, y).perr_, x, y))


def derivatives():
    import jax

    is_traced = []

    def watched(x, a, b, c):
        is_traced.append(isinstance(a, jax.core.Tracer))
        return decay(x, a, b, c)

    fit(*data(), model=watched)
    return yes_if(all(is_traced))


def sigma():
    x, y = data()
    noise = 0.02 + x / 20
    fitted = fit(x, y, 1 / noise**2)
    return yes_if(
        is_least_squares(fitted.popt_, x, y, sigma=noise)
        and are_standard_errors(fitted.perr_, x, y, sigma=noise)
    )


def bounds():
    popt = fit(*data(), bounds=([0, 0, 0], [9, 1.2, 9])).popt_
    return yes_if(popt[1] == 1.2)


def robust():
    x, y = data()
    return yes_if(is_robust(fit(x, spoiled(x, y), loss="cauchy", f_scale=0.1).popt_))


def starts():
    def jax_peak(x, height, center, width):
        return peak(x, height, center, width, xp=jnp)

    options = {"bounds": PEAK_LIMITS, "n_starts": 30}
    found = fit(*peak_data(), model=jax_peak, p0=np.ones(3), **options)
    return yes_if(abs(found.popt_[1] - 70) < 0.01)


def ready():
    popt = fit(*data(), model=models.exponential_decay, p0="auto").popt_
    return yes_if(np.allclose(popt, [2.5, 1.3, 0.5], rtol=0.02))


def expressions():
    return yes_if({"constraints", "expr"} & set(StreamingCurveFitRegressor().get_params()))


def row_covariance():
    x, y, covariance = correlated_rows()
    optimizer = nlsq_sklearn.AdaptiveHybridStreamingOptimizer(decay)
    try:
        optimizer.fit(x, y, START, sigma=covariance)
    except ValueError:
        return yes_if(False)
    return yes_if(True)


def profile():
    fitted = fit(*data())
    return yes_if(any("profile" in name for name in dir(fitted) + dir(fitted.result_)))


def band():
    fitted = fit(*data())
    a, b, _ = fitted.popt_
    columns = np.array([np.exp(-b), -a * np.exp(-b), 1.0])
    expected = np.sqrt(columns @ fitted.pcov_ @ columns)
    return yes_if(abs(fitted.predict([[1.0]], return_std=True)[1][0] / expected - 1) < 0.01)


def fit_memory_map(directory):
    return fit(*load_memory_map(directory)).popt_


def memory_map():
    return memory_map_cell("probe_nlsq_sklearn")


def dask():
    X, y = dask_data()
    with Unreadable():
        popt = fit(X, y).popt_
    return yes_if(is_least_squares(popt, *data(100_000)))


def cluster():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as workers:
        with Client(workers):
            return dask()


def batches():
    x, y = data(100_000)
    stream = StreamingCurveFitRegressor(decay, p0=START)
    for rows in np.array_split(np.arange(x.size), 50):
        stream.partial_fit(x[rows, None], y[rows])
    whole = fit(x, y)
    return yes_if(np.all(np.abs(stream.popt_ - whole.popt_) < whole.perr_))


def grid_search():
    x, y = data(2000)
    regressor = StreamingCurveFitRegressor(decay, p0=START)
    search = GridSearchCV(regressor, {"loss": ["linear", "huber"]}, cv=2).fit(x[:, None], y)
    return yes_if(search.best_score_ > 0.9)


def check_estimator():
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(StreamingCurveFitRegressor())
    return yes_if(True)


class StopError(Exception):
    pass


def resume():
    x, y = data(200_000)
    options = {"chunk_size": 5000, "warm_start": True}
    undisturbed = fit(x, y, **options)
    saved = []

    def stop(path):
        saved.append(path)
        if len(saved) == 50:
            raise StopError

    with tempfile.TemporaryDirectory() as directory:
        try:
            fit(x, y, checkpoint=JSONCheckpoint(directory, interval=0, on_save=stop), **options)
        except StopError:
            pass
        resumed = fit(x, y, checkpoint=directory, **options)
    assert len(saved) == 50
    return yes_if(np.array_equal(resumed.popt_, undisturbed.popt_))


def resume_search():
    x, y = data(2000)
    resumed = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            resumed.clear()
            checkpoint = JSONCheckpoint(directory, on_save=resumed.append)
            regressor = StreamingCurveFitRegressor(
                decay, p0=START, warm_start=True, checkpoint=checkpoint
            )
            GridSearchCV(regressor, {"loss": ["linear", "huber"]}, cv=2).fit(x[:, None], y)
    return yes_if(not resumed)


def not_converged():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(*data(), p0=(50, 9, -7), max_iter=2)
    told = any(w.category is ConvergenceWarning for w in caught)
    return yes_if(told and not fitted.converged_)


def undetermined():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(*data(), model=lambda x, a, b, c: a + b + c * x)
    return yes_if(caught and np.isinf(fitted.perr_[0]), undetermined_note(fitted.perr_[0]))


def nan():
    x, y = data()
    y[7] = np.nan
    try:
        fit(x, y)
    except ValueError:
        return yes_if(True)
    return yes_if(False)


class Stop:
    def setup(self, estimator, context):
        self.n_passes = 0

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n_passes += context.task_name == "pass"
        return context.task_name == "pass"


def callback():
    stop = Stop()
    x, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        StreamingCurveFitRegressor(decay, p0=START).set_callbacks(stop).fit(x[:, None], y)
    return yes_if(stop.n_passes == 1)


def report():
    return yes_if("standard error" in str(fit(*data()).summary()))


def plot():
    x, y = data(200)
    return yes_if(CurveFitDisplay.from_estimator(fit(x, y), x[:, None], y).ax_ is not None)


def command():
    done = subprocess.run([sys.executable, "-m", "nlsq_sklearn", "models"], capture_output=True)
    return yes_if(done.returncode == 0 and b"gaussian" in done.stdout)
