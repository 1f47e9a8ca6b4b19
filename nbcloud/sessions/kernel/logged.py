"""What a cell logs goes with its outputs: batches, in the order in which they were logged."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbcloud.errors import UsageError
from nbcloud.runs import experiments
from nbcloud.runs.entries import LOGGED, PART, Entry, contents
from nbcloud.runs.record import RunState
from nbcloud.runs.sinks import Place, begin_nested, end_nested
from nbcloud.wording import size_text

_FLUSH_SECONDS = 30.0
_LARGEST = 2**28
"""Bytes of one artifact."""
_PAUSE = 0.02
"""Seconds that an entry may wait for others to go with it."""


class CellSink:
    """A sink of `nbcloud.runs.tracking` that sends messages of the cell that runs.

    Parameters
    ----------
    kernel : ipykernel.kernelbase.Kernel
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._process = os.getpid()
        self._waiting: deque[tuple[str, Entry]] = deque()
        self._scheduled = False
        self._cell: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def begin_cell(self) -> None:
        """What is logged from now on belongs to the present request."""
        self._cell = self._kernel.get_parent("shell")
        self._scheduled = False  # an interrupt may have come between the two steps of scheduling
        if name := experiments.chosen():  # in an earlier cell of this session
            self.put(("", ""), ["experiment", name])

    def end_cell(self) -> None:
        """Send what the cell has logged, before its end is told."""
        self._send()
        self._cell = None

    def put(self, place: Place, entry: Entry) -> None:
        """Take an entry, and send it soon."""
        self._look()
        self._waiting.append((place[1], entry))
        if not self._scheduled:
            self._scheduled = True
            thread = self._kernel.iopub_thread
            thread.schedule(lambda: thread.io_loop.call_later(_PAUSE, self._send))

    def _look(self) -> None:
        """Refuse what would not arrive."""
        if os.getpid() != self._process:
            raise UsageError(
                "A forked process can't log to the run of its cell.",
                "Return the values to the process that forked it, and log them there.",
            )
        if self._cell is None:
            raise UsageError(
                "Nothing can be logged between two cells: what a thread logs belongs to the run of a cell.",
                "Wait for the thread in the cell: thread.join()",
            )

    def goes_on(self, place: Place) -> bool:  # noqa: ARG002 - the interface
        """The cell's does."""
        return True

    def begin(self, place: Place, name: str, tags: dict[str, str]) -> Place:
        """Begin a run nested in the cell's."""
        return begin_nested(self, place, name, tags)

    def end(self, place: Place, state: RunState) -> None:
        """End it."""
        end_nested(self, place, state)

    def keep(self, place: Place, name: str, source: Path | bytes) -> None:
        """Send a file in parts, which the reader's store puts together."""
        self._look()
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > _LARGEST:
            raise UsageError(
                f"The artifact {name!r} has {size_text(size)}, and at most {size_text(_LARGEST)} can travel.",
                "Write it to storage that both sides can read, and log its address: nbcloud.log_param",
            )
        data = source if isinstance(source, bytes) else source.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        view = memoryview(data)
        for offset in range(0, max(len(data), 1), PART):
            self._tell([(place[1], ["part", digest, offset])], [view[offset : offset + PART]])
        self.put(place, ["artifact", name, {"hash": digest, "bytes": len(data)}])

    def flush(self) -> None:
        """Send what waits; what the socket has is read by the host, whatever becomes of this process."""
        self._send()
        sent = threading.Event()
        self._kernel.iopub_thread.schedule(sent.set)
        sent.wait(_FLUSH_SECONDS)

    def _send(self) -> None:
        with self._lock:  # two threads that send must not exchange the order
            self._scheduled = False
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if self._cell is None:
                return
            self._tell(waiting)

    def _tell(self, entries: list[tuple[str, Entry]], buffers: Sequence[memoryview] = ()) -> None:
        thread, about = self._kernel.iopub_thread, {"parent": self._cell, "ident": b"nbcloud_log"}
        for content in contents(entries):
            self._kernel.session.send(thread, LOGGED, content, buffers=list(buffers) or None, **about)
