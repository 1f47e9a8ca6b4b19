"""The phases of something that takes a while, in one line that gives way to the answer when it is over."""

from __future__ import annotations

import contextvars
import threading
import time
from types import TracebackType
from typing import Any, Self

from IPython.display import DisplayHandle

from nbcloud.commands.answers import Answer

_QUIET_SECONDS = 0.7


class _InPlace(Answer):
    """An answer that its cell shows already; the cell's last expression need not show it once more."""

    def __init__(self, answer: Answer, shell: Any) -> None:
        super().__init__(answer.text, answer.columns, answer.rows, answer.data)
        self._shell = shell
        self._cell = shell.execution_count

    def _ipython_display_(self) -> None:
        if self._shell.execution_count != self._cell:
            raise NotImplementedError  # IPython then shows it as any other answer


class Phases:
    """Shows the latest phase, once the whole has taken long enough to be noticed.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    alone : bool
        Whether the cell has shown nothing before, so that its outputs can be cleared.
    """

    def __init__(self, shell: Any, *, alone: bool) -> None:
        self._alone = alone
        self._shell = shell
        self._started = time.monotonic()
        self._handle: DisplayHandle | None = None
        self._text = ""
        self._over = False
        self._lock = threading.Lock()
        # Phases are told in threads of other cells, and a thread's displays go to the cell that it is of.
        self._cell = contextvars.copy_context()

    def tell(self, text: str) -> None:
        """A new phase; may be called from any thread."""
        with self._lock:
            if self._over or text == self._text or time.monotonic() - self._started < _QUIET_SECONDS:
                return
            self._text = text
            self._cell.run(self._show, f"nbcloud: {text} …")

    def _show(self, text: str) -> None:
        bundle = {"text/plain": text}
        if self._handle is None:
            self._handle = DisplayHandle()
            self._handle.display(bundle, raw=True)
        else:
            self._handle.update(bundle, raw=True)

    def answer(self, answer: Answer) -> Answer:
        """It is over: the answer takes the place of the line, if there is one. Return what this returns."""
        with self._lock:
            self._over = True
            if self._handle is None:
                return answer
            self._handle.update(answer)
            self._handle = None
            return _InPlace(answer, self._shell)

    def close(self) -> None:
        """It is over without an answer: the line goes away, or stays and tells how far it came."""
        with self._lock:
            self._over = True
            if self._handle is None:
                return
            if self._alone:
                self._shell.display_pub.clear_output(wait=False)
            else:
                self._show(f"nbcloud: {self._text}")  # an output can be changed, but not taken away
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
