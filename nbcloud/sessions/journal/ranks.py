"""The ranks of one run of a gang: where each finds itself, and what their ends make of the whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed.comm import get_address_host

from nbcloud.sessions.host.devices import CUDA
from nbcloud.sessions.journal.members import LiveSession


def places(members: Sequence[LiveSession], port: int) -> list[dict[str, Any]]:
    """For each rank its number, and the environment that ``torch.distributed`` and its like read.

    Parameters
    ----------
    members : sequence of LiveSession
        All with a host.
    port : int
        Free where rank 0 is.
    """
    machines = [_machine(member) for member in members]
    nodes = list(dict.fromkeys(machines))
    sizes, before = Counter(machines), Counter[tuple[str, str]]()
    master = "127.0.0.1" if len(nodes) == 1 else nodes[0][1]
    found = []
    for rank, machine in enumerate(machines):
        environment = {
            "RANK": rank,
            "WORLD_SIZE": len(members),
            "LOCAL_RANK": before[machine],
            "LOCAL_WORLD_SIZE": sizes[machine],
            "NODE_RANK": nodes.index(machine),
            "MASTER_ADDR": master,
            "MASTER_PORT": port,
        }
        mates = [member for member, place in zip(members, machines, strict=True) if place == machine]
        texts = {name: str(value) for name, value in environment.items()} | _shared_devices(mates)
        found.append({"rank": rank, "environment": texts})
        before[machine] += 1
    return found


def _machine(member: LiveSession) -> tuple[str, str]:
    """What tells the machine of a member from others: two may have one name, and a proxy one address."""
    assert member.host is not None
    return member.host.facts["host"], get_address_host(member.host.worker)


def _shared_devices(mates: Sequence[LiveSession]) -> dict[str, str]:
    """Devices of all ranks of one machine, in their order, when each has one.

    Programs for ``torchrun`` take the device whose number is LOCAL_RANK, and would not find it among one.
    """
    devices = [str(mate.seen.get(CUDA, "")) for mate in mates]
    if len(mates) < 2 or len(set(devices)) < len(devices) or any("," in d or not d for d in devices):
        return {}
    return {CUDA: ",".join(devices)}


@dataclass
class GangRun:
    """One run of a gang that has not ended."""

    request: dict[str, Any] | None
    """The client's, until it is given to the ranks."""
    asked: bool = False
    """Whether it is its turn, and a port is being looked for."""
    places: list[dict[str, Any]] = field(default_factory=list)
    """For each rank, once it was given to them."""
    told_missing: bool = False
    ends: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By rank, in the order in which they came."""
    gone: dict[int, str] = field(default_factory=dict)
    """Why ranks lost their kernel."""
    stopping: bool = False
    stopped: set[int] = field(default_factory=set)
    """Ranks that were stopped because another had failed."""
    interrupted: bool = False

    def cause(self) -> int | None:
        """The rank to whose end all came; None when all ended well."""
        bad = [rank for rank, end in self.ends.items() if end["state"] != "done"]
        own = [rank for rank in bad if rank not in self.stopped] or bad
        if len({self._told(rank) for rank in own}) == 1:
            return min(own)
        return min(own, key=self._weight, default=None)

    def _told(self, rank: int) -> tuple[str, str, str]:
        end, content = self.ends[rank], _content(self.ends[rank])
        return end["state"], content.get("ename", ""), content.get("evalue", "")

    def _weight(self, rank: int) -> int:
        """A crash is why others fail; an interrupt is why others fail if somebody interrupted."""
        state, ename, _ = self._told(rank)
        if state == "lost":
            return 0
        if state == "failed":
            return 1 if (ename == "KeyboardInterrupt") is self.interrupted else 3
        return 2

    def verdict(self) -> dict[str, Any]:
        """State, reason, exit code and usage of the whole."""
        cause, size = self.cause(), len(self.ends)
        ranks = [
            {"rank": rank, **end["usage"]} for rank, end in sorted(self.ends.items()) if end.get("usage")
        ]
        usage = {"ranks": ranks} if ranks else None
        if cause is None:
            return {"state": "done", "why": "", "exit_code": None, "usage": usage}
        end = self.ends[cause]
        why = end["why"]
        if end["state"] == "lost" and size > 1:
            why = f"rank {cause} of {size}: {why}"
        return {"state": end["state"], "why": why, "exit_code": end["exit_code"], "usage": usage}

    def content(self) -> dict[str, Any]:
        """What the kernel of rank 0 left, with how the whole ended."""
        content, cause = _content(self.ends[0]), self.cause()
        if cause is None:
            return content
        told = _content(self.ends[cause])
        content |= {key: told[key] for key in ("status", "ename", "evalue") if key in told}
        error = self.named_error(cause)
        if error is not None:
            content["evalue"] = error["evalue"]
        return content

    def named_error(self, rank: int) -> dict[str, Any] | None:
        """What a rank raised, with its number."""
        error: dict[str, Any] | None = self.ends[rank].get("error")
        if error is None or len(self.ends) == 1:
            return error
        head = f"On rank {rank} of {len(self.ends)}:"
        evalue = f"{error['evalue']} [rank {rank}]".lstrip()
        return {**error, "evalue": evalue, "traceback": [head, *error["traceback"]]}

    def errors(self) -> dict[int, dict[str, Any]]:
        """What ranks raised by themselves, and not as the one to whose end all came."""
        cause = self.cause()
        known = self._told(cause) if cause is not None else ("", "", "")
        return {
            rank: end["error"]
            for rank, end in sorted(self.ends.items())
            if end.get("error") and rank not in self.stopped and self._told(rank) != known
        }

    def epitaph(self) -> str:
        """Why the gang can't go on; empty when it can."""
        if not self.gone:
            return ""
        own = [rank for rank in self.gone if rank not in self.stopped]
        rank = (own or list(self.gone))[0]
        return f"rank {rank}: {self.gone[rank]}"


def _content(end: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(end["content"]) if end["content"] else {}
    return content
