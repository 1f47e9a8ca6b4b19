"""Sessions and runs, and what happens to them: the journal's state and every change of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from nbcloud.sessions.members import ConnectedClient, ConnectedHost, JournaledRun, LiveSession
from nbcloud.sessions.placement import Placement
from nbcloud.sessions.runlog import FINISHED, STARTED, RunLog

_BATCH = 2**19
_KEPT_RUNS = 1000
_KEPT_ENDS = 2**26

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
        self.hosts: dict[str, ConnectedHost] = {}
        """By the worker's address."""
        self.clients: dict[str, ConnectedClient] = {}
        self.sessions: dict[str, LiveSession] = {}
        """By id."""
        self.runs: OrderedDict[str, JournaledRun] = OrderedDict()
        self.asks: dict[str, tuple[ConnectedClient, str]] = {}
        """Questions to sessions: who asked, and which session."""
        self.last_active = time.time()
        self._directory = directory
        self._memory = memory
        self._spawn = spawn

    @property
    def busy(self) -> bool:
        """Whether a run is on or waits."""
        return any(session.active or session.queue for session in self.sessions.values())

    # Sessions

    def start(self, session: LiveSession, memory: int | None, silent: set[str]) -> None:
        """Let Dask find a place for a new session, not on workers that are silent."""
        self.sessions[session.id] = session
        taken = [other.host.worker for other in self.sessions.values() if other.host]
        self._spawn(self._place(session, memory, taken, silent))

    async def _place(
        self, session: LiveSession, memory: int | None, taken: list[str], silent: set[str]
    ) -> None:
        try:
            async for phase in self.placement.place(session.id, session.resources, memory, taken, silent):
                for client, ask in session.waiting:
                    client.channel.post({"op": "phase", "ask": ask, "text": phase})
                if session.state != "starting":
                    return
        except Exception as error:  # noqa: BLE001 - whatever Dask says is the answer
            self.lose(session, f"it could not be started: {error}", None)

    def close_session(self, session: LiveSession, why: str) -> None:
        """End a session on purpose, and what it runs."""
        if session.host:
            session.host.channel.post({"op": "close", "session": session.id})
        self.lose(session, why, None)

    def ready(self, session: LiveSession, host: ConnectedHost, message: dict[str, Any]) -> None:
        """A session has its kernel."""
        session.state, session.host, session.kernel_pid = "ready", host, message["kernel_pid"]
        for client, ask in session.waiting:
            client.channel.post({"op": "answer", "ask": ask, "answer": session.facts()})
        session.waiting.clear()
        self._next(session)

    def keep(self, session: LiveSession, items: list[Any]) -> None:
        """Number messages: those of a run in its journal, the others in the session's."""
        of_run: dict[str | None, list[Any]] = {}
        for run_id, when, kind, content, metadata, buffers, parent in items:
            item = (when, kind, content, metadata, buffers, b"" if run_id in self.runs else parent)
            of_run.setdefault(run_id if run_id in self.runs else None, []).append(item)
        for run_id, kept in of_run.items():
            if run_id is not None:
                self.runs[run_id].log.extend(kept)
                continue
            start = session.log.count
            session.log.extend(kept)
            _, lines = session.log.read(start, 2**30)
            for identity in session.clients:
                if identity in self.clients:
                    self.clients[identity].channel.post(
                        {"op": "outside", "session": session.id, "lines": lines}
                    )

    def finished(self, session: LiveSession, message: dict[str, Any]) -> None:
        """A kernel is done with a run, or lacks values for it."""
        run = session.active
        if run is None or run.id != message["run"]:
            return
        if message["state"] == "missing":
            if run.client in self.clients:  # it sends the run again, with what was missing; others wait
                run.incomplete = True
                self.tell(run, {"op": "missing", "run": run.id, "content": message["content"]})
            else:
                self.give_up(session, run)
            return
        session.active = None
        if message["content"]:
            names = json.loads(message["content"]).get("names", {})
            session.names.difference_update(names.get("removed", ()))
            session.names.update(names.get("added", ()))
        run.end = {"content": message["content"], "buffers": message["buffers"]}
        self._end(run, message["state"], message["why"], message["exit_code"])
        if session.ephemeral and not session.queue:
            if session.host:
                session.host.channel.post({"op": "close", "session": session.id})
            return
        self._next(session)

    def lose(self, session: LiveSession, why: str, code: int | None) -> None:
        """A session is gone for whatever reason; its runs end, its name is free."""
        if self.sessions.pop(session.id, None) is None:
            return
        session.state, session.why = "lost", why
        if session.active is not None:
            run, session.active = session.active, None
            self._end(run, "lost", why, code)
        for run in list(session.queue):
            self.withdraw(session, run, "lost", f"its session was lost before it began: {why}")
        for client, ask in session.waiting:
            client.channel.post(
                {"op": "answer", "ask": ask, "error": f"The session {session.name!r}: {why}."}
            )
        for ask in [ask for ask, (_, asked) in self.asks.items() if asked == session.id]:
            client, _ = self.asks.pop(ask)
            client.channel.post(
                {"op": "answer", "ask": ask, "error": f"The session {session.name!r}: {why}."}
            )
        for identity in session.clients:
            if identity in self.clients:
                self.clients[identity].channel.post({"op": "session_lost", "session": session.id, "why": why})
        self.placement.release(session.id)

    # Runs

    def add_run(self, client: ConnectedClient, session: LiveSession, message: dict[str, Any]) -> None:
        """Queue a run; its messages go to the client from the first on."""
        session.clients.add(client.id)
        run = self.runs.get(message["run"])
        if run is None:
            log = RunLog(self._directory / f"{message['run']}.jsonl", self._memory)
            run = JournaledRun(message["run"], session.id, message, log, time.time(), client.id)
            self.runs[run.id] = run
            self.read(client, run, 0)
            session.queue.append(run)
        elif session.active is run:  # the same run again, with the values that its session had lost
            run.request, session.active = message, None
            session.queue.appendleft(run)
        self._next(session)
        self._trim()

    def _next(self, session: LiveSession) -> None:
        """Give the session its next run."""
        self.last_active = time.time()
        if (
            session.state != "ready"
            or session.active is not None
            or not session.queue
            or session.host is None
        ):
            return
        run = session.active = session.queue.popleft()
        run.state, run.incomplete = "running", False
        where = {
            "worker": session.host.worker,
            "host": session.host.facts["host"],
            "kernel_pid": session.kernel_pid,
        }
        if run.log.count == 0:
            run.log.append(STARTED, json.dumps({"session": session.id, **where}).encode())
        session.host.channel.post({"op": "execute", **run.request})
        run.request = {}

    def give_up(self, session: LiveSession, run: JournaledRun) -> None:
        """Nobody is there to send what a run lacks."""
        session.active = None
        self._end(run, "lost", "its session lacked values, and its notebook is gone", None)
        self._next(session)

    def withdraw(self, session: LiveSession, run: JournaledRun, state: str, why: str) -> None:
        """End a run that waits in its session's queue."""
        session.queue.remove(run)
        self._end(run, state, why, None)

    def _end(self, run: JournaledRun, state: str, why: str, exit_code: int | None) -> None:
        self.last_active = time.time()
        run.state, run.why, run.exit_code = state, why, exit_code
        dropped = {"dropped": run.log.dropped, "journal": run.log.failure} if run.log.dropped else {}
        content = {"state": state, "why": why, "exit_code": exit_code, **dropped}
        run.log.append(FINISHED, json.dumps(content).encode())
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
        client.readers[run.id] = self._spawn(self._follow(client, run, after))

    async def _follow(self, client: ConnectedClient, run: JournaledRun, after: int) -> None:
        """Give one client what it has not had yet, at its own pace."""
        while True:
            await run.log.grown(after)
            if run.log.count <= after:
                break
            after, lines = run.log.read(after, _BATCH)
            client.channel.post({"op": "messages", "run": run.id, "last": after, "lines": lines})
            await client.channel.light()
        end = run.end or {"content": b"", "buffers": []}
        client.channel.post({"op": "end", "run": run.id, **run.facts(), **end})
        client.readers.pop(run.id, None)
