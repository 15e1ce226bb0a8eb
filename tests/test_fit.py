"""The loop: a fit that was stopped anywhere ends in the bits of one that was not."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

from nlsq_sklearn import _fit
from nlsq_sklearn._engine import kernel, programs
from nlsq_sklearn._engine.loss import LOSS_NAMES
from nlsq_sklearn._engine.record import from_record, to_record
from nlsq_sklearn._engine.state import FitState, Status
from nlsq_sklearn._engine.subproblem import Bounds
from nlsq_sklearn._engine.trust_region import Tolerances
from nlsq_sklearn._fit import Problem, run
from nlsq_sklearn._streams import ArrayStream, arrays

from .engine import DECAY, objective, open_bounds

_TOLERANCES = Tolerances(1e-8, 1e-8, 1e-8, 1000)
_TRUTH = (2.5, 1.3, 0.5)
_FAR = (1.0, 0.1, 0.0)


def _problem(model, starts, *, bounds=None, tolerances=_TOLERANCES, **options):
    starts = np.atleast_2d(np.asarray(starts, dtype=float))
    bounds = open_bounds(starts.shape[1]) if bounds is None else bounds
    return Problem(objective(model, **options), bounds, tolerances, starts)


def _decay_data(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 4, n_rows)
    return x, DECAY.values(x, *_TRUTH) + 0.1 * rng.normal(size=n_rows)


class _Watcher:
    """Keeps each state that a fit went through."""

    def __init__(self):
        self.states = []
        self.kinds = []

    def on_chunk(self, state):
        self.states.append(state)
        self.kinds.append("chunk")

    def on_pass(self, state):
        self.states.append(state)
        self.kinds.append("pass")


def _bits(state):
    equations = state.equations
    return (
        state.status,
        state.params.tobytes(),
        equations.gram.tobytes(),
        equations.gradient.tobytes(),
        equations.cost,
        equations.model_norm,
        equations.n_rows,
        state.n_iter,
        state.n_passes,
        # repr: every digit of the floats, and -0.0 is not 0.0.
        repr(state.history),
    )


def _restored(state, stream):
    text = json.dumps(to_record(state), allow_nan=False)
    return from_record(json.loads(text), state.params.size, stream.n_chunks)


def _logarithm(x, a, b):
    return a * jnp.log(x + b)


def _wave(x, a, shift):
    return a * jnp.sin(2 * x + shift)


def _large_angles():
    """Return a fit that rejects points which the fast program evaluates, from one that it can't."""
    rng = np.random.default_rng(2)
    start = 2.0**27 + rng.uniform(-2, 3)
    shift = start + rng.uniform(1, 3.1) * rng.choice([-1, 1])
    x = np.random.default_rng(0).uniform(0, 1, 300)
    y = 1.5 * np.sin(2 * x + shift) + 0.02 * rng.normal(size=300)
    tolerances = Tolerances(1e-8, 0, 1e-8, 60)
    return _problem(_wave, (rng.uniform(0.3, 3), start), tolerances=tolerances), (x, y)


def _stopped_anywhere():
    """Return the problems to be stopped, and their data."""
    x, y = _decay_data(600)
    positive = np.linspace(0, 1, 600)
    log = np.log(positive + 0.01) + 0.01 * np.random.default_rng(1).normal(size=600)
    bounds = Bounds(np.array([0.0, 0.0, 0.7]), np.array([9.0, 9.0, 9.0]))
    return {
        "decay": (_problem(DECAY.model, _FAR), (x, y)),
        "loss and sigma": (
            _problem(DECAY.model, _FAR, loss="cauchy", f_scale=0.1),
            (x, y, np.linspace(0.5, 2, 600)),
        ),
        "bounds": (_problem(DECAY.model, (1.0, 0.1, 0.8), bounds=bounds), (x, y)),
        # Its first steps lead to where it is not defined.
        "not finite": (_problem(_logarithm, (1.0, 3.0)), (positive, log)),
        "several starts": (_problem(DECAY.model, [_FAR, (5, 5, 5), (9, 0.5, 1)]), (x, y)),
        "angles of more than 2^27": _large_angles(),
        "to the limit of float64": (
            _problem(DECAY.model, _FAR, tolerances=Tolerances(0, 0, 0, 1000)),
            (x, y),
        ),
    }


@pytest.mark.parametrize("chunk_size", [250, None])
@pytest.mark.parametrize("case", _stopped_anywhere())
def test_a_fit_resumed_from_any_state_ends_in_the_same_bits_as_never_stopping(case, chunk_size):
    problem, data = _stopped_anywhere()[case]
    watcher = _Watcher()
    whole = run(problem, ArrayStream(*data, chunk_size=chunk_size), [watcher])
    assert whole.status.is_converged
    n_chunks = 1 if chunk_size is None else -(-data[0].size // chunk_size)
    assert len(watcher.states) == (n_chunks + 1) * whole.n_passes
    for state in [None, *watcher.states, whole]:
        stream = ArrayStream(*data, chunk_size=chunk_size)
        resumed = run(problem, stream, state=None if state is None else _restored(state, stream))
        assert _bits(resumed) == _bits(whole)
        watched = run(problem, stream, [_Watcher()], state)
        assert _bits(watched) == _bits(whole)


def test_a_large_fit_with_a_warm_up_resumes_without_it_and_in_the_same_bits(monkeypatch):
    x, y = _decay_data(100_000)
    problem = _problem(DECAY.model, _FAR)
    watcher = _Watcher()
    whole = run(problem, ArrayStream(x, y, chunk_size=30_000), [watcher])
    monkeypatch.setattr(_fit, "_fit_sample", None)
    assert any(state.has_given_up for state in watcher.states)
    # Between two passes, too, where the next step looks at the sample again.
    assert any(state.step is None and state.n_passes > 0 for state in watcher.states)
    for state in watcher.states:
        stream = ArrayStream(x, y, chunk_size=30_000)
        assert _bits(run(problem, stream, state=_restored(state, stream))) == _bits(whole)


def test_a_state_before_the_first_chunk_starts_the_fit_from_the_beginning():
    x, y = _decay_data(100_000)
    problem = _problem(DECAY.model, _FAR)
    whole = run(problem, ArrayStream(x, y))
    begun = run(problem, ArrayStream(x, y), state=FitState.start(problem.starts))
    assert _bits(begun) == _bits(whole)


@pytest.mark.parametrize("n_rows", [3000, 100_000])
def test_the_number_of_threads_does_not_change_a_bit(monkeypatch, n_rows):
    x, y = _decay_data(n_rows)
    bits = set()
    for n_threads in (1, 2, 4):
        monkeypatch.setattr(arrays, "n_threads", lambda n=n_threads: n)
        stream = ArrayStream(x, y, 0.5, chunk_size=n_rows // 7)
        bits.add(_bits(run(_problem(DECAY.model, _FAR, loss="soft_l1"), stream)))
    assert len(bits) == 1


def test_observers_see_each_chunk_and_each_pass_in_order():
    x, y = _decay_data(3000)
    watcher = _Watcher()
    state = run(_problem(DECAY.model, _FAR), ArrayStream(x, y, chunk_size=1000), [watcher])
    assert watcher.kinds == ["chunk", "chunk", "chunk", "pass"] * state.n_passes
    assert [s.next_chunk for s in watcher.states] == [1, 2, 3, 0] * state.n_passes
    passes = [s for s, kind in zip(watcher.states, watcher.kinds, strict=True) if kind == "pass"]
    assert [s.n_passes for s in passes] == list(range(1, state.n_passes + 1))


def test_an_error_in_an_observer_ends_the_fit_and_reaches_the_caller():
    class Interrupting(_Watcher):
        def on_chunk(self, state):
            super().on_chunk(state)
            if len(self.states) == 2:
                raise KeyboardInterrupt

    x, y = _decay_data(3000)
    watcher = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run(_problem(DECAY.model, _FAR), ArrayStream(x, y, chunk_size=100), [watcher])
    assert len(watcher.states) == 2


def test_a_million_rows_of_a_decay_need_two_passes_from_a_far_start():
    x, y = _decay_data(1_000_000)
    state = run(_problem(DECAY.model, (50.0, 0.01, -30.0)), ArrayStream(x, y))
    assert state.status.is_converged
    assert state.n_passes == 2
    popt, _ = curve_fit(DECAY.values, x, y, _TRUTH, jac=DECAY.jacobian)
    # Convergence to 1e-6 joint standard errors, which are about 1e-4 here.
    np.testing.assert_allclose(state.params, popt, rtol=1e-8)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.02, 0.5])
def test_a_fit_that_saves_its_last_pass_is_as_exact_as_ftol_says(seed, noise):
    x, y = _decay_data(150_000, seed)
    y = DECAY.values(x, *_TRUTH) + (y - DECAY.values(x, *_TRUTH)) * noise / 0.1
    if seed % 2:
        y += noise * np.sin(7 * x)  # a curve that is not quite the right one
    state = run(_problem(DECAY.model, _FAR), ArrayStream(x, y))
    assert state.status.is_converged
    options = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    popt, _ = curve_fit(DECAY.values, x, y, _TRUTH, jac=DECAY.jacobian, **options)
    residual, jacobian = DECAY.values(x, *popt) - y, DECAY.jacobian(x, *popt)
    gram, variance = jacobian.T @ jacobian, residual @ residual / (x.size - 3)
    off = state.params - popt
    if seed in (0, 4):
        assert state.history[-1]["params"] != state.params.tolist()  # the last pass was saved
        assert state.status is Status.FTOL
    if state.status is Status.FTOL:
        assert np.sqrt(off @ gram @ off / 3 / variance) < 100 * _TOLERANCES.ftol
    np.testing.assert_allclose(np.linalg.inv(state.equations.gram), np.linalg.inv(gram), rtol=1e-6)


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_the_answer_is_that_of_curve_fit(loss):
    x, y = _decay_data(3000)
    y[::50] += 5
    sigma = np.linspace(0.5, 2, x.size)
    state = run(
        _problem(DECAY.model, _FAR, loss=loss, f_scale=0.1),
        ArrayStream(x, y, sigma, chunk_size=1000),
    )
    options = {"loss": loss, "f_scale": 0.1, "ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-10}
    popt, pcov = curve_fit(
        DECAY.values, x, y, _FAR, sigma, method="trf", jac=DECAY.jacobian, **options
    )
    assert state.status.is_converged
    # A thousandth of a standard error: SciPy stops earlier than we do.
    np.testing.assert_array_less(np.abs(state.params - popt), 1e-3 * np.sqrt(np.diag(pcov)))


def test_a_sample_that_misses_a_narrow_peak_does_no_harm():
    n_rows = 200_000
    rows = np.arange(float(n_rows))
    stream = ArrayStream(rows, rows)
    sample = stream.sample(_fit._FIRST_SAMPLE_ROWS)
    sampled = np.sort(
        np.concatenate(
            [sample.chunk(i).x[: sample.chunk(i).n_rows] for i in range(sample.n_chunks)]
        )
    )
    gap = np.argmax(np.diff(sampled))
    center = np.round((sampled[gap] + sampled[gap + 1]) / 2)
    assert sampled[gap + 1] - sampled[gap] > 16

    def peak(x, height, position):
        return height / (1 + ((x - position) / 1.5) ** 2)

    # The data have the peak without its tails: no sampled row sees anything of it.
    distance = np.abs(rows - center)
    y = np.where(distance < 8, 1000 / (1 + (distance / 1.5) ** 2), 0.0)
    y += np.random.default_rng(0).normal(size=n_rows)
    start = [900.0, float(center) + 0.3]
    state = run(_problem(peak, start), ArrayStream(rows, y))
    # Where the tails of the start should be the sample sees nothing, and flattens the peak.
    assert len(state.candidates) == 2
    assert state.candidates[0][0] < 300
    assert state.history[0]["params"] == start
    assert state.status.is_converged
    assert state.params[0] == pytest.approx(1000, rel=0.05)
    assert state.params[1] == pytest.approx(center, abs=0.05)


class _Counter:
    """Counts the chunks at which a point's equations are evaluated."""

    def __init__(self, monkeypatch, point):
        self.n_calls = 0
        evaluate = kernel.evaluate

        def counted(objective, chunk, params):
            self.n_calls += np.array_equal(params, point)
            return evaluate(objective, chunk, params)

        monkeypatch.setattr(kernel, "evaluate", counted)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_far_start_is_given_up_early_and_that_changes_no_bit(monkeypatch):
    x, y = _decay_data(200_000)
    start = (5.0, 5.0, 5.0)
    problem = _problem(DECAY.model, start)
    with monkeypatch.context() as patch:
        patch.setattr(_fit, "_LOOKS", ())
        compared = run(problem, ArrayStream(x, y, chunk_size=5000))
    counter = _Counter(monkeypatch, start)
    state = run(problem, ArrayStream(x, y, chunk_size=5000))
    assert counter.n_calls == 2 + 40 / 8  # two chunks of the first sample
    assert _bits(state._replace(guard=0)) == _bits(compared._replace(guard=0))


def test_a_near_start_is_compared_to_the_end(monkeypatch):
    x, y = _decay_data(200_000)
    near = run(_problem(DECAY.model, _FAR), ArrayStream(x, y)).params * (1 + 1e-3)
    counter = _Counter(monkeypatch, near)
    run(_problem(DECAY.model, near), ArrayStream(x, y, chunk_size=5000))
    # Two chunks of the first sample, whose bend is asked for there, too.
    assert counter.n_calls == 2 + 40 + 2


def test_a_start_is_compared_after_all_where_the_sample_promised_too_much():
    n_rows = 200_000
    rows = np.arange(float(n_rows))
    y = np.random.default_rng(0).normal(size=n_rows)
    sampled = ArrayStream(rows, rows).sample(_fit._FIRST_SAMPLE_ROWS).rows().columns[0]
    unseen = np.setdiff1d(rows[n_rows // 2 :], sampled)[:10].astype(int)
    y[unseen] += 1000
    problem = _problem(lambda x, level: level + 0.0 * x, (10.0,))
    watcher = _Watcher()
    stream = ArrayStream(rows, y, chunk_size=10_000)
    state = run(problem, stream, [watcher])
    assert any(seen.has_given_up for seen in watcher.states)
    assert state.history[0]["n_passes"] == 2
    assert state.params[0] == pytest.approx(y.mean(), rel=1e-12)
    for seen in watcher.states:
        assert _bits(run(problem, stream, state=_restored(seen, stream))) == _bits(state)


def test_the_warm_up_and_the_passes_share_their_programs():
    x, y = _decay_data(100_000)

    def model(x, a, b):
        return a * jnp.exp(-b * x) + 0.123456  # of this test alone

    before = programs.n_compilations()
    run(_problem(model, (1.0, 1.0)), ArrayStream(x, y, chunk_size=30_000))
    assert programs.n_compilations() == before + 1


def test_few_rows_are_fitted_from_the_start_that_was_given():
    x, y = _decay_data(3000)
    state = run(_problem(DECAY.model, _FAR), ArrayStream(x, y))
    assert state.history[0]["params"] == list(_FAR)


def test_of_several_starts_the_best_answer_goes_on():
    x = np.linspace(0, 10, 2000)
    y = jnp.sin(1.7 * x) + 0.01 * np.random.default_rng(0).normal(size=x.size)
    model = lambda x, omega: jnp.sin(omega * x)  # noqa: E731
    alone = run(_problem(model, (4.0,)), ArrayStream(x, np.asarray(y)))
    assert abs(alone.params[0] - 1.7) > 0.1  # a local minimum
    starts = [[4.0], [0.2], [1.6], [9.0]]
    together = run(_problem(model, starts), ArrayStream(x, np.asarray(y)))
    assert together.params[0] == pytest.approx(1.7, abs=1e-2)


def test_no_point_outside_the_bounds_is_ever_tried():
    x, y = _decay_data(100_000)
    bounds = Bounds(np.array([0.0, 0.0, 0.7]), np.array([2.0, np.inf, np.inf]))
    state = run(_problem(DECAY.model, (1.0, 0.1, 0.8), bounds=bounds), ArrayStream(x, y))
    assert all(bounds.contain(point) for point in state.candidates)
    assert all(bounds.contain(np.array(entry["params"])) for entry in state.history)
    assert state.status.is_converged
    assert state.params[2] == 0.7


def test_reaching_max_iter_is_no_success_and_more_of_it_goes_on_to_the_same_bits():
    x, y = _decay_data(3000)
    problem = _problem(DECAY.model, _FAR)
    stream = ArrayStream(x, y, chunk_size=1000)
    whole = run(problem, stream)
    stopped = run(problem._replace(tolerances=_TOLERANCES._replace(max_iter=2)), stream)
    assert stopped.status is Status.MAX_ITER
    assert not stopped.status.is_converged
    assert _bits(run(problem, stream, state=stopped)) == _bits(whole)


def test_a_finished_fit_is_returned_without_a_look_at_the_data():
    x, y = _decay_data(3000)
    problem = _problem(DECAY.model, _FAR)
    whole = run(problem, ArrayStream(x, y))
    assert _bits(run(problem, None, state=whole)) == _bits(whole)


@pytest.mark.parametrize("n_rows", [3000, 100_000])
def test_a_model_that_is_not_finite_at_the_start_ends_without_success(n_rows):
    x, y = _decay_data(n_rows)
    state = run(_problem(_logarithm, (1.0, -9.0)), ArrayStream(x, y))
    assert state.status is Status.NOT_FINITE
    assert not state.status.is_converged


def test_a_trial_that_overflows_is_a_rejected_step():
    x = np.linspace(-1, 1, 2000)
    y = np.exp(20) * x + 3
    problem = _problem(lambda x, b, c: jnp.exp(b) * x + c, (-2.0, 0.0))
    state = run(problem, ArrayStream(x, y, chunk_size=500))
    assert state.status.is_converged
    np.testing.assert_allclose(state.params, [20, 3], rtol=1e-6)
    assert not all(entry["accepted"] for entry in state.history)


def test_a_point_where_sums_overflow_with_both_signs_is_met_in_silence():
    # exp(707) x is finite in each row; its sum is -inf in one chunk and inf in the other.
    x = np.linspace(-1, 1, 2000)
    problem = _problem(lambda x, b, c: jnp.exp(b) * x + c, (707.0, 0.0))
    state = run(problem, ArrayStream(x, 0 * x, chunk_size=1000))
    assert state.status is Status.NOT_FINITE


@pytest.mark.parametrize("unit", [1e-165, 1e155])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_where_the_squares_of_the_data_leave_float64_a_wrong_answer_is_no_success(unit, factor):
    # 1e-165 squared is 0 and 1e155 squared infinite, whatever the residuals.
    x = np.linspace(0, 1, 100)
    y = unit * (1 + 1e-5 * x)
    state = run(_problem(lambda x, a, b: a + b * x, (factor * unit, 0.0)), ArrayStream(x, y))
    is_right = np.allclose(state.params, [unit, 1e-5 * unit], rtol=1e-6, atol=0)
    assert is_right or not state.status.is_converged


def test_a_single_row_in_the_last_chunk_counts():
    x, y = _decay_data(2001)
    y[-1] += 5
    state = run(_problem(DECAY.model, _FAR), ArrayStream(x, y, chunk_size=1000))
    popt, _ = curve_fit(DECAY.values, x, y, _TRUTH, jac=DECAY.jacobian)
    assert state.equations.n_rows == 2001
    # Far less than the 1e-3 by which that row moves them.
    np.testing.assert_allclose(state.params, popt, rtol=1e-6)


def test_the_size_of_the_chunks_changes_the_answer_by_rounding_only():
    x, y = _decay_data(3000)
    problem = _problem(DECAY.model, _FAR)
    answers = [run(problem, ArrayStream(x, y, chunk_size=size)).params for size in (17, 999, None)]
    for one, other in itertools.pairwise(answers):
        np.testing.assert_allclose(one, other, rtol=1e-10)
