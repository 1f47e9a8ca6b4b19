"""Bytes between a kernel and its cluster, from the counters that Linux keeps for each TCP connection."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """Bytes that the TCP connections of one process have carried so far."""

    sent: dict[str, int]
    received: dict[str, int]

    @classmethod
    def of(cls, pid: int) -> Traffic | None:
        """Read the kernel's own counters; None where ``ss`` is missing."""
        try:
            listing = subprocess.run(["ss", "-tinpHO"], check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return None
        sent, received = {}, {}
        for line in listing.splitlines():
            if f"pid={pid}," in line:
                connection = " ".join(line.split()[3:5])
                sent[connection] = _counter("bytes_acked", line)
                received[connection] = _counter("bytes_received", line)
        return cls(sent, received)

    def since(self, before: Traffic) -> tuple[int, int]:
        """Bytes sent and received since ``before``; a connection closed meanwhile is not seen."""
        return _growth(before.sent, self.sent), _growth(before.received, self.received)


def _counter(name: str, line: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", line)
    return int(found[1]) if found else 0


def _growth(before: dict[str, int], after: dict[str, int]) -> int:
    return sum(count - before.get(connection, 0) for connection, count in after.items())
