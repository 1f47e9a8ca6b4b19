"""messages.jsonl: the journal's messages of one run, appended while it runs.

One line is one message: ``{"n": …, "time": …, "msg_type": …, "content": …, "metadata": …}``. Appends aren't
synced to the disk: once ``os.write`` returned, a killed process loses nothing, and the journal still has what
a power cut may take. Two recorders of one run (a notebook and ``nbcloud attach``) may both append: a reader
takes each number once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from nbcloud.errors import UsageError
from nbcloud.runs.files import RunFiles, explained, lock, unlock

_OPEN_LIMIT = 64  # descriptors; a sweep has hundreds of runs at once, and a process 1024 at most by default
_BLOCK = 1 << 16


class MessageLogs:
    """Appends to the logs of many runs, through descriptors that stay open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._handles: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def append(self, run_id: str, lines: bytes) -> None:
        """Append whole lines: all of them, or none when the disk refuses.

        Raises
        ------
        UsageError
            When the run is finished, which closes its log.
        StoreError
            When they can't be written; they may be given again later.
        """
        path = RunFiles(self._root, run_id).messages
        with self._lock, explained("Recording a run's messages", path):
            handle = self._handle(run_id, path)
            with _locked(handle):
                status = os.fstat(handle)
                if status.st_nlink == 0:  # finished by another process, just now or long ago
                    raise _closed(run_id)
                try:
                    _write(handle, lines)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.ftruncate(handle, status.st_size)
                    raise

    def last_number(self, run_id: str) -> int:
        """Number of the last whole message, after a torn line at the end was removed; 0 without any."""
        path = RunFiles(self._root, run_id).messages
        with self._lock, explained("Reading a run's messages", path):
            handle = self._handle(run_id, path)
            with _locked(handle), path.open("rb") as file:
                _drop_torn_line(handle, file)
                return next((m["n"] for m in map(_message, _backwards(file)) if m), 0)

    @contextlib.contextmanager
    def closing(self, run_id: str) -> Iterator[None]:
        """Let nothing be appended inside the block, and remove the log at its end, unless it raises."""
        path = RunFiles(self._root, run_id).messages
        handle = os.open(path, os.O_RDWR)
        try:
            with _locked(handle):
                yield
                if sys.platform != "win32":
                    path.unlink()
        finally:
            os.close(handle)
        self.close(run_id)
        if sys.platform == "win32":  # which removes no open file; a log that stays does no harm
            with contextlib.suppress(PermissionError):
                path.unlink()

    def close(self, run_id: str | None = None) -> None:
        """Close the descriptor of one run, or of all."""
        with self._lock:
            for name in list(self._handles) if run_id is None else [run_id]:
                if name in self._handles:
                    os.close(self._handles.pop(name))

    def _handle(self, run_id: str, path: Path) -> int:
        handle = self._handles.pop(run_id, -1)
        if handle < 0:
            handle = self._open(run_id, path)
            if len(self._handles) >= _OPEN_LIMIT:
                os.close(self._handles.popitem(last=False)[1])
        self._handles[run_id] = handle
        return handle

    def _open(self, run_id: str, path: Path) -> int:
        try:
            handle = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            if not path.parent.exists():
                raise
            raise _closed(run_id) from None
        with _locked(handle), path.open("rb") as file:
            _drop_torn_line(handle, file)
        return handle


def _closed(run_id: str) -> UsageError:
    return UsageError(f"Run {run_id} is finished, and its log takes no more messages.")


class MessageReader:
    """Reads a log from its beginning, and later what was added since; survives the log's removal."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._file = path.open("rb")
        self._last = after

    def new(self) -> Iterator[dict[str, Any]]:
        """Messages with numbers above all before, up to the last whole line; damaged lines are left out."""
        while line := self._file.readline():
            if not line.endswith(b"\n"):
                self._file.seek(-len(line), os.SEEK_CUR)
                return
            message = _message(line)
            if message and message["n"] > self._last:
                self._last = message["n"]
                yield message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _message(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
        whole = isinstance(message["n"], int) and isinstance(message["msg_type"], str)
        return dict(message) if whole and isinstance(message["content"], dict) else None
    except (ValueError, KeyError, TypeError):
        return None


def _write(handle: int, lines: bytes) -> None:
    written = os.write(handle, lines)
    while written < len(lines):  # a nearly full disk takes a part, and says why only when asked again
        written += os.write(handle, lines[written:])


@contextlib.contextmanager
def _locked(handle: int) -> Iterator[None]:
    """Keep other processes from taking a line that is being written for a torn one."""
    lock(handle)
    try:
        yield
    finally:
        unlock(handle)


def _drop_torn_line(handle: int, file: BinaryIO) -> None:
    size = end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(handle, end)


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file that ends with a newline, the last one first."""
    start = file.seek(0, os.SEEK_END)
    blocks: list[bytes] = []
    while start > 0:
        length = min(_BLOCK, start)
        start -= length
        file.seek(start)
        head, *lines = file.read(length).split(b"\n")
        if not lines:
            blocks.append(head)
            continue
        lines[-1] += b"".join(reversed(blocks))
        yield from (line for line in reversed(lines) if line)
        blocks = [head]
    if blocks:
        yield b"".join(reversed(blocks))
