"""``cost``: what a cluster's workers have cost so far."""

from __future__ import annotations

import argparse
import time
from typing import Any

from nbcloud.clusters import connect as clusters
from nbcloud.clusters import wire
from nbcloud.clusters.base import ClusterInfo, Progress
from nbcloud.clusters.prices import hourly
from nbcloud.commands.answers import Answer, duration


def cost(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Worker hours and what they cost, by group."""
    info, which = clusters.meant(arguments.cluster)
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
    data = {"total": total, "groups": parts}
    return Answer(f"{which} {text}".strip(), ["group", "worker time", "an hour", "cost"], rows, data)


def _groups(info: ClusterInfo) -> list[dict[str, Any]]:
    if info.kind == "kubernetes":
        answer = wire.ask(info, "nbcloud_cost")
        return [_part(group, facts["hours"], facts["price"]) for group, facts in answer.items()]
    workers = [str(worker["name"]) for worker in clusters.status(info)["workers"]]
    hours = len(workers) * (time.time() - info.created) / 3600
    price = hourly(info, workers) / len(workers) if workers else 0.0
    return [_part("workers", hours, price)]


def _part(group: str, hours: float, price: float) -> dict[str, Any]:
    return {"group": group, "hours": hours, "price": price, "cost": hours * price}


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.01 or not amount else f"{amount:.2g}"
