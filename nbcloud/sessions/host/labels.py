"""What one rank of a gang says, so that it can stand among what the others say.

Text goes out in whole lines, each behind the rank: ``[1] epoch 3``. A line that is drawn over (a progress
bar) goes out each time that it is, and ends with a carriage return, so that the next line takes its place.
"""

from __future__ import annotations

import json
import time
from typing import Any

from nbcloud.runs.entries import LOGGED
from nbcloud.sessions.runlog import STARTED, Message

_DISPLAYS = {"display_data", "update_display_data"}
_WIDGET = "application/vnd.jupyter.widget-view+json"


class Lines:
    """One stream of one rank.

    Parameters
    ----------
    label : str
        What stands before each line.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._rest = ""
        """Of the line that has not ended, what nobody has seen, or what is drawn at present."""
        self._drawn = ""
        """The latest state of a line that is drawn over."""
        self._widest = 0

    def add(self, text: str) -> str:
        """What is to be shown when the rank has written ``text``."""
        *whole, rest = (self._rest + text).split("\n")
        shown = [self._end(line) for line in whole]
        if "\r" in rest or self._drawn:
            shown.append(self._draw(rest))
            rest = rest.rpartition("\r")[2]
        self._rest = rest
        return "".join(shown)

    def end(self) -> str:
        """What is left, as a line of its own."""
        rest, self._rest = self._rest, ""
        return self._end(rest) if rest or self._drawn else ""

    def _draw(self, line: str) -> str:
        states = [state for state in line.split("\r") if state]
        if states and states[0] == self._drawn:
            del states[0]
        if not states:
            return ""
        self._drawn = states[-1]
        self._widest = max(self._widest, *map(len, states))
        return "".join(f"{self._label}{state}\r" for state in states)

    def _end(self, line: str) -> str:
        before = ""
        if "\r" in line or self._drawn:
            head, _, last = line.rstrip("\r").rpartition("\r")
            before = self._draw(head)
            # What was drawn longer would stick out behind it.
            line = (last or self._drawn).ljust(self._widest)
        self._drawn, self._widest = "", 0
        return f"{before}{self._label if line else self._label.rstrip()}{line}\n"


class Labels:
    """All that one rank says in one run.

    Displays of rank 0 stay as they are. What would change outputs of the other ranks, or would be there once
    for each of them, is of rank 0 only: results, widgets, clearing. The last error is kept back, since nobody
    knows yet whether it is this rank's that ended the run.

    Parameters
    ----------
    rank : int
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._lines = {name: Lines(f"[{rank}] ") for name in ("stdout", "stderr")}
        self.error: dict[str, Any] | None = None
        """Content of the latest error."""

    def label(self, messages: list[Message]) -> list[Message]:
        """Messages as they are to be shown."""
        return [shown for message in messages for shown in self._label(message)]

    def rest(self, *, failed: bool) -> list[Message]:
        """Lines that did not end; of a run that went on after its latest error, that, too."""
        return self._ended_lines() + ([] if failed else self._shown_error())

    def _label(self, message: Message) -> list[Message]:
        _, kind, content, metadata, buffers = message
        if kind == STARTED:
            return [message]
        if kind == LOGGED:  # as is the habit of those who train on many workers: the first one tells
            return [message] if self._rank == 0 else []
        shown = self._shown_error()
        if kind == "stream":
            said = json.loads(content)
            return shown + _text(said["name"], self._lines[said["name"]].add(said["text"]))
        shown += self._ended_lines()
        if kind == "error":
            self.error = json.loads(content)
        elif self._rank == 0:
            shown.append(message)
        elif kind in _DISPLAYS:
            display = (time.time(), kind, self._own_display(json.loads(content)), metadata, buffers)
            shown += _text("stdout", f"[{self._rank}]\n" if kind == "display_data" else "")
            shown.append(display)
        return shown

    def _own_display(self, content: dict[str, Any]) -> bytes:
        """A display of another rank than the first: no widget, and with an id that no other rank has."""
        content["data"] = {mime: data for mime, data in content["data"].items() if mime != _WIDGET}
        transient = content.get("transient") or {}
        if transient.get("display_id"):
            content["transient"] = {**transient, "display_id": f"rank-{self._rank}-{transient['display_id']}"}
        return json.dumps(content).encode()

    def _ended_lines(self) -> list[Message]:
        return [shown for name, lines in self._lines.items() for shown in _text(name, lines.end())]

    def _shown_error(self) -> list[Message]:
        error, self.error = self.error, None
        if error is None:
            return []
        if self._rank == 0:
            return [(time.time(), "error", json.dumps(error).encode(), b"{}", [])]
        return _text("stderr", error_text(self._rank, error))


def error_text(rank: int, error: dict[str, Any]) -> str:
    """The traceback of a rank, as text."""
    lines = "\n".join(error["traceback"]).splitlines()
    return "".join(f"[{rank}] {line}".rstrip() + "\n" for line in lines)


def _text(name: str, text: str) -> list[Message]:
    if not text:
        return []
    return [(time.time(), "stream", json.dumps({"name": name, "text": text}).encode(), b"{}", [])]
