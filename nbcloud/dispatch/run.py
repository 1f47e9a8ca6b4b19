"""A run as its asker holds it: what it says, how it ends, and how to stop it."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.dispatch.feed import TICK, Event, Feed
from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.errors import (
    NbcloudError,
    RemoteError,
    RunCancelled,
    RunLost,
    RunTimeout,
    SessionError,
    UsageError,
)
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.tracked import Tracked
from nbcloud.sessions.runlog import DROPPED, STARTED, UNBEGUN
from nbcloud.wording import raised_text

if TYPE_CHECKING:
    from nbcloud.sessions.client.link import Link

CANCELLED: dict[str, Any] = {"state": "cancelled", "why": "it was cancelled"}


class CloudRun:
    """One run on a cluster, shaped like a future.

    Parameters
    ----------
    link : Link
    run : Run
        Its record at the start.
    recorder : Recorder
    recorded : int
        Number of the last message that is on record already.
    whole : bool
        Whoever takes its messages is given all text, however far behind.
    """

    def __init__(
        self, link: Link, run: Run, recorder: Recorder, *, recorded: int = 0, whole: bool = False
    ) -> None:
        self.link = link
        self.session: Any = None
        self.record = run
        self.id = run.id
        self.state = run.state
        self.message = ""
        self.error: dict[str, Any] | None = None
        self._recorder = recorder
        self._feed = Feed(run.id, recorder, recorded, self._note, whole=whole)
        self._started = 0.0
        self._ended = threading.Event()
        self._end: dict[str, Any] = {}
        self.sent = 0
        """How many times its request was sent; again, when its session lacked values."""
        self.unbegun = False
        """Whether it ended, for certain, before anything of it ran anywhere."""
        self.refused: dict[str, Exception] = {}
        """Names that the cell may have meant and that could not travel."""
        self.again: Callable[[list[str]], None] = lambda _hashes: None
        self.collect: Callable[[], dict[str, Any]] = dict
        self._values: dict[str, Any] | None = None
        self.on_end: Callable[[CloudRun], None] | None = None
        self.on_missing: Callable[[list[str]], None] | None = None

    # The link's thread

    def listen(self, message: dict[str, Any]) -> None:
        """One message of the journal about this run."""
        match message["op"]:
            # What would leave a gap comes from the journal in its turn: it may be straight from the host, or
            # meant for another reader of this process, who is further on.
            case "messages" if message["first"] <= self._feed.last + 1:
                self._feed.add(message["last"], message["lines"])
            case "end" if message.get("last", 0) <= self._feed.last:
                self._finish(message)
            case "missing":
                hashes = json.loads(message["content"])["missing"]
                if self.on_missing is not None:
                    threading.Thread(target=self.on_missing, args=(hashes,), daemon=True).start()
                else:
                    self._feed.say(("missing", hashes))
            case "silent":
                self._feed.say(("silent", message))
            case "reconnected" | "detached" | "ended" if not self._ended.is_set():
                asked = self.link.ask_soon("read", run=self.id, after=self._feed.last)
                asked.add_done_callback(lambda answered: self._read_on(answered, message.get("why", "")))
            case "cluster_lost" if message["gone"]:
                self._finish(_lost(message["why"]))
            case "cluster_lost":
                self._lose_sight(message["why"])

    def _read_on(self, asked: Future[Any], why: str) -> None:
        error = asked.exception()
        if isinstance(error, SessionError):
            said = str(error).rstrip(".")
            self._finish(_lost(why or said[:1].lower() + said[1:]))  # it stands in the middle of a sentence

    def _lose_sight(self, why: str) -> None:
        """Its cluster is out of reach, and may go on with it: its record stays open, to be completed."""
        if self._ended.is_set():
            return
        self.state, self.message = RunState.LOST, f"{why}; it may still be going (%cloud attach {self.id})"
        self._recorder.change(self.id, extra={**self.record.extra, "client": ""})
        self._ended.set()
        self._feed.say(("end", None))

    def _note(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == STARTED:
            self.state = RunState.RUNNING
            self._started = message["time"]
            where = {"worker": content["worker"], "host": content["host"], "session": self.record.session}
            resources = {**self.record.resources, **content.get("resources", {})}
            self._recorder.change(
                self.id, state=RunState.RUNNING, started=message["time"], resources=resources, **where
            )
        elif kind == "error":
            self.error = {key: content[key] for key in ("ename", "evalue", "traceback")}
        elif kind == DROPPED:
            self.message = (
                f"the journal had to drop messages {content['first']} to {content['last']}: {content['why']}"
            )

    def _finish(self, message: dict[str, Any]) -> None:
        if self._ended.is_set():
            return
        self._end = message
        self.link.forget(self.id, self.listen)
        self.state = RunState(message["state"])
        why = message["why"]
        if self._feed.last:  # what it said came straight from its host, and the journal had not heard of it
            why = why.removeprefix(UNBEGUN)
        self.message = why or self.message
        if message.get("refused") and not self._feed.last:
            why = message["why"]
            if self.session is not None:
                why = self.session.lost = self.session.lost or why
            self.message = f"{UNBEGUN}{why}"
            self.unbegun = bool(message.get("by_journal")) and self.sent == 1
        if message.get("session_over") and self.session is not None:
            self.session.lost = self.session.lost or message["why"]  # the journal will say so, a moment later
            self.session.over = True
        content = json.loads(message["content"]) if message["content"] else {}
        if content.get("status") == "cached":
            self.message = f"skipped: the same code and inputs as run {content['of']}"
        names = content.get("names", {})
        usage = content.get("usage", {}) | ({"usage": message["usage"]} if message.get("usage") else {})
        ended = message.get("ended") or time.time()  # of one that nobody listened to, long ago
        if price := self.record.extra.get("price"):
            usage["cost"] = price * max(0.0, ended - (self._started or ended)) / 3600
        if content.get("status") == "ok":
            self.error = None  # the cell showed it, and went on
        elif self.error is None and content.get("status") in {"error", "refused"}:
            self.error = {"ename": content["ename"], "evalue": content["evalue"], "traceback": []}
        results = [
            {
                "name": name,
                "kind": entry["kind"],
                "bytes": entry.get("nbytes") or 0,
                "type": _type(entry, name),
            }
            for entry in names.get("results", ())
            for name in entry["names"]
        ]
        self._recorder.change(
            self.id,
            state=self.state,
            finished=ended,
            error={key: self.error[key] for key in ("ename", "evalue")} if self.error else None,
            message=self.message,
            results=results,
            used=usage,
            exit_info={"code": message["exit_code"]} if message["exit_code"] is not None else None,
        )
        self._ended.set()
        self._feed.say(("end", None))
        if self.on_end is not None:
            self.on_end(self)

    # The asker's thread

    def take(self, patience: float = math.inf) -> tuple[list[dict[str, Any]], Event | None]:
        """What has come, for the one who shows it: messages, and the event behind them.

        Waits for ``patience`` seconds, and a second at most.
        """
        return self._feed.take(patience)

    def leave(self) -> None:
        """Tell the one who shows it to stop; the run goes on."""
        self._feed.say(("left", None))

    @property
    def end(self) -> tuple[dict[str, Any], list[Any]]:
        """What the kernel said at the end: JSON and buffers; empty when it could say nothing."""
        content = self._end.get("content")
        return (json.loads(content), list(self._end["buffers"])) if content else ({}, [])

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it has come."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(
            TICK if deadline is None else max(0.0, min(TICK, deadline - time.monotonic()))
        ):
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in it."""
        self.link.post("interrupt", run=self.id, ask="")

    def kill(self, session: str) -> None:
        """End its kernel."""
        why = "its kernel was ended by a second interrupt"
        self.link.post("kill", session=session, state="cancelled", why=why, ask="")

    def cancel(self) -> None:
        """Stop it for sure: interrupted, and killed if it goes on."""
        self.link.post("stop", run=self.id, **CANCELLED, ask="")

    def withdraw(self) -> None:
        """End it while it is being sent; whatever of it arrives is stopped."""
        self.cancel()
        self._finish({**CANCELLED, "exit_code": None, "content": b"", "buffers": []})

    def running(self) -> bool:
        """Whether it runs at this moment."""
        return self.state is RunState.RUNNING

    def cancelled(self) -> bool:
        """Whether it ended because it was cancelled."""
        return self.state is RunState.CANCELLED

    def exception(self, timeout: float | None = None) -> NbcloudError | None:
        """Wait for the end; the error that it ended with, or None."""
        if not self.wait(timeout):
            raise TimeoutError(f"Run {self.id} is still {self.state}.")
        return failure(self)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end; the value of its ``-o`` name, or a dict of them when there are several.

        Raises
        ------
        RunError
            When it did not end well.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        values = self.values()
        return next(iter(values.values())) if len(values) == 1 else (values or None)

    def values(self) -> dict[str, Any]:
        """The values of its ``-o`` names, which are bound in the notebook with this; it must have ended."""
        if self._values is None:
            self._values = self.collect()
        return self._values

    def __getitem__(self, name: str) -> Any:
        """The value of one of its ``-o`` names; waits for the end."""
        self.result()
        values = self.values()
        if name not in values:
            raise UsageError(f"Run {self.id} has no result {name!r}; it has: {', '.join(values) or 'none'}.")
        return values[name]

    def text(self) -> str:
        """All that it has printed up to now, from the record."""
        self._recorder.flush()
        with open_store() as store:
            return store.text(self.id)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """Its outputs up to now, as nbformat."""
        self._recorder.flush()
        with open_store() as store:
            return store.outputs(self.id)

    @property
    def metrics(self) -> dict[str, float]:
        """The latest value of each metric that it has logged up to now."""
        return self._tracked().metrics

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that it has logged up to now."""
        return self._tracked().params

    @property
    def artifacts(self) -> dict[str, Path]:
        """The files that it has logged up to now; they must not be changed."""
        names = self._tracked().artifacts
        with open_store() as store:
            return {name: store.artifact(self.id, name) for name in names}

    @property
    def records(self) -> dict[str, Any]:
        """The values that it has recorded up to now; of what was only displayed, its data by MIME type."""
        kept = self._tracked().records
        return {name: each["value"] if "value" in each else each["data"] for name, each in kept.items()}

    def _tracked(self) -> Tracked:
        self._recorder.flush()
        with open_store() as store:
            return store.tracked([self.id])[self.id]

    def __repr__(self) -> str:
        name = f" {self.record.name!r}" if self.record.name else ""
        why = f": {self.message}" if self.message else ""
        return f"<run {self.id}{name} on {self.link.info.name!r}, {self.state}{why}>"

    def _ipython_display_(self) -> None:
        # With an id, so that whoever follows the run can keep what is shown up to date.
        from IPython.display import display

        display({"text/plain": repr(self)}, raw=True, display_id=self.display_id)

    @property
    def display_id(self) -> str:
        """Id of all displays of this run."""
        return f"nbcloud-run-{self.id}"


def _lost(why: str) -> dict[str, Any]:
    """The end of a run of which nobody can tell more."""
    return {"state": "lost", "why": why, "exit_code": None, "content": b"", "buffers": []}


def _type(entry: dict[str, Any], name: str) -> str:
    return str(entry.get("types", {}).get(name) or entry.get("type") or entry["kind"])


def failure(run: CloudRun) -> NbcloudError | None:
    """The error that a run ended with, or None."""
    where = {"run": run.id}
    match run.state:
        case RunState.DONE:
            return None
        case RunState.FAILED:
            error = run.error or {"ename": "Error", "evalue": "", "traceback": []}
            return RemoteError(raised_text(error["ename"], error["evalue"]), **error, **where)
        case RunState.CANCELLED:
            return RunCancelled(f"Run {run.id} was stopped: {run.message}.", **where)
        case RunState.TIMEOUT:
            return RunTimeout(f"Run {run.id} was stopped: {run.message}.", **where)
        case _:
            return RunLost(
                f"Run {run.id} was lost: {run.message}.",
                "What it printed is kept; the values of its session are gone.",
                **where,
            )
