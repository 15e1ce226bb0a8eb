"""A progress bar for a fit. rich lives here, imported when a bar is shown."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from ._engine.state import FitState


class ProgressBar:
    """Shows the pass in progress, the rows done, rows per second and the cost of the last point.

    Silent where standard error is not a terminal: there, the log tells the passes.
    """

    def __init__(self, n_rows: int, n_chunks: int) -> None:
        self._n_rows = n_rows
        self._n_chunks = n_chunks
        self._bar: Any = None
        self._task: Any = None
        self._shown_at = 0.0
        self._shown_passes = 0

    def __enter__(self) -> Self:
        if sys.stderr is not None and sys.stderr.isatty():
            self._start()
        return self

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("cost {task.fields[cost]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task("warm-up", total=self._n_rows, rate="", cost="-")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_chunk(self, state: FitState) -> None:
        """Move the bar on."""
        now = time.monotonic()
        if self._bar is None or now - self._shown_at < 0.1:
            return
        self._shown_at = now
        rows = min(state.next_chunk * self._n_rows // self._n_chunks, self._n_rows)
        name = f"pass {state.n_passes + 1}"
        if state.n_passes != self._shown_passes:
            self._shown_passes = state.n_passes
            self._bar.reset(self._task, completed=rows, description=name)
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=rows,
            description=name,
            rate=f"{speed / 1e6:.1f} M rows/s" if speed else "",
        )

    def on_pass(self, state: FitState) -> None:
        """Show the cost of the accepted point."""
        if self._bar is not None and state.equations is not None:
            cost = f"{state.equations.cost:.6g}"
            self._bar.update(self._task, completed=self._n_rows, cost=cost, refresh=True)
