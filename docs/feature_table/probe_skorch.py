"""What skorch does: the curve is a PyTorch module, in float64."""

import inspect
import tempfile
import warnings
from operator import itemgetter

import dask as dask_module
import numpy as np
import skorch
import torch
from problem import (
    START,
    Cell,
    Unreadable,
    correlated_rows,
    dask_data,
    data,
    has_command,
    is_least_squares,
    is_robust,
    load_memory_map,
    memory_map_cell,
    own_if,
    peak,
    peak_data,
    reference,
    spoiled,
    yes_if,
)
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, LoadInitState, LRScheduler
from skorch.cli import parse_args

NAME, VERSIONS = "skorch", {"skorch": skorch.__version__, "PyTorch": torch.__version__}
torch.set_num_threads(1)


class Decay(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.params = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))

    def forward(self, x):
        a, b, c = self.params
        return a * torch.exp(-b * x) + c


def net_of(module=Decay, **options):
    return NeuralNetRegressor(module, train_split=None, verbose=0, **options)


def exact_net(module=Decay, **options):
    """Return a net that goes down all rows at once, by the one optimizer of second order."""
    settings = {
        "optimizer": torch.optim.LBFGS,
        "optimizer__line_search_fn": "strong_wolfe",
        "optimizer__max_iter": 50,
        "lr": 1.0,
        "batch_size": -1,
        "max_epochs": 10,
    }
    return net_of(module, **{**settings, **options})


def batch_net(**options):
    """Return a net that goes down batch by batch, as such libraries are mostly used."""
    settings = {"optimizer": torch.optim.Adam, "lr": 0.02, "batch_size": 4096}
    return net_of(**{**settings, **options})


class Weighted(NeuralNetRegressor):
    """A net whose loss takes a weight with each row, in the way of skorch's manual."""

    def get_loss(self, y_pred, y_true, X, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, X, *args, **kwargs)
        return (loss * X["weight"]).mean()


class DecayOfWeighted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.curve = Decay()

    def forward(self, x, weight):
        return self.curve(x)


class Correlated(torch.nn.Module):
    """A loss of all rows at once, whose errors are correlated."""

    def __init__(self, covariance):
        super().__init__()
        self.precision = torch.linalg.inv(torch.as_tensor(covariance))

    def forward(self, y_pred, y_true):
        residual = y_pred - y_true
        return (residual.T @ self.precision @ residual).squeeze()


class AtMost(torch.nn.Module):
    """A limit of the parameters, registered as PyTorch's parametrization."""

    def __init__(self, upper):
        super().__init__()
        self.upper = torch.tensor(upper, dtype=torch.float64)

    def forward(self, params):
        return torch.minimum(params, self.upper)


class BoundedDecay(Decay):
    def __init__(self, upper):
        super().__init__()
        torch.nn.utils.parametrize.register_parametrization(self, "params", AtMost(upper))


class Peak(torch.nn.Module):
    def __init__(self, start=(1.0, 1.0, 1.0)):
        super().__init__()
        self.params = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x):
        return peak(x, *self.params, xp=torch)


def columns(x, y):
    return x[:, None], y[:, None]


def values(net):
    return net.module_.params.detach().numpy()


def curve():
    x, y = data()
    popt = values(exact_net().fit(*columns(x, y)))
    if not is_least_squares(popt, x, y):
        return yes_if(False)
    return Cell("yes", "as a PyTorch module, by LBFGS with all rows in one batch")


def errors():
    net = exact_net().fit(*columns(*data()))
    return yes_if(any("std" in name or "cov" in name for name in dir(net)))


def derivatives():
    net = exact_net().fit(*columns(*data()))
    return yes_if(net.module_.params.grad is not None)


def sigma():
    if "sample_weight" in inspect.signature(NeuralNetRegressor.fit).parameters:
        return yes_if(True)
    x, y = data()
    noise = 0.02 + x / 20
    settings = exact_net(DecayOfWeighted, criterion__reduction="none").get_params(deep=False)
    X = {"x": x[:, None], "weight": 1e-3 / noise[:, None] ** 2}
    weighted = Weighted(**settings).fit(X, y[:, None])
    popt = weighted.module_.curve.params.detach().numpy()
    return own_if(is_least_squares(popt, x, y, sigma=noise), "by a `get_loss` of your own")


def bounds():
    net = exact_net(BoundedDecay, module__upper=[9, 1.2, 9]).fit(*columns(*data()))
    return own_if(abs(values(net)[1] - 1.2) < 1e-6, "by a parametrization of PyTorch")


def robust():
    x, y = data()
    net = exact_net(criterion=torch.nn.HuberLoss, criterion__delta=0.05)
    return yes_if(is_robust(values(net.fit(*columns(x, spoiled(x, y))))))


def starts():
    if any("n_starts" in name or "n_init" in name for name in exact_net().get_params()):
        return yes_if(True)
    x, y = columns(*peak_data())
    grid = {"module__start": [(1.0, center, 2.0) for center in np.linspace(0, 100, 30)]}
    folds = KFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(exact_net(Peak, max_epochs=3), grid, cv=folds).fit(x, y)
    center = values(search.best_estimator_)[1]
    return own_if(abs(center - 70) < 0.01, "by a grid search over the starts")


def ready():
    names = [name.lower() for name in dir(skorch) + dir(torch.nn)]
    return yes_if(any(name == "gaussian" or name == "exponentialdecay" for name in names))


def expressions():
    return yes_if(any("expr" in name for name in exact_net().get_params()))


def row_covariance():
    x, y, covariance = correlated_rows()
    options = {"criterion": Correlated, "criterion__covariance": covariance}
    popt = values(exact_net(**options).fit(*columns(x, y)))
    return own_if(is_least_squares(popt, x, y, sigma=covariance), "by a criterion of your own")


def profile():
    return errors()


def band():
    return errors()


class Chunks(torch.utils.data.Dataset):
    """Chunks of columns, each read when it is asked for."""

    def __init__(self, x, y, n_rows):
        self.x, self.y, self.n_rows = x, y, n_rows

    def __len__(self):
        return -(-len(self.x) // self.n_rows)

    def __getitem__(self, number):
        rows = slice(number * self.n_rows, (number + 1) * self.n_rows)
        return [torch.from_numpy(np.array(column[rows])[:, None]) for column in (self.x, self.y)]


class ComputedChunks(Chunks):
    """Chunks of Dask arrays."""

    def __getitem__(self, number):
        rows = slice(number * self.n_rows, (number + 1) * self.n_rows)
        computed = dask_module.compute(self.x[rows], self.y[rows])
        return [torch.from_numpy(column[:, None]) for column in computed]


def fit_chunks(chunks, **options):
    """Return the answer of a net that takes a step of Adam, of falling length, for each chunk."""
    decreasing = LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.7)
    settings = {"batch_size": 1, "iterator_train__collate_fn": itemgetter(0), "lr": 0.02}
    settings |= {"callbacks": [decreasing], "max_epochs": 4}
    return values(batch_net(**{**settings, **options}).fit(chunks, None))


def fit_memory_map(directory):
    return fit_chunks(Chunks(*load_memory_map(directory), 65_536))


def memory_map():
    cell = memory_map_cell("probe_skorch")
    if cell.answer == "no":
        return cell
    return Cell("own", f"a `Dataset` of yours, by Adam: {cell.note or 'the answer'}")


def dask():
    X, y = dask_data(300)  # it asks for each row by itself
    try:
        with Unreadable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exact_net().fit(X, y[:, None])
    except TypeError:
        pass
    else:
        return yes_if(True)
    X, y = dask_data(100_000)
    with Unreadable():
        popt = fit_chunks(ComputedChunks(X[:, 0], y, 1000), max_epochs=12)
    expected, errors = reference(*data(100_000))
    off = np.max(np.abs(popt - expected) / errors)
    return Cell("own", f"a `Dataset` of yours, by Adam: {off:.1f} standard errors off")


def cluster():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as workers:
        with Client(workers):
            return dask()


def batches():
    x, y = data(100_000)
    popt, errors = reference(x, y)
    off = []
    for lr in (0.02, 0.05, 0.1, 0.2, 0.4):
        net = batch_net(max_epochs=1, batch_size=-1, lr=lr).initialize()
        for rows in np.array_split(np.arange(x.size), 50):
            net.partial_fit(*columns(x[rows], y[rows]))
        assert len(net.history) == 50  # each batch was seen once
        off.append(np.max(np.abs(values(net) - popt) / errors))
    if min(off) < 1:
        return yes_if(True)
    note = f"at best {min(off):.0f} standard errors off, by a step of Adam for each batch"
    return Cell("partly", note)


def grid_search():
    x, y = columns(*data(2000))
    search = GridSearchCV(clone(exact_net()), {"lr": [1.0, 0.5]}, cv=2).fit(x, y)
    return yes_if(search.best_score_ > 0.9)


def check_estimator():
    from sklearn.utils.estimator_checks import check_estimator

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_estimator(exact_net())
    except Exception as error:
        return Cell("no", f"`{type(error).__name__}` in the first check that fails")
    return yes_if(True)


class StopError(Exception):
    pass


class StopAt(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) > self.epoch:
            raise StopError


def resume():
    x, y = columns(*data(20_000))

    def net(*callbacks):
        torch.manual_seed(0)
        return batch_net(callbacks=list(callbacks))

    undisturbed = values(net().fit(x, y))
    with tempfile.TemporaryDirectory() as directory:
        save = Checkpoint(monitor=None, dirname=directory)
        try:
            net(save, StopAt(5)).fit(x, y)
        except StopError:
            pass
        again = net(save, LoadInitState(save))
        again.set_params(max_epochs=5)
        resumed = values(again.fit(x, y))
    if np.array_equal(resumed, undisturbed):
        note = "from the last whole epoch; how many are left is yours to count"
        return Cell("yes", note)
    return Cell("partly", "from the last whole epoch, to other bits")


def resume_search():
    x, y = columns(*data(2000))
    fitted = []

    class Counted(NeuralNetRegressor):
        def fit(self, X, y, **options):
            fitted.append(1)
            return super().fit(X, y, **options)

    counted = Counted(**exact_net().get_params(deep=False))
    for _ in range(2):
        first = len(fitted)
        GridSearchCV(counted, {"lr": [1.0, 0.5]}, cv=2).fit(x, y)
    return yes_if(len(fitted) == first)


def not_converged():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = exact_net(max_epochs=1, optimizer__max_iter=1).fit(*columns(*data()))
    has_status = any("converged" in name for name in dir(net))
    return yes_if(caught or has_status)


class Doubled(Decay):
    def forward(self, x):
        a, b, c = self.params
        return a + b + c * x


def undetermined():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = exact_net(module=Doubled).fit(*columns(*data()))
    return yes_if(caught, f"gives {values(net)[0]:.3g} and {values(net)[1]:.3g} for two constants")


def nan():
    x, y = data()
    y[7] = np.nan
    try:
        net = exact_net().fit(*columns(x, y))
    except ValueError:
        return yes_if(True)
    return Cell("no", f"gives {values(net)[0]:.3g}")


def callback():
    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    net = exact_net(callbacks=[Stop()]).fit(*columns(*data()))
    return yes_if(len(net.history) == 1)


def report():
    net = exact_net().fit(*columns(*data()))
    return yes_if(hasattr(net, "summary"))


def plot():
    return yes_if(any("plot" in name for name in dir(exact_net())))


def command():
    if has_command("skorch"):
        return yes_if(True)
    net = parse_args({"lr": 0.5, "module__upper": [9, 9, 9]})(net_of(BoundedDecay))
    is_set = float(net.lr) == 0.5 and net.module__upper == [9, 9, 9]
    return own_if(is_set, "`parse_args` makes settings the arguments of your script")
