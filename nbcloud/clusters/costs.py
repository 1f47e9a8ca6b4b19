"""What clusters had cost when they were taken down from here: a line of JSON each, beside the records."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from nbcloud.clusters.base import ClusterInfo
from nbcloud.config import private_dir, settings


@dataclass(frozen=True)
class Cost:
    """The cost of a cluster that is gone."""

    name: str
    id: str
    ended: float
    """Seconds since the epoch."""
    hours: float
    """Of all its workers together."""
    total: float


def _path() -> Path:
    return settings().data_dir.absolute() / "costs.jsonl"


def keep(info: ClusterInfo, hours: float, total: float) -> None:
    """Add a cluster that is about to end.

    Raises
    ------
    OSError
    """
    line = json.dumps(asdict(Cost(info.name, info.id, time.time(), hours, total))) + "\n"
    private_dir(_path().parent)
    # One write at the end of the file: other processes' lines stay whole.
    file = os.open(_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def past(name: str | None = None) -> list[Cost]:
    """The clusters of a name, or all, the latest first; what of the file can't be read is left out."""
    found: dict[str, Cost] = {}
    with suppress(OSError):
        for line in _path().read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                cost = Cost(**json.loads(line))
                found[cost.id] = cost
    chosen = [cost for cost in found.values() if name in {None, cost.name}]
    return sorted(chosen, key=lambda cost: cost.ended, reverse=True)
