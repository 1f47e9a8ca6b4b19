"""The store of runs: every run of this user, its code, its outputs and how it ended.

A run is begun, its messages are appended while it runs, and it is finished: its outputs then lie in
run.ipynb, which any Jupyter opens. The steps of finishing are in an order that makes each of them safe to
repeat, so a process that dies between two of them loses nothing: the end is put on record first (marked as
pending), then run.ipynb is written from the log of messages, then the log is removed, then the mark.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbcloud.config import private_dir
from nbcloud.errors import RunNotFound, StoreError, UsageError
from nbcloud.redact import Redactor
from nbcloud.runs.entries import logged_in, span
from nbcloud.runs.files import exclusive, explained
from nbcloud.runs.index import load, put, remove, runs_of
from nbcloud.runs.log import MessageLogs
from nbcloud.runs.masked import redact_lines, redact_run
from nbcloud.runs.record import IMPORTED, Run, RunState, id_number, new_run_id
from nbcloud.runs.records import Records
from nbcloud.runs.tracked import Placed, by_run, changed, keep

_SHARED = (
    "experiment",
    "notebook",
    "cell_id",
    "cluster",
    "cluster_id",
    "session",
    "host",
    "worker",
    "versions",
    "git",
)
"""What a nested run has from that in which it is nested."""
_CHECKPOINT_EVERY = 32  # finished runs; about 1,000 pages of WAL


class Store(Records):
    """Runs on record, in a directory of this user.

    Any number of processes and threads may use the same directory at once. Reading is inherited from
    ``Records``; the parameters are the same.
    """

    def __init__(self, directory: Path | None = None, redactor: Redactor | None = None) -> None:
        super().__init__(directory, redactor)
        self._logs = MessageLogs(self.directory)
        self._whole: dict[str, int] = {}
        """Up to which message all that a run's code logged has been put on record from here."""
        self._finished = 0

    def close(self) -> None:
        """Close all files; the next use opens them again."""
        self._logs.close()
        super().close()

    def begin(self, run: Run) -> Run:
        """Put a new run on record and open its log.

        Raises
        ------
        UsageError
            When a run of this id is on record already, or the run has ended already.
        StoreError
            When the store can't be written.
        """
        if run.state.ended:
            raise UsageError(
                f"Run {run.id} can't begin as {run.state}.", "Begin it as queued, then finish it."
            )
        run = redact_run(self.redactor, run)
        files = self.files(run.id)

        def insert(connection: sqlite3.Connection) -> None:
            if load(connection, run.id) is not None:
                raise UsageError(f"Run {run.id} is on record already.", "Begin a run with a new id.")
            with explained("Beginning a run's record", files.directory):
                files.create()
                files.write_document(run)
            put(connection, run, None)

        self._database.write(insert)
        return run

    def append(self, run_id: str, lines: bytes) -> None:
        """Append journal messages, as whole lines of JSON, to the log of a run that is not finished.

        When it returns, killing this process loses none of them.

        Raises
        ------
        UsageError
            When the run is finished.
        StoreError
            When they could not be written; then none of them was, and they may be given again.
        """
        lines = redact_lines(self.redactor, lines)
        self._logs.append(run_id, lines)
        self._track(run_id, logged_in(lines))
        first, last = span(lines)
        if first == self._whole.get(run_id, 0) + 1:
            self._whole[run_id] = last

    def last_number(self, run_id: str) -> int:
        """Number of the last message on record, after a torn last line was removed; 0 without any."""
        logged = self._last_logged(run_id)
        return self.get(run_id).messages if logged is None else logged

    def update(self, run_id: str, **changes: Any) -> Run:
        """Change fields of a run; a change to a state that is an end finishes it.

        Raises
        ------
        RunNotFound
            When it is not on record.
        UsageError
            For a field that doesn't exist or a state that can't follow the present one.
        """
        known = self.get(run_id)
        wanted = known.changed(**changes)
        if wanted.state.ended and wanted.state is not known.state:
            return self.finish(wanted)

        def change(connection: sqlite3.Connection) -> Run:
            before = load(connection, known.id)
            if before is None:
                raise self._not_found(known.id)
            run = redact_run(self.redactor, before.changed(**changes))
            self._write_run(connection, run, before)
            return run

        return self._database.write(change)

    def touch(self, run_id: str) -> None:
        """Have mirrors look at a run again, around which something has changed."""
        self._database.write(lambda connection: changed(connection, id_number(run_id)))

    def finish(self, run: Run) -> Run:
        """Put the end of a run on record and compose its outputs; safe to repeat at any time.

        Of a run that is lost, the log is kept: when its journal turns up, more may be appended, and the run
        finished once more. Any other end is final, and finishing again changes nothing.

        Parameters
        ----------
        run : Run
            As it is to be kept, with a state that is an end.

        Returns
        -------
        Run
            As it is on record.

        Raises
        ------
        StoreError
            When it could not be written. The log of messages is still there, and so is the end, if that much
            could be written; finish again, or ``tidy``, when there is room.
        """
        if not run.state.ended:
            raise UsageError(f"Run {run.id} is {run.state}, which is not an end.", "Use update instead.")
        logged = self._last_logged(run.id)
        run = redact_run(self.redactor, run if logged is None else run.changed(messages=logged))

        def end(connection: sqlite3.Connection) -> tuple[Run, bool]:
            before = load(connection, run.id)
            kept = run
            if before is not None:  # its code may have said what whoever ends it has not heard of
                kept = replace(run, tags={**run.tags, **before.tags}, experiment=before.experiment)
            if before is not None and before.state.ended and before.state is not RunState.LOST:
                pending = connection.execute(
                    "SELECT pending FROM runs WHERE number = ?", (id_number(run.id),)
                )
                return before, bool(pending.fetchone()[0])
            self._write_run(connection, kept, before, pending=True)
            return kept, True

        kept, pending = self._database.write(end)
        if pending:
            self._compose(kept)
            self._finished += 1
            if self._finished % _CHECKPOINT_EVERY == 0:
                self._database.checkpoint()
        return kept

    def tidy(self) -> None:
        """Complete what a process that died, or a full disk, left half done."""
        for run in runs_of(
            self._database.read("SELECT document FROM documents JOIN runs USING (number) WHERE pending")
        ):
            with contextlib.suppress(StoreError):
                self._compose(run, wait=0)
        shutil.rmtree(self.directory / "deleted", ignore_errors=True)

    def delete(self, run_id: str) -> list[str]:
        """Remove a run that has ended, with all its files, and with what is nested in it; returns their ids.

        Raises
        ------
        UsageError
            When it has not ended.
        """
        run = self.ended(run_id)
        # The nested ones first: what they logged is among the messages of the other.
        ids = [*reversed(self.parts(run.id)), run.id]
        for each in ids:
            self.remove(each)
        shutil.rmtree(self.directory / "deleted", ignore_errors=True)
        return ids

    def remove(self, run_id: str) -> None:
        """Remove one run, not what is nested in it; it may be begun anew."""
        self._logs.close(run_id)
        files = self.files(run_id)
        with explained("Deleting a run", files.directory), contextlib.suppress(FileNotFoundError):
            # Away in one step, so that a crash leaves no half of it to be taken for a record.
            files.directory.rename(private_dir(self.directory / "deleted") / new_run_id())
        self._database.write(lambda connection: remove(connection, run_id))

    def ended(self, wanted: str) -> Run:
        """A run that has ended, as far as it depends on what runs here.

        Raises
        ------
        UsageError
            When it has not.
        """
        run = self.get(wanted)
        if not run.state.ended and run.kind != IMPORTED:
            raise UsageError(f"Run {run.id} is {run.state}.", f"Cancel it first: %cloud cancel {run.id}")
        return run

    def unfinished(self) -> list[Run]:
        """Runs that are queued or running, the newest first."""
        self.tidy()
        states = (RunState.QUEUED, RunState.RUNNING)
        query = (
            "SELECT document FROM documents WHERE number IN (SELECT number FROM runs WHERE state IN (?, ?)) "
            "ORDER BY number DESC"
        )
        return runs_of(self._database.read(query, states))

    def _track(self, run_id: str, messages: list[dict[str, Any]]) -> None:
        """Put on record what code logged; each entry once, however often it comes."""
        if not messages:
            return
        self._keep_parts(messages)
        found = by_run(run_id, self.redactor.json([{**each, "buffers": []} for each in messages]))
        for part, entries in found.items():
            for _, (kind, *rest) in entries:
                if kind == "begin":
                    self._begin_part(run_id, part, rest[0])

        def change(connection: sqlite3.Connection) -> None:
            for part, entries in found.items():
                keep(connection, part, entries)
                self._keep_facts(connection, part, entries)

        self._database.write(change)
        for part, entries in found.items():
            for _, (kind, *rest) in entries:
                if kind == "end":
                    with contextlib.suppress(RunNotFound):
                        self.update(part, state=rest[0], finished=rest[1])

    def _keep_parts(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            for kind, digest, *rest in message["content"]["entries"]:
                if kind == "part":
                    data = base64.b64decode(message["buffers"][0])
                    self.artifacts.add_part(digest, rest[0], data)
                elif kind == "artifact":
                    self.artifacts.complete(rest[0]["hash"])

    def _begin_part(self, run_id: str, part: str, document: dict[str, Any]) -> None:
        with contextlib.suppress(UsageError):  # it is on record already
            whole = self.get(run_id)
            inherited = {name: getattr(whole, name) for name in _SHARED}
            run = Run(id=part, kind=document["kind"], parent=run_id, name=document["name"], **inherited)
            times = {"created": document["time"], "started": document["time"]}
            self.begin(replace(run, state=RunState.RUNNING, tags=document["tags"], **times))

    def _keep_facts(self, connection: sqlite3.Connection, run_id: str, entries: Placed) -> None:
        """What code said that stands in the run's document: tags, and the experiment."""
        tags = {key: str(value) for _, (kind, key, *rest) in entries if kind == "tag" for value in rest}
        moved = [name for _, (kind, name, *_) in entries if kind == "experiment"]
        before = load(connection, run_id) if tags or moved else None
        if before is not None:
            experiment = moved[-1] if moved else before.experiment
            run = before.changed(tags={**before.tags, **tags}, experiment=experiment)
            if run != before:
                self._write_run(connection, run, before)

    def _end_parts(self, run: Run) -> None:
        """End with a run the parts of it that could not say how they end."""
        parts = self._database.read(
            "SELECT id FROM runs WHERE parent = ? AND state IN (?, ?)",
            (run.id, RunState.QUEUED, RunState.RUNNING),
        )
        for (part,) in parts:
            why = run.message or f"run {run.id}, which it is a part of, ended before it"
            self.update(part, state=run.state, finished=run.finished, message=why)

    def _last_logged(self, run_id: str) -> int | None:
        if self.files(run_id).messages.exists():
            with contextlib.suppress(UsageError):  # another process finished it a moment ago
                return self._logs.last_number(run_id)
        return None

    def _write_run(
        self, connection: sqlite3.Connection, run: Run, before: Run | None, pending: bool | None = None
    ) -> None:
        files = self.files(run.id)
        with explained("Writing a run's record", files.document):
            files.write_document(run)
        put(connection, run, before, pending)

    def _compose(self, run: Run, wait: float = 60.0) -> None:
        """Write run.ipynb from the log, remove the log, take off the mark: what of it is still to do."""
        files = self.files(run.id)
        with explained("Writing a run's outputs", files.directory), exclusive(files.directory, wait) as held:
            if not held:
                return  # another process is at it
            if files.messages.exists() or not files.notebook.exists():
                files.create()
                lost = run.state is RunState.LOST
                with contextlib.nullcontext() if lost else self._logs.closing(run.id):
                    files.write_notebook(run, self._composed(files))
                    # Once more: who appended them may have died before they were in the database.
                    known = self._whole.pop(run.id, 0)
                    for message in files.read_logged(known):
                        self._track(run.id, [message])
                    files.keep_logged()
        self._end_parts(run)

        def done(connection: sqlite3.Connection) -> None:
            query = "UPDATE runs SET pending = 0 WHERE number = ? AND state = ?"
            if connection.execute(query, (id_number(run.id), run.state)).rowcount:
                changed(connection, id_number(run.id))  # its outputs are there now

        self._database.write(done)
