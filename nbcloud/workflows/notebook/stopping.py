"""Notebooks that run in threads are stopped from another one: a thread hears no Ctrl-C."""

from __future__ import annotations

import threading
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
    """

    def __init__(self) -> None:
        self._kernel: CloudKernel | None = None
        self._lock = threading.Lock()
        self.why: RunError | None = None

    def watch(self, kernel: CloudKernel | None) -> None:
        """It runs this now; None: nothing any more."""
        with self._lock:
            self._kernel = kernel

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
