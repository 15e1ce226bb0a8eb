"""`StreamingCurveFitRegressor`: the face for scikit-learn's pipelines and grid searches."""

import contextlib
import os
import time
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from ._batches import BatchState, load_batches, save_batches, update_batch
from ._callbacks import CallbackBridge
from ._engine.covariance import covariance
from ._engine.loss import LOSS_NAMES
from ._engine.model import TracedModel
from ._engine.remembered import traced
from ._engine.state import FitState, Status
from ._fit import Problem
from ._problem import (
    as_bounds,
    as_guess,
    as_objective,
    as_start,
    as_tolerances,
    check_size_without_model,
    draw_starts,
    names_of,
)
from ._result import CurveFitResult, Past, as_result, as_result_of_batches
from ._resume import Resume, identify, run_resumable
from ._saving import Saver
from ._signals import SignalGuard
from ._streams import Stream, is_dask, open_stream, predict_rows, refuse_masked, score_rows
from ._summary import Summarised
from ._tables import naming_columns
from .checkpoint import JSONCheckpoint, as_checkpoint, folder_of


def affine(x: Any, intercept: Any, *slopes: Any) -> Any:
    """Return ``intercept + slopes @ x``: the curve that is fitted where no model is given."""
    columns = [x] if x.ndim == 1 else x
    return intercept + sum(slope * column for slope, column in zip(slopes, columns, strict=True))


class StreamingCurveFitRegressor(Summarised, CallbackSupportMixin, RegressorMixin, BaseEstimator):
    """Fits a curve ``y = f(x, *params)`` to more rows than memory holds, as a regressor.

    Parameters
    ----------
    model : callable or None, default=None
        ``model(x, *params)``, written with `jax.numpy`. ``x`` has the shape (n_samples,) with one
        feature, else (n_features, n_samples). Each row stands for itself. None is the affine
        curve, ``intercept + slopes @ x``.
    p0 : array-like of shape (n_params,), "auto" or None, default=None
        Where the parameters start; with None at 1, or between their bounds. With "auto" the model
        guesses from the data, in a pass of their own, or from the first batches of `partial_fit`;
        those of `nlsq_sklearn.models` can, and see there for one's own.
    bounds : 2-tuple of array-like, `scipy.optimize.Bounds` or None, default=None
        Lower and upper bounds, each a number or one for each parameter; with None the model's
        own, where it has some.
    loss : {"linear", "huber", "soft_l1", "cauchy", "arctan"}, default="linear"
        As in `scipy.optimize.least_squares`.
    f_scale : float, default=1.0
        The residual from which a robust loss takes a row for an outlier.
    n_starts : int, default=1
        Starts to try on a sample, the others besides ``p0`` spread between the bounds.
    forgetting : float, default=1.0
        In `partial_fit`, how much earlier batches count with each new one; below 1 the estimate
        follows a drift.
    ftol, xtol, gtol : float, default=1e-8
        When the fit ends; see `AdaptiveHybridStreamingOptimizer.fit`.
    max_iter : int, default=1000
        Steps to try, each a pass over all rows.
    chunk_size : int or None, default=None
        Rows worked on at once by a thread; with None 262,144. Dask arrays keep their own chunks.
    warm_start : bool, default=False
        Whether `fit` goes on from what is there: from the parameters of an earlier `fit`, and
        with ``checkpoint`` from a fit of the same model to the same data that was interrupted or
        finished, in this or in another process.
    checkpoint : path-like, str, JSONCheckpoint or None, default=None
        Directory for checkpoints, also a URL for fsspec. Each fit has a folder of its own in it.
    random_state : int, RandomState instance or None, default=None
        Draws the starts at random instead of by a fixed rule.

    Attributes
    ----------
    popt_ : ndarray of shape (n_params,)
        The parameters.
    pcov_ : ndarray of shape (n_params, n_params)
        Their covariance; infinite for parameters that the data do not determine.
    perr_ : ndarray of shape (n_params,)
        Their standard errors, one standard deviation each, in the units of the parameters.
    param_names_ : tuple of str
        Their names, from the model's signature.
    cost_ : float
        Half the sum of squares, weighted and under the loss.
    n_iter_ : int
        Steps tried.
    n_passes_ : int
        Passes over all rows.
    converged_ : bool
        Whether the fit converged.
    history_ : list of dict
        One entry a pass.
    n_samples_seen_ : int
        Rows that the estimate knows of.
    n_batches_seen_ : int
        Batches that it knows of; a `fit` counts as one.
    result_ : CurveFitResult
        All of that, of the last `fit`; prints as a table. See also `summary`.
    n_features_in_ : int
        Features.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, where ``X`` has names.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from nlsq_sklearn import StreamingCurveFitRegressor
    >>> def decay(x, a, b, c):
    ...     return a * jnp.exp(-b * x) + c
    >>> X = np.linspace(0, 5, 100_000).reshape(-1, 1)
    >>> y = 2.5 * np.exp(-1.3 * X[:, 0]) + 0.5
    >>> y = y + np.random.default_rng(0).normal(0, 0.05, y.size)
    >>> regressor = StreamingCurveFitRegressor(decay, p0=[1, 1, 1]).fit(X, y)
    >>> print(regressor.popt_.round(2))
    [2.5 1.3 0.5]
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [callable, None],
        "p0": ["array-like", StrOptions({"auto"}), None],
        "bounds": [tuple, list, HasMethods(["residual"]), None],
        "loss": [StrOptions(set(LOSS_NAMES))],
        "f_scale": [Interval(Real, 0, None, closed="neither")],
        "n_starts": [Interval(Integral, 1, None, closed="left")],
        "forgetting": [Interval(Real, 0, 1, closed="right")],
        "ftol": [Interval(Real, 0, None, closed="left")],
        "xtol": [Interval(Real, 0, None, closed="left")],
        "gtol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "chunk_size": [Interval(Integral, 1, None, closed="left"), None],
        "warm_start": ["boolean"],
        "checkpoint": [str, os.PathLike, JSONCheckpoint, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        *,
        p0: Any = None,
        bounds: Any = None,
        loss: str = "linear",
        f_scale: float = 1.0,
        n_starts: int = 1,
        forgetting: float = 1.0,
        ftol: float = 1e-8,
        xtol: float = 1e-8,
        gtol: float = 1e-8,
        max_iter: int = 1000,
        chunk_size: int | None = None,
        warm_start: bool = False,
        checkpoint: str | os.PathLike[str] | JSONCheckpoint | None = None,
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.p0 = p0
        self.bounds = bounds
        self.loss = loss
        self.f_scale = f_scale
        self.n_starts = n_starts
        self.forgetting = forgetting
        self.ftol = ftol
        self.xtol = xtol
        self.gtol = gtol
        self.max_iter = max_iter
        self.chunk_size = chunk_size
        self.warm_start = warm_start
        self.checkpoint = checkpoint
        self.random_state = random_state

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the curve.

        Parameters
        ----------
        X : array-like or Dask array of shape (n_samples, n_features)
            The predictors. Memory maps and Dask arrays are read chunk by chunk.
        y : array-like or Dask array of shape (n_samples,)
            The data.
        sample_weight : array-like or Dask array of shape (n_samples,) or None, default=None
            How much each row counts, for instance 1 / sigma**2.

        Returns
        -------
        StreamingCurveFitRegressor
            The estimator itself, fitted.

        Raises
        ------
        TypeError
            If the model can't be traced by JAX.
        ValueError
            If a setting, a shape or a value in the data can't be used.
        CheckpointDirectoryError
            If the checkpoint directory can't be written to.

        Examples
        --------
        Rows whose noise is known count by 1 / sigma**2:

        >>> import numpy as np
        >>> from nlsq_sklearn import StreamingCurveFitRegressor
        >>> X = np.linspace(0, 1, 10_000).reshape(-1, 1)
        >>> sigma = 0.01 + X[:, 0]
        >>> y = 1 + 2 * X[:, 0] + np.random.default_rng(0).normal(0, sigma)
        >>> regressor = StreamingCurveFitRegressor().fit(X, y, sample_weight=1 / sigma**2)
        >>> print(regressor.popt_.round(1))
        [1. 2.]
        """
        started_at = time.monotonic()
        root = self._init_callback_context(max_subtasks=None)
        data = {"X": X, "y": y, "metadata": _metadata(sample_weight)}
        root.call_on_fit_task_begin(estimator=self, **data)
        stream = self._open(X, y, sample_weight, reset=True)
        problem = self._problem(self._traced_model(), self._start_of_fit())
        checkpoint = as_checkpoint(self.checkpoint)
        if checkpoint is not None:
            checkpoint = folder_of(checkpoint, identify(problem, stream))
        bridge = CallbackBridge(self, root, stream.n_chunks, data, _attributes)
        state, past = run_resumable(
            problem,
            stream,
            checkpoint,
            Resume.MAY if self.warm_start else Resume.NEVER,
            [bridge] if hasattr(self, "_skl_callbacks") else [],
        )
        if state.status is Status.NOT_FINITE:
            raise ValueError(stream.explain_not_finite(problem.objective, state.start_point))
        if state.accepted.n_rows == 0:
            raise ValueError("All sample weights are zero: no row counts, there is nothing to fit.")
        past = past._replace(elapsed=past.elapsed + time.monotonic() - started_at)
        self._store(state, problem, stream, past)
        root.call_on_fit_task_end(
            estimator=self, reconstruction_attributes=lambda: _attributes(state), **data
        )
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Update the estimate by a batch that is seen once and not kept.

        Each batch minimises its own cost plus the quadratic that all earlier ones left, as an
        iterated extended Kalman filter does [1]_. A Dask array is taken chunk by chunk. After
        `fit`, batches add to what it found.

        One sweep over batches in random order is as good as `fit`, to a few thousandths of a
        standard error. Batches that are sorted by the predictors are not: the first ones leave
        parameters undetermined, and what they know is linearised far from the answer. For an
        exponential decay of a million rows sorted by ``x``, in batches of 10,000, the answer was
        off by a hundred to a thousand standard errors. Shuffle such data, or use `fit`.

        Parameters
        ----------
        X : array-like or Dask array of shape (n_samples, n_features)
            The predictors.
        y : array-like or Dask array of shape (n_samples,)
            The data.
        sample_weight : array-like or Dask array of shape (n_samples,) or None, default=None
            How much each row counts.

        Returns
        -------
        StreamingCurveFitRegressor
            The estimator itself, with the batch taken in.

        Raises
        ------
        TypeError, ValueError
            As in `fit`.
        CheckpointDirectoryError
            If the first batch finds that the checkpoint directory can't be made. Later failures
            only warn.

        References
        ----------
        .. [1] B. M. Bell, F. W. Cathey, "The iterated Kalman filter update as a Gauss-Newton
               method", IEEE Transactions on Automatic Control 38, 1993.

        Examples
        --------
        >>> import numpy as np
        >>> from nlsq_sklearn import StreamingCurveFitRegressor
        >>> rng = np.random.default_rng(0)
        >>> regressor = StreamingCurveFitRegressor()
        >>> for _ in range(5):
        ...     X = rng.uniform(0, 1, (1000, 1))
        ...     _ = regressor.partial_fit(X, 1 + 2 * X[:, 0] + rng.normal(0, 0.1, 1000))
        >>> regressor.n_batches_seen_, regressor.n_samples_seen_
        (5, 5000)
        >>> print(regressor.popt_.round(1))
        [1. 2.]
        """
        is_first = not hasattr(self, "_batch_state")
        stream = self._open(X, y, sample_weight, reset=is_first)
        problem = self._problem(self._traced_model(), None)
        signals = SignalGuard()
        saver = self._batch_saver(is_first=is_first)
        with contextlib.nullcontext() if saver is None else signals:
            try:
                with signals.released():
                    self._update_batches(stream, problem, saver, signals)
            except BaseException:
                # Also on the way out of Ctrl-C or SIGTERM: the batches before are not lost.
                if saver is not None and not self._is_batch_saved:
                    self._save_batch(saver, problem)
                raise
        return self

    def _update_batches(
        self, stream: Stream, problem: Problem, saver: Saver | None, signals: SignalGuard
    ) -> None:
        state = getattr(self, "_batch_state", None)
        for batch in stream.batches():
            state, fitted = update_batch(problem, state, batch, self.forgetting)
            with signals.held():  # the count of batches and what they left change together
                self._store_batch(state, fitted, problem)
                if saver is not None and (saver.is_due or signals.is_save_wished):
                    signals.is_save_wished = False
                    self._save_batch(saver, problem)
            signals.check()

    def _store_batch(self, state: BatchState, fitted: FitState, problem: Problem) -> None:
        """Set the fitted attributes after a batch."""
        self._batch_state, self._is_batch_saved = state, False
        self._batch_status = fitted.status
        self.popt_, self.cost_ = state.params, state.equations.cost
        self.pcov_ = covariance(state.equations, absolute_sigma=False).matrix
        self.perr_ = np.sqrt(np.diag(self.pcov_))
        self.param_names_ = problem.objective.model.param_names
        self.n_iter_, self.n_passes_ = fitted.n_iter, 1
        self.converged_ = fitted.status.is_converged
        self.n_samples_seen_, self.n_batches_seen_ = state.n_samples, state.n_batches

    _saver_of: tuple[JSONCheckpoint, Saver] | None = None
    _is_batch_saved = True

    def _batch_saver(self, *, is_first: bool) -> Saver | None:
        """Return what saves the stream: the same for all its batches, unless `checkpoint` changes.

        Raises
        ------
        CheckpointDirectoryError
            If the first batch of a stream finds that the directory can't be made.
        """
        checkpoint = as_checkpoint(self.checkpoint)
        if checkpoint is None:
            return None
        if self._saver_of is None or self._saver_of[0] != checkpoint:
            self._saver_of = checkpoint, Saver(checkpoint)
        saver = self._saver_of[1]
        if is_first:
            saver.prepare()
        return saver

    def _save_batch(self, saver: Saver, problem: Problem) -> None:
        self._is_batch_saved = save_batches(
            saver, self._batch_state, problem, self._batch_settings()
        )

    def _batch_settings(self) -> dict[str, Any]:
        return {"features": self.n_features_in_, "forgetting": self.forgetting}

    def load_checkpoint(
        self, directory: str | os.PathLike[str] | JSONCheckpoint, n_features: int = 1
    ) -> Self:
        """Go on with a stream of batches where its last checkpoint was saved.

        Parameters
        ----------
        directory : path-like, str or JSONCheckpoint
            Where `partial_fit` saved to.
        n_features : int, default=1
            Features of the batches.

        Returns
        -------
        StreamingCurveFitRegressor
            The estimator itself; ``n_batches_seen_`` and ``n_samples_seen_`` tell the batch to go
            on with.

        Raises
        ------
        CheckpointNotFoundError
            If there is none.
        CorruptCheckpointError
            If no file can be trusted.
        IncompatibleCheckpointError
            If it is of another model or of other settings.
        """
        self.n_features_in_ = n_features
        problem = self._problem(self._traced_model(), None)
        found = directory if isinstance(directory, JSONCheckpoint) else JSONCheckpoint(directory)
        state = load_batches(found, problem, self._batch_settings())
        self._store_batch(state, FitState.start(state.params[np.newaxis]), problem)
        self._is_batch_saved = True
        saver = self._batch_saver(is_first=False)
        if saver is not None:
            saver.wait_a_full_interval()
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return the curve at new predictors.

        Parameters
        ----------
        X : array-like or Dask array of shape (n_samples, n_features)
            The predictors.
        return_std : bool, default=False
            Whether to return the standard error of the curve too, by the delta method.

        Returns
        -------
        y : ndarray or lazy Dask array of shape (n_samples,)
            The curve.
        std : ndarray or lazy Dask array of shape (n_samples,)
            Its standard error, if ``return_std``.

        Examples
        --------
        >>> import numpy as np
        >>> from nlsq_sklearn import StreamingCurveFitRegressor
        >>> X = np.linspace(0, 1, 1000).reshape(-1, 1)
        >>> y = 1 + 2 * X[:, 0] + np.random.default_rng(0).normal(0, 0.1, 1000)
        >>> curve, std = StreamingCurveFitRegressor().fit(X, y).predict([[0.5]], return_std=True)
        >>> print(curve.round(1), std.round(3))
        [2.] [0.003]
        """
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        model = self._traced_model()
        y = predict_rows(model, X, self.popt_)
        return (y, predict_rows(model, X, self.popt_, self.pcov_)) if return_std else y

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R2, in one pass over the data.

        Parameters
        ----------
        X : array-like or Dask array of shape (n_samples, n_features)
            The predictors.
        y : array-like or Dask array of shape (n_samples,)
            The data.
        sample_weight : array-like or Dask array of shape (n_samples,) or None, default=None
            How much each row counts.

        Returns
        -------
        float
            1 for a perfect fit, 0 for one as good as the mean.
        """
        model, stream = self._fitted_stream(X, y, sample_weight)
        return score_rows(model, stream, self.popt_)

    def _fitted_stream(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> tuple[TracedModel, Stream]:
        """Return the model that was fitted, and the stream of data to compare it with."""
        check_is_fitted(self)
        stream = self._open(X, y, sample_weight, reset=False)
        return self._traced_model(), stream

    def _open(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> Stream:
        """Return the stream of checked data."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        X = self._check_X(X, reset=reset)
        if not is_dask(y):
            refuse_masked(y, "y", "X")
            y = column_or_1d(y, warn=True)
            if y.dtype.kind == "O":
                y = y.astype(np.float64)
            if not is_dask(X) and y.shape[0] != X.shape[0]:
                raise ValueError(f"X has {X.shape[0]} rows and y has {y.shape[0]}; give the same.")
        return open_stream(X, y, weight=sample_weight, chunk_size=self.chunk_size, is_table=True)

    def _check_X(self, X: Any, *, reset: bool) -> Any:
        """Return the checked predictors; Dask's stay lazy."""
        if not is_dask(X):
            refuse_masked(X, "X", "X")
            # Values are looked at chunk by chunk: here a memory map would be read whole.
            with naming_columns(X) if reset else contextlib.nullcontext():
                return validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite=False)
        if X.ndim != 2:
            raise ValueError(
                f"Expected 2D array, got a Dask array of shape {X.shape} instead. Reshape X by "
                "X[:, None] if it has a single feature."
            )
        # A Dask data frame tells its names by the pandas one without rows that it carries.
        _check_feature_names(self, getattr(X, "_meta", X), reset=reset)
        _check_n_features(self, X, reset=reset)
        return X

    def _traced_model(self) -> TracedModel:
        n_features = self.n_features_in_
        if self.model is None:
            names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(n_features)])
            check_size_without_model(self.p0, n_features + 1)
            return traced(affine, ("intercept", *names), n_features)
        return traced(self.model, names_of(self.model, self.p0), n_features)

    def _start_of_fit(self) -> Any:
        """Return the parameters of the last fit, if this one shall start there."""
        return self.popt_ if self.warm_start and hasattr(self, "popt_") else None

    def _problem(self, model: TracedModel, warm: Any) -> Problem:
        names = model.param_names
        limits = as_bounds(self.bounds, len(names), self.model)
        p0 = self.p0 if warm is None else warm
        start = as_start(p0, limits, names)
        seed = None
        if self.random_state is not None:
            seed = int(check_random_state(self.random_state).randint(2**31))
        starts = draw_starts(start, limits, self.n_starts if warm is None else 1, names, seed)
        return Problem(
            as_objective(model, self.loss, self.f_scale),
            limits,
            as_tolerances(self.ftol, self.xtol, self.gtol, self.max_iter),
            starts,
            is_warm=warm is not None,
            seed=seed,
            guess=as_guess(p0, model, limits),
        )

    def _store(self, state: FitState, problem: Problem, stream: Stream, past: Past) -> None:
        """Set the fitted attributes."""
        result = as_result(state, problem, stream, past, absolute_sigma=False)
        self.result_ = result
        self.popt_, self.pcov_, self.perr_ = result.popt, result.pcov, result.perr
        self.param_names_, self.cost_ = result.param_names, result.cost
        self.n_iter_, self.n_passes_ = result.n_iter, result.n_passes
        self.converged_, self.history_ = result.success, result.history
        self.n_samples_seen_, self.n_batches_seen_ = result.n_rows, 1
        # What batches to come add to.
        self._batch_state = BatchState(state.params, state.accepted, 1, result.n_rows)
        self._is_batch_saved, self._batch_status = True, None

    _batch_status: Status | None = None

    def _latest_result(self) -> CurveFitResult:
        check_is_fitted(self)
        if self._batch_status is None:
            return self.result_
        problem = self._problem(self._traced_model(), None)
        state = self._batch_state
        return as_result_of_batches(
            state.params,
            state.equations,
            problem,
            n_batches=state.n_batches,
            n_rows=state.n_samples,
            status=self._batch_status,
        )


def _attributes(state: FitState) -> dict[str, Any]:
    """Return the fitted attributes with which an estimator can predict."""
    return {"popt_": state.params}


def _metadata(sample_weight: Any) -> dict[str, Any] | None:
    return None if sample_weight is None else {"sample_weight": sample_weight}
