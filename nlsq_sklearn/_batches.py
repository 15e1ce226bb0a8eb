"""Batches that are seen once: their update, and its checkpoints."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ._engine.equations import Equations
from ._engine.record import (
    array_from_record,
    check_quadratic,
    count_from_record,
    equations_from_record,
    equations_to_record,
)
from ._engine.recursive import update
from ._engine.state import FitState
from ._fit import Problem, sum_in_memory
from ._resume import identify_model, require_compatible
from ._saving import Saver
from ._streams import ArrayStream, Rows, profile_rows
from .checkpoint import JSONCheckpoint
from .exceptions import CorruptCheckpointError, IncompatibleCheckpointError

_START_ROWS = 256


class BatchState(NamedTuple):
    """What is kept of all batches so far.

    Attributes
    ----------
    params : ndarray of shape (n_params,)
    equations : Equations
        The quadratic that all batches left, at ``params``.
    n_batches, n_samples : int
        Batches and rows seen.
    kept : Rows or None
        The first few rows, until there are enough of them to trust the point at which they are
        linearised: rows that are linearised far from the optimum would mislead for good.
    """

    params: np.ndarray
    equations: Equations
    n_batches: int
    n_samples: int
    kept: Rows | None = None


def update_batch(
    problem: Problem, state: BatchState | None, batch: ArrayStream, forgetting: float
) -> tuple[BatchState, FitState]:
    """Return the state after one more batch, and how its own small fit ended."""
    params, earlier, kept, seen = problem.starts[0], None, None, (0, 0)
    if state is not None:
        params, kept, seen = state.params, state.kept, (state.n_batches, state.n_samples)
        if kept is None:
            earlier = state.equations.scaled(forgetting)
    rows = batch if kept is None else batch.behind(_forget_rows(kept, forgetting))
    if problem.guess is not None and earlier is None:
        params = problem.guess(profile_rows(rows))  # anew while rows are kept: they tell more now

    def evaluate(params: np.ndarray) -> Equations:
        return sum_in_memory(problem.objective, rows, params[np.newaxis])[0]

    fitted = update(evaluate, params, earlier, problem.bounds, problem.tolerances)
    if fitted.equations is None:
        raise ValueError(batch.explain_not_finite(problem.objective, params))
    start = None
    if earlier is None:
        start = _rows_that_count(rows.rows())
        if start.y.size >= _START_ROWS:
            start = None
    new = BatchState(
        fitted.params,
        fitted.accepted,
        seen[0] + 1,
        seen[1] + batch.n_rows,
        start,
    )
    return new, fitted


def _rows_that_count(rows: Rows) -> Rows:
    """Return the rows whose weight is not 0: the others tell nothing of the curve."""
    if rows.weight is None:
        return rows
    counts = rows.weight > 0
    columns = [column[counts] for column in rows.columns]
    return Rows(columns, rows.y[counts], None, rows.weight[counts])


def _forget_rows(rows: Rows, factor: float) -> Rows:
    """Return rows that count by a factor less."""
    if factor == 1.0:
        return rows
    weight = np.ones(rows.y.size) if rows.weight is None else rows.weight
    return rows._replace(weight=factor * weight)


def save_batches(
    saver: Saver, state: BatchState, problem: Problem, settings: Mapping[str, Any]
) -> bool:
    """Save the state of a stream of batches, or warn of what prevents it and return False."""
    path = saver.save(
        {
            "iteration": state.n_batches,
            "params": state.params.tolist(),
            "phase": "partial_fit",
            "n_samples": state.n_samples,
            "equations": equations_to_record(state.equations),
            "kept": None if state.kept is None else _rows_to_record(state.kept),
            "identity": {**identify_model(problem), **settings},
            "saved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    )
    if path is not None:
        saver.tell_saved(path)
    return path is not None


def load_batches(
    checkpoint: JSONCheckpoint, problem: Problem, settings: Mapping[str, Any]
) -> BatchState:
    """Return the newest state of a stream of batches.

    Raises
    ------
    CheckpointNotFoundError, CorruptCheckpointError, IncompatibleCheckpointError
        If there is none, none can be trusted, or it is of another model or settings.
    """
    path, record = checkpoint.load_with_path()
    identity = {**identify_model(problem), **settings}
    try:
        require_compatible(dict(record["identity"]), identity, path)
        params = array_from_record(record["params"], problem.objective.model.n_params)
        equations = equations_from_record(record["equations"], params.size)
        n_batches = count_from_record(record["iteration"])
        n_samples = count_from_record(record["n_samples"])
        kept = None if record["kept"] is None else _rows_from_record(record["kept"])
        check_quadratic(equations)
        if not np.isfinite(params).all():
            raise ValueError("its parameters are not finite")
    except IncompatibleCheckpointError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptCheckpointError(
            f"{path} is not the checkpoint of a partial_fit: {error!r}. Give the directory that "
            "partial_fit saved to."
        ) from error
    checkpoint.sweep()  # the next save may be far
    if checkpoint.on_resume is not None:
        checkpoint.on_resume(path)
    return BatchState(params, equations, n_batches, n_samples, kept)


def _rows_to_record(rows: Rows) -> dict[str, Any]:
    return {
        "columns": [column.tolist() for column in rows.columns],
        "y": rows.y.tolist(),
        "weight": None if rows.weight is None else rows.weight.tolist(),
    }


def _rows_from_record(record: Mapping[str, Any]) -> Rows:
    y = array_from_record(record["y"])
    columns = [array_from_record(column, y.size) for column in record["columns"]]
    weight = None if record["weight"] is None else array_from_record(record["weight"], y.size)
    if y.size >= _START_ROWS:
        raise ValueError("the rows kept are too many")
    return Rows(columns, y, None, weight)
