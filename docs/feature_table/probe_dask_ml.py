"""What dask-ml does: its estimators are linear; its wrappers take another library's estimator."""

import inspect
import pkgutil
import warnings
from importlib import import_module

import dask.array as da
import dask_ml
import numpy as np
import scipy
import sklearn
from dask import __version__ as dask_version
from dask_ml.linear_model import LinearRegression, LogisticRegression
from dask_ml.model_selection import GridSearchCV
from dask_ml.wrappers import Incremental
from problem import (
    Cell,
    Unreadable,
    dask_data,
    data,
    has_command,
    load_memory_map,
    memory_map_cell,
    yes_if,
)
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import SGDRegressor

NAME, VERSIONS = (
    "dask-ml",
    {
        "dask-ml": dask_ml.__version__,
        "Dask": dask_version,
        "scikit-learn": sklearn.__version__,
        "SciPy": scipy.__version__,
    },
)
ONLY_LINEAR = "linear curves only"


def estimators():
    """Return every public estimator class of the package."""
    found = {}
    for module in pkgutil.walk_packages(dask_ml.__path__, "dask_ml."):
        if any(part.startswith("_") or part == "tests" for part in module.name.split(".")):
            continue
        if module.name in ("dask_ml.xgboost", "dask_ml.tensorflow"):
            continue
        for name, value in vars(import_module(module.name)).items():
            is_theirs = getattr(value, "__module__", "").startswith("dask_ml")
            if inspect.isclass(value) and issubclass(value, BaseEstimator) and is_theirs:
                found[name] = value
    return found


def takes_a_curve():
    """Return the estimators that take a function of x and parameters."""
    words = {"model", "func", "function", "f", "curve"}
    return [
        name
        for name, cls in estimators().items()
        if hasattr(cls, "predict") and words & set(inspect.signature(cls.__init__).parameters)
    ]


def curve():
    assert len(estimators()) > 20
    return yes_if(takes_a_curve(), ONLY_LINEAR)


def straight_line(**options):
    X, y = dask_data(20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LinearRegression(**options).fit(X, y)


def errors():
    return yes_if(any("std" in name or "cov" in name for name in vars(straight_line())))


def derivatives():
    return curve()


def sigma():
    takers = [
        name
        for name, cls in estimators().items()
        if "sample_weight" in inspect.signature(getattr(cls, "fit", print)).parameters
        and name.endswith("Regression")
    ]
    return yes_if(takers)


def has_setting(*words):
    """Return whether a regression of the package has a setting of such a name."""
    return yes_if(
        any(
            word in name
            for cls in (LinearRegression, LogisticRegression)
            for name in inspect.signature(cls.__init__).parameters
            for word in words
        )
    )


def bounds():
    return has_setting("bounds", "positive")


def robust():
    return has_setting("loss", "huber")


def starts():
    return has_setting("n_starts", "n_init")


def ready():
    return curve()


def expressions():
    return has_setting("expr", "constraint")


def row_covariance():
    return has_setting("covariance")


def profile():
    return errors()


def band():
    return yes_if("return_std" in inspect.signature(LinearRegression.predict).parameters)


def fit_memory_map(directory):
    x, y = (da.from_array(column, chunks=1_000_000) for column in load_memory_map(directory))
    return (*LinearRegression(solver="newton").fit(x[:, None], y).coef_, 0.0, 0.0)


def memory_map():
    cell = memory_map_cell("probe_dask_ml")
    return Cell("no", cell.note) if cell.answer == "no" else Cell("partly", ONLY_LINEAR)


def dask():
    with Unreadable():
        try:
            line = straight_line()
        except MemoryError as error:
            return Cell("no", str(error))
    x, y = data(20_000)
    expected = np.polyfit(x, y, 1)
    assert np.allclose(line.coef_[0], expected[0], rtol=0.01)
    return Cell("partly", ONLY_LINEAR)


def cluster():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as workers:
        with Client(workers):
            return dask()


def batches():
    X, y = dask_data(20_000)
    incremental = Incremental(SGDRegressor(random_state=0)).fit(X, y)
    assert incremental.estimator_.t_ > 20_000
    return Cell("partly", "`Incremental` hands blocks to another estimator's `partial_fit`")


def grid_search():
    X, y = dask_data(20_000)
    search = GridSearchCV(SGDRegressor(random_state=0), {"alpha": [1e-4, 1e-3]}, cv=2).fit(X, y)
    assert search.best_params_
    return yes_if(takes_a_curve(), "its `GridSearchCV` takes another library's estimator")


def check_estimator():
    from sklearn.utils.estimator_checks import check_estimator

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_estimator(LinearRegression())
    except Exception as error:
        return Cell("no", f"`{type(error).__name__}` in its `LinearRegression`")
    return yes_if(True)


def resume():
    return has_setting("checkpoint", "resume")


def resume_search():
    fitted = []

    class Counted(BaseEstimator):
        def __init__(self, shift=0.0):
            self.shift = shift

        def fit(self, X, y):
            fitted.append(1)
            self.mean_ = float(np.mean(y)) + self.shift
            return self

        def predict(self, X):
            return np.full(len(X), self.mean_)

        def score(self, X, y):
            return -float(np.mean((y - self.mean_) ** 2))

    x, y = data(1000)
    for _ in range(2):
        first = len(fitted)
        GridSearchCV(clone(Counted()), {"shift": [0.0, 1.0]}, cv=2).fit(x[:, None], y)
    return yes_if(len(fitted) == first)


def not_converged():
    X, y = dask_data(20_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = LinearRegression(max_iter=1, solver="lbfgs").fit(X, y)
    told = any("conver" in str(warning.message).lower() for warning in caught)
    return yes_if(told or any("converged" in name for name in vars(line)))


def undetermined():
    X, y = dask_data(20_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LinearRegression().fit(da.concatenate([X, X], axis=1).rechunk({1: 2}), y)
    told = any("singular" in str(warning.message).lower() for warning in caught)
    return yes_if(told, "two equal columns get a slope each without a word")


def nan():
    X, y = dask_data(20_000)
    y = da.where(X[:, 0] == X[7, 0], np.nan, y)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            line = LinearRegression().fit(X, y)
    except ValueError:
        return yes_if(True)
    return Cell("no", f"gives {line.coef_[0]:.3g}")


def callback():
    return has_setting("callback")


def report():
    return yes_if(any("summary" in name for name in dir(straight_line())))


def plot():
    return yes_if(any("plot" in name for name in dir(straight_line())))


def command():
    return yes_if(has_command("dask_ml"))
