"""What skorch does: the curve is a PyTorch module, in float64."""

import tempfile
import warnings

import numpy as np
import skorch
import torch
from problem import (
    START,
    Cell,
    Unreadable,
    dask_data,
    data,
    has_command,
    is_least_squares,
    is_robust,
    load_memory_map,
    memory_map_cell,
    reference,
    spoiled,
    yes_if,
)
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Checkpoint, LoadInitState

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


def columns(x, y):
    return x[:, None], y[:, None]


def values(net):
    return net.module_.params.detach().numpy()


def curve():
    x, y = data()
    popt = values(exact_net().fit(*columns(x, y)))
    if not is_least_squares(popt, x, y):
        return yes_if(False)
    return Cell("partly", "with LBFGS and all rows in one batch")


def errors():
    net = exact_net().fit(*columns(*data()))
    return yes_if(any("std" in name or "cov" in name for name in dir(net)))


def derivatives():
    net = exact_net().fit(*columns(*data()))
    return yes_if(net.module_.params.grad is not None)


def sigma():
    from inspect import signature

    return yes_if("sample_weight" in signature(NeuralNetRegressor.fit).parameters)


def bounds():
    return yes_if("bounds" in exact_net().get_params())


def robust():
    x, y = data()
    net = exact_net(criterion=torch.nn.HuberLoss, criterion__delta=0.05)
    return yes_if(is_robust(values(net.fit(*columns(x, spoiled(x, y))))))


def starts():
    return yes_if(any("n_starts" in name or "n_init" in name for name in exact_net().get_params()))


def ready():
    names = [name.lower() for name in dir(skorch) + dir(torch.nn)]
    return yes_if(any(name == "gaussian" or name == "exponentialdecay" for name in names))


def expressions():
    return yes_if(any("expr" in name for name in exact_net().get_params()))


def row_covariance():
    return bounds()


def profile():
    return errors()


def band():
    return errors()


class Rows(torch.utils.data.Dataset):
    """Rows of a memory map, read when they are asked for."""

    def __init__(self, directory):
        self.x, self.y = load_memory_map(directory)

    def __len__(self):
        return len(self.x)

    def __getitems__(self, rows):
        rows = np.asarray(rows)
        return list(zip(self.x[rows, None], self.y[rows, None], strict=True))


def fit_memory_map(directory):
    net = batch_net(max_epochs=1)
    net.set_params(batch_size=65_536)
    return values(net.fit(Rows(directory), None))


def memory_map():
    return memory_map_cell("probe_skorch")


def dask():
    X, y = dask_data(300)  # it asks for each row by itself
    try:
        with Unreadable(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exact_net().fit(X, y[:, None])
    except TypeError:
        return Cell("no", "PyTorch's loader takes no Dask arrays (`TypeError`)")
    return yes_if(True)


def cluster():
    return dask()


def batches():
    x, y = data(100_000)
    net = batch_net(max_epochs=1, batch_size=-1).initialize()
    for rows in np.array_split(np.arange(x.size), 50):
        net.partial_fit(*columns(x[rows], y[rows]))
    assert len(net.history) == 50  # each batch was seen once
    popt, errors = reference(x, y)
    off = np.max(np.abs(values(net) - popt) / errors)
    if off < 1:
        return yes_if(True)
    return Cell("partly", f"a step of Adam for each batch ended {off:.0f} standard errors off")


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
        return Cell("no", f"{type(error).__name__} in the first check that fails")
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
        return Cell("partly", "from the last whole epoch (`Checkpoint`, `LoadInitState`)")
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
    return yes_if(has_command("skorch"))
