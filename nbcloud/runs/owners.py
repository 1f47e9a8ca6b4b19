"""Which process keeps a run on record."""

from __future__ import annotations

from functools import cache

import psutil


@cache
def process_mark() -> str:
    """What tells this process from every other, also from a later one with its number."""
    process = psutil.Process()
    return f"{process.pid}-{process.create_time():.2f}"


def is_running(mark: str) -> bool:
    """Whether the process of a mark is still there, on this machine."""
    pid, _, created = mark.partition("-")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except (psutil.Error, ValueError):
        return False
