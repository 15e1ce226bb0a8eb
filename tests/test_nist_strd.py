"""The 27 certified nonlinear regression problems of NIST, from both starts, whole and in chunks."""

import functools
import warnings

import numpy as np
import pytest

from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
from tests.problems import canonical, log_relative_error, nist_problems

PROBLEMS = {problem.name: problem for problem in nist_problems()}
RUNS = [(name, start) for name in PROBLEMS for start in (0, 1)]
TIGHT = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14}
# Its certified residuals are the rounding error of the model in float64.
WITHOUT_STANDARD_ERRORS = {"Lanczos1"}


@functools.cache
def scores(name, start, n_chunks, tight):
    """Return success and the LRE of parameters and standard errors of one run."""
    problem = PROBLEMS[name]
    chunk_size = -(-problem.y.size // n_chunks)
    optimizer = AdaptiveHybridStreamingOptimizer(problem.model, chunk_size=chunk_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a failure counts by its score
        result = optimizer.fit(
            problem.x, problem.y, problem.starts[start], **(TIGHT if tight else {})
        )
    popt, perr = canonical(name, result.popt, result.perr)
    return (
        result.success,
        log_relative_error(popt, problem.popt),
        log_relative_error(perr, problem.perr),
    )


@pytest.mark.parametrize("n_chunks", [1, 7])
@pytest.mark.parametrize(("name", "start"), RUNS)
def test_tight_tolerances_give_six_digits_from_every_start(name, start, n_chunks):
    success, parameters, standard_errors = scores(name, start, n_chunks, True)
    assert success
    assert parameters >= 6
    if name not in WITHOUT_STANDARD_ERRORS:
        assert standard_errors >= 4


@pytest.mark.parametrize("n_chunks", [1, 7])
def test_tight_tolerances_give_nine_digits_in_nearly_all_runs(n_chunks):
    digits = np.array([scores(*run, n_chunks, True)[1] for run in RUNS])
    assert np.count_nonzero(digits >= 9) >= 52


@pytest.mark.parametrize("n_chunks", [1, 7])
@pytest.mark.parametrize(("name", "start"), RUNS)
def test_default_settings_give_four_digits_from_every_start(name, start, n_chunks):
    success, parameters, _ = scores(name, start, n_chunks, False)
    assert success
    assert parameters >= 4
