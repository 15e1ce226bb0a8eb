"""A real cluster of processes: same bits, lost workers, lost clients."""

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client, LocalCluster, get_task_stream, wait

from nlsq_sklearn import StreamingCurveFitRegressor
from nlsq_sklearn._engine import programs
from tests.cluster_fit import make_data, make_model

ROOT = Path(__file__).parents[1]

# Clusters leave sockets and loops to the garbage collector, which warns of them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*[Ss]ending large graph.*:UserWarning"),
]


@pytest.fixture
def client():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client
    gc.collect()  # here, where its warnings of sockets are ignored, and not in a later test


def fit(X, y, **options):
    # The model is a closure: it has no name by which a worker could import it.
    return StreamingCurveFitRegressor(make_model(0.0), p0=[1, 1, 1], **options).fit(X, y)


def test_a_cluster_gives_the_bits_of_threads(client):
    X, y = make_data(2_000_000)
    on_cluster = fit(X, y)
    with dask.config.set(scheduler="threads"):
        in_threads = fit(X, y)
    assert on_cluster.popt_.tolist() == in_threads.popt_.tolist()
    assert on_cluster.pcov_.tolist() == in_threads.pcov_.tolist()


def test_chunks_that_a_cluster_holds_share_tasks_and_change_no_bit(client):
    X, y = dask.persist(*make_data(10_000_000))
    wait([X, y])
    with get_task_stream(client) as tasks:
        held = fit(X, y)
    reducing = [task["key"] for task in tasks.data if str(task["key"]).count("equations-")]
    assert held.n_passes_ * X.npartitions / 8 < len(reducing) < held.n_passes_ * X.npartitions / 2
    with dask.config.set(scheduler="threads"):
        expected = fit(*make_data(10_000_000))
    assert held.popt_.tolist() == expected.popt_.tolist()
    assert held.pcov_.tolist() == expected.pcov_.tolist()


def test_each_worker_compiles_once(client):

    X, y = make_data(500_000)
    before = client.run(programs.n_compilations)
    for _ in range(3):
        fit(X, y)
    after = client.run(programs.n_compilations)
    # Each fit makes its closure anew, and sends it to the workers again.
    compiled = [after[worker] - before[worker] for worker in before]
    assert max(compiled) == 1


def test_a_lost_worker_changes_no_bit(client):
    X, y = make_data(6_000_000)
    pids = list(client.run(os.getpid).values())
    killed = threading.Timer(1.0, os.kill, (pids[0], signal.SIGKILL))
    killed.start()
    survived = fit(X, y)
    killed.join()
    assert pids[0] not in client.run(os.getpid).values()
    with dask.config.set(scheduler="threads"):
        assert survived.popt_.tolist() == fit(X, y).popt_.tolist()


def test_a_lost_client_is_resumed_by_the_next(tmp_path):
    command = [sys.executable, "-m", "tests.cluster_fit", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            if line.startswith("saved") and int(line.split()[1]) >= 3:
                break
        os.kill(child.pid, signal.SIGKILL)
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "resumed" in resumed
    X, y = make_data(2_000_000)
    bits = [value.hex() for value in fit(X, y).popt_.tolist()]
    assert resumed.splitlines()[-1].split() == bits


def test_jobs_on_a_cluster_give_the_scores_of_one(client):
    from sklearn.model_selection import cross_val_score

    X, y = (np.asarray(a) for a in make_data(20_000))
    estimator = StreamingCurveFitRegressor(make_model(0.0), p0=[1, 1, 1])
    with joblib.parallel_config(backend="dask"):
        on_cluster = cross_val_score(estimator, X, y, cv=4, n_jobs=2)
    np.testing.assert_array_equal(on_cluster, cross_val_score(estimator, X, y, cv=4))
    assert da.asarray(on_cluster).shape == (4,)
