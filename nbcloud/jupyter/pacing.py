"""How much of a run's outputs a browser gets, and how fast."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from nbcloud.config import settings
from nbcloud.wording import counted

_TAIL_LINES = 20
_LONG_PAUSE = 2.0
_MESSAGES_A_SECOND = 400
_LINE_COST = 20
_REFRESH = 0.05
_REFRESH_FULL = 1.0


class PacedOutput:
    """What the outputs of one run have in common wherever they go: how much a browser gets, and how fast.

    A browser draws the whole of a stream anew for each piece that is added, which takes it time in proportion
    to the number of lines. So pieces wait for each other, the longer the more there is.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._limit = self._left = settings().shown_limit
        self._pieces: list[str] = []
        self._name = ""
        self._size = 0
        self._written = 0.0
        self._line = 0
        self._hidden = 0
        self._hidden_lines = 0
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES + 1)
        self._told = 0.0
        self._allowance = float(_MESSAGES_A_SECOND)
        self._paced = time.monotonic()

    def _write(self, name: str, text: str) -> None:
        raise NotImplementedError

    def _display(self, text: str, display_id: str, *, update: bool) -> None:
        raise NotImplementedError

    @property
    def patience(self) -> float:
        """Seconds until text that waits may be shown; infinite when there is none."""
        if not self._pieces:
            return math.inf
        refresh = max(_REFRESH, _REFRESH_FULL * self._size / max(self._limit, 1))
        return max(0.0, self._written + refresh - time.monotonic())

    def _stream(self, name: str, text: str) -> None:
        size = self._growth(text)
        if self._left > 0 and self._left >= size:
            self._left -= size
            self._size += size
            self._add(name, text)
            return
        if self._left > 0:
            cut = text.rfind("\n", 0, len(text) * self._left // size) + 1
            self._add(name, text[:cut])
            text, self._left = text[cut:], 0
        self._hide(text)

    def _add(self, name: str, text: str) -> None:
        if name != self._name:
            self._release()
            self._name = name
        self._pieces.append(text)

    def _release(self, *, ends: bool = False) -> None:
        """Show the text that waits; ``ends`` when something else than more of it comes next."""
        if self._pieces:
            text, self._pieces = "".join(self._pieces), []
            self._pace()
            self._write(self._name, text)
            self._written = time.monotonic()
        if ends:
            self._name, self._size = "", 0

    def _growth(self, text: str) -> int:
        """How much longer text makes the output; what a progress bar overwrites is not kept anywhere."""
        if "\r" not in text:
            self._line = len(text) - text.rfind("\n") - 1 + ("\n" not in text and self._line)
            return len(text) + _LINE_COST * text.count("\n")
        grown = 0
        for index, line in enumerate(text.split("\n")):
            if index:
                grown, self._line = grown + 1 + _LINE_COST, 0
            length = max(self._line, *map(len, line.split("\r"))) if "\r" in line else self._line + len(line)
            grown, self._line = grown + length - self._line, length
        return grown

    def _skip(self, skipped: dict[str, Any]) -> None:
        """Count what came too fast."""
        text = skipped["tail"]
        self._left = 0
        self._hide(text, skipped["characters"] - len(text), skipped["lines"] - text.count("\n"))

    def _hide(self, text: str, characters: int = 0, lines_before: int = 0) -> None:
        """Count what a browser would not survive; the record has it."""
        first = not self._hidden
        self._hidden += len(text) + characters
        self._hidden_lines += text.count("\n") + lines_before
        lines = text.splitlines(keepends=True)
        if self._tail and not self._tail[-1].endswith("\n") and lines:
            lines[0] = self._tail.pop() + lines[0]
        self._tail.extend(lines)
        if time.monotonic() - self._told > _LONG_PAUSE:
            self._told = time.monotonic()
            self._say("", update=not first)

    def _say(self, more: str, *, update: bool) -> None:
        self._release(ends=True)
        hidden = (
            counted(self._hidden_lines, "line") if self._hidden_lines else counted(self._hidden, "character")
        )
        text = f"… {hidden} more{more}. All of them: !nbcloud logs {self._run} > all.txt"
        self._display(text, f"nbcloud-long-{self._run}", update=update)

    def close(self) -> None:
        """Show the end of what was too long."""
        if self._hidden:
            self._say(f" ({counted(self._hidden, 'character')}), the last of them below", update=True)
            self._add("stdout", "".join(list(self._tail)[-_TAIL_LINES:]))
        self._release(ends=True)

    def _pace(self) -> None:
        """Stay below the rate at which Jupyter's server drops messages without a word."""
        now = time.monotonic()
        passed = (now - self._paced) * _MESSAGES_A_SECOND
        self._allowance = min(_MESSAGES_A_SECOND, self._allowance + passed)
        self._paced = now
        if self._allowance < 1:
            time.sleep(1 / _MESSAGES_A_SECOND)
        self._allowance -= 1
