"""What workers cost, as far as profiles say."""

from __future__ import annotations

from collections.abc import Iterable

from nbcloud.clusters.base import ClusterInfo
from nbcloud.config.profiles import profile


def hourly(info: ClusterInfo, workers: Iterable[str]) -> float:
    """What an hour of these workers costs together, 0 when nobody has said.

    Parameters
    ----------
    info : ClusterInfo
    workers : iterable of str
        Their names in Dask.
    """
    if info.kind != "kubernetes":
        return float(getattr(profile(info.name), "price", 0.0)) * len(list(workers))
    return sum(_price(info, worker) for worker in workers)


def _price(info: ClusterInfo, worker: str) -> float:
    groups = info.options["groups"]
    of = [key for key in groups if worker.startswith(f"{info.options['object']}-{key}-worker-")]
    return float(groups[max(of, key=len)].get("price", 0.0)) if of else 0.0
