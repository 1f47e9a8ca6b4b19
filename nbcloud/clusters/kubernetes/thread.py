"""One thread of this process with an event loop, in which all that talks to Kubernetes runs."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_running: dict[int, asyncio.AbstractEventLoop] = {}
"""The loop of each process: a fork has none of its parent's threads."""


def loop() -> asyncio.AbstractEventLoop:
    """The loop, started when first asked for."""
    with _lock:
        found = _running.get(os.getpid())
        if found is None:
            _running.clear()
            found = _running[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=_run, args=(found,), name="nbcloud-kubernetes", daemon=True).start()
        return found


def _run(found: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(found)
    found.set_exception_handler(_note)
    found.run_forever()


_errors: deque[str] = deque(maxlen=1)


def _note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Keep what went wrong with a forwarded connection: whoever used it only sees that it is closed."""
    logger.debug("%s", context)
    if context.get("exception") is not None:
        _errors.append(str(context["exception"]))


def latest_error() -> str:
    """What last went wrong behind everybody's back since this was last asked; empty when nothing did."""
    return _errors.pop() if _errors else ""


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Have the thread do something."""
    return asyncio.run_coroutine_threadsafe(work, loop())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Have the thread do something, and wait for it; an interrupt cancels it."""
    future = submit(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
