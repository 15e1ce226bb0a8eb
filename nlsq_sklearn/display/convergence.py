"""`ConvergenceDisplay`: how a fit came to its answer, pass by pass."""

import contextlib
import os
import textwrap
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from .._engine.state import Status
from .._result import CurveFitResult
from .._resume import parse
from .._survey import fits_below
from ..checkpoint import JSONCheckpoint
from ..exceptions import CheckpointNotFoundError, CorruptCheckpointError
from ..regressor import StreamingCurveFitRegressor
from .drawing import VERMILLION, blue, grey, ink, legend_above, new_axes, require_matplotlib

_QUANTITIES = {"cost": "cost", "damping": "damping", "step_length": "step length"}
# Costs that differ by a smaller factor are drawn on a linear axis.
_LOG_FROM = 5.0
# The highest that a rejected cost is drawn, in units of the highest accepted one.
_MOST_ABOVE = 10.0


class ConvergenceDisplay:
    """Cost, damping and length of the steps of a fit, pass by pass.

    Trials that were rejected are told from those that were accepted, and vertical lines tell where
    the fit was resumed. A rejected trial whose cost is far above all accepted ones, or not finite,
    stands at the upper edge. The warm-up on a sample is no pass, and not shown.

    Parameters
    ----------
    history : sequence of dict
        One entry a pass, as ``history_`` of the estimator.
    resumes : sequence of dict, default=()
        Where the fit was resumed, as ``resumes`` of the result.
    status : str, default=""
        How the fit ended or how far it is, in words.

    Attributes
    ----------
    axes_ : ndarray of shape (3,)
        matplotlib Axes for cost, damping and step length.
    figure_ : matplotlib Figure
    accepted_, rejected_ : list of matplotlib Line2D
        Markers of each of the axes.
    resumes_ : list of list of matplotlib Line2D
        Vertical lines of each of the axes.
    legend_ : matplotlib Legend

    See Also
    --------
    CurveFitDisplay : Data, curve and residuals.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from nlsq_sklearn import ConvergenceDisplay, StreamingCurveFitRegressor
    >>> def decay(x, a, b):
    ...     return a * jnp.exp(-b * x)
    >>> X = np.linspace(0, 5, 1000).reshape(-1, 1)
    >>> y = 2.5 * np.exp(-1.3 * X[:, 0])
    >>> regressor = StreamingCurveFitRegressor(decay, p0=[1, 1]).fit(X, y)
    >>> ConvergenceDisplay.from_estimator(regressor)
    <nlsq_sklearn.display.convergence.ConvergenceDisplay object at ...>
    """

    def __init__(
        self,
        history: Sequence[dict[str, Any]],
        resumes: Sequence[dict[str, int]] = (),
        status: str = "",
    ) -> None:
        self.history = history
        self.resumes = resumes
        self.status = status

    @classmethod
    def from_estimator(cls, estimator: StreamingCurveFitRegressor, *, ax: Any = None) -> Self:
        """Draw how a fitted estimator came to its answer.

        Parameters
        ----------
        estimator : StreamingCurveFitRegressor
            After ``fit``.
        ax : array-like of three matplotlib Axes or None, default=None
            Where to draw; with None in a new figure.

        Returns
        -------
        ConvergenceDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If it was not fitted, or by ``partial_fit`` alone, which keeps no history.
        """
        require_matplotlib("ConvergenceDisplay")
        if not hasattr(estimator, "result_"):
            raise ValueError(
                f"This {type(estimator).__name__} has no passes to show. Call fit before; "
                "partial_fit sees each batch once and keeps no history."
            )
        return cls.from_result(estimator.result_, ax=ax)

    @classmethod
    def from_result(cls, result: CurveFitResult, *, ax: Any = None) -> Self:
        """Draw how a fit came to its result.

        Parameters
        ----------
        result : CurveFitResult
        ax : array-like of three matplotlib Axes or None, default=None
            Where to draw; with None in a new figure.

        Returns
        -------
        ConvergenceDisplay
        """
        return cls(result.history, result.resumes, result.message).plot(ax)

    @classmethod
    def from_checkpoint(
        cls, directory: str | os.PathLike[str] | JSONCheckpoint, *, ax: Any = None
    ) -> Self:
        """Draw how far a fit has come, that may be running in another process.

        Parameters
        ----------
        directory : path-like, str or JSONCheckpoint
            Where the fit saves to, or the ``checkpoint`` of an estimator with the folder of one
            fit in it; of several give the folder of one.
        ax : array-like of three matplotlib Axes or None, default=None
            Where to draw; with None in a new figure.

        Returns
        -------
        ConvergenceDisplay

        Raises
        ------
        CheckpointNotFoundError
            If there is no checkpoint, or those of several fits.
        CorruptCheckpointError
            If no file can be trusted, or it is not that of a fit but of ``partial_fit``.
        """
        require_matplotlib("ConvergenceDisplay")
        path, record = _load(directory)
        if record.get("phase") == "partial_fit":
            raise CorruptCheckpointError(
                f"{path} is the checkpoint of a partial_fit, which has no passes to show."
            )
        try:
            n_chunks = int(record["chunk"][1])
            state, past = parse(record, len(record["params"]), n_chunks)
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise CorruptCheckpointError(
                f"{path} is not the checkpoint of a fit: {error}."
            ) from error
        resumes = [
            {"n_passes": n_passes, "chunk": chunk, "n_chunks": n_chunks}
            for n_passes, chunk in past.resumes
        ]
        status = state.status.message
        if state.status is Status.RUNNING:
            status = (
                f"Not finished: {state.next_chunk} of {n_chunks} chunks of pass "
                f"{state.n_passes + 1}"
            )
        return cls(state.history, resumes, status).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : array-like of three matplotlib Axes or None, default=None
            Where to draw; with None in a new figure.

        Returns
        -------
        ConvergenceDisplay
            Itself, with the artists of this drawing.
        """
        require_matplotlib("ConvergenceDisplay")
        self.axes_ = np.asarray(new_axes(3) if ax is None else ax, dtype=object).ravel()
        if self.axes_.size != 3:
            raise ValueError(f"ax must hold three Axes or be None, got {self.axes_.size}.")
        self.figure_ = self.axes_[0].figure
        self.accepted_: list[Any] = []
        self.rejected_: list[Any] = []
        self.resumes_: list[list[Any]] = []
        for axes, (key, name) in zip(self.axes_, _QUANTITIES.items(), strict=True):
            self._draw(axes, key)
            axes.set_ylabel(name)
        self._set_passes()
        handles = [self.accepted_[0]]
        handles += [self.rejected_[0]] if any(not e["accepted"] for e in self.history) else []
        handles += self.resumes_[0][:1]
        self.legend_ = legend_above(self.axes_[0], handles)
        return self

    def _draw(self, axes: Any, key: str) -> None:
        """Draw one quantity."""
        passes = np.array([entry["n_passes"] for entry in self.history], dtype=float)
        values = np.array([entry[key] for entry in self.history], dtype=float)  # None is nan
        is_accepted = np.array([entry["accepted"] for entry in self.history], dtype=bool)
        if key == "cost":
            values = _within_reach(values, is_accepted)
        _set_scale(axes, values)
        joined = is_accepted & np.isfinite(values)
        axes.plot(passes[joined], values[joined], color=grey(axes), lw=1, zorder=1)
        style: dict[str, Any] = {"ls": "none", "ms": _marker_size(len(passes))}
        (accepted,) = axes.plot(
            *(passes[is_accepted], values[is_accepted], "o"),
            **style,
            color=blue(axes),
            zorder=2,
            label="accepted",
        )
        (rejected,) = axes.plot(
            *(passes[~is_accepted], values[~is_accepted], "X"),
            **style,
            color=VERMILLION,
            zorder=3,
            label="rejected",
        )
        beyond = passes[~is_accepted & ~np.isfinite(values)] if key == "cost" else passes[:0]
        if beyond.size:
            (edge,) = axes.plot(
                *(beyond, np.ones(beyond.size), "X"),
                **style,
                color=VERMILLION,
                clip_on=False,
                transform=axes.get_xaxis_transform(),
            )
            edge.set_in_layout(False)
        self.accepted_.append(accepted)
        self.rejected_.append(rejected)
        self.resumes_.append([self._draw_resume(axes, place) for place in self.resumes])

    def _draw_resume(self, axes: Any, place: dict[str, int]) -> Any:
        at = place["n_passes"] + place["chunk"] / place["n_chunks"]
        style = {"color": ink(axes), "ls": (0, (4, 2)), "lw": 1.2, "zorder": 0.5}
        return axes.axvline(at, **style, label="resumed")

    def _set_passes(self) -> None:
        """Count passes on the axes, with room for a place in one that is not finished."""
        from matplotlib.ticker import MaxNLocator

        ends = [entry["n_passes"] for entry in self.history]
        ends += [place["n_passes"] + 1 for place in self.resumes if place["chunk"]]
        for axes in self.axes_:
            axes.set_xlim(0.5 if min(ends, default=1) else 0, max(ends, default=1) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        self.axes_[-1].set_xlabel("\n".join(["pass", *_wrapped(self.status, self.axes_[-1])]))


def _load(directory: str | os.PathLike[str] | JSONCheckpoint) -> tuple[str, dict[str, Any]]:
    """Return the newest checkpoint of the one fit of a directory, or below it, and its path."""
    checkpoint = directory if isinstance(directory, JSONCheckpoint) else JSONCheckpoint(directory)
    try:
        return checkpoint.load_with_path()
    except CheckpointNotFoundError:
        folders = []
        with contextlib.suppress(FileNotFoundError):  # there is no such directory
            folders = [fit.directory for fit in fits_below(checkpoint.directory)]
        if not folders:
            raise
    if len(folders) > 1:
        raise CheckpointNotFoundError(
            f"{checkpoint.directory} holds the checkpoints of {len(folders)} fits. Give the folder "
            f"of one, for instance {folders[0]}; `nlsq-sklearn checkpoints list` shows them."
        )
    return JSONCheckpoint(folders[0]).load_with_path()


def _within_reach(costs: np.ndarray, is_accepted: np.ndarray) -> np.ndarray:
    """Return the costs without those that would hide how the accepted ones fall."""
    highest = costs[is_accepted].max(initial=0.0)
    with np.errstate(invalid="ignore"):
        return np.where(costs <= _MOST_ABOVE * highest, costs, np.nan)


def _wrapped(words: str, axes: Any) -> list[str]:
    """Return lines of about the same length, below axes and about as wide."""
    points = 72 * axes.get_window_extent().width / axes.figure.dpi
    most = max(20, int(points / (0.5 * axes.xaxis.label.get_size())))
    n_lines = len(textwrap.wrap(words, most))
    even = (len(words) + n_lines - 1) // max(n_lines, 1)
    return next(
        lines
        for width in range(max(even, 1), most + 1)
        if len(lines := textwrap.wrap(words, width)) <= n_lines
    )


def _marker_size(n_passes: int) -> float:
    return float(np.clip(40 / np.sqrt(max(n_passes, 1)), 3, 7))


def _set_scale(axes: Any, values: np.ndarray) -> None:
    """Draw values that differ by more than a small factor on a logarithmic axis."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if positive.size == 0:
        axes.set_ylim(-0.05, 1.0)
    elif positive.max() < _LOG_FROM * finite.min():
        # Costs that differ in their last digits: without an offset each tick has them all.
        axes.ticklabel_format(axis="y", useOffset=False)
    elif positive.size == finite.size:
        axes.set_yscale("log")
    else:
        # Full Gauss-Newton steps have the damping 0, exact data the cost 0.
        decade = 10.0 ** np.floor(np.log10(positive.min()))
        axes.set_yscale("symlog", linthresh=decade)
