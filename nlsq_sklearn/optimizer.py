"""`AdaptiveHybridStreamingOptimizer`: the face for scripts in the style of `curve_fit`."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, OptimizeWarning

from ._engine.covariance import covariance
from ._engine.model import TracedModel, parameter_names, trace_model
from ._engine.state import FitState, Status
from ._fit import Observer, Problem, run
from ._problem import (
    as_bounds,
    as_objective,
    as_positive_int,
    as_start,
    as_tolerances,
    check_enough_rows,
    check_rows_are_independent,
    draw_starts,
)
from ._progress import ProgressBar
from ._resume import Keeper, restore
from ._streams import Stream, open_stream
from .checkpoint import JSONCheckpoint
from .exceptions import ConvergenceWarning


class CurveFitResult(OptimizeResult):  # type: ignore[misc]  # scipy is not typed
    """The answer of a fit; a `scipy.optimize.OptimizeResult` that prints as a table.

    Attributes
    ----------
    popt : ndarray of shape (n_params,)
        The parameters, also under the name ``x``.
    pcov : ndarray of shape (n_params, n_params)
        Their covariance; infinite for parameters that the data do not determine.
    perr : ndarray of shape (n_params,)
        Their standard errors.
    cost : float
        Half the sum of squares, weighted and under the loss.
    success : bool
        Whether the fit converged.
    status : int
        1 to 5 where it converged (``gtol``, ``ftol``, ``xtol``, exact data, limit of float64),
        0 where it reached ``max_iter``, -2 where no step lowered the cost.
    message : str
        The status in words.
    n_iter : int
        Steps that were tried.
    n_passes : int
        Passes over all rows.
    n_rows : int
        Rows fitted.
    history : list of dict
        One entry a pass: ``n_passes``, ``params``, ``cost``, ``accepted``, ``damping``,
        ``step_length``, ``gain_ratio`` and ``radius``.
    param_names : tuple of str
        From the model's signature.
    elapsed : float
        Seconds, those before an interruption included.
    """

    def __str__(self) -> str:
        rows = [("parameter", "value", "standard error", "relative error")]
        for name, value, error in zip(self.param_names, self.popt, self.perr, strict=True):
            relative = f"{100 * abs(error / value):.2g} %" if value and np.isfinite(error) else "-"
            rows.append((name, f"{value:.10g}", f"{error:.3g}", relative))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in rows
        ]
        return "\n".join(
            [
                *lines,
                "",
                f"{'success' if self.success else 'FAILED'}: {self.message}",
                f"cost {self.cost:.10g}; {self.n_rows:,} rows, {self.n_passes} passes, "
                f"{self.elapsed:.2f} s",
            ]
        )

    __repr__ = __str__


class AdaptiveHybridStreamingOptimizer:
    """Fits a curve ``y = f(x, *params)`` to more rows than memory holds, with checkpoints.

    A sample of the rows is fitted first; then a trust-region method goes over all rows, chunk by
    chunk, a few times. The answer is the least-squares one, with standard errors, whatever the
    size of the chunks. A fit that was killed goes on from its last checkpoint and ends in the
    same bits.

    Parameters
    ----------
    model : callable
        ``model(x, *params)``, written with `jax.numpy`. ``x`` has the shape (n_rows,), or
        (n_features, n_rows) with several predictors. Each row stands for itself.
    n_params : int or None, default=None
        Number of parameters; with None it is read from the model's signature.
    checkpoint_dir : path-like or None, default=None
        Directory for checkpoints; None makes none.
    checkpoint_interval : float, default=60
        Seconds between saves.
    max_checkpoints : int, default=5
        Dated checkpoint files to keep.
    checkpoint_compression : bool, default=False
        Whether dated checkpoint files are compressed.
    chunk_size : int or None, default=None
        Rows worked on at once by a thread; with None 131,072.

    Raises
    ------
    TypeError, ValueError
        If the model is no function, or its signature has another number of parameters.

    See Also
    --------
    scipy.optimize.curve_fit : For data that fit into memory.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> def decay(x, a, b, c):
    ...     return a * jnp.exp(-b * x) + c
    >>> x = np.linspace(0, 5, 200_000)
    >>> y = 2.5 * np.exp(-1.3 * x) + 0.5 + np.random.default_rng(0).normal(0, 0.05, x.size)
    >>> result = AdaptiveHybridStreamingOptimizer(decay).fit(x, y, p0=[1, 1, 1])
    >>> result.success
    True
    >>> print(result.popt.round(2))
    [2.5 1.3 0.5]
    """

    def __init__(
        self,
        model: Callable[..., Any],
        n_params: int | None = None,
        *,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_interval: float = 60.0,
        max_checkpoints: int = 5,
        checkpoint_compression: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        if n_params is not None:
            n_params = as_positive_int(n_params, "n_params")
        self._model = model
        self._n_params = n_params
        self._chunk_size = chunk_size
        self._checkpoint = None
        if checkpoint_dir is not None:
            self._checkpoint = JSONCheckpoint(
                checkpoint_dir,
                interval=checkpoint_interval,
                max_checkpoints=max_checkpoints,
                compression=checkpoint_compression,
            )
        _ = self._param_names(None)

    def fit(
        self,
        x: Any,
        y: Any,
        p0: Any = None,
        *,
        bounds: Any = (-np.inf, np.inf),
        sigma: Any = None,
        absolute_sigma: bool = False,
        loss: str = "linear",
        f_scale: float = 1.0,
        n_starts: int = 1,
        max_iter: int = 1000,
        ftol: float = 1e-8,
        xtol: float = 1e-8,
        gtol: float = 1e-8,
        resume: bool = False,
        show_progress: bool = False,
    ) -> CurveFitResult:
        """Fit the model to data.

        Parameters
        ----------
        x : array-like of shape (n_rows,) or (n_features, n_rows), or tuple of columns
            The predictors; NumPy arrays and memory maps are read chunk by chunk.
        y : array-like of shape (n_rows,)
            The data.
        p0 : array-like of shape (n_params,) or None, default=None
            Where the parameters start; with None at 1, or between their bounds.
        bounds : 2-tuple of array-like or `scipy.optimize.Bounds`, default=(-inf, inf)
            Lower and upper bounds, each a number or one for each parameter.
        sigma : float, array-like of shape (n_rows,) or None, default=None
            Standard deviation of each row.
        absolute_sigma : bool, default=False
            Whether ``sigma`` is taken as it is for the covariance. Otherwise only its ratios
            count, and the covariance is scaled by the reduced chi-square.
        loss : {"linear", "huber", "soft_l1", "cauchy", "arctan"}, default="linear"
            As in `scipy.optimize.least_squares`.
        f_scale : float, default=1.0
            The residual (over sigma) from which a robust loss takes a row for an outlier.
        n_starts : int, default=1
            Starts to try on a sample, the others besides ``p0`` spread between the bounds.
        max_iter : int, default=1000
            Steps to try, each a pass over all rows.
        ftol : float, default=1e-8
            The fit ends when its parameters lie within ``100 ftol`` joint standard errors of
            the optimum (the relative offset of [2]_).
        xtol : float, default=1e-8
            It ends when the next step would change no parameter by more than this part of it.
        gtol : float, default=1e-8
            It ends when the cosine of the angle between the residuals and the tangent plane of
            the model is smaller than this.
        resume : bool, default=False
            Whether to go on from the last checkpoint. A finished fit is given back at once.
        show_progress : bool, default=False
            Whether to show a progress bar, where standard error is a terminal.

        Returns
        -------
        CurveFitResult
            With ``success`` False and a `ConvergenceWarning` where the fit did not converge.

        Raises
        ------
        TypeError
            If the model can't be traced by JAX, or an argument is of the wrong type.
        ValueError
            If shapes don't fit, a value in the data is not finite (the message names the first
            row), ``p0`` lies outside the bounds, the model is not finite at ``p0`` or mixes rows.
        CheckpointNotFoundError
            If there is nothing to resume.
        IncompatibleCheckpointError
            If the checkpoint is of another model, other data or other settings.
        CorruptCheckpointError
            If no checkpoint file is whole.
        CheckpointDirectoryError
            If the checkpoint directory can't be written to.

        References
        ----------
        .. [1] J. J. Moré, "The Levenberg-Marquardt algorithm: implementation and theory", 1978.
        .. [2] D. M. Bates, D. G. Watts, "A relative offset orthogonality convergence criterion
               for nonlinear least squares", Technometrics 23, 1981.
        """
        started_at = time.monotonic()
        stream = open_stream(x, y, sigma, chunk_size=self._chunk_size)
        names = self._param_names(p0)
        check_enough_rows(stream, names)
        model = trace_model(self._model, names, stream.n_features)
        limits = as_bounds(bounds, len(names))
        start = as_start(p0, limits, names)
        problem = Problem(
            as_objective(model, loss, f_scale),
            limits,
            as_tolerances(ftol, xtol, gtol, max_iter),
            draw_starts(start, limits, as_positive_int(n_starts, "n_starts"), names),
        )
        state, elapsed = self._run(problem, stream, resume=resume, show_progress=show_progress)
        if state.status is Status.NOT_FINITE:
            raise ValueError(stream.explain_not_finite(problem.objective, problem.starts[0]))
        elapsed += time.monotonic() - started_at
        return _result(state, model, stream.n_rows, elapsed, absolute_sigma=absolute_sigma)

    def _param_names(self, p0: Any) -> tuple[str, ...]:
        n_params = self._n_params
        if n_params is None and p0 is not None:
            with contextlib.suppress(TypeError):  # no sequence: said when it is checked
                n_params = None if _has_named_params(self._model) else len(p0)
        return parameter_names(self._model, n_params)

    def _run(
        self, problem: Problem, stream: Stream, *, resume: bool, show_progress: bool
    ) -> tuple[FitState, float]:
        """Run the fit; return its last state, and the seconds it took before it was resumed."""
        state, elapsed, keeper = None, 0.0, None
        if resume and self._checkpoint is None:
            raise ValueError("resume=True needs a checkpoint_dir to resume from.")
        if self._checkpoint is not None:
            identity = _identity(problem, stream)
            if resume:
                state, elapsed = restore(
                    self._checkpoint, identity, problem.starts.shape[1], stream.n_chunks
                )
            keeper = Keeper(self._checkpoint, identity, stream.n_chunks, elapsed)
        if state is None:
            check_rows_are_independent(problem, stream)
        with contextlib.ExitStack() as stack:
            observers: list[Observer] = []
            if keeper is not None:
                keeper.begin(state or FitState.start(problem.starts))
                observers.append(stack.enter_context(keeper))
            if show_progress:
                bar = ProgressBar(stream.n_rows, stream.n_chunks)
                observers.append(stack.enter_context(bar))
            state = run(problem, stream, observers, state)
            if keeper is not None:
                keeper.finish(state)
        return state, elapsed


def _has_named_params(model: Callable[..., Any]) -> bool:
    """Return whether the signature alone tells the number of parameters."""
    try:
        parameter_names(model, None)
    except ValueError:
        return False
    return True


def _identity(problem: Problem, stream: Stream) -> dict[str, Any]:
    """Return what a checkpoint of this fit is tied to, in terms that JSON can hold."""
    objective, tolerances = problem.objective, problem.tolerances
    model = objective.model
    return {
        "model": {"parameters": list(model.param_names), "structure": model.fingerprint[:16]},
        "number of parameters": model.n_params,
        "settings": {
            "p0": problem.starts[0].tolist(),
            "lower bounds": [v if np.isfinite(v) else None for v in problem.bounds.lower.tolist()],
            "upper bounds": [v if np.isfinite(v) else None for v in problem.bounds.upper.tolist()],
            "loss": objective.loss,
            "f_scale": objective.f_scale,
            "n_starts": len(problem.starts),
            "ftol": tolerances.ftol,
            "xtol": tolerances.xtol,
            "gtol": tolerances.gtol,
            "chunk_size": stream.chunk_size,
        },
        "data": {
            "rows": stream.n_rows,
            "predictors": stream.n_features,
            "content": stream.token(),
        },
    }


def _result(
    state: FitState, model: TracedModel, n_rows: int, elapsed: float, *, absolute_sigma: bool
) -> CurveFitResult:
    """Return the result of a fit that stopped, and warn of what it is worth."""
    assert state.equations is not None
    if not state.status.is_converged:
        warnings.warn(
            f"The fit did not converge: {state.status.message} The result holds the best point "
            "found.",
            ConvergenceWarning,
            stacklevel=3,
        )
    cov = covariance(state.equations, absolute_sigma=absolute_sigma)
    if cov.undetermined.any():
        names = ", ".join(np.array(model.param_names)[cov.undetermined])
        warnings.warn(
            f"The data do not determine {names}: the covariance is infinite there.",
            OptimizeWarning,
            stacklevel=3,
        )
    return CurveFitResult(
        popt=state.params,
        x=state.params,
        pcov=cov.matrix,
        perr=np.sqrt(np.diag(cov.matrix)),
        cost=state.equations.cost,
        success=state.status.is_converged,
        status=int(state.status),
        message=state.status.message,
        n_iter=state.n_iter,
        n_passes=state.n_passes,
        n_rows=n_rows,
        history=list(state.history),
        param_names=model.param_names,
        elapsed=elapsed,
    )
