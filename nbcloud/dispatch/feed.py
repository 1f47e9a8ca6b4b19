"""A run's messages on their way: each once, onto the record, and to whoever shows them."""

from __future__ import annotations

import contextlib
import json
import math
import queue
from collections.abc import Callable
from typing import Any

from nbcloud.dispatch.recorder import Recorder
from nbcloud.runs.entries import LOGGED
from nbcloud.sessions.runlog import FINISHED, STARTED

Event = tuple[str, Any]
"""``("missing", hashes)``, ``("silent", facts)``, ``("left", None)`` or ``("end", None)``."""

SKIPPED = "nbcloud_skipped"
"""A message in place of streams that its reader had no time for: how much it was, and its last text."""

TICK = 1.0
"""Seconds that one waits at most before one looks about."""
_OWN = {STARTED, FINISHED, LOGGED}
_LIVE_BYTES = 2**23
_TAIL = 2**12
_AT_ONCE = 500


class Feed:
    """The messages of one run: the link's thread adds them, its asker's takes them.

    Parameters
    ----------
    run : str
        Its id.
    recorder : Recorder
    recorded : int
        Number of the last message that is on record already.
    note : callable
        Is given each new message before it can be taken.
    whole : bool
        Give all text, however far behind its taker is.
    """

    def __init__(
        self,
        run: str,
        recorder: Recorder,
        recorded: int,
        note: Callable[[dict[str, Any]], None],
        *,
        whole: bool = False,
    ) -> None:
        self.last = 0
        """Number of the last message that came."""
        self._run = run
        self._recorder = recorder
        self._recorded = recorded
        self._note = note
        self._whole = whole
        self._waiting: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._given = 0
        self._taken = 0

    def add(self, last: int, lines: bytes) -> None:
        """Add messages up to the number ``last``; those that came before are passed over."""
        if last <= self.last:
            return
        # Another reader of this process may have asked for the run from its start: then old lines come again.
        known, self.last = self.last, last
        pieces = [(json.loads(line), line) for line in lines.splitlines(keepends=True)]
        pieces = [(message, line) for message, line in pieces if message["n"] > known]
        self._keep(pieces)
        # When whoever shows it is far behind: the record has it all.
        behind = not self._whole and self._given - self._taken > _LIVE_BYTES
        skipped: list[str] = []
        for message, line in pieces:
            self._note(message)
            if message["msg_type"] in _OWN:
                continue
            if behind and message["msg_type"] == "stream":
                skipped.append(message["content"]["text"])
            else:
                self._give(message, len(line))
        if skipped:
            text = "".join(skipped)
            content = {"characters": len(text), "lines": text.count("\n"), "tail": text[-_TAIL:]}
            self._give({"msg_type": SKIPPED, "content": content}, _TAIL)

    def say(self, event: Event) -> None:
        """Put an event behind the messages."""
        self._waiting.put(event)

    def take(self, patience: float = math.inf) -> tuple[list[dict[str, Any]], Event | None]:
        """What has come, for the one who shows it: messages, and the event behind them.

        Waits for ``patience`` seconds, and a second at most.
        """
        messages: list[dict[str, Any]] = []
        with contextlib.suppress(queue.Empty):
            kind, value = self._waiting.get(timeout=min(patience, TICK))
            while kind == "line":
                messages.append(value)
                self._taken += value["size"]
                if len(messages) == _AT_ONCE:
                    return messages, None
                kind, value = self._waiting.get_nowait()
            return messages, (kind, value)
        return messages, None

    def _keep(self, pieces: list[tuple[dict[str, Any], bytes]]) -> None:
        """Put on record what is not there yet."""
        new = [line for message, line in pieces if message["n"] > self._recorded]
        if new:
            self._recorder.lines(self._run, b"".join(new))
            self._recorded = self.last

    def _give(self, message: dict[str, Any], size: int) -> None:
        message["size"] = size
        self._given += size
        self._waiting.put(("line", message))
