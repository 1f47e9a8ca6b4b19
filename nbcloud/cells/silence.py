"""Keeps quiet what the user's classes print while their objects travel: here nobody called them."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any


class _Unheard:
    """A stream that passes on what other threads write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread: int | None = threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread:
            return len(text)
        return int(self._stream.write(text))

    def end(self) -> None:
        """From now on, pass on everything: somebody may have kept this stream."""
        self._thread = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What this thread writes to ``sys.stdout`` and ``sys.stderr`` goes nowhere."""
    streams = sys.stdout, sys.stderr
    unheard = sys.stdout, sys.stderr = _Unheard(sys.stdout), _Unheard(sys.stderr)
    try:
        yield
    finally:
        for stream in unheard:
            stream.end()
        # Unless a class's own code has put something else there meanwhile.
        if sys.stdout is unheard[0]:
            sys.stdout = streams[0]
        if sys.stderr is unheard[1]:
            sys.stderr = streams[1]
