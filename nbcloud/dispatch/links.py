"""One link for each cluster and process, made when first needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nbcloud.clusters import environment
from nbcloud.clusters.base import ClusterInfo, Progress, silent
from nbcloud.clusters.connect import resolve

if TYPE_CHECKING:
    from nbcloud.sessions.client.link import Link

_links: dict[str, Link] = {}
_lock = threading.Lock()


def link_to(info: ClusterInfo) -> Link:
    """The live link to a cluster.

    Raises
    ------
    MissingExtra
        When its machines lack what nbcloud needs there.
    """
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
        return link


def connect(name: str | None = None, *, start: bool = True, progress: Progress = silent) -> Link:
    """The link to a cluster by name or address; the local one is started when it is not up."""
    return link_to(resolve(name, start=start, progress=progress))


def close_links() -> None:
    """End all links of this process."""
    with _lock:
        links = list(_links.values())
        _links.clear()
    for link in links:
        link.close()
