"""A fit of few rows takes the same way as one of many chunks, in a single call."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.problems import PROBLEMS
from nlsq_sklearn import _fit
from nlsq_sklearn._engine import compiled_steps, programs
from nlsq_sklearn._engine.few_rows import FewRows
from nlsq_sklearn._engine.state import FitState, Status
from nlsq_sklearn._engine.subproblem import Bounds
from nlsq_sklearn._engine.trust_region import Tolerances
from nlsq_sklearn._fit import Problem, run
from nlsq_sklearn._streams import ArrayStream

from . import DECAY, objective, open_bounds

_TOLERANCES = Tolerances(1e-8, 1e-8, 1e-8, 1000)


def _problem(model, start, *, bounds=None, tolerances=_TOLERANCES, **options):
    start = np.atleast_2d(np.asarray(start, dtype=float))
    bounds = open_bounds(start.shape[1]) if bounds is None else bounds
    return Problem(objective(model, **options), bounds, tolerances, start)


def _data(n_rows=1000, noise=0.1):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 4, n_rows)
    return x, DECAY.values(x, 2.5, 1.3, 0.5) + noise * rng.normal(size=n_rows)


def _ways():
    x, y = _data()
    sigma, weight = np.linspace(0.5, 2, x.size), np.arange(x.size) % 3.0
    far = (1.0, 0.1, 0.0)
    decay = _problem(DECAY.model, far)
    ways = {
        "sigma and weights": (decay, (x, y, sigma, weight)),
        "never too near": (_problem(DECAY.model, far, tolerances=Tolerances(0, 0, 0, 99)), (x, y)),
        "little noise": (decay, _data(noise=1e-7)),
        "bounds far off": (
            _problem(DECAY.model, far, bounds=Bounds(np.full(3, -50.0), np.full(3, 50.0))),
            (x, y),
        ),
        "bounds that are met": (
            _problem(DECAY.model, far, bounds=Bounds(np.full(3, -1.0), np.array([2.0, 9, 9]))),
            (x, y),
        ),
        "as many parameters as rows": (_problem(DECAY.model, (2, 1, 0.4)), (x[:3], y[:3])),
    }
    for loss in ("huber", "soft_l1", "cauchy", "arctan"):
        ways[loss] = _problem(DECAY.model, (2, 1, 0.4), loss=loss, f_scale=0.1), (x, y)
    for name, known in PROBLEMS.items():
        for start in ("far", "near"):
            problem = _problem(known.make_model(jnp), known.starts[start])
            ways[f"{name}, {start}"] = problem, known.rows(1000)
    return ways


@pytest.mark.parametrize("way", _ways())
def test_its_passes_are_those_of_a_fit_in_chunks(way):
    problem, data = _ways()[way]
    few = run(problem, ArrayStream(*data))
    chunks = run(problem, ArrayStream(*data, chunk_size=-(-data[0].size // 2)))
    assert few.status.is_converged
    assert chunks.status.is_converged
    np.testing.assert_allclose(few.params, chunks.params, rtol=1e-6)
    np.testing.assert_allclose(few.accepted.cost, chunks.accepted.cost, rtol=1e-12, atol=1e-25)
    for one, other in zip(few.history, chunks.history, strict=False):
        cost = one["cost"]
        if cost is not None and cost < (1 + 1e-9) * few.accepted.cost:
            break  # what goes on there is rounding
        assert one["accepted"] == other["accepted"]
        for key in ("params", "cost", "damping", "step_length", "gain_ratio", "radius"):
            if other[key] is not None:
                np.testing.assert_allclose(one[key], other[key], rtol=1e-5, err_msg=key)
            else:
                assert one[key] is None


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_takes_one_call_and_one_compilation(name, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return programs.run_program(*arguments, **options)

    monkeypatch.setattr(compiled_steps, "run_program", counted)
    monkeypatch.setattr(programs, "_cache", programs._ProgramCache())
    known = PROBLEMS[name]
    problem = _problem(known.make_model(jnp), known.far)
    state = run(problem, ArrayStream(*known.rows(1000)))
    assert state.n_passes > 5
    assert len(calls) == 1
    assert programs._cache.n_compilations == 1


@pytest.mark.parametrize("n_passes", [1, 2, 3, 17, 40])
def test_a_fit_may_need_more_points_than_a_call_evaluates(n_passes):
    def valley(x, a, b):  # Rosenbrock's, twisted: a long way in short steps
        return jnp.where(x < 0.5, 30 * (b - a**2), 1 - a)

    problem = _problem(valley, (-1.9, 2.0), tolerances=_TOLERANCES._replace(max_iter=n_passes))
    x = np.linspace(0, 1, 100)
    stopped = run(problem, ArrayStream(x, np.zeros(100)))
    assert stopped.n_iter <= n_passes
    longer = problem._replace(tolerances=_TOLERANCES)
    whole = run(longer, ArrayStream(x, np.zeros(100)))
    resumed = run(longer, ArrayStream(x, np.zeros(100)), state=stopped)
    assert repr(resumed.history) == repr(whole.history)
    assert resumed.params.tobytes() == whole.params.tobytes()


def test_where_costs_can_not_tell_the_gradient_decides():
    x, y = _data()
    state = run(
        _problem(DECAY.model, (1, 1, 0), tolerances=Tolerances(0, 0, 0, 99)), ArrayStream(x, y)
    )
    assert state.status in (Status.ROUNDING, Status.GTOL, Status.FTOL, Status.XTOL)
    entry = state.history[-1]
    assert entry["gain_ratio"] is None
    _, jacobian = DECAY.values(x, *state.params), DECAY.jacobian(x, *state.params)
    residual = DECAY.values(x, *state.params) - y
    cosines = jacobian.T @ residual / np.linalg.norm(jacobian, axis=0) / np.linalg.norm(residual)
    assert np.abs(cosines).max() < 1e-13


def test_angles_of_any_size_are_fitted():
    def wave(x, a, b):
        return a * jnp.sin(3e9 * x) + b

    x = np.linspace(0, 1, 500)
    y = 1.5 * np.sin(3e9 * x) + 0.3
    state = run(_problem(wave, (1.0, 0.0)), ArrayStream(x, y))
    assert state.status.is_converged
    np.testing.assert_allclose(state.params, [1.5, 0.3], rtol=1e-12)


def test_a_start_where_a_column_is_zero_is_left_as_ever():
    problem = _problem(lambda x, a, b: a * jnp.exp(-b * x), (0.0, 1.0))
    x, y = _data()
    few, chunks = (run(problem, ArrayStream(x, y, chunk_size=size)) for size in (None, 500))
    assert few.status.is_converged
    np.testing.assert_allclose(few.params, chunks.params, rtol=1e-6)


def test_a_start_where_the_model_is_not_finite_is_told():
    state = run(_problem(lambda x, a: jnp.log(a * x), (-1.0,)), ArrayStream(*_data()))
    assert state.status is Status.NOT_FINITE


def test_a_point_where_only_derivatives_are_not_finite_has_no_gain_ratio():
    def model(x, a):
        # Its derivative by a is NaN beyond 1.5.
        return a * x + 0.0 * jnp.sqrt(jnp.maximum(1.5 - a, 0.0))

    x = np.linspace(0, 1, 100)
    state = run(_problem(model, (1.0,)), ArrayStream(x, 2 * x + 0.01 * np.sin(9 * x)))
    rejected = [entry for entry in state.history if not entry["accepted"]]
    assert rejected
    assert all(entry["gain_ratio"] is None for entry in rejected)


def test_who_is_not_few_has_chunks():
    x, y = _data()
    problem = _problem(DECAY.model, (1, 1, 0))
    assert isinstance(_fit.few_rows(problem, ArrayStream(x, y)), FewRows)
    assert _fit.few_rows(problem, ArrayStream(x, y, chunk_size=999)) is None
    many = np.zeros(70_000)
    assert _fit.few_rows(problem, ArrayStream(many, many)) is None
    several = problem._replace(starts=np.ones((2, 3)))
    assert _fit.few_rows(several, ArrayStream(x, y)) is None


def test_the_equations_at_a_point_are_those_of_a_fit_that_begins_there():
    x, y = _data()
    problem = _problem(DECAY.model, (2, 1, 0.4))
    rows = _fit.few_rows(problem, ArrayStream(x, y))
    equations = rows.equations(problem.starts[0])
    begun = rows.take(FitState.start(problem.starts)).first_equations()
    assert equations.gram.tobytes() == begun.gram.tobytes()
    residual = DECAY.values(x, 2, 1, 0.4) - y
    np.testing.assert_allclose(equations.cost, 0.5 * residual @ residual, rtol=1e-13)
