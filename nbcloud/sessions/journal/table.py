"""Sessions and runs, and what happens to them: the journal's state and every change of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from nbcloud.sessions.journal.members import ConnectedClient, ConnectedHost, JournaledRun, LiveSession
from nbcloud.sessions.journal.placement import Placement
from nbcloud.sessions.runlog import FINISHED, UNBEGUN, RunLog

_BATCH = 2**19
_KEPT_RUNS = 1000
_KEPT_ENDS = 2**26

WITHDRAWN = "whoever asked for it waits no more"

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Table:
    """All that is connected, lives or runs on one cluster.

    Parameters
    ----------
    placement : Placement
    directory : Path
        For the journals of runs.
    memory : int
        Bytes of messages kept in memory for each run.
    spawn : callable
        Starts a task that ends with the journal.
    """

    def __init__(self, placement: Placement, directory: Path, memory: int, spawn: Spawn) -> None:
        self.placement = placement
        placement.title = self._name_of
        self.hosts: dict[str, ConnectedHost] = {}
        """By the worker's address."""
        self.clients: dict[str, ConnectedClient] = {}
        self.sessions: dict[str, LiveSession] = {}
        """By id."""
        self.lost: OrderedDict[str, str] = OrderedDict()
        """Why the latest sessions that are gone went, by id."""
        self.runs: OrderedDict[str, JournaledRun] = OrderedDict()
        self.asks: dict[str, tuple[ConnectedClient, str]] = {}
        """Questions to sessions: who asked, and which session."""
        self.last_active = time.time()
        self._directory = directory
        self._memory = memory
        self.spawn = spawn

    @property
    def busy(self) -> bool:
        """Whether a run is on or waits."""
        return any(session.runs for session in self.sessions.values())

    # Sessions

    def _name_of(self, identity: str) -> str:
        return self.sessions[identity].name if identity in self.sessions else identity

    def start(self, session: LiveSession, memory: int | None, silent: set[str]) -> None:
        """Let Dask find a place for a new session, not on workers that are silent."""
        self.sessions |= {each.id: each for each in (session, *session.members)}
        taken = [other.host.worker for other in self.sessions.values() if other.host]
        self.spawn(self._place(session, memory, taken, silent))

    async def _place(
        self, session: LiveSession, memory: int | None, taken: list[str], silent: set[str]
    ) -> None:
        if session.state != "starting":  # it was withdrawn at once, and must not enter the queue after that
            return
        members = [member.id for member in session.members]
        try:
            async for phase in self.placement.place(
                session.id, session.resources, memory, taken, silent, members
            ):
                for client, ask in session.waiting:
                    client.channel.post({"op": "phase", "ask": ask, "text": phase})
                if session.state != "starting":
                    return
        except Exception as error:  # noqa: BLE001 - whatever Dask says is the answer
            self.lose(session, f"it could not be started: {error}")

    def close_session(self, session: LiveSession, why: str) -> None:
        """End a session on purpose, and what it runs."""
        for each in session.members or [session]:
            if each.host:
                each.host.channel.post({"op": "close", "session": each.id, "why": why})
        self.lose(session, why)

    def wait_no_more(self, session: LiveSession, client: ConnectedClient, ask: str = "") -> None:
        """A client, or one question of it, waits no more for a session; when nobody else does, it ends."""
        session.waiting = [
            waiting for waiting in session.waiting if waiting[0] is not client or ask not in {"", waiting[1]}
        ]
        if session.state == "starting" and not session.gang and not session.waiting:
            self.close_session(session, WITHDRAWN)

    def ready(self, session: LiveSession, host: ConnectedHost, message: dict[str, Any]) -> None:
        """A session has its kernel."""
        session.state, session.host, session.kernel_pid = "ready", host, message["kernel_pid"]
        session.cold = message["cold"]
        session.used = time.monotonic()  # it may have waited for its worker for long
        for client, ask in session.waiting:
            client.channel.post({"op": "answer", "ask": ask, "answer": session.facts()})
        session.waiting.clear()

    def outside(self, session: LiveSession, items: list[Any]) -> None:
        """Number messages that belong to no run, and give them to all who use the session."""
        start = session.log.count
        for when, kind, content, metadata, buffers, parent in items:
            session.log.append(kind, content, metadata, buffers, when=when, parent=parent)
        _, lines = session.log.read(start, 2**30)
        only_text = all(kind == "stream" for _, kind, *_ in items)
        for identity in session.clients & self.clients.keys():
            channel = self.clients[identity].channel
            # Nobody waits for text that no cell prints; to a client that is far behind it would be a burden.
            if channel.is_light or not only_text:
                channel.post({"op": "outside", "session": session.id, "lines": lines})

    def lose(self, session: LiveSession, why: str) -> None:
        """A session is gone for whatever reason; its runs end, its name is free."""
        if self.sessions.pop(session.id, None) is None:
            return
        for member in session.members:
            self.sessions.pop(member.id, None)
        session.state, session.why = "lost", why
        self.lost[session.id] = why
        while len(self.lost) > _KEPT_RUNS:
            self.lost.popitem(last=False)
        for run in list(session.runs.values()):
            before = "" if run.state == "running" else UNBEGUN
            self.end_run(session, run, {"state": "lost", "why": before + why, "exit_code": None})
            if run.client in self.clients and run.id not in self.clients[run.client].readers:
                self.tell(run, {"op": "ended", "run": run.id})  # by the journal, which it does not read
        lost = {"op": "answer", "error": f"The session {session.name!r}: {why}."}
        for client, ask in session.waiting:
            client.channel.post({**lost, "ask": ask})
        for ask in [ask for ask, (_, asked) in self.asks.items() if asked == session.id]:
            client, _ = self.asks.pop(ask)
            client.channel.post({**lost, "ask": ask})
        for identity in session.clients:
            if identity in self.clients:
                self.clients[identity].channel.post({"op": "session_lost", "session": session.id, "why": why})
        self.placement.release(session.id)
        for open_next in session.heirs.values():
            open_next()

    # Runs

    def announce(self, client: str, session: LiveSession, run_id: str) -> JournaledRun:
        """A run that is on its way to its session, or has come there."""
        self.last_active = time.time()
        session.used = time.monotonic()
        run = self.runs.get(run_id)
        if run is None:
            if not run_id.isalnum():  # it names a file
                raise ValueError(f"{run_id!r} is not the id of a run.")
            log = RunLog(self._directory / f"{run_id}.jsonl", self._memory)
            run = JournaledRun(run_id, session.id, log, time.time(), client)
            self.runs[run.id] = session.runs[run.id] = run
            self._trim()
        return run

    def begun(self, session: LiveSession, message: dict[str, Any]) -> None:
        """A kernel was given a run."""
        session.clients.add(message["client"])
        run = self.announce(message["client"], session, message["run"])
        if run.id in session.runs:
            run.state = "running"

    def keep(self, session: LiveSession, message: dict[str, Any]) -> None:
        """Keep what a run says; its host has numbered it."""
        run = session.runs.get(message["run"])
        if run is not None:  # it may have been lost meanwhile
            run.log.extend(message["lines"].splitlines(keepends=True))

    def missing(self, session: LiveSession, message: dict[str, Any]) -> None:
        """A session lacks values for a run: its client sends it again with them, while others wait."""
        run = session.runs.get(message["run"])
        if run is None:
            return
        run.missing = message["content"]
        if run.client not in self.clients and not message["told"]:
            self.abandon(session, run.client)
        elif not message["told"]:
            self.tell(run, {"op": "missing", "run": run.id, "content": message["content"]})

    def abandon(self, session: LiveSession, client: str) -> None:
        """A client is gone: what only it could bring to its runs will not come."""
        runs = [run for run in session.runs.values() if run.client == client]
        if session.host is None or not runs:
            return
        if session.members:  # its runs were whole when they came
            for member in session.members:
                for run in runs:
                    if run.missing and member.host is not None:
                        member.host.channel.post({"op": "give_up", "session": member.id, "run": run.id})
            return
        for run in runs:
            if run.missing:
                session.host.channel.post({"op": "give_up", "session": session.id, "run": run.id})
        on_the_way = [run.id for run in runs if run.state == "queued"]
        session.host.channel.post({"op": "known", "session": session.id, "runs": on_the_way})

    def unknown(self, session: LiveSession, runs: list[str]) -> None:
        """Runs that were announced, and never came to their session."""
        for run in [session.runs[run] for run in runs if run in session.runs]:
            why = "its notebook went away before it had sent it"
            self.end_run(session, run, {"state": "lost", "why": why, "exit_code": None})

    def ended(self, session: LiveSession, message: dict[str, Any]) -> None:
        """A run is over."""
        run = session.runs.get(message["run"])
        if run is None:
            return
        if message["content"]:
            names = json.loads(message["content"]).get("names", {})
            session.names.difference_update(names.get("removed", ()))
            session.names.update(names.get("added", ()))
        run.end = {
            "content": message["content"],
            "buffers": message["buffers"],
            "usage": message.get("usage"),
        }
        self.close_run(session, run, message)
        if session.ephemeral and not session.runs and session.host:
            why = "it was for one cell"
            session.host.channel.post({"op": "close", "session": session.id, "why": why})

    def end_run(self, session: LiveSession, run: JournaledRun, end: dict[str, Any]) -> None:
        """End a run of which its host can tell nothing more."""
        run.log.append(FINISHED, json.dumps(end).encode())
        self.close_run(session, run, end)

    def close_run(self, session: LiveSession, run: JournaledRun, end: dict[str, Any]) -> None:
        """A run is over, and its log has all of it."""
        self.last_active = time.time()
        session.used = time.monotonic()
        run.state, run.why, run.exit_code = end["state"], end["why"], end["exit_code"]
        run.ended = end.get("ended") or time.time()
        session.runs.pop(run.id, None)
        run.log.close()

    def tell(self, run: JournaledRun, message: dict[str, Any]) -> None:
        """Say something to the client that asked for a run."""
        if run.client in self.clients:
            self.clients[run.client].channel.post(message)

    def _trim(self) -> None:
        """Forget the oldest ended runs, and the values of all but the newest ends."""
        while len(self.runs) > _KEPT_RUNS:
            oldest = next((run for run in self.runs.values() if run.log.closed), None)
            if oldest is None:
                break
            del self.runs[oldest.id]
            oldest.log.remove()
        kept = 0
        for run in reversed(self.runs.values()):
            if run.end is not None:
                kept += sum(len(buffer) for buffer in run.end["buffers"])
                if kept > _KEPT_ENDS:
                    run.end = None

    # Readers

    def read(self, client: ConnectedClient, run: JournaledRun, after: int) -> None:
        """Give a client the messages after a number, those to come, and the end."""
        if run.id in client.readers:
            client.readers[run.id].cancel()
        client.readers[run.id] = self.spawn(self._follow(client, run, after))

    async def _follow(self, client: ConnectedClient, run: JournaledRun, after: int) -> None:
        """Give one client what it has not had yet, at its own pace."""
        while True:
            await run.log.grown(after)
            if run.log.count <= after:
                break
            first = after + 1
            after, lines = run.log.read(after, _BATCH)
            client.channel.post(
                {"op": "messages", "run": run.id, "first": first, "last": after, "lines": lines}
            )
            await client.channel.light()
        end = run.end or {"content": b"", "buffers": []}
        client.channel.post({"op": "end", "run": run.id, **run.facts(), **end})
        client.readers.pop(run.id, None)
