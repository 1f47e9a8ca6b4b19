"""Notebooks that run in threads are stopped from another one: a thread hears no Ctrl-C."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from nbcloud.errors import RunError

if TYPE_CHECKING:
    from nbcloud.dispatch.kernel import CloudKernel


class Stopping:
    """Whether one notebook is to stop, and what it runs.

    Attributes
    ----------
    why : RunError or None
        What the notebook is to end with.
    since : float or None
        When it first had a session, by the monotonic clock; what it waits before that is not its fault.
    """

    def __init__(self) -> None:
        self._kernel: CloudKernel | None = None
        self._lock = threading.Lock()
        self.why: RunError | None = None
        self.since: float | None = None

    def watch(self, kernel: CloudKernel | None) -> None:
        """It runs this now; None: nothing any more."""
        with self._lock:
            self._kernel = kernel

    def begun(self) -> None:
        """It has its session."""
        self.since = self.since or time.monotonic()

    def stop(self, why: RunError) -> None:
        """Stop what runs, and let no other cell begin; the first reason counts.

        A cell that was about to be sent just now is not met: call it again until the notebook has ended.
        """
        with self._lock:
            self.why = self.why or why
            if self._kernel is not None:
                self._kernel.cancel()

    def check(self) -> None:
        """Raise when it is to stop."""
        if self.why is not None:
            raise self.why
