"""A ``%%cloud --sweep`` cell: a table that lives below it while its members run."""

from __future__ import annotations

import time
from typing import Any

from IPython.display import DisplayHandle, display

from nbcloud.commands.answers import Answer, duration
from nbcloud.commands.notices import notice
from nbcloud.dispatch.members import CellSweep, Member
from nbcloud.dispatch.notebook import Notebook
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import RunCancelled
from nbcloud.jupyter.interrupts import Departure, Interrupts
from nbcloud.jupyter.progress import Phases
from nbcloud.runs.record import RunState
from nbcloud.sessions.client.handles import Handle
from nbcloud.wording import counted, size_text
from nbcloud.workflows.sweep.cells import ended_members, error_of, members_of
from nbcloud.workflows.sweep.table import Table, summary

_TICK = 0.1
_ELAPSED = 1.0
_ROW_SECONDS = 0.004
"""Between two updates, for each row: a browser draws the whole table anew."""
_GIVE_UP = 8.0
_ERROR_CHARACTERS = 120


class SweepTable(Table):
    """The table of a sweep, which its cell shows already; the cell's value need not show it once more."""

    shown_by: Any = None
    """The shell, and the number of the cell."""

    def _ipython_display_(self) -> None:
        shell, cell = self.shown_by
        if shell.execution_count != cell:
            raise NotImplementedError  # IPython then shows it as any other object


class SweepRunner:
    """Runs the members of one cell, and shows how they go on.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    notebook : Notebook
    departure : Departure
    """

    def __init__(self, shell: Any, notebook: Notebook, departure: Departure) -> None:
        self._shell = shell
        self._notebook = notebook
        self._departure = departure

    def run(self, code: str, options: CellOptions, cell_id: str) -> SweepTable | None:
        """Run them all; a member that fails does not stop the others.

        Raises
        ------
        Undefined
            When the cell needs a name that nobody has; nothing was sent.
        RunCancelled
            When they were stopped.
        """
        count = self._shell.displayhook.prompt_count
        members = members_of(options.sweep)
        sweep = CellSweep(self._notebook, code, options, members, count=count, cell_id=cell_id)
        if options.dry_run:
            display(_plan(sweep))
            return None
        with Phases(self._shell, alone=True) as phases:
            sweep.begin(phases.tell)
        for sentence in self._notebook.told():
            notice(sentence)
        live = _LiveTable(sweep, self._shell)
        try:
            self._follow(sweep, live)
        finally:
            if not sweep.left:
                sweep.close()
                self._notebook.recorder.flush()
                table = SweepTable(sweep.record.name or "sweep", ended_members(sweep))
                table.shown_by = self._shell, self._shell.execution_count
                live.close(table)
        self._bind(sweep)
        if sweep.stopped:
            raise RunCancelled(
                f"Sweep {sweep.record.id} was stopped: {summary(table.counts())}.",
                f"What its members showed: %cloud logs RUN. All of them: "
                f"%cloud runs --filter \"parent = '{sweep.record.id}'\"",
            )
        return table

    def _follow(self, sweep: CellSweep, live: _LiveTable) -> None:
        with Interrupts(sweep, sweep.record, self._departure) as interrupts:
            while not sweep.over:
                sweep.step(_TICK)
                live.show()
                if sweep.left:
                    raise KeyboardInterrupt("The notebook's kernel ends; members that run go on.")
                if interrupts.killed is not None and time.monotonic() - interrupts.killed > _GIVE_UP:
                    return

    def _bind(self, sweep: CellSweep) -> None:
        """The lists of what members left."""
        values = sweep.values()
        self._notebook.namespace.update(values)
        for name, each in values.items():
            large = [value for value in each if isinstance(value, Handle)]
            if large:
                notice(
                    f"{name} of {counted(len(large), 'member')} was too large to come home "
                    f"({size_text(large[0].nbytes)}), and is gone with its session. Have the cell write it "
                    "to a file, or raise out_limit."
                )


class _LiveTable:
    """One row for each member, drawn anew when something has changed.

    In a terminal, where nothing that was drawn can be changed, once at the end.
    """

    def __init__(self, sweep: CellSweep, shell: Any) -> None:
        self._sweep = sweep
        self._names = list(sweep.members[0].parameters)
        self._handle = DisplayHandle() if getattr(shell, "kernel", None) is not None else None
        self._drawn = 0.0
        self._states: list[str] = []
        self._began: dict[int, float] = {}
        self._lasted: dict[int, float] = {}
        self._metrics: dict[int, dict[str, float]] = {}
        if self._handle is not None:
            self._handle.display(self._answer()._repr_mimebundle_(), raw=True)

    def show(self) -> None:
        """Draw it, when it is time."""
        now = time.monotonic()
        states = [each.state for each in self._sweep.members]
        wait = (_TICK if states != self._states else _ELAPSED) + _ROW_SECONDS * len(states)
        if self._handle is None or now - self._drawn < wait:
            return
        self._look(now)
        self._states, self._drawn = states, now
        self._handle.update(self._answer()._repr_mimebundle_(), raw=True)

    def _look(self, now: float) -> None:
        """What is new of members that run, or have ended a moment ago."""
        new: dict[str, int] = {}
        for member in self._sweep.members:
            number = member.number
            if member.state == RunState.RUNNING:
                self._began.setdefault(number, now)
            if member.run is not None and number not in self._lasted:
                new[member.run.id] = number
                if member.ended and number in self._began:
                    self._lasted[number] = now - self._began[number]
        with open_store() as store:
            for run, tracked in store.tracked(new).items():
                self._metrics[new[run]] = tracked.metrics

    def _answer(self) -> Answer:
        now = time.monotonic()
        keys = sorted({key for each in self._metrics.values() for key in each})
        columns = ["member", *self._names, "state", "time", *keys, "error", "run"]
        rows = [self._row(member, keys, now) for member in self._sweep.members]
        states = [each.state for each in self._sweep.members]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        return Answer(f"{counted(len(rows), 'member')}: {summary(counts)}", columns, rows)

    def _row(self, member: Member, keys: list[str], now: float) -> list[str]:
        number = member.number
        began = self._began.get(number)
        lasted = self._lasted.get(number, now - began if began is not None else None)
        logged = self._metrics.get(number, {})
        told = [_text(logged[key]) if key in logged else "" for key in keys]
        swept = [_text(value) for value in member.parameters.values()]
        run = member.run.id if member.run is not None else ""
        return [str(number), *swept, member.state, duration(lasted), *told, _short(error_of(member)), run]

    def close(self, table: SweepTable) -> None:
        """Draw it for the last time, from the records."""
        columns = ["member", *self._names, "state", "time", *table.metrics, "error", "run"]
        rows = [
            [
                str(row["member"]),
                *(_text(row[name]) for name in self._names),
                row["state"],
                duration(row["seconds"]),
                *("" if row[key] is None else _text(row[key]) for key in table.metrics),
                _short(row["error"]),
                row["run"],
            ]
            for row in table.rows
        ]
        text = f"{counted(len(rows), 'member')}: {summary(table.counts())}. Sweep {self._sweep.record.id}"
        answer = Answer(text, columns, rows)
        if self._handle is not None:
            self._handle.update(answer._repr_mimebundle_(), raw=True)
        else:
            display(answer)


def _plan(sweep: CellSweep) -> Answer:
    """What ``--dry-run`` says: the members, and what each of them would be sent."""
    names = list(sweep.members[0].parameters)
    rows = [
        [str(each.number), *(_text(value) for value in each.parameters.values())] for each in sweep.members
    ]
    total = size_text(sum(record["bytes"] for record in sweep.inputs))
    inputs = ", ".join(record["name"] for record in sweep.inputs) or "nothing"
    text = f"To each member: {inputs} ({total}). Nothing was sent."
    return Answer(f"{counted(len(rows), 'member')}. {text}", ["member", *names], rows)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _ERROR_CHARACTERS else f"{text[: _ERROR_CHARACTERS - 1]}…"
