"""A fit and its checkpoints: when to save, what a checkpoint is tied to, how to go on from it."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self

import numpy as np

from ._engine.record import check_consistency, count_from_record, from_record, to_record
from ._engine.state import FitState, Status
from ._fit import Observer, Problem, rows_before_first_pass, run
from ._format import digest_of
from ._problem import check_rows_are_independent, guess_start
from ._result import Past
from ._saving import Saver
from ._signals import SignalGuard
from ._streams import Stream
from ._warnings import warn
from .checkpoint import JSONCheckpoint, at_fixed_place
from .exceptions import (
    CheckpointDirectoryError,
    CheckpointNotFoundError,
    CheckpointWarning,
    CorruptCheckpointError,
    IncompatibleCheckpointError,
)

# A checkpoint may hold anything: an error shall not show megabytes of it.
_MOST_SHOWN = 500
# Chunks one after the other with the same number of rows are a run; of more a digest is saved.
_MOST_RUNS = 5
# Digests say nothing to people.
_KEYS = {
    "model structure": "the model's formula, or a number in it, is another one",
    "data content": "values of x, y or sigma are others, or their file was written again",
}


class Resume(Enum):
    """Whether a fit goes on from a checkpoint: never, if there is one, or else it is an error."""

    NEVER = 0
    MAY = 1
    MUST = 2


class Keeper:
    """Saves the state of a fit as it goes, and on the way out whatever happens.

    Within its ``with`` signals wait; those that end the fit act while it is `interruptible`.

    Parameters
    ----------
    checkpoint : JSONCheckpoint
    identity : mapping
        What the checkpoint is tied to: model, settings, data.
    content : callable
        From the passes and the chunks that a fit has read to the key of their content.
    n_chunks : int
        Chunks of a pass.
    past : Past
    """

    def __init__(
        self,
        checkpoint: JSONCheckpoint,
        identity: Mapping[str, Any],
        content: Callable[[int, int], str],
        n_chunks: int,
        past: Past,
    ) -> None:
        self._saver = Saver(checkpoint)
        self._identity = identity
        self._content = content
        self._n_chunks = n_chunks
        self._started_at = time.monotonic() - past.elapsed
        self._resumes = past.resumes
        self._unsaved: FitState | None = None
        self._untold: str | None = None
        self._signals = SignalGuard()

    def begin(self, state: FitState) -> None:
        """Make the directory and save the first state, so that a kill finds something to resume.

        Raises
        ------
        CheckpointDirectoryError
            If the directory can't be written to. Later failures only warn.
        """
        self._untold = self._saver.save_first(self._record(state))
        with self._signals.released():
            self._tell()

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Also on the way out of an error, of Ctrl-C or SIGTERM: what was summed so far is not lost.
        try:
            if self._unsaved is not None:
                self._save(self._unsaved)
        finally:
            self._signals.restore()
            try:
                # Only now: Ctrl-C must not wait for what the user does on a save.
                self._tell()
            finally:
                self._signals.send_again()

    def interruptible(self) -> AbstractContextManager[None]:
        """Return the context in which signals may end the fit."""
        return self._signals.released()

    def on_chunk(self, state: FitState) -> None:
        """Save if it is time to, or a signal asks for it."""
        self._unsaved = state
        self._signals.check()
        if self._saver.is_due or self._signals.is_save_wished:
            self._signals.is_save_wished = False
            self._save(state)
            self._tell()

    def on_pass(self, state: FitState) -> None:
        """Save if it is time to."""
        self.on_chunk(state)

    def finish(self, state: FitState) -> None:
        """Save the last state."""
        self._unsaved = state
        self._save(state)

    def _save(self, state: FitState) -> None:
        path = self._saver.save(self._record(state))
        if path is not None:
            self._unsaved, self._untold = None, path

    def _tell(self) -> None:
        """Call the user's function for the last save."""
        if self._untold is not None:
            path, self._untold = self._untold, None
            self._saver.tell_saved(path)

    def _record(self, state: FitState) -> dict[str, Any]:
        record = to_record(state)
        content = self._content(state.n_passes, state.next_chunk)
        return {
            "iteration": state.n_iter,
            "params": record.pop("params"),
            "phase": _phase(state),
            "chunk": [state.next_chunk, self._n_chunks],
            "elapsed_seconds": round(time.monotonic() - self._started_at, 3),
            "saved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "resumes": [list(place) for place in self._resumes],
            "versions": _versions(),
            "identity": _with_content(self._identity, content),
            "state": record,
        }


def run_resumable(
    problem: Problem,
    stream: Stream,
    checkpoint: JSONCheckpoint | None,
    resume: Resume = Resume.NEVER,
    observers: Sequence[Observer] = (),
) -> tuple[FitState, Past]:
    """Run a fit that saves its state; return the last one, and what went before this run.

    Raises
    ------
    CheckpointError
        If the directory can't be written to, or what must be resumed can't be.
    """
    state, past, keeper = None, Past(), None
    if checkpoint is not None:
        checkpoint = at_fixed_place(checkpoint)
        content = functools.partial(_content_read, problem, stream)
        identity = with_few_words(identify(problem, stream, content(0, 0)))
        if resume is not Resume.NEVER:
            state, past = _restore_if_needed(checkpoint, identity, stream.n_chunks, content, resume)
        if state is not None and state.has_begun and not state.status.is_converged:
            place = state.n_passes, state.next_chunk
            past = past._replace(resumes=(*past.resumes, place))
        keeper = Keeper(checkpoint, identity, content, stream.n_chunks, past)
    if problem.lacks_start and (state is None or not state.has_begun):
        problem = guess_start(problem, stream, state)
    if state is None:
        check_rows_are_independent(problem, stream)
    if keeper is None:
        return run(problem, stream, observers, state), past
    if state is not None and state.status.is_converged:
        return state, past
    with keeper:
        keeper.begin(state or FitState.start(problem.starts))
        with keeper.interruptible():
            # The keeper first: what another observer's error interrupts is not lost.
            state = run(problem, stream, [keeper, *observers], state)
        keeper.finish(state)
    return state, past


def _restore_if_needed(
    checkpoint: JSONCheckpoint,
    identity: Mapping[str, Any],
    n_chunks: int,
    content: Callable[[int, int], str],
    resume: Resume,
) -> tuple[FitState | None, Past]:
    """Return the state to go on from; None where there is none and none must be."""
    try:
        return restore(checkpoint, identity, n_chunks, content)
    except CheckpointNotFoundError:
        if resume is Resume.MUST:
            raise
    except CorruptCheckpointError as error:
        if resume is Resume.MUST:
            raise
        warn(f"{error} The fit starts afresh.", CheckpointWarning)
    except CheckpointDirectoryError:
        raise
    except OSError as error:
        raise CheckpointDirectoryError(
            f"The checkpoint directory {checkpoint.directory} can't be read: {error}. Give one "
            "that can, or mend what prevents it."
        ) from error
    return None, Past()


def identify(problem: Problem, stream: Stream, content: str | None = None) -> dict[str, Any]:
    """Return what a checkpoint of this fit is tied to, in terms that JSON can hold.

    Parameters
    ----------
    content : str or None
        The key of the data that count; with None that of all.
    """
    identity = identify_model(problem)
    identity["settings"]["chunk_size"] = stream.chunk_size
    identity["data"] = {"rows": stream.n_rows, "predictors": stream.n_features}
    return _with_content(identity, stream.token() if content is None else content)


def _content_read(problem: Problem, stream: Stream, n_passes: int, next_chunk: int) -> str:
    """Return the key of the data that a fit has read, on all of which its state depends.

    Data that differ elsewhere lead to the same state. So others need not be read for the key, and
    chunks that were just read are hashed while they are in the cache.
    """
    if n_passes > 0:
        return stream.token()
    return stream.token(next_chunk, rows_before_first_pass(problem, stream.n_rows))


def _with_content(identity: Mapping[str, Any], content: str) -> dict[str, Any]:
    """Return an identity that is tied to data with this key."""
    return {**identity, "data": {**identity["data"], "content": content}}


def with_few_words(identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an identity in which the sizes of chunks are no list, which may be long.

    Old checkpoints have the list.
    """
    settings = dict(identity["settings"])
    sizes = settings.get("chunk_size")
    if not isinstance(sizes, list):
        return identity
    return {**identity, "settings": {**settings, "chunk_size": _sizes_in_words(sizes)}}


def _sizes_in_words(sizes: list[Any]) -> str:
    """Return words for the sizes of chunks, which others don't have."""
    if not all(type(size) is int for size in sizes):
        raise TypeError("the sizes of its chunks are not whole numbers")
    runs = [(size, len(list(run))) for size, run in itertools.groupby(sizes)]
    words = ", ".join(f"{count} of {size} rows" for size, count in runs[:_MOST_RUNS])
    if len(runs) <= _MOST_RUNS:
        return f"{len(sizes)} chunks: {words}"
    return f"{len(sizes)} chunks: {words}, ... (digest {digest_of({'sizes': sizes})})"


def identify_model(problem: Problem) -> dict[str, Any]:
    """Return the part of an identity that does not depend on the data."""
    objective, tolerances = problem.objective, problem.tolerances
    model = objective.model
    return {
        "model": {"parameters": list(model.param_names), "structure": model.fingerprint},
        "number of parameters": model.n_params,
        "settings": {
            "p0": "auto" if problem.guess else problem.starts[0].tolist(),
            "n_starts": len(problem.starts),
            "seed": problem.seed,
            "is_warm": problem.is_warm,
            "lower bounds": [v if np.isfinite(v) else None for v in problem.bounds.lower.tolist()],
            "upper bounds": [v if np.isfinite(v) else None for v in problem.bounds.upper.tolist()],
            "loss": objective.loss,
            "f_scale": objective.f_scale,
            "ftol": tolerances.ftol,
            "xtol": tolerances.xtol,
            "gtol": tolerances.gtol,
        },
    }


def restore(
    checkpoint: JSONCheckpoint,
    identity: Mapping[str, Any],
    n_chunks: int,
    content: Callable[[int, int], str],
) -> tuple[FitState, Past]:
    """Return the state of the newest checkpoint, and what the fit went through until then.

    Parameters
    ----------
    content : callable
        From the passes and the chunks that a fit has read to the key of their content: the
        checkpoint is tied to what the fit had read when it was saved.

    Raises
    ------
    CheckpointNotFoundError
        If there is none.
    CorruptCheckpointError
        If no file can be trusted.
    IncompatibleCheckpointError
        If it belongs to another model, other data or other settings.
    """
    path, record = checkpoint.load_with_path()
    try:
        saved_identity = with_few_words(dict(record["identity"]))
        saved_versions = dict(record["versions"])
        n_passes = count_from_record(record["state"]["n_passes"])
        next_chunk = count_from_record(record["state"]["next_chunk"])
        if saved_identity["settings"]["chunk_size"] == identity["settings"]["chunk_size"]:
            read = content(n_passes, next_chunk)
        else:  # is refused, and what it has read can't be told
            read = saved_identity["data"]["content"]
        require_compatible(saved_identity, _with_content(identity, read), path)
        state, past = parse(record, identity["number of parameters"], n_chunks)
    except IncompatibleCheckpointError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptCheckpointError(
            f"{path} is not the checkpoint of a fit: {error}. Remove the directory and start the "
            "fit without resume."
        ) from error
    _warn_of_other_versions(saved_versions)
    checkpoint.sweep()  # a fit that had ended saves nothing more
    if checkpoint.on_resume is not None:
        checkpoint.on_resume(path)
    return state, past


def parse(record: Mapping[str, Any], n_params: int, n_chunks: int) -> tuple[FitState, Past]:
    """Return the state that a checkpoint holds, and what the fit went through until then.

    Raises
    ------
    KeyError, TypeError, ValueError, OverflowError
        If it holds none, or none that can come from a fit.
    """
    saved = {**record["state"], "params": record["params"]}
    state = from_record(saved, n_params, n_chunks)
    check_consistency(state)
    # Files from before 0.1.0 don't tell where they were resumed.
    places = record.get("resumes", [])
    resumes = tuple((count_from_record(n), count_from_record(chunk)) for n, chunk in places)
    return state, Past(float(record["elapsed_seconds"]), resumes)


def require_compatible(saved: Mapping[str, Any], current: Mapping[str, Any], path: str) -> None:
    """Raise if a checkpoint is not of this fit, and say what changed from what to what."""
    changes = list(_changes(saved, current, ""))
    if changes:
        raise IncompatibleCheckpointError(
            f"Incompatible checkpoint: {path} is of another fit. {'; '.join(changes)}. Give what "
            "it was made with, or remove the directory and start the fit without resume."
        )


def _changes(saved: Any, current: Any, name: str) -> Iterator[str]:
    """Yield what differs, in words."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        for key in sorted({*saved, *current}):
            inner = f"{name} {key}".strip()
            yield from _changes(saved.get(key), current.get(key), inner)
    elif name in _KEYS and saved is not None and current is not None and saved != current:
        yield f"{name} changed: {_KEYS[name]}"
    elif saved != current:
        yield f"{name} changed from {_shown(saved)} to {_shown(current)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


@functools.cache  # they are read from files, which a save in need must not open
def _versions() -> dict[str, str]:
    """Return the versions that the bits of a result depend on."""
    versions = {name: version(name) for name in ("jax", "jaxlib", "numpy")}
    try:
        versions["nlsq_sklearn"] = version("nlsq_sklearn")
    except PackageNotFoundError:  # run from a source tree that is not installed
        versions["nlsq_sklearn"] = "unknown"
    return versions


def _warn_of_other_versions(saved: Mapping[str, Any]) -> None:
    changes = "; ".join(_changes(saved, _versions(), ""))
    if changes:
        warn(
            f"The checkpoint was saved by other versions ({changes}): the fit goes on from it, "
            "but its last bits may differ from those of an uninterrupted one.",
            CheckpointWarning,
        )


def _phase(state: FitState) -> str:
    if state.status is not Status.RUNNING:
        return "finished"
    return "streaming" if state.has_begun else "warm-up"
