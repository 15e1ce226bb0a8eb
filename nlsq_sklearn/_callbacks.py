"""The bridge to scikit-learn's callbacks: a fit's passes and chunks as a tree of tasks."""

from collections.abc import Callable
from typing import Any

from sklearn.callback import CallbackContext

from ._engine.state import FitState


class CallbackBridge:
    """Tells the callbacks of an estimator of each pass, and of each chunk in it.

    Parameters
    ----------
    estimator : estimator
    context : CallbackContext
        Of the whole fit.
    n_chunks : int
        Chunks of a pass.
    data : dict
        ``X``, ``y`` and ``metadata`` of the fit, handed on to the callbacks.
    attributes : callable
        From the state to the fitted attributes that `predict` needs.
    """

    def __init__(
        self,
        estimator: Any,
        context: CallbackContext,
        n_chunks: int,
        data: dict[str, Any],
        attributes: Callable[[FitState], dict[str, Any]],
    ) -> None:
        self._estimator = estimator
        self._context = context
        self._n_chunks = n_chunks
        self._data = data
        self._attributes = attributes
        self._pass: CallbackContext | None = None

    def on_chunk(self, state: FitState) -> None:
        """Tell of a chunk; of the pass as well if it is the first."""
        if self._pass is None:
            self._pass = self._context.subcontext(
                task_name="pass", max_subtasks=self._n_chunks - state.next_chunk + 1
            )
            self._pass.call_on_fit_task_begin(estimator=self._estimator, **self._data)
        chunk = self._pass.subcontext(task_name="chunk")
        chunk.call_on_fit_task_begin(estimator=self._estimator)
        chunk.call_on_fit_task_end(estimator=self._estimator)

    def on_pass(self, state: FitState) -> bool:
        """Tell of the end of a pass; return whether a callback wants the fit to stop."""
        if self._pass is None:
            return False
        is_stopped = self._pass.call_on_fit_task_end(
            estimator=self._estimator,
            reconstruction_attributes=lambda: self._attributes(state),
            **self._data,
        )
        self._pass = None
        return bool(is_stopped)
