"""Interrupts of the notebook's kernel while it shows a run."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

_DEPARTURE_SECONDS = 0.5


class Interruptible(Protocol):
    """What is stopped by an interrupt: a run, or a sweep of them."""

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in it."""

    def kill(self, session: str) -> None:
        """End its kernel."""

    def leave(self) -> None:
        """Tell the one who shows it to stop; what runs goes on."""


class Departure:
    """Knows whether the notebook's kernel was told to end.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    """

    def __init__(self, shell: Any) -> None:
        self._told = threading.Event()
        self._kernel = getattr(shell, "kernel", None)
        if self._kernel is not None:
            self._shutdown = self._kernel.control_handlers["shutdown_request"]
            self._kernel.control_handlers["shutdown_request"] = self._leave

    def _leave(self, *message: Any) -> Any:
        self._told.set()
        return self._shutdown(*message)

    def imminent(self) -> bool:
        """Whether an interrupt of this moment is the first step of a restart or an end."""
        return self._kernel is not None and self._told.wait(_DEPARTURE_SECONDS)


class Interrupts:
    """Interrupts the run instead of the code that shows it, so that no output is cut in two.

    The second interrupt ends the run's kernel. Jupyter also interrupts a kernel before it restarts or ends
    it: then the run, which belongs to the cluster, goes on.

    Parameters
    ----------
    run : Interruptible
    session : nbcloud.sessions.client.session.Session
    departure : Departure
    """

    def __init__(self, run: Interruptible, session: Any, departure: Departure) -> None:
        self._run = run
        self._session = session
        self._departure = departure
        self._at_work: threading.Thread | None = None
        self._count = 0
        self.killed: float | None = None
        """When the run's kernel was told to end."""

    @property
    def any(self) -> bool:
        """Whether the kernel was interrupted."""
        return self._at_work is not None

    def __enter__(self) -> Self:
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _interrupted(self, _signal: int, _frame: FrameType | None) -> None:
        # Impatient clicks on one button are one interrupt.
        if self._at_work is None or not self._at_work.is_alive():
            self._at_work = threading.Thread(target=self._act, daemon=True, name="nbcloud-interrupt")
            self._at_work.start()

    def _act(self) -> None:
        self._count += 1
        if self._count > 1:
            self._run.kill(self._session.id)
            self.killed = time.monotonic()
        elif self._departure.imminent():
            self._run.leave()
        else:
            self._run.interrupt()
