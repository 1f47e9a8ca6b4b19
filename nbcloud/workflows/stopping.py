"""Notebooks that run in threads are stopped from another one: a thread hears no Ctrl-C."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nbcloud.errors import RunCancelled

if TYPE_CHECKING:
    from nbcloud.dispatch.kernel import CloudKernel


class Stopping:
    """Whether all that runs is to stop, and what runs."""

    def __init__(self) -> None:
        self._kernels: set[CloudKernel] = set()
        self._lock = threading.Lock()
        self.asked = False

    def watch(self, kernel: CloudKernel) -> None:
        """A kernel has begun."""
        with self._lock:
            self._kernels.add(kernel)

    def forget(self, kernel: CloudKernel) -> None:
        """It has ended."""
        with self._lock:
            self._kernels.discard(kernel)

    def stop(self) -> None:
        """Stop all of them, and those that begin later at their next cell."""
        with self._lock:
            self.asked = True
            for kernel in self._kernels:
                kernel.cancel()

    def check(self) -> None:
        """Raise when all is to stop."""
        if self.asked:
            raise RunCancelled("The sweep was stopped.")
