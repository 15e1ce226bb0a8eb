"""The benchmarks run, and measure what they say: problems, C loops and judgement."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.__main__ import SECTIONS, main
from benchmarks.floor import FORMS, Floor
from benchmarks.measure import MeasurementFailedError, TookTooLongError, in_new_process
from benchmarks.problems import PROBLEMS
from benchmarks.sections import peers
from benchmarks.solvers import OURS, SOLVERS

needs_c = pytest.mark.skipif(shutil.which("cc") is None, reason="the C loops need a compiler")


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
class TestProblem:
    def test_the_jacobian_is_exact(self, problem):
        x, _ = problem.rows(100)
        with jax.enable_x64(True):
            model = problem.make_model(jnp)
            columns = jax.jacfwd(lambda p: model(x, *p))(jnp.array(problem.far, dtype=float))
        np.testing.assert_allclose(problem.jacobian(x, *problem.far), columns, rtol=1e-12)

    def test_standard_errors_are_those_of_many_fits(self, problem):
        n_rows, n_fits = 500, 200
        x, _ = problem.rows(n_rows)
        jacobian = problem.jacobian(x, *problem.truth)
        noise = np.random.default_rng(0).normal(0, problem.noise, (n_rows, n_fits))
        errors, *_ = np.linalg.lstsq(jacobian, noise)  # to first order, what a fit is off by
        np.testing.assert_allclose(errors.std(axis=1), problem.standard_errors(n_rows), rtol=0.2)

    @needs_c
    @pytest.mark.parametrize("form", FORMS)
    def test_the_c_loop_sums_the_normal_equations(self, problem, form, tmp_path):
        x, y = problem.rows(10_001)
        params = np.array(problem.starts["near"])
        columns = problem.jacobian(x, *params)
        residual = problem.make_model(np)(x, *params) - y
        gram = (columns.T @ columns)[np.triu_indices(params.size)]
        expected = np.concatenate([[0.5 * residual @ residual], columns.T @ residual, gram])
        sums = Floor(problem, form, 2, tmp_path).equations(x, y, params)
        np.testing.assert_allclose(sums, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
        # The compiler's fast mathematics must not reach what else the process computes.
        assert np.nextafter(0.0, 1.0) * np.ones(1) > 0


def make_case(solver, seconds, error=1.0):
    return {
        "solver": solver,
        "start": "far",
        "n_rows": 5_000_000,
        "first_s": [seconds],
        "second_s": [seconds],
        "error": error,
        "n_passes": 2 if solver == OURS else None,
    }


def test_a_peer_that_ends_elsewhere_is_not_the_fastest():
    cases = [make_case(OURS, 1.0), make_case("scipy-lm", 2.0, error=80.0), make_case("lmfit", 6.0)]
    first, second, passes = peers.targets({"problem": "decay", "cases": cases})
    assert first.measured.startswith("6 ")
    assert first.is_met
    assert not second.is_met
    assert passes.is_met


def test_a_wrong_answer_of_ours_meets_no_target():
    cases = [make_case(OURS, 0.1, error=80.0), make_case("scipy-lm", 2.0)]
    assert not any(t.is_met for t in peers.targets({"problem": "decay", "cases": cases}))


def fail(message):
    raise ValueError(message)


def sleep(seconds):
    import time

    time.sleep(seconds)


def test_a_function_that_raises_in_its_own_process_is_reported():
    with pytest.raises(MeasurementFailedError, match="ValueError: no answer"):
        in_new_process(fail, timeout=60, message="no answer")


def test_a_function_that_takes_too_long_is_stopped():
    with pytest.raises(TookTooLongError, match=r"longer than 0\.5 s"):
        in_new_process(sleep, timeout=0.5, seconds=60)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    pytest.importorskip("matplotlib")
    if shutil.which("cc") is None:
        pytest.skip("the C loops need a compiler")
    out = tmp_path_factory.mktemp("benchmarks")
    sections = [section.name for section in SECTIONS if section.name not in _LEFT_OUT]
    assert main(["--quick", "--out", str(out), "--only", *sections[:1]]) == 0
    assert main(["--quick", "--out", str(out), "--only", *sections[1:]]) == 0
    return out, sections


# The other problems are fitted as the first one is.
_LEFT_OUT = {"peers-damped", "peers-peaks", "peers-logistic"}


def test_a_quick_run_measures_every_section_and_merges_them(quick_run):
    out, sections = quick_run
    [figures] = out.glob("*.json")
    results = json.loads(figures.read_text())
    assert list(results["sections"]) == sections
    assert results["is_quick"]
    for case in results["sections"]["peers-decay"]["figures"]["cases"]:
        assert peers.is_found(case) or not SOLVERS[case["solver"]].is_installed
    assert results["sections"]["cluster"]["figures"]["has_same_bits"]


def test_a_quick_run_writes_a_page_with_a_picture_and_no_judgement(quick_run):
    out, sections = quick_run
    [page] = out.glob("*.md")
    [picture] = out.glob("*.png")
    text = page.read_text()
    assert picture.name in text
    assert "Asked and measured" not in text
    for section in SECTIONS:
        assert (f"## {section.title}\n" in text) == (section.name in sections)
