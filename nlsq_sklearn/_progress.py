"""A progress bar for a fit. rich lives here, imported when a bar is shown."""

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from ._engine.state import FitState

# A rate is told after so many seconds: before, it would be that of a few chunks.
_RATE_AFTER = 0.5


class ProgressBar:
    """Shows the pass in progress, rows per second, the time left of it, and the cost so far.

    Silent where standard error is not a terminal: there, the log tells the passes. The bar looks
    at the fit ten times a second, so that a chunk costs the fit no more than an assignment.

    Parameters
    ----------
    n_rows, n_chunks : int
        Of the data.
    """

    def __init__(self, n_rows: int, n_chunks: int) -> None:
        self._n_rows = n_rows
        self._n_chunks = n_chunks
        self._bar: Any = None
        self._task: Any = None
        self._state: FitState | None = None
        self._lock = threading.Lock()
        self._begun_at, self._begun_rows = 0.0, 0
        self._seen_at = 0.0

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            self._start()
        return self

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        look = self._look

        class LookingProgress(Progress):
            """Looks at the fit before it draws, in a thread of its own."""

            def get_renderables(self) -> Any:
                look()
                return super().get_renderables()

        self._bar = LookingProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
        )
        # Without a total the bar pulses.
        self._task = self._bar.add_task("preparing (warm-up on a sample)", total=None, numbers="")
        self._bar.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            # A finished fit that was restored has done no pass: nothing is left on the screen.
            self._bar.live.transient = self._state is None
            self._bar.stop()

    def on_chunk(self, state: FitState) -> None:
        """Take note of a chunk."""
        self._seen_at = time.monotonic()
        if self._state is None:
            # What was summed before a resume, or before this chunk, says nothing of the speed.
            self._begun_at, self._begun_rows = self._seen_at, self._rows(state)
        self._state = state

    def on_pass(self, state: FitState) -> None:
        """Show the pass complete, with the cost of the accepted point."""
        with self._lock:  # a look at the pass in progress must not come behind its end
            if self._bar is not None:
                self._show(state.n_passes, self._n_rows, state)
            self._state = state
            self._begun_at, self._begun_rows = self._seen_at, 0
        if self._bar is not None:
            self._bar.refresh()

    def _look(self) -> None:
        """Show where the fit is, unless that is the end of a pass, which stays until the next."""
        with self._lock:
            state = self._state
            if state is not None and state.next_chunk > 0:
                self._show(state.n_passes + 1, self._rows(state), state)

    def _show(self, n_pass: int, rows: int, state: FitState) -> None:
        # Until the last chunk, not until now: Dask's come many at once, with a pause before.
        seconds = self._seen_at - self._begun_at
        numbers = [f"{100 * rows / self._n_rows:3.0f} %"]
        if seconds >= _RATE_AFTER and rows > self._begun_rows:
            rate = (rows - self._begun_rows) / seconds
            left = (self._n_rows - rows) / rate
            numbers += [f"{_short(rate)} rows/s", f"{_time(left)} left" if left else _time(seconds)]
        cost = "-" if state.equations is None else f"{state.equations.cost:.6g}"
        numbers.append(f"cost {cost}")
        self._bar.update(
            self._task,
            total=self._n_rows,
            completed=rows,
            description=f"pass {n_pass}",
            numbers="  ".join(numbers),
        )

    def _rows(self, state: FitState) -> int:
        """Return the rows summed in the pass in progress, as if all chunks had as many."""
        return min(state.next_chunk * self._n_rows // self._n_chunks, self._n_rows)


def _short(rate: float) -> str:
    """Return a number with three digits and a unit."""
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if rate >= 10**power:
            return f"{rate / 10**power:.3g} {unit}"
    return f"{rate:.3g}"


def _time(seconds: float) -> str:
    """Return a time as minutes and seconds, or with hours before."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
