"""Code that the notebook's own kernel runs: what cells left on clusters is ready before it."""

from __future__ import annotations

import threading
from typing import Any

from nbcloud.cells.analysis import analyze
from nbcloud.dispatch.notebook import Notebook

_LOOKING = ("complete_request", "inspect_request")


def runs_elsewhere(code: str) -> bool:
    """Tell whether a cell is a ``%%cloud`` cell that leaves the notebook's kernel."""
    line = code.lstrip().partition("\n")[0].split()
    return line[:1] == ["%%cloud"] and "--local" not in line


class OwnCode:
    """Tells a notebook when code in its kernel runs, or looks at its variables.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    notebook : Notebook
    """

    def __init__(self, shell: Any, notebook: Notebook) -> None:
        self._notebook = notebook
        self._events = shell.events
        self._kernel = getattr(shell, "kernel", None)
        self._events.register("pre_execute", self._before_any)
        self._events.register("pre_run_cell", self._before_cell)
        self._handlers: dict[str, Any] = {}
        for request in _LOOKING if self._kernel is not None else ():
            self._handlers[request] = self._kernel.shell_handlers[request]
            self._kernel.shell_handlers[request] = self._before_looking(self._handlers[request])
        notebook.activity = 0

    def _before_cell(self, info: Any) -> None:
        if runs_elsewhere(info.raw_cell):
            if _threads_of_the_user():
                self._notebook.wake(frozenset())
            return
        names = analyze(info.raw_cell)
        self._notebook.wake(None if names.star else names.reads)

    def _before_any(self) -> None:
        """Callbacks of widgets, and code that a frontend runs for itself, come without a cell."""
        if self._kernel is None:
            return
        request = self._kernel.get_parent("shell")
        is_cell = request.get("msg_type") == "execute_request" and not request["content"].get("silent")
        if not is_cell:
            self._notebook.wake(frozenset())

    def _before_looking(self, handler: Any) -> Any:
        def look(*message: Any) -> Any:
            self._notebook.settle(frozenset())
            return handler(*message)

        return look

    def close(self) -> None:
        """Tell no longer."""
        self._events.unregister("pre_execute", self._before_any)
        self._events.unregister("pre_run_cell", self._before_cell)
        for request, handler in self._handlers.items():
            self._kernel.shell_handlers[request] = handler  # type: ignore[union-attr]
        self._notebook.settle(None)


def _threads_of_the_user() -> bool:
    """Tell whether a thread runs a function of the notebook, which may change variables at any time."""
    targets = (getattr(thread, "_target", None) for thread in threading.enumerate())
    return any(getattr(target, "__module__", "") == "__main__" for target in targets)
