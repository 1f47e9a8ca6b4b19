"""One thread of this process with an event loop, in which all that talks to Kubernetes runs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_CLEANING = 15.0
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
    found.run_forever()


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Have the thread do something."""
    return asyncio.run_coroutine_threadsafe(work, loop())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Have the thread do something, and wait for it; an interrupt cancels it, and waits for its end."""
    over = threading.Event()

    async def watched() -> T:
        try:
            return await work
        finally:
            over.set()

    future = submit(watched())
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            over.wait(_CLEANING)
        raise
