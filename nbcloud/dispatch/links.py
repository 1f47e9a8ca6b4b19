"""One link for each cluster and process, made when first needed."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nbcloud.clusters import environment
from nbcloud.clusters.base import ClusterInfo, Progress, silent
from nbcloud.clusters.connect import come_back, resolve, status
from nbcloud.errors import ClusterLost

if TYPE_CHECKING:
    from nbcloud.sessions.client.link import Link

_links: dict[str, Link] = {}
_told: dict[str, set[str]] = {}
"""Sentences about the packages of each cluster, by its id."""
_lock = threading.Lock()
_ROOM_SECONDS = 5.0
_ATTEMPTS = 3
"""How often a scheduler may be lost again right after it answered."""


def link_to(info: ClusterInfo, *, progress: Progress | None = None) -> Link:
    """The live link to a cluster.

    Parameters
    ----------
    progress : callable, optional
        Has a scheduler waited for whose pod is about to come back, and is told what that waits for.

    Raises
    ------
    MissingExtra
        When its machines lack what nbcloud needs there.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _link_to(info)
        except ClusterLost:
            if progress is None or not come_back(info, progress):
                raise
    return _link_to(info)


def _link_to(info: ClusterInfo) -> Link:
    # Here, because it brings Dask, which takes half a second to import.
    from nbcloud.sessions.client.link import Link

    with _lock:
        link = _links.get(info.id)
        if link is None or link.lost:
            if link is not None:
                link.close()
            skew = environment.check(info) if info.kind != "local" and link is None else []
            link = _links[info.id] = Link(info)
            link.skew = skew
            _told.setdefault(info.id, set()).update(skew)
        return link


def compare(link: Link, packages: Iterable[str]) -> None:
    """Look whether the workers of a session fit, which may have joined since the link was made.

    Parameters
    ----------
    link : Link
        Gets sentences about what differs and may break, but those that it has had.
    packages : iterable of str
        What each worker has, as `environment.said` tells it.
    """
    if link.info.kind == "local":
        return
    mine, told = environment.here(), _told.setdefault(link.info.id, set())
    for each in map(environment.Facts.of, packages):
        news = [text for text in environment.warnings(mine, each, "workers") if text not in told]
        told.update(news)
        link.skew += news


def connect(name: str | None = None, *, start: bool = True, progress: Progress = silent) -> Link:
    """The link to a cluster by name or address; the local one is started when it is not up."""
    return link_to(resolve(name, start=start, progress=progress), progress=progress)


class Room:
    """How many runs a cluster has at once without one in the way of another.

    Parameters
    ----------
    link : Link
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._count = 1
        self._asked = -math.inf

    def count(self) -> int:
        """The threads of all workers, of those too that the cluster may start when there is work for them."""
        if time.monotonic() - self._asked > _ROOM_SECONDS:
            self._asked = time.monotonic()
            with contextlib.suppress(ClusterLost):  # whoever runs there will hear of it
                workers = status(self._link.info)["workers"]
                groups = self._link.info.options.get("groups", {}).values()
                there = sum(int(worker["nthreads"]) for worker in workers)
                self._count = max(1, there, sum(each["maximum"] * each["threads"] for each in groups))
        return self._count


def close_links() -> None:
    """End all links of this process."""
    with _lock:
        links = list(_links.values())
        _links.clear()
    for link in links:
        link.close()
