"""The answer of a fit, and what it is worth."""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, OptimizeWarning

from ._engine.covariance import covariance
from ._engine.kernel import Objective
from ._engine.state import FitState
from ._streams import Stream


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
    param_names : tuple of str
        From the model's signature.
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


def as_result(
    state: FitState, objective: Objective, stream: Stream, past: Past, *, absolute_sigma: bool
) -> CurveFitResult:
    """Return the result of a fit that stopped, and warn of what it is worth."""
    assert state.equations is not None
    param_names = objective.model.param_names
    if not state.status.is_converged:
        from .exceptions import ConvergenceWarning

        warnings.warn(
            f"The fit did not converge: {state.status.message} The result holds the best point "
            "found.",
            ConvergenceWarning,
            stacklevel=4,
        )
    cov = covariance(state.equations, absolute_sigma=absolute_sigma)
    if cov.undetermined.any():
        names = ", ".join(np.array(param_names)[cov.undetermined])
        warnings.warn(
            f"The data do not determine {names}: the covariance is infinite there.",
            OptimizeWarning,
            stacklevel=4,
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
        n_rows=stream.n_rows,
        history=list(state.history),
        resumes=[
            {"n_passes": n_passes, "chunk": chunk, "n_chunks": stream.n_chunks}
            for n_passes, chunk in past.resumes
        ],
        loss=objective.loss,
        f_scale=objective.f_scale,
        param_names=param_names,
        elapsed=past.elapsed,
    )
