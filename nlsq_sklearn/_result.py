"""The answer of a fit, and what it is worth."""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, OptimizeWarning

from ._engine.covariance import covariance
from ._engine.equations import Equations
from ._engine.state import FitState, Status
from ._fit import Problem
from ._statistics import correlation, half_width, statistics
from ._streams import Stream
from ._summary import Summary, html, short_text, text
from ._warnings import warn


class Past(NamedTuple):
    """What a fit went through before this process.

    The state knows nothing of it: that of a resumed fit is that of one never interrupted.

    Attributes
    ----------
    elapsed : float
        Seconds; in a result those of this process are added.
    resumes : tuple of (int, int)
        The passes that were finished, and the chunks of the next one that were summed, when it
        was resumed.
    """

    elapsed: float = 0.0
    resumes: tuple[tuple[int, int], ...] = ()


class CurveFitResult(OptimizeResult):
    """The answer of a fit; a `scipy.optimize.OptimizeResult` that prints as a table.

    In notebooks it shows as its `summary`.

    Attributes
    ----------
    popt : ndarray of shape (n_params,)
        The parameters, also under the name ``x``.
    pcov : ndarray of shape (n_params, n_params)
        Their covariance; infinite for parameters that the data do not determine.
    perr : ndarray of shape (n_params,)
        Their standard errors, one standard deviation each, in the units of the parameters.
    correlation : ndarray of shape (n_params, n_params)
        Their correlations; NaN beside parameters that the data do not determine.
    cost : float
        Half the sum of squares, weighted and under the loss.
    r2, chi_square, reduced_chi_square, aic, bic : float
        Measures of the fit; see `summary`. NaN under a robust loss; ``r2`` also where the fit was
        finished by a version that did not know it.
    dof : float
        Degrees of freedom: rows that count, less parameters.
    success : bool
        Whether the fit converged.
    status : int
        1 to 5 where it converged (``gtol``, ``ftol``, ``xtol``, exact data, limit of float64),
        0 where it reached ``max_iter``, -2 where no step lowered the cost, -3 where a callback
        stopped it, -4 where squares leave the range of float64.
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
    resumes : list of dict
        One entry for each time that the fit was resumed: ``n_passes`` that were finished,
        ``chunk`` with which it went on, and ``n_chunks`` of a pass.
    loss : str
        The loss that was minimised.
    f_scale : float
        The residual from which a robust loss takes a row for an outlier.
    absolute_sigma : bool
        Whether the standard deviations of the rows were taken as they are.
    bounds : tuple of ndarray of shape (n_params,)
        Lower and upper bounds; infinite where open.
    param_names : tuple of str
        From the model's signature.
    model_name, formula : str
        Of the model; the formula may be None.
    elapsed : float
        Seconds, those before an interruption included.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
    >>> x = np.linspace(0, 1, 1000)
    >>> y = 2 * x + 1 + np.random.default_rng(0).normal(0, 0.1, x.size)
    >>> optimizer = AdaptiveHybridStreamingOptimizer(lambda x, slope, start: slope * x + start)
    >>> result = optimizer.fit(x, y)
    >>> print(result)  # doctest: +ELLIPSIS
    parameter        value  standard error  relative error
    slope      1.984217...          0.0107          0.54 %
    start      1.003088...         0.00617          0.62 %
    <BLANKLINE>
    success: Converged: ...
    cost 4.7598...; 1,000 rows, 2 passes, ... s
    >>> print(result.popt.round(1), result.perr.round(3))
    [2. 1.] [0.011 0.006]
    """

    def __str__(self) -> str:
        return short_text(self)

    __repr__ = __str__

    def confidence_interval(self, level: float = 0.95) -> np.ndarray:
        """Return the ends of the parameters' confidence intervals.

        They are ``popt -+ t perr`` with the quantile t of Student's distribution with ``dof``
        degrees of freedom, or of the normal one where ``absolute_sigma`` is True [1]_.

        Parameters
        ----------
        level : float, default=0.95
            The probability that an interval covers the truth.

        Returns
        -------
        ndarray of shape (n_params, 2)
            In the units of the parameters; infinite where the data do not determine one.

        Raises
        ------
        ValueError
            If the level is not between 0 and 1.

        References
        ----------
        .. [1] G. A. F. Seber, C. J. Wild, "Nonlinear Regression", 1989, section 5.1.

        Examples
        --------
        >>> import numpy as np
        >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
        >>> x = np.linspace(0, 1, 1000)
        >>> y = 2 * x + np.random.default_rng(0).normal(0, 0.1, x.size)
        >>> optimizer = AdaptiveHybridStreamingOptimizer(lambda x, slope: slope * x)
        >>> print(optimizer.fit(x, y).confidence_interval().round(3))
        [[1.978 1.999]]
        """
        dof = np.inf if self.absolute_sigma else self.dof
        width = half_width(self.perr, dof, level)
        return np.stack([self.popt - width, self.popt + width], axis=1)

    def summary(self, level: float = 0.95) -> str:
        r"""Return the fit as a text of tables: errors, correlations, measures, warnings in words.

        Parameters
        ----------
        level : float, default=0.95
            The probability that an interval covers the truth.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            If the level is not between 0 and 1.

        Notes
        -----
        With N rows that count (of a weight above 0) and p parameters, in least squares:

        - chi-square is :math:`\chi^2 = \sum w_i r_i^2` with the weights 1 / sigma**2 or
          ``sample_weight``; reduced, it is divided by the degrees of freedom N - p.
        - R2 is :math:`1 - \chi^2 / \sum w_i (y_i - \bar y)^2` about the weighted mean.
        - AIC is :math:`N \log(\chi^2 / N) + 2 p` and BIC
          :math:`N \log(\chi^2 / N) + p \log N`; with ``absolute_sigma`` they have
          :math:`\chi^2` in place of the first term. Constants that are the same for all models
          of the same data are left out. The lower of two is the better model [1]_.

        Under a robust loss none of these is a measure of the fit, and they are left out.

        References
        ----------
        .. [1] K. P. Burnham, D. R. Anderson, "Model Selection and Multimodel Inference", 2nd
               edition, 2002, sections 2.2 and 6.4.1.

        Examples
        --------
        >>> import numpy as np
        >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer
        >>> x = np.linspace(0, 1, 1000)
        >>> y = 2 * x + 1 + np.random.default_rng(0).normal(0, 0.1, x.size)
        >>> def line(x, slope, start):
        ...     return slope * x + start
        >>> result = AdaptiveHybridStreamingOptimizer(line).fit(x, y)
        >>> print(result.summary())  # doctest: +ELLIPSIS, +NORMALIZE_WHITESPACE
        line
        <BLANKLINE>
        parameter        value  standard error  relative error   95 % interval
        slope      1.98421...           0.0107          0.54 %  1.963 to 2.005
        start      1.00308...          0.00617          0.62 %  0.991 to 1.015
        <BLANKLINE>
        correlation   slope
        start        -0.866
        <BLANKLINE>
        R2                   0.97185...
        chi-square            9.5196...
        reduced chi-square  0.0095387...
        AIC                 -4650.39...
        BIC                 -4640.58...
        degrees of freedom          998
        <BLANKLINE>
        success: Converged: ...
        cost 4.7598...; 1,000 rows, 2 passes, ... s
        """
        return Summary(text(self, level))

    def _repr_html_(self) -> str:
        return html(self, 0.95)


def as_result(
    state: FitState, problem: Problem, stream: Stream, past: Past, *, absolute_sigma: bool
) -> CurveFitResult:
    """Return the result of a fit that stopped, and warn of what it is worth."""
    if not state.status.is_converged:
        from .exceptions import ConvergenceWarning

        warn(
            f"The fit did not converge: {state.status.message} The result holds the best point "
            "found.",
            ConvergenceWarning,
        )
    result = _estimate(state.params, state.accepted, problem, absolute_sigma=absolute_sigma)
    errors = zip(result["param_names"], result["perr"].tolist(), strict=True)
    undetermined = [name for name, error in errors if not math.isfinite(error)]
    if undetermined:
        names = ", ".join(undetermined)
        n_rows, n_params = int(state.accepted.n_rows), len(result.param_names)
        why = (
            f" {n_rows} rows can't tell the errors of {n_params} parameters: it takes more rows."
            if n_rows <= n_params
            else ""
        )
        warn(
            f"The data do not determine {names}: the covariance is infinite there.{why}",
            OptimizeWarning,
        )
    result.update(
        success=state.status.is_converged,
        status=int(state.status),
        message=state.status.message,
        n_iter=state.n_iter,
        n_passes=state.n_passes,
        n_rows=stream.n_rows,
        history=list(state.history),
        resumes=[
            {"n_passes": n_passes, "chunk": chunk, "n_chunks": stream.n_chunks}
            for n_passes, chunk in past.resumes
        ],
        elapsed=past.elapsed,
    )
    return result


def as_result_of_batches(
    params: np.ndarray,
    equations: Equations,
    problem: Problem,
    *,
    n_batches: int,
    n_rows: int,
    status: Status,
) -> CurveFitResult:
    """Return the result of batches that were seen once.

    Parameters
    ----------
    params : ndarray of shape (n_params,)
    equations : Equations
        The quadratic that all batches left, at ``params``.
    n_batches, n_rows : int
        Batches and rows seen.
    status : Status
        How the fit of the last batch ended; RUNNING where that is not known.
    """
    message = f"{n_batches:,} {'batch' if n_batches == 1 else 'batches, each'} seen once."
    if status is not Status.RUNNING and not status.is_converged:
        message += f" The last one: {status.message}"
    result = _estimate(params, equations, problem, absolute_sigma=False)
    result.update(
        success=status.is_converged,
        status=int(status),
        message=message,
        n_iter=0,
        n_passes=1,
        n_rows=n_rows,
        history=[],
        resumes=[],
        elapsed=np.nan,
    )
    return result


def _estimate(
    params: np.ndarray, equations: Equations, problem: Problem, *, absolute_sigma: bool
) -> CurveFitResult:
    """Return what the normal equations at the estimate tell of it."""
    objective = problem.objective
    matrix = covariance(equations, absolute_sigma=absolute_sigma).matrix
    function = objective.model.function
    return CurveFitResult(
        popt=params,
        x=params,
        pcov=matrix,
        perr=np.sqrt(matrix.diagonal()),
        correlation=correlation(matrix),
        cost=equations.cost,
        **statistics(equations, objective.loss, absolute_sigma=absolute_sigma)._asdict(),
        absolute_sigma=absolute_sigma,
        bounds=tuple(problem.bounds),
        loss=objective.loss,
        f_scale=objective.f_scale,
        param_names=objective.model.param_names,
        model_name=getattr(function, "__name__", type(function).__name__),
        formula=getattr(function, "formula", None),
    )
