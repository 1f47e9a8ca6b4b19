"""How this process reaches a cluster's scheduler."""

from __future__ import annotations

from nbcloud.clusters.base import ClusterInfo


async def route(info: ClusterInfo) -> str:
    """The address to connect to: the scheduler's own, or a port of this machine that leads there.

    Raises
    ------
    ClusterLost
        When there is no way.
    """
    if info.kind != "kubernetes":
        return info.address
    from nbcloud.clusters.kubernetes.forward import local_address

    return await local_address(info)


def leave(info: ClusterInfo) -> None:
    """Close the way to a cluster that is gone."""
    if info.kind == "kubernetes":
        from nbcloud.clusters.kubernetes.forward import close

        close(info)
