"""A grid search over one model: what each process compiles."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import in_new_process
from ..problems import PROBLEMS
from ..section import Scale, Section, Target, table

_TIMEOUT = 300.0
_N_CANDIDATES = 20
_N_FOLDS = 5


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Search in one process, and in two of joblib's."""
    return {
        str(n_jobs): in_new_process(
            search, timeout=_TIMEOUT, n_jobs=n_jobs, n_rows=scale.search_rows
        )
        for n_jobs in (1, 2)
    }


def search(n_jobs: int, n_rows: int) -> dict[str, Any]:
    """Return the seconds of a grid search, and the programs compiled by each process."""
    import time

    import jax.numpy as jnp
    from sklearn.model_selection import GridSearchCV

    from nlsq_sklearn import StreamingCurveFitRegressor

    problem = PROBLEMS["decay"]
    x, y = problem.rows(n_rows)
    order = np.random.default_rng(0).permutation(n_rows)
    regressor = StreamingCurveFitRegressor(
        problem.make_model(jnp), p0=list(problem.far), loss="huber"
    )
    started_at = time.perf_counter()
    found = GridSearchCV(
        regressor,
        {"f_scale": np.geomspace(0.01, 1, _N_CANDIDATES).tolist()},
        scoring=score_and_count,
        refit=False,
        cv=_N_FOLDS,
        n_jobs=n_jobs,
        error_score="raise",
    ).fit(x[order, np.newaxis], y[order])
    seconds = time.perf_counter() - started_at
    results = found.cv_results_

    def of_splits(name: str) -> np.ndarray:
        return np.concatenate([results[f"split{i}_test_{name}"] for i in range(_N_FOLDS)])

    process = of_splits("process")
    counts = {
        name: [int(of_splits(name)[process == p].max()) for p in np.unique(process)]
        for name in ("fit_programs", "all_programs")
    }
    return {"n_rows": n_rows, "n_fits": process.size, "seconds": seconds, **counts}


def score_and_count(estimator: Any, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return the score, and what the process that computes it has compiled so far."""
    from nlsq_sklearn._engine import programs

    keys = list(programs._cache._programs)
    return {
        "score": estimator.score(x, y),
        "process": os.getpid(),
        "fit_programs": sum(key.purpose != "predict" for key in keys),
        "all_programs": programs.n_compilations(),
    }


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return the most programs that a process compiled to fit."""
    return [
        Target(
            f"grid search, {_N_CANDIDATES} candidates x {_N_FOLDS} folds, {result['n_rows']:,} "
            f"rows, n_jobs={n_jobs}: compilations per process",
            "1",
            f"{', '.join(map(str, result['fit_programs']))} to fit, "
            f"{', '.join(map(str, result['all_programs']))} with the score's",
            max(result["fit_programs"]) == 1,
        )
        for n_jobs, result in figures.items()
    ]


def report(figures: dict[str, Any]) -> str:
    """Return the table of programs."""
    rows = [
        [
            n_jobs,
            f"{result['n_fits']}",
            f"{result['seconds']:.2f}",
            ", ".join(map(str, result["fit_programs"])),
            ", ".join(map(str, result["all_programs"])),
        ]
        for n_jobs, result in figures.items()
    ]
    header = ["n_jobs", "fits", "seconds", "programs for fits", "programs in all"]
    return (
        "Programs compiled by each process that took part. The score of a fold is another "
        "function of the rows than the normal equations, and a program of its own.\n\n"
        + table(header, rows)
    )


SECTION = Section("search", "Grid search", measure, targets, report)
