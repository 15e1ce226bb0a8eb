"""SIGINT, SIGTERM and SIGHUP: a file in work is finished first, and a fit saves once more.

Python runs a handler between any two steps of the main thread. One that raises could so cut a save
in two, or skip the `finally` that cleans up behind it; one that saved itself could wait for a lock
that the interrupted code holds. So the handler only notes a signal while something must not be cut,
raises where that is safe, and leaves the saving to whoever catches the exception on its way out.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

# SIGINT first: once its handler is in place, Ctrl-C can't cut the installation of the others.
_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if hasattr(signal, "SIGHUP"):  # a terminal or a connection to it was closed
    _SIGNALS += (signal.SIGHUP,)

_Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came where its default action would have ended the process on the spot."""


class SignalGuard:
    """Keeps SIGINT, SIGTERM and SIGHUP waiting, but for where they are let through.

    At its end the handlers that it found are put back and the signals that waited are sent
    again, so that each has the effect that it would have had: Ctrl-C raises `KeyboardInterrupt`,
    SIGTERM and SIGHUP end the process, and the user's own handlers are called.

    Within `released` signals act at once, through the handler that was there before. Where that
    is the default action, `Terminated` is raised instead, and the signal is sent again at the end.
    After an exception others wait, so that nothing cuts the way out.

    Signals that are ignored, or handled by code that is not Python's, are left alone. In a thread
    that is not the main one nothing is done: only there does Python run handlers.
    """

    def __init__(self) -> None:
        self.is_save_wished = False
        """Whether a signal was let through to the user's handler, and the fit goes on."""
        self._previous: dict[int, _Handler] = {}
        self._is_holding = True
        self._waiting: list[int] = []
        self._interruption: BaseException | None = None
        self._owner: int | None = os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            try:
                for signum in _SIGNALS:
                    self._install(signum)
            except BaseException:
                self.restore()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.restore()
        finally:
            self.send_again()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Let signals act, those that waited first."""
        self._is_holding = False
        self.send_again()
        try:
            yield
        finally:
            self._is_holding = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let signals wait; for a part of what is `released`."""
        self._is_holding = True
        try:
            yield
        finally:
            # An exception of another kind that passes by is no reason to wait any longer.
            self._is_holding = self._interruption is not None
        if not self._is_holding:
            self.send_again()

    def check(self) -> None:
        """Raise again what a signal raised where Python drops exceptions, as in a ``__del__``."""
        if self._interruption is not None:
            raise self._interruption

    def restore(self) -> None:
        """Put the handlers back, unless somebody has put others there in the meantime."""
        self._interruption = None
        self._put_all_back(_SIGNALS)
        self._owner = None

    def send_again(self) -> None:
        """Send the signals that waited."""
        waiting, self._waiting = self._waiting, []
        # SIGTERM first, by its number: what ends the process makes the others needless.
        for signum in sorted(set(waiting), reverse=True):
            signal.raise_signal(signum)

    def _install(self, signum: int) -> None:
        previous = signal.getsignal(signum)
        # None is a handler that was not installed by Python and can't be put back by it.
        if previous is not None and previous is not signal.SIG_IGN:
            self._previous[signum] = previous
            signal.signal(signum, self._handle)

    def _put_all_back(self, signals: tuple[int, ...]) -> None:
        """Put the handlers back, SIGINT's last for the reason for which it was first."""
        *others, signum = signals
        try:
            self._put_back(signum)
        finally:
            if others:
                self._put_all_back(tuple(others))

    def _put_back(self, signum: int) -> None:
        if signum in self._previous and signal.getsignal(signum) == self._handle:
            signal.signal(signum, self._previous[signum])

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            self._pass_on(signum, frame)
        elif self._is_holding:
            self._waiting.append(signum)
        else:
            self._is_holding = True
            try:
                self._act(signum, frame)
            except BaseException as error:
                self._interruption = error
                raise
            self._is_holding = False
            self.is_save_wished = True
            self.send_again()

    def _act(self, signum: int, frame: FrameType | None) -> None:
        previous = self._previous[signum]
        if callable(previous):
            previous(signum, frame)
        else:
            self._waiting.append(signum)
            raise Terminated(128 + signum)

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        """Do as if the guard were not there: in a fork, which inherits handlers, or after its end.

        Another handler, installed in the meantime, may still call the one that it found.
        """
        previous = self._previous[signum]
        if callable(previous):
            previous(signum, frame)
        else:
            signal.signal(signum, previous)
            signal.raise_signal(signum)
