"""One run where it lives: the numbers of what it says, for the journal and for the client that asked for it.

All of a run's messages but those about its loss are numbered here. They go to the journal, and beside it
straight to its client, when that has a connection of its own to this worker.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from nbcloud.sessions.channel import SOON, Channel
from nbcloud.sessions.host.labels import Labels
from nbcloud.sessions.host.process import Frames
from nbcloud.sessions.runlog import FINISHED, STARTED, Message, line

_READER_SECONDS = 2.0
"""How long a run waits for a client that does not take what it says; then that has to ask the journal."""


class HostedRun:
    """One run, from its request to its end.

    Parameters
    ----------
    request : dict
        The client's ``execute``.
    journal : Channel
    reader : Channel or None
        Its client's own connection.
    """

    def __init__(self, request: dict[str, Any], journal: Channel, reader: Channel | None) -> None:
        self.id: str = request["run"]
        self.session: str = request["session"]
        self.client: str = request["client"]
        self.lacks_values = False
        self.count = 0
        self._journal = journal
        self._reader = reader
        self.place: dict[str, Any] | None = request.get("place")
        """In a gang: ``rank``, ``environment``, and the ``spool`` of this machine."""
        self._labels = Labels(self.place["rank"]) if self.place else None
        self.take(request)

    def take(self, request: dict[str, Any]) -> None:
        """What the kernel is to be given; anew, when it lacked values."""
        self.timeout: float | None = request["timeout"]
        self.frames = frames_of(request)
        self.message_id: str = json.loads(self.frames.header)["msg_id"]

    def begin(self, facts: dict[str, Any]) -> None:
        """The kernel has it."""
        begun = {"op": "begun", "run": self.id, "session": self.session, "client": self.client}
        self._journal.post(begun, within=SOON)
        self.say([(time.time(), STARTED, json.dumps(facts).encode(), b"{}", [])], within=SOON)

    def say(self, messages: list[Message], *, within: float = 0.0) -> None:
        """Number messages, for all who read; those may get them ``within`` seconds."""
        if self._labels is not None:
            messages = self._labels.label(messages)
        self._number(messages, within)

    def _number(self, messages: list[Message], within: float = 0.0) -> None:
        if not messages:
            return
        lines = []
        first = self.count + 1
        for when, kind, content, metadata, buffers in messages:
            self.count += 1
            lines.append(line(self.count, when, kind, content, metadata, buffers))
        self._post({"op": "messages", "first": first, "last": self.count, "lines": b"".join(lines)}, within)

    def lack(self, frames: Frames) -> None:
        """Ask its client for the values that its session turned out not to have."""
        self.lacks_values = True
        if self._reader is not None and not self._reader.connected:
            self._reader = None
        about = {"op": "missing", "run": self.id, "session": self.session, "content": frames.content}
        if self._reader is not None:
            self._reader.post(about)
        self._journal.post({**about, "told": self._reader is not None})

    def end(self, end: dict[str, Any], frames: Frames | None) -> None:
        """Its last message, and what the cell left."""
        if self._labels is not None:
            self._number(self._labels.rest(failed=end["state"] != "done"))
            end = {**end, "error": self._labels.error}
        self._number([(time.time(), FINISHED, json.dumps(end).encode(), b"{}", [])])
        left = {"content": frames.content if frames else b"", "buffers": frames.buffers if frames else []}
        self._post({"op": "end", "last": self.count, "ended": time.time(), **end, **left})

    def _post(self, message: dict[str, Any], within: float = 0.0) -> None:
        message |= {"run": self.id, "session": self.session}
        if self._reader is not None and self._reader.connected:
            self._reader.post(message, within=within)
            within = SOON
        self._journal.post(message, within=within)

    async def light(self) -> None:
        """Wait while those who read are far behind; a client only for a while."""
        await self._journal.light()
        if self._reader is None:
            return
        try:
            async with asyncio.timeout(_READER_SECONDS):
                await self._reader.light()
        except TimeoutError:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.post({"op": "detached", "run": self.id})


def frames_of(message: dict[str, Any]) -> Frames:
    """The Jupyter message that a client sent."""
    return Frames(
        message["header"], message["parent"], message["metadata"], message["content"], message["buffers"]
    )
