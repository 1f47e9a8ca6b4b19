"""Whom the journal knows: hosts and clients that are connected, sessions that live, runs and their logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nbcloud.sessions.channel import Channel
from nbcloud.sessions.runlog import RunLog


@dataclass
class ConnectedHost:
    """One worker that holds kernels."""

    worker: str
    facts: dict[str, Any]
    channel: Channel


@dataclass
class LiveSession:
    """One kernel, wherever it is. Its name is free again when it is lost, its id never is."""

    id: str
    name: str
    notebook: str
    resources: dict[str, float]
    created: float
    state: str = "starting"
    why: str = ""
    host: ConnectedHost | None = None
    kernel_pid: int = 0
    cold: str = ""
    """Why its kernel was not forked from one that had imported all modules of ``preload``."""
    names: set[str] = field(default_factory=set)
    runs: dict[str, JournaledRun] = field(default_factory=dict)
    """Those that have not ended, in the order in which they came."""
    clients: set[str] = field(default_factory=set)
    waiting: list[tuple[ConnectedClient, str]] = field(default_factory=list)
    """Who asked for it while it starts, and the question."""
    heirs: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What opens the next one of its name as soon as it is lost, by the question that asked for that."""
    opened_by: str = ""
    """The question for which it was started."""
    log: RunLog = field(default_factory=lambda: RunLog(None, 2**22))
    ephemeral: bool = False
    """Ends with its first run."""
    lasting: bool = True
    """Outlives the clients that use it."""
    used: float = field(default_factory=time.monotonic)
    """When it last had something to do."""
    members: list[LiveSession] = field(default_factory=list)
    """Of a gang: the sessions that it consists of, by rank; clients know only the gang."""
    gang: str = ""
    """Of a member: its gang."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Devices that it has."""

    @property
    def was_used(self) -> bool:
        """Whether there may be anything in it."""
        return bool(self.runs or self.names)

    @property
    def active(self) -> JournaledRun | None:
        """The run that its kernel has."""
        return next((run for run in self.runs.values() if run.state == "running"), None)

    @property
    def hosts(self) -> list[ConnectedHost]:
        """Where it is; a gang may be in several places."""
        hosts = [each.host for each in self.members or [self] if each.host is not None]
        return list({host.worker: host for host in hosts}.values())

    def facts(self) -> dict[str, Any]:
        """What a client is told."""
        return {
            "id": self.id,
            "name": self.name,
            "workers": len(self.members),
            "spools": [(host.facts["spool"], host.facts["token"]) for host in self.hosts],
            "packages": [host.facts["packages"] for host in self.hosts],
            "worker_names": [host.facts["name"] for host in self.hosts],
            "notebook": self.notebook,
            "state": self.state,
            "why": self.why,
            "worker": self.host.worker if self.host else "",
            "host": self.host.facts["host"] if self.host else "",
            "host_id": self.host.facts["id"] if self.host else "",
            "spool": self.host.facts["spool"] if self.host else "",
            "token": self.host.facts["token"] if self.host else "",
            "kernel_pid": self.kernel_pid,
            "cold": self.cold,
            "resources": self.resources,
            "created": self.created,
            "names": sorted(self.names),
            "active": self.active.id if self.active else "",
            "queued": [run.id for run in self.runs.values() if run.state == "queued"],
        }


@dataclass
class JournaledRun:
    """One run and its journal."""

    id: str
    session: str
    log: RunLog
    created: float
    client: str
    state: str = "queued"
    why: str = ""
    exit_code: int | None = None
    missing: bytes = b""
    """What its client was asked for, because its session does not have it; JSON."""
    end: dict[str, Any] | None = None
    ended: float | None = None
    """When, by the clock of the machine that it was on."""
    usage: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What it takes now, by rank; 0 for a run on one worker."""

    def facts(self) -> dict[str, Any]:
        """What a client is told."""
        return {
            "id": self.id,
            "session": self.session,
            "state": self.state,
            "why": self.why,
            "exit_code": self.exit_code,
            "created": self.created,
            "ended": self.ended,
            "messages": self.log.count,
            "uses": [{"rank": rank, **now} for rank, now in sorted(self.usage.items())],
        }


class ConnectedClient:
    """One notebook kernel, command line or server that is connected."""

    def __init__(self, identity: str, receive: Callable[[ConnectedClient, dict[str, Any]], None]) -> None:
        self.id = identity
        self.channel = Channel(lambda message: receive(self, message))
        self.readers: dict[str, asyncio.Task[None]] = {}
