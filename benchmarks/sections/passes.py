"""One pass over rows in memory, beside the same sums in C on as many threads."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..floor import FLAGS, FORMS, Floor
from ..measure import alternately, in_new_process
from ..problems import PROBLEMS
from ..section import Scale, Section, Target, at_most, table

_TIMEOUT = 300.0
_AGREEMENT = 1e-9  # of the sums, relative to the largest
_WHAT = "{}: one pass / C floor on {} threads"


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Measure each problem in a process of its own."""
    return {
        problem: in_new_process(
            time_passes,
            timeout=_TIMEOUT,
            problem=problem,
            n_rows=scale.floor_rows,
            repetitions=6 * scale.repetitions + 1,  # each takes less than 0.1 s
        )
        for problem in scale.problems
    }


def time_passes(problem: str, n_rows: int, repetitions: int) -> dict[str, Any]:
    """Return nanoseconds per row of a pass of ours, of the first one of a fit, and of C.

    A pass sums the equations at one point, over rows that were looked through before. The first
    pass of a fit does that too, at two points.
    """
    import jax.numpy as jnp

    from nlsq_sklearn._engine.kernel import Objective
    from nlsq_sklearn._engine.model import parameter_names, trace_model
    from nlsq_sklearn._engine.state import FitState
    from nlsq_sklearn._streams import ArrayStream
    from nlsq_sklearn._streams.threads import n_threads

    chosen = PROBLEMS[problem]
    x, y = chosen.rows(n_rows)
    params = np.array(chosen.starts["near"])
    model = chosen.make_model(jnp)
    objective = Objective(trace_model(model, parameter_names(model, None), 1), "linear", 1.0)
    stream = ArrayStream(x, y)

    def run_pass(stream: ArrayStream, n_points: int) -> FitState:
        state = FitState.start(np.tile(params, (n_points, 1)))
        for equations in stream.equations(objective, state.points, 0):
            state = state.add_chunk(equations)
        return state

    with tempfile.TemporaryDirectory() as directory:
        floors = {form: Floor(chosen, form, n_threads(), Path(directory)) for form in FORMS}
        ours = run_pass(stream, 1).partial[0]  # compiles, and looks through the rows
        for form in FORMS:
            _check(ours, floors[form].equations(x, y, params))
        seconds = alternately(
            {
                "pass": lambda: run_pass(stream, 1),
                "first pass": lambda: run_pass(ArrayStream(x, y), 2),
                **{form: lambda f=f: f.equations(x, y, params) for form, f in floors.items()},
            },
            repetitions,
        )
    ns = {name: statistics.median(values) / n_rows * 1e9 for name, values in seconds.items()}
    return {"n_rows": n_rows, "n_threads": n_threads(), "ns": ns}


def _check(ours: Any, sums: np.ndarray) -> None:
    """Raise where the sums in C are not ours: a loop that computes something else is no floor."""
    gram = ours.gram[np.triu_indices(len(ours.gram))]
    expected = np.concatenate([[ours.cost], ours.gradient, gram])
    np.testing.assert_allclose(sums, expected, rtol=0, atol=_AGREEMENT * np.abs(expected).max())


def targets(figures: dict[str, Any]) -> list[Target]:
    """Return how near a pass is to the floor."""
    return [
        at_most(_WHAT.format(name, result["n_threads"]), 4, result["ns"]["pass"] / _floor(result))
        for name, result in figures.items()
    ]


def _floor(result: dict[str, Any]) -> float:
    return min(result["ns"][form] for form in FORMS)


def report(figures: dict[str, Any]) -> str:
    """Return the table of nanoseconds per row."""
    rows = [
        [
            name,
            *(f"{result['ns'][form]:.2f}" for form in FORMS),
            f"{result['ns']['pass']:.2f}",
            f"{result['ns']['pass'] / _floor(result):.2f}",
            f"{result['ns']['first pass']:.2f}",
        ]
        for name, result in figures.items()
    ]
    first = next(iter(figures.values()))
    return (
        f"Nanoseconds per row, {first['n_rows']:,} rows in memory, {first['n_threads']} threads on "
        f"both sides. The floor is the faster of two forms in C (`cc {' '.join(FLAGS)}`): all in a "
        "single loop, or by blocks in the first-level cache. A pass sums the equations at one "
        "point; the first pass of a fit sums them at two (the start and the answer of the warm-up) "
        "and looks through the rows for values that can't be used.\n\n"
        + table(
            ["", "C, single loop", "C, blocks", "a pass", "pass / floor", "first pass of a fit"],
            rows,
        )
    )


SECTION = Section("passes", "A pass and the floor", measure, targets, report)
