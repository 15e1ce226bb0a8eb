"""`AdaptiveHybridStreamingOptimizer`: the face for scripts in the style of `curve_fit`."""

import os
import time
from collections.abc import Callable
from typing import Any

from ._engine.model import has_star
from ._engine.remembered import traced
from ._engine.state import FitState, Status
from ._engine.trust_region import Tolerances
from ._fit import Problem
from ._problem import (
    as_bounds,
    as_guess,
    as_objective,
    as_positive_int,
    as_start,
    as_tolerances,
    check_enough_rows,
    draw_starts,
    names_of,
)
from ._progress import ProgressBar
from ._result import CurveFitResult, Past, as_result
from ._resume import Resume, run_resumable
from ._streams import Stream, open_stream
from .checkpoint import JSONCheckpoint


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
    checkpoint_dir : path-like, str or None, default=None
        Directory for checkpoints, also a URL for fsspec (``s3://bucket/directory``) whose
        credentials come from the environment or from its configuration; None makes none.
    checkpoint_interval : float, default=60
        Seconds between saves.
    max_checkpoints : int, default=5
        Dated checkpoint files to keep.
    checkpoint_compression : bool, default=False
        Whether dated checkpoint files are compressed.
    chunk_size : int or None, default=None
        Rows worked on at once by a thread; with None 262,144.

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
        self._param_names = None
        if n_params is not None or not has_star(model):  # else p0 tells how many there are
            self._param_names = names_of(model, None, n_params)

    def fit(
        self,
        x: Any,
        y: Any,
        p0: Any = None,
        *,
        bounds: Any = None,
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
        p0 : array-like of shape (n_params,), "auto" or None, default=None
            Where the parameters start; with None at 1, or between their bounds. With "auto" the
            model guesses from the data, in a pass of their own; those of `nlsq_sklearn.models`
            can, and see there for one's own.
        bounds : 2-tuple of array-like, `scipy.optimize.Bounds` or None, default=None
            Lower and upper bounds, each a number or one for each parameter; with None the
            model's own, where it has some.
        sigma : float, array-like of shape (n_rows,) or None, default=None
            Standard deviation of each row.
        absolute_sigma : bool, default=False
            Whether ``sigma`` is taken as it is for the covariance. Otherwise only its ratios
            count, and the covariance is scaled by the reduced chi-square. As in ``curve_fit``,
            without ``sigma`` each row has the standard deviation 1.
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
            With ``success`` False, and a `~sklearn.exceptions.ConvergenceWarning`, where the fit
            did not converge.

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

        Examples
        --------
        Two predictors, the standard deviation of each row known:

        >>> import numpy as np
        >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
        >>> def plane(xt, slope, speed):
        ...     x, t = xt
        ...     return slope * x + speed * t
        >>> x, t = np.random.default_rng(0).uniform(0, 1, (2, 10_000))
        >>> y = 2 * x - 3 * t + np.random.default_rng(1).normal(0, 0.1, x.size)
        >>> optimizer = AdaptiveHybridStreamingOptimizer(plane)
        >>> result = optimizer.fit((x, t), y, sigma=0.1, absolute_sigma=True)
        >>> print(result.popt.round(2))
        [ 2. -3.]
        """
        started_at = time.monotonic()
        stream = open_stream(x, y, sigma, chunk_size=self._chunk_size)
        return self._fit_stream(
            stream,
            p0,
            started_at,
            bounds=bounds,
            absolute_sigma=absolute_sigma,
            loss=loss,
            f_scale=f_scale,
            n_starts=n_starts,
            tolerances=as_tolerances(ftol, xtol, gtol, max_iter),
            resume=resume,
            show_progress=show_progress,
        )

    def _fit_stream(
        self,
        stream: Stream,
        p0: Any,
        started_at: float,
        *,
        bounds: Any,
        absolute_sigma: bool,
        loss: str,
        f_scale: float,
        n_starts: int,
        tolerances: Tolerances,
        resume: bool,
        show_progress: bool,
    ) -> CurveFitResult:
        """Fit rows wherever they come from; see `fit`."""
        names = self._param_names or names_of(self._model, p0, self._n_params)
        check_enough_rows(stream, names)
        model = traced(self._model, names, stream.n_features)
        limits = as_bounds(bounds, len(names), self._model)
        start = as_start(p0, limits, names)
        problem = Problem(
            as_objective(model, loss, f_scale),
            limits,
            tolerances,
            draw_starts(start, limits, as_positive_int(n_starts, "n_starts"), names),
            guess=as_guess(p0, model, limits),
        )
        state, past = self._run(problem, stream, resume=resume, show_progress=show_progress)
        if state.status is Status.NOT_FINITE:
            raise ValueError(stream.explain_not_finite(problem.objective, state.start_point))
        past = past._replace(elapsed=past.elapsed + time.monotonic() - started_at)
        return as_result(state, problem, stream, past, absolute_sigma=absolute_sigma)

    def _run(
        self, problem: Problem, stream: Stream, *, resume: bool, show_progress: bool
    ) -> tuple[FitState, Past]:
        """Run the fit; return its last state, and what went before it was resumed."""
        if resume and self._checkpoint is None:
            raise ValueError("resume=True needs a checkpoint_dir to resume from.")
        how = Resume.MUST if resume else Resume.NEVER
        if not show_progress:
            return run_resumable(problem, stream, self._checkpoint, how)
        with ProgressBar(stream.n_rows, stream.n_chunks) as bar:
            return run_resumable(problem, stream, self._checkpoint, how, [bar])
