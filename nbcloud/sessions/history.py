"""A notebook's history of inputs (``In``, ``_i``, ``%history``, ``%macro``), the same in its sessions.

A session's kernel stores the cells that it runs; those that ran elsewhere it is told of with the next one.
"""

from __future__ import annotations

from typing import Any


class ToldInputs:
    """How much of a notebook's history a session knows.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell or None
        The notebook's.
    """

    def __init__(self, shell: Any) -> None:
        self._history = getattr(shell, "history_manager", None)
        self._known = 0

    def news(self) -> dict[str, Any]:
        """What the session must be told with the present cell: ``start``, and texts as typed and as run.

        It then knows these, and the present one.
        """
        if self._history is None:
            return {}
        present = len(self._history.input_hist_raw) - 1
        start = max(0, min(self._known, present))
        self._known = present + 1
        typed, parsed = self._history.input_hist_raw, self._history.input_hist_parsed
        return {"start": start, "cells": list(zip(typed[start:present], parsed[start:present], strict=True))}

    def forget(self) -> None:
        """The session did not take the latest news: tell it everything."""
        self._known = 0


def follow(shell: Any, news: dict[str, Any]) -> None:
    """Take the news of a notebook into the history of a session's shell."""
    history = shell.history_manager
    if not news or history is None:
        return
    start = news["start"]
    for inputs in (history.input_hist_raw, history.input_hist_parsed):
        del inputs[start:]  # a kernel of the notebook before this one went further
        inputs.extend([""] * (start - len(inputs)))
    for number, (typed, parsed) in enumerate(news["cells"], start):
        history.store_inputs(number, parsed, typed)
