"""Gangs: sessions that run each cell together, as the ranks of one distributed program.

To clients a gang is one session, and what its ranks do together is one run with one log. Here a run is given
to all members at once, with the environment that ``torch.distributed`` reads; what they say gets the run's
numbers (its lines were labelled where they were said); and the run ends when all ranks have ended. One that
fails takes the others with it, since they would wait for it for ever.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from nbcloud.sessions.host.labels import error_text
from nbcloud.sessions.host.session import GRACE
from nbcloud.sessions.journal.members import ConnectedHost, JournaledRun, LiveSession
from nbcloud.sessions.journal.ranks import GangRun, places
from nbcloud.sessions.journal.table import Table
from nbcloud.sessions.runlog import FINISHED, STARTED, renumbered, type_of

_SETTLE = 0.5
"""Seconds in which a crash may still turn out to be why other ranks have failed."""
_LAST_WORDS = 5.0
_EVERYWHERE = {"push", "release"}


def gang_members(gang: LiveSession, size: int) -> list[LiveSession]:
    """The sessions of a new gang, in the order of their ranks."""
    return [
        LiveSession(f"{gang.id}-{rank}", gang.name, gang.notebook, gang.resources, gang.created, gang=gang.id)
        for rank in range(size)
    ]


class Gangs:
    """What happens to gangs, beside what happens to every session.

    Parameters
    ----------
    table : Table
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._runs: dict[str, GangRun] = {}
        """Those that have not ended."""
        self._asked: dict[str, tuple[int, dict[str, Any] | None]] = {}
        """Questions to all members: how many answers are to come, and the one that counts so far."""

    def whole(self, session: LiveSession) -> LiveSession:
        """The gang of a member; any other session itself."""
        return self._table.sessions.get(session.gang, session)

    def close(self, member: LiveSession, why: str) -> None:
        """End a member on purpose, and with it its gang, which can't go on without it."""
        gang = self._table.sessions.get(member.gang)
        if gang is not None:  # else it went with another member
            self._table.close_session(gang, f"rank {_rank(gang, member)}: {why}")

    # What clients ask

    def run(self, gang: LiveSession, run: JournaledRun, request: dict[str, Any]) -> None:
        """A run comes, for all ranks, when those before it have ended; or comes with more values."""
        known = self._runs.get(run.id)
        if known is None:
            self._forget_lost()
            self._runs[run.id] = GangRun(request)
            self._next(gang)
        elif known.places:
            known.told_missing = False
            self._give(gang, known, request)

    def stop(self, gang: LiveSession, run: JournaledRun, message: dict[str, Any]) -> None:
        """Interrupt or stop all ranks of a run, or let it not begin."""
        known = self._runs.get(run.id)
        if known is None:
            return
        if known.places:
            known.interrupted = True
            self.tell(gang, {**message, "run": run.id})
            return
        del self._runs[run.id]
        why = f"{message.get('why', 'it was interrupted')} before it began"
        self._table.end_run(
            gang, run, {"state": message.get("state", "cancelled"), "why": why, "exit_code": None}
        )
        self._next(gang)

    def tell(self, gang: LiveSession, message: dict[str, Any]) -> None:
        """Say something to all members."""
        for member in gang.members:
            if member.host is not None:
                member.host.channel.post({**message, "session": member.id})

    def relay(self, gang: LiveSession, message: dict[str, Any]) -> None:
        """Pass a question on: to rank 0, or to all whom its answer changes."""
        asked = gang.members[:1]
        if message["op"] in {"blob_write", "blob_drop"}:
            asked = list({m.host.worker: m for m in gang.members if m.host is not None}.values())
        elif message["op"] == "call" and json.loads(message["content"])["method"] in _EVERYWHERE:
            asked = gang.members
        self._asked[message["ask"]] = len(asked), None
        for member in asked:
            if member.host is not None:
                member.host.channel.post({**message, "session": member.id})

    def answered(self, message: dict[str, Any]) -> bool:
        """An answer: whether more have to come before it can be given; then it is kept."""
        if message["ask"] not in self._asked:
            return False
        left, kept = self._asked.pop(message["ask"])
        if kept is not None and _is_trouble(kept):  # of several, the one that says what went wrong
            message |= kept
        if left > 1 and message["ask"] in self._table.asks:
            self._asked[message["ask"]] = left - 1, {**message}
            return True
        return False

    # What hosts say

    def from_host(
        self, member: LiveSession, host: ConnectedHost, operation: str, message: dict[str, Any]
    ) -> None:
        """One message about a member."""
        gang = self._table.sessions[member.gang]
        rank = _rank(gang, member)
        run = gang.runs.get(message.get("run", ""))
        known = self._runs.get(run.id) if run is not None else None
        match operation:
            case "ready":
                member.state, member.host, member.kernel_pid = "ready", host, message["kernel_pid"]
                member.seen, member.cold = message["resources"], message["cold"]
                self._ready(gang)
            case "port" if known is not None and known.request is not None:
                known.places = places(gang.members, message["port"])
                request, known.request = known.request, None
                self._give(gang, known, request)
            case "begun" if run is not None and run.state == "queued":
                self._table.begun(gang, message)
                run.log.append(STARTED, json.dumps(_where(gang)).encode())
            case "messages" if run is not None:
                _keep(run, message["lines"])
            case "missing" if known is not None and not known.told_missing:
                known.told_missing = True
                self._table.missing(gang, message)
            case "usage" if run is not None:
                run.usage[rank] = message["usage"]
            case "end" if run is not None and known is not None:
                self._ended(gang, run, known, rank, message)
            case "outside":
                items = [item for item in message["items"] if rank == 0 or item[1] == "stream"]
                self._table.outside(gang, [_labelled(rank, item) for item in items])
            case "lost":
                self.lost(member, message["why"])

    def lost(self, member: LiveSession, why: str) -> None:
        """A member is gone, and the gang with it, as soon as the others have said their last words."""
        gang = self._table.sessions.get(member.gang)
        if gang is None:  # it went with another member
            return
        rank = _rank(gang, member)
        member.state = "lost"
        run = next((run for run in gang.runs.values() if run.id in self._runs), None)
        known = self._runs[run.id] if run is not None else None
        if run is None or known is None or not known.places:
            self._table.close_session(gang, f"rank {rank}: {why}")
            return
        known.gone.setdefault(rank, why)
        if rank in known.ends:
            self._judge(gang, run, known)
        else:
            end: dict[str, Any] = {
                "state": "lost",
                "why": why,
                "exit_code": None,
                "content": b"",
                "buffers": [],
            }
            self._ended(gang, run, known, rank, end)

    def _ready(self, gang: LiveSession) -> None:
        first = gang.members[0]
        if first.host is not None and all(member.state == "ready" for member in gang.members):
            self._table.ready(gang, first.host, {"kernel_pid": first.kernel_pid, "cold": first.cold})

    # Runs

    def _next(self, gang: LiveSession) -> None:
        """Ask for a port for the run whose turn it is."""
        run = next(iter(gang.runs), "")
        known = self._runs.get(run)
        first = gang.members[0]
        if known is not None and not known.asked and first.host is not None:
            known.asked = True
            first.host.channel.post({"op": "port", "session": first.id, "run": run})

    def _give(self, gang: LiveSession, known: GangRun, request: dict[str, Any]) -> None:
        for member, place in zip(gang.members, known.places, strict=True):
            if member.host is not None:
                about = {"op": "execute", "session": member.id, "place": place}
                member.host.channel.post({**request, **about})

    def _ended(
        self, gang: LiveSession, run: JournaledRun, known: GangRun, rank: int, end: dict[str, Any]
    ) -> None:
        known.ends[rank] = end
        if end.get("session_over"):
            known.gone.setdefault(rank, end["why"])
        self._judge(gang, run, known)

    def _judge(self, gang: LiveSession, run: JournaledRun, known: GangRun) -> None:
        """End a run whose ranks have all ended; stop the others when one has failed."""
        if len(known.ends) == len(gang.members):
            self._finish(gang, run, known)
        elif not known.stopping and (known.gone or any(e["state"] != "done" for e in known.ends.values())):
            known.stopping = True
            self._table.spawn(self._stop_others(gang, run, known))

    async def _stop_others(self, gang: LiveSession, run: JournaledRun, known: GangRun) -> None:
        await asyncio.sleep(_SETTLE)
        if run.id not in gang.runs:
            return
        others = [rank for rank in range(len(gang.members)) if rank not in known.ends]
        known.stopped = set(others)
        first = next(iter(known.gone or known.ends))
        stop: dict[str, Any] = {
            "op": "kill",
            "state": "lost",
            "why": f"it was ended because rank {first} was lost",
        }
        if not known.gone:
            stop = {"op": "stop", "run": run.id, "state": "cancelled", "why": f"rank {first} had failed"}
        for rank in others:
            member = gang.members[rank]
            if member.host is not None:
                member.host.channel.post({**stop, "session": member.id})
        await asyncio.sleep(GRACE + _LAST_WORDS)
        for rank in others:  # of a worker that does not answer
            if run.id in gang.runs and rank not in known.ends:
                self.lost(gang.members[rank], "it did not answer")

    def _finish(self, gang: LiveSession, run: JournaledRun, known: GangRun) -> None:
        end = known.verdict()
        cause = known.cause()
        for rank, error in known.errors().items():
            if rank != cause:
                said = {"name": "stderr", "text": error_text(rank, error)}
                run.log.append("stream", json.dumps(said).encode())
        if cause is not None and (raised := known.named_error(cause)) is not None:
            run.log.append("error", json.dumps(raised).encode())
        gone = known.epitaph()
        content = known.content()
        if gone and end["state"] == "failed":
            content["trouble"] = f"The session {gang.name!r} has ended: {gone}."
        told = {key: value for key, value in end.items() if key != "content"}
        run.log.append(FINISHED, json.dumps(told).encode())
        packed = json.dumps(content).encode() if content else b""
        run.end = {"content": packed, "buffers": known.ends[0]["buffers"], "usage": end["usage"]}
        names = content.get("names", {})
        gang.names.difference_update(names.get("removed", ()))
        gang.names.update(names.get("added", ()))
        del self._runs[run.id]
        self._table.close_run(gang, run, end)
        if gone:
            self._table.close_session(gang, gone)
        elif gang.ephemeral and not gang.runs:
            self._table.close_session(gang, "it was for one cell")
        else:
            self._next(gang)

    def _forget_lost(self) -> None:
        """Runs that ended with their gang."""
        there = {run for session in self._table.sessions.values() for run in session.runs}
        self._runs = {run: known for run, known in self._runs.items() if run in there}


def _rank(gang: LiveSession, member: LiveSession) -> int:
    return next(rank for rank, each in enumerate(gang.members) if each is member)


def _keep(run: JournaledRun, lines: bytes) -> None:
    """Keep what a rank says, under the numbers of the run."""
    said = [line for line in lines.splitlines(keepends=True) if type_of(line) not in {STARTED, FINISHED}]
    run.log.extend([renumbered(line, run.log.count + place) for place, line in enumerate(said, 1)])


def _labelled(rank: int, item: list[Any]) -> list[Any]:
    """What a thread of a rank writes between cells."""
    when, kind, content, *rest = item
    if kind == "stream":
        said = json.loads(content)
        lines = said["text"].splitlines(keepends=True)
        content = json.dumps({**said, "text": "".join(f"[{rank}] {line}" for line in lines)}).encode()
    return [when, kind, content, *rest]


def _where(gang: LiveSession) -> dict[str, Any]:
    """The first message of a run: where its ranks are."""
    ranks = [
        {
            "rank": rank,
            "worker": member.host.worker if member.host else "",
            "host": member.host.facts["host"] if member.host else "",
            "kernel_pid": member.kernel_pid,
            **member.seen,
        }
        for rank, member in enumerate(gang.members)
    ]
    first = {key: ranks[0][key] for key in ("worker", "host", "kernel_pid")}
    return {"session": gang.id, **first, "resources": {"ranks": ranks}}


def _is_trouble(answer: dict[str, Any]) -> bool:
    if answer.get("error"):
        return True
    content = json.loads(answer["content"]) if answer.get("content") else {}
    return content.get("status", "ok") != "ok" or bool(content.get("answer"))
