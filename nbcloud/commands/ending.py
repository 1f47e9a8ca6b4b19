"""What asks a process to end: Ctrl-C, a plain kill, the end of the terminal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class AskedToEnd(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does.

    Parameters
    ----------
    number : int
        The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__("Ended on request.")
        self.number = number


def raise_asked(number: int, frame: Any) -> None:
    """Interrupt what runs.

    What it has begun is then taken back. Another signal of the kind must not stop that: the end of a terminal
    often sends two. Ctrl-C still does.
    """
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    for other in _numbers("SIGTERM", "SIGHUP"):
        signal.signal(other, signal.SIG_IGN)
    raise AskedToEnd(number)


@contextlib.contextmanager
def asked_to_end(handler: Any, names: tuple[str, ...] = ("SIGINT", "SIGTERM", "SIGHUP")) -> Iterator[None]:
    """Until the end of the block, ``handler`` takes Ctrl-C, a plain kill and the end of the terminal.

    One that was ignored before still is: under ``nohup`` the end of the terminal is none of ours. Other
    threads than the main one can't be asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in _numbers(*names) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _numbers(*names: str) -> list[signal.Signals]:
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
