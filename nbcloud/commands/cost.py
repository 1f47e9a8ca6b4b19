"""``cost``: what a cluster's workers have cost so far, and what those that are gone had cost."""

from __future__ import annotations

import argparse
import contextlib
import time
from dataclasses import asdict
from typing import Any

from nbcloud.clusters import connect as clusters
from nbcloud.clusters import costs, wire
from nbcloud.clusters.base import ClusterInfo, Progress
from nbcloud.clusters.prices import hourly
from nbcloud.commands.answers import Answer, ago, duration
from nbcloud.errors import ClusterNotFound, NbcloudError


def cost(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Worker hours and what they cost, by group; without a cluster, those that were taken down."""
    try:
        info, which = clusters.meant(arguments.cluster)
    except ClusterNotFound as error:
        past = costs.past(arguments.cluster)
        if not past or (not arguments.cluster and error.data.get("names")):
            raise
        return _gone(past)
    progress(f"asking {info.name!r}")
    parts = _groups(info)
    rows = [
        [part["group"], duration(part["hours"] * 3600), _money(part["price"]), _money(part["cost"])]
        for part in parts
    ]
    total = sum(part["cost"] for part in parts)
    text = f"So far, the workers of {info.name!r} have cost {_money(total)}."
    if not any(part["price"] for part in parts):
        text = f"The profile of {info.name!r} has no price: `price` there is that of a worker and hour."
    past = costs.past(info.name)
    if past:
        gone = _money(sum(each.total for each in past))
        text += f" Those of this name that were taken down before had cost {gone}."
    data = {"total": total, "groups": parts, "past": [asdict(each) for each in past]}
    return Answer(f"{which} {text}".strip(), ["group", "worker time", "an hour", "cost"], rows, data)


def _gone(past: list[costs.Cost]) -> Answer:
    rows = [[each.name, ago(each.ended), duration(each.hours * 3600), _money(each.total)] for each in past]
    total = sum(each.total for each in past)
    text = f"None of these is up; until they were taken down from here, they had cost {_money(total)}."
    data = {"total": total, "groups": [], "past": [asdict(each) for each in past]}
    return Answer(text, ["cluster", "ended", "worker time", "cost"], rows, data)


def keep_cost(info: ClusterInfo) -> None:
    """Have what a cluster has cost outlive it, as far as it can be asked and anything has a price."""
    with contextlib.suppress(NbcloudError, OSError):
        parts = _groups(info, timeout=2.0)
        if any(part["price"] for part in parts):
            costs.keep(info, sum(part["hours"] for part in parts), sum(part["cost"] for part in parts))


def _groups(info: ClusterInfo, timeout: float = 5.0) -> list[dict[str, Any]]:
    if info.kind == "kubernetes":
        answer = wire.ask(info, "nbcloud_cost", timeout=timeout)
        return [_part(group, facts["hours"], facts["price"]) for group, facts in answer.items()]
    workers = [str(worker["name"]) for worker in clusters.status(info, timeout=timeout)["workers"]]
    hours = len(workers) * (time.time() - info.created) / 3600
    price = hourly(info, workers) / len(workers) if workers else 0.0
    return [_part("workers", hours, price)]


def _part(group: str, hours: float, price: float) -> dict[str, Any]:
    return {"group": group, "hours": hours, "price": price, "cost": hours * price}


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.01 or not amount else f"{amount:.2g}"
