"""What comes to a worker first: the host where it can live, and else the word of what the worker lacks.

It needs Dask and nothing more. A worker to which something comes that it can't import ends, and so does each
that is started in its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin, get_worker, secede

from nbcloud.clusters import environment

if TYPE_CHECKING:
    from nbcloud.sessions.host.host import Host

PLUGIN = "nbcloud"
_HOST_SECONDS = 30.0


class Arriving:
    """What is sent: unpickled in a worker, it is that worker's `arrive`.

    Parameters
    ----------
    preload : sequence of str
        Modules that kernels have imported before they start.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self._preload = [*preload]

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (self._preload,)


class Absent(WorkerPlugin):
    """Stands where the host can't.

    Parameters
    ----------
    lacking : list of str
        Packages that the worker would need.
    """

    name = PLUGIN

    def __init__(self, lacking: list[str]) -> None:
        self.lacking = lacking


def arrive(preload: Sequence[str]) -> Host | Absent:
    """The host of the worker that this is, where it can have one."""
    said = environment.said()
    lacking = environment.lacking(environment.Facts.of(said))
    if lacking:
        return Absent(lacking)
    from nbcloud.sessions.host.host import Host

    return Host(said, preload)


def hold_session(session: str, memory: int | None, gpus: int = 0) -> str:
    """The Dask task of a session: runs beside its kernel until the session ends.

    Returns
    -------
    str
        How it ended.

    Raises
    ------
    RuntimeError
        When the worker can have no session, with the reason.
    """
    worker = get_worker()
    deadline = time.monotonic() + _HOST_SECONDS
    while PLUGIN not in worker.plugins:  # another client is still bringing it
        if time.monotonic() > deadline:
            raise RuntimeError("its worker has no host for sessions")
        time.sleep(0.02)
    host: Any = worker.plugins[PLUGIN]
    if isinstance(host, Absent):
        raise RuntimeError(
            f"its worker {worker.name} lacks {', '.join(host.lacking)}, which nbcloud needs there; "
            "use an image or environment that has all of it"
        )
    secede()  # the worker's threads stay free for tasks; the resources stay taken
    ended = threading.Event()
    host.worker.loop.add_callback(host.claim, session, memory, gpus, ended)
    ended.wait()
    return "ended"
