"""One look at each batch: what all earlier ones know is kept as a quadratic in the parameters.

References
----------
.. [1] B. M. Bell, F. W. Cathey, "The iterated Kalman filter update as a Gauss-Newton method",
       IEEE Transactions on Automatic Control 38, 1993.
"""

from collections.abc import Callable

import numpy as np

from .equations import Equations, shifted
from .state import FitState, Status
from .subproblem import Bounds
from .trust_region import Tolerances, begin, judge, propose


def update(
    evaluate: Callable[[np.ndarray], Equations],
    params: np.ndarray,
    earlier: Equations | None,
    bounds: Bounds,
    tolerances: Tolerances,
) -> FitState:
    """Minimise the cost of a batch plus the quadratic that all earlier batches left.

    Parameters
    ----------
    evaluate : callable
        From a point to the equations of the batch.
    params : ndarray of shape (n_params,)
        The estimate so far.
    earlier : Equations or None
        Those of all earlier batches, at ``params``.

    Returns
    -------
    FitState
        Its ``params`` and ``equations`` are those to hand to the next update.
    """

    def evaluate_all(point: np.ndarray) -> Equations:
        batch = evaluate(point)
        return batch if earlier is None else batch + shifted(earlier, point - params)

    state = begin(FitState.start(params[np.newaxis]), (evaluate_all(params),))
    while state.status is Status.RUNNING:
        state = propose(state, bounds, tolerances)
        if state.step is not None:
            state = judge(state, evaluate_all(state.step.trial), bounds)
    return state
