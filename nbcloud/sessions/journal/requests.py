"""What clients ask of the journal, one method for each operation."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from nbcloud.sessions.journal.gang import Gangs, gang_members
from nbcloud.sessions.journal.members import ConnectedClient, JournaledRun, LiveSession
from nbcloud.sessions.journal.table import WITHDRAWN, Table


class Requests:
    """Answers clients.

    Parameters
    ----------
    table : Table
    gangs : Gangs
    silent_workers : callable
        Workers that do not answer at this moment.
    """

    def __init__(self, table: Table, gangs: Gangs, silent_workers: Callable[[], set[str]]) -> None:
        self._table = table
        self._gangs = gangs
        self._silent_workers = silent_workers

    def receive(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """One message of a client."""
        operation, ask = message.pop("op"), message.get("ask", "")
        try:
            handler = getattr(self, f"_on_{operation}", None)
            if handler is None:
                raise LookupError(f"This cluster's nbcloud does not know {operation!r}.")
            handler(client, message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked must not wait for ever
            known = isinstance(error, LookupError | ValueError)
            text = str(error).strip("'") if known else repr(error)
            client.channel.post({"op": "answer", "ask": ask, "error": text})

    def _answer(self, client: ConnectedClient, message: dict[str, Any], answer: Any) -> None:
        client.channel.post({"op": "answer", "ask": message["ask"], "answer": answer})

    def _session(self, identity: str) -> LiveSession:
        if identity not in self._table.sessions:
            raise LookupError("The session is gone.")
        return self._table.sessions[identity]

    def _run(self, name: str) -> JournaledRun:
        if name not in self._table.runs:
            raise LookupError(f"There is no run {name!r} on this cluster.")
        return self._table.runs[name]

    def _on_open(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """Find a session or start it; answered when its kernel is there."""
        name = message["name"]
        session = next((session for session in self._table.sessions.values() if session.name == name), None)
        if session is not None and session.id in message["over"]:
            # Its host has told the client of its end already, and tells the journal in a moment.
            session.heirs[message["ask"]] = lambda: self._open_next(client, message)
            return
        if session is None:
            resources, size = message["resources"], message["workers"]
            if size and not resources:
                resources = self._table.placement.default_resources()
            refusal = self._table.placement.impossible(resources, max(1, size))
            if refusal:
                raise ValueError(refusal)
            session = LiveSession(
                f"{name}-{secrets.token_hex(4)}",
                name,
                message["notebook"],
                resources,
                time.time(),
                ephemeral=message["ephemeral"],
                lasting=message["lasting"],
                opened_by=message["ask"],
            )
            session.members = gang_members(session, size)
            self._table.start(session, message["memory"], self._silent_workers())
        session.clients.add(client.id)
        if session.state == "starting":
            session.waiting.append((client, message["ask"]))
        else:
            self._answer(client, message, session.facts())

    def _open_next(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        if client.id in self._table.clients:
            self.receive(client, {**message, "op": "open"})

    def _on_withdraw(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """Whoever asked to open a session wants it no more."""
        asked = message["ask"]
        for session in list(self._table.sessions.values()):
            session.heirs.pop(asked, None)
            if (client, asked) in session.waiting:
                self._table.wait_no_more(session, client, asked)
            # Its kernel came while the withdrawal was on its way, and nobody has used it.
            elif session.opened_by == asked and session.clients <= {client.id} and not session.was_used:
                self._table.close_session(session, WITHDRAWN)

    def _on_ping(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._answer(client, message, None)

    def _on_sessions(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._answer(client, message, [s.facts() for s in self._table.sessions.values() if not s.gang])

    def _on_runs(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._answer(client, message, [run.facts() for run in self._table.runs.values()])

    def _on_run(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """Pass a run on to its session; its messages go to the client from the first on."""
        session = self._of_run(client, message)
        if session is None or session.host is None:
            return
        known = message["run"] in self._table.runs
        run = self._table.announce(client.id, session, message["run"])
        if run.log.closed:  # it came by the shortcut, and its end is what its client does not know yet
            return
        run.missing = b""
        if session.members:
            self._gangs.run(session, run, {**message, "client": client.id})
            if not known:
                self._table.read(client, run, 0)
            return
        session.host.channel.post({**message, "op": "execute", "client": client.id})
        if not known:
            self._table.read(client, run, 0)

    def _on_announce(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """A run went straight to its session, and its client reads it there."""
        session = self._of_run(client, message)
        if session is not None:
            run = self._table.announce(client.id, session, message["run"])
            if message["anew"]:
                run.missing = b""

    def _of_run(self, client: ConnectedClient, message: dict[str, Any]) -> LiveSession | None:
        """The session of a run; when it was lost meanwhile, the client is told."""
        session = self._table.sessions.get(message["session"])
        if session is None or session.host is None:
            self._refuse(client, message)
            return None
        session.clients.add(client.id)
        return session

    def _on_read(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """Send a run's messages after a number, then those to come, then its end."""
        run = self._run(message["run"])
        self._answer(client, message, run.facts())
        self._table.read(client, run, message["after"])
        if run.missing and client.id == run.client:  # it was told by a connection that broke, perhaps
            self._table.tell(run, {"op": "missing", "run": run.id, "content": run.missing})

    def _on_interrupt(self, client: ConnectedClient, message: dict[str, Any]) -> None:  # noqa: ARG002
        self._to_host(message["run"], {"op": "interrupt"})

    def _on_stop(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """Stop a run for sure: it does not begin, or is interrupted and then killed."""
        self._to_host(message["run"], {"op": "stop", "state": message["state"], "why": message["why"]})
        if message.get("ask"):
            self._answer(client, message, self._run(message["run"]).facts())

    def _to_host(self, run_id: str, message: dict[str, Any]) -> None:
        run = self._run(run_id)
        session = self._table.sessions.get(run.session)
        if session is not None and session.members:
            self._gangs.stop(session, run, message)
        elif session is not None and session.host is not None:
            session.host.channel.post({**message, "session": session.id, "run": run.id})

    def _on_kill(self, client: ConnectedClient, message: dict[str, Any]) -> None:  # noqa: ARG002
        session = self._session(message["session"])
        why = {"state": message["state"], "why": message["why"]}
        if session.members:
            self._gangs.tell(session, {"op": "kill", **why})
        elif session.host:
            session.host.channel.post({"op": "kill", "session": session.id, **why})

    def _on_close(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        """End a session, and what it runs."""
        self._table.close_session(self._session(message["session"]), "it was reset")
        self._answer(client, message, None)

    def _on_comm(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._table.last_active = time.time()
        self._relay(client, message, "comm")

    def _relay(self, client: ConnectedClient, message: dict[str, Any], operation: str) -> None:
        session = self._session(message["session"])
        session.clients.add(client.id)
        if session.host is None or session.state != "ready":
            raise LookupError(f"The session {session.name!r} is not ready: {session.why or session.state}.")
        self._table.asks[message["ask"]] = client, session.id
        if session.members:
            self._gangs.relay(session, {"op": operation, **message})
            return
        session.host.channel.post({"op": operation, **message})

    def _on_call(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._relay(client, message, "call")

    def _on_blob_write(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._relay(client, message, "blob_write")

    def _on_blob_read(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._relay(client, message, "blob_read")

    def _on_blob_drop(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        self._relay(client, message, "blob_drop")

    def _refuse(self, client: ConnectedClient, message: dict[str, Any]) -> None:
        why = self._table.lost.get(message["session"], "the cluster does not know it any more")
        buffers: list[bytes] = []
        end = {
            "state": "lost",
            "why": why,
            "refused": True,
            "exit_code": None,
            "content": b"",
            "buffers": buffers,
        }
        client.channel.post({"op": "session_lost", "session": message["session"], "why": why})
        client.channel.post({"op": "end", "run": message["run"], **end})
