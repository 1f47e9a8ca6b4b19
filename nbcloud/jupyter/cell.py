"""One ``%%cloud`` cell, from its text to its last output."""

from __future__ import annotations

import ast
import contextlib
import re
import threading
import time
from typing import Any

from IPython.display import display

from nbcloud.commands.answers import Answer
from nbcloud.commands.notices import nothing_shown, notice
from nbcloud.dispatch.notebook import Notebook, Undefined
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.plan import Plan, plan
from nbcloud.dispatch.recorder import open_store
from nbcloud.dispatch.run import CloudRun, failure
from nbcloud.errors import RemoteError, RunLost, RunNotFound, UsageError
from nbcloud.jupyter.comms import CommRelay
from nbcloud.jupyter.here import LocalRun
from nbcloud.jupyter.interrupts import Departure, Interrupts
from nbcloud.jupyter.output import CellOutput, LaterOutput, cell_error, show_errors_once
from nbcloud.jupyter.progress import Phases
from nbcloud.jupyter.sweeping import SweepRunner
from nbcloud.jupyter.waiting import Turn
from nbcloud.runs.record import Run, RunState
from nbcloud.wording import raised_text, size_text

_MISSING_NAME = re.compile(r"name '(\w+)' is not defined")
_SILENCE = 10.0
_GIVE_UP = 8.0


class CellRunner:
    """Runs the cells of one notebook.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.notebook = Notebook(shell.user_ns, shell)
        self.comms = CommRelay(shell)
        show_errors_once(shell)
        self.departure = Departure(shell)
        self.notebook.sessions.on_outside = self._outside
        self._overheard: dict[str, LaterOutput] = {}
        """By the session's id."""
        shell.events.register("pre_run_cell", self._collect)

    def _collect(self, cell: Any) -> None:
        """Whatever cell comes next may use what background runs have left."""
        self.notebook.local_cells += not str(cell.raw_cell).lstrip().startswith("%%cloud")
        self.notebook.collect()

    def _header(self) -> dict[str, Any] | None:
        kernel = getattr(self.shell, "kernel", None)
        parent = kernel.get_parent("shell") if kernel is not None else {}
        return dict(parent["header"]) if parent.get("header") else None

    def _cell_id(self) -> str:
        kernel = getattr(self.shell, "kernel", None)
        parent = kernel.get_parent("shell") if kernel is not None else {}
        return str((parent.get("metadata") or {}).get("cellId") or "")

    def run(self, code: str, options: CellOptions) -> Any:
        """Run a cell; returns the run when it is in the background, and of a sweep its table.

        Raises
        ------
        CellError
            What the cell raised.
        RunError
            When it was stopped or lost.
        """
        if options.sweep:
            sweeps = SweepRunner(self.shell, self.notebook, self.departure)
            try:
                return sweeps.run(code, options, self._cell_id())
            except Undefined as error:
                raise self._name_error(code, error) from None
        if options.dry_run:
            self._tell_plan(plan(self.notebook, code, options))
            return None
        if options.local:
            self.notebook.local_cells += 1
            LocalRun(self.shell, self.notebook).run(code, options, self._cell_id())
            return None
        for attempt in range(options.retries + 1):
            try:
                return self._run_once(code, options)
            except RemoteError as error:
                if attempt == options.retries or error.ename == "KeyboardInterrupt":
                    raise
                notice(f"{error.ename}: {error}. Trying again ({attempt + 1} of {options.retries}).")
        return None

    def _tell_plan(self, planned: Plan) -> None:
        rows = [
            [r["name"], r["kind"], size_text(r["bytes"]) if r["bytes"] else "", r["why"]]
            for r in planned.inputs
        ]
        total = size_text(sum(r["bytes"] for r in planned.inputs))
        display(Answer(f"To {planned.where}: {total}. Nothing was sent.", ["name", "kind", "size", ""], rows))

    def _run_once(self, code: str, options: CellOptions, *, again: bool = False) -> CloudRun | None:
        header = self._header()
        with Phases(self.shell, alone=True) as phases:
            run, session = self._submit(code, options, header, phases)
        for sentence in self.notebook.told():
            notice(sentence)
        if options.background:
            return run
        shown = CellOutput(self.shell, self.comms, session, run.id)
        interrupted = self._follow(run, session, shown)
        shown.close(raised=run.state is RunState.FAILED)
        if run.unbegun and not again and not interrupted:
            notice(f"Run {run.id} did not begin: {run.message}. The cell is sent once more.")
            return self._run_once(code, options, again=True)
        self._finish(run, session, options, shown)
        return None

    def _submit(
        self, code: str, options: CellOptions, header: dict[str, Any] | None, phases: Phases
    ) -> tuple[CloudRun, Any]:
        def prepare(run: CloudRun) -> None:
            phases.close()
            if options.background:
                follow = threading.Thread(target=self._follow_later, args=(run, header), daemon=True)
                follow.start()

        try:
            return self.notebook.submit(
                code,
                options,
                count=self.shell.displayhook.prompt_count,  # execution_count may be the next one already
                header=header,
                cell_id=self._cell_id(),
                progress=phases.tell,
                prepare=prepare,
            )
        except Undefined as error:
            raise self._name_error(code, error) from None

    def _name_error(self, code: str, error: Undefined) -> Exception:
        """The NameError that the cell would have raised, with its line, although nothing was sent."""
        filename = self.shell.compile.cache(code, self.shell.displayhook.prompt_count, raw_code=code)
        place = {"lineno": error.data["lineno"], "col_offset": error.data["column"]}
        place |= {
            "end_lineno": place["lineno"],
            "end_col_offset": place["col_offset"] + len(error.data["name"]),
        }
        name = ast.Name(error.data["name"], ast.Load(), **place)
        tree = ast.Module([ast.Expr(name, **place)], [])
        try:
            exec(compile(tree, filename, "exec"), {"__name__": "__main__"})  # noqa: S102 - one name that is not there
        except NameError as raised:
            raised.__suppress_context__ = True
            frame = raised.__traceback__.tb_next  # type: ignore[union-attr]
            text = self.shell.InteractiveTB.structured_traceback(NameError, raised, frame, tb_offset=0)
            return cell_error("NameError", str(raised), text)
        return error

    # In the foreground

    def _follow(self, run: CloudRun, session: Any, shown: CellOutput) -> bool:
        """Show what comes until the run ends; an interrupt stops the run, a second one its kernel.

        Returns
        -------
        bool
            Whether there was an interrupt.
        """
        warned = 0.0
        told = False
        turn = Turn(run, session)
        with Interrupts(run, session, self.departure) as interrupts:
            while True:
                messages, event = run.take(shown.patience)
                shown.publish(messages)
                match event:
                    case ("end", _):
                        return interrupts.any
                    case ("left", _):
                        raise KeyboardInterrupt("The notebook's kernel ends; the run goes on.")
                    case ("missing", hashes):
                        run.again(hashes)
                    case ("silent", facts) if not told:
                        notice(f"{_silent(facts)} Interrupt twice to end the run.")
                        told = True
                turn.look()
                silence = run.link.silence
                if silence > _SILENCE and silence > 6 * warned:
                    warned = silence
                    notice(
                        f"The scheduler of {run.link.info.name!r} has not answered for {silence:.0f} s; "
                        "still waiting. Interrupt twice to leave the run to itself."
                    )
                if interrupts.killed is not None and time.monotonic() - interrupts.killed > _GIVE_UP:
                    self.notebook.sessions.abandon(session)
                    shown.close()
                    raise RunLost(
                        f"The cluster does not answer; run {run.id} may still be going.",
                        f"When it is back: %cloud attach {run.id}",
                    )

    def _finish(self, run: CloudRun, session: Any, options: CellOptions, shown: CellOutput) -> None:
        end, buffers = run.end
        left = False
        for payload in end.get("payload", ()):
            left = left or payload.get("source") == "ask_exit"
            if (
                payload.get("source") != "ask_exit"
                and getattr(self.shell, "payload_manager", None) is not None
            ):
                self.shell.payload_manager.write_payload(payload)
        if end.get("status") == "cached":
            self._show_cached(run, end["of"])
        if end.get("trouble"):
            notice(end["trouble"])
        if "names" in end:
            report = session.receive(end["names"], buffers, run.id)
            self._tell_results(report, options, raised=run.state is not RunState.DONE)
        if left:
            self.notebook.sessions.reset(session, "it ended by exit()")
            notice(f"The session {session.name!r} ended by exit(); the next cell starts a new one.")
        error = failure(run)
        if error is None:
            return
        if run.state is RunState.FAILED:
            raise self._remote_error(run, end, shown=shown.error_shown and not run.message)
        raise error

    def _remote_error(self, run: CloudRun, end: dict[str, Any], *, shown: bool) -> Exception:
        error = run.error or {"ename": "Error", "evalue": "", "traceback": []}
        if end.get("status") == "refused":
            text = raised_text(error["ename"], error["evalue"])
            return cell_error(error["ename"], error["evalue"], ["The cell did not run: " + text])
        for name, why in run.refused.items():
            if error["ename"] == "NameError" and f"'{name}'" in error["evalue"]:
                notice(f"{name} is defined here, but could not travel: {why}")
        if error["ename"] == "NameError" and (found := _MISSING_NAME.match(error["evalue"])):
            name = found[1]
            known = {entry["name"] for entry in run.record.inputs} | run.refused.keys()
            if name in self.shell.user_ns and name not in known:
                notice(f"{name} is defined here, but the cell's text does not name it. To send it: -i {name}")
        return cell_error(error["ename"], error["evalue"], error["traceback"], shown=shown)

    def _tell_results(
        self, report: list[dict[str, Any]], options: CellOptions, *, raised: bool = False
    ) -> None:
        missing = [entry["name"] for entry in report if entry["kind"] == "missing"]
        if missing and not raised:  # else what it raised says more
            raise UsageError(
                f"-o {missing[0]}: the cell has run, and left no variable {missing[0]!r}.",
                "What it left: %cloud names",
            )
        for entry in report:
            if entry.get("changed"):
                notice(
                    f"{entry['name']} was changed there, and is too large to come home by itself "
                    f"({size_text(entry['bytes'])}): it is a handle now, and {entry['name']}.get() brings it."
                )
            elif entry["kind"] == "handle" and entry["name"] in options.outputs:
                name, why = entry["name"], entry.get("reason", "")
                can_travel = self.shell.user_ns[name].can_travel
                again = f" To bring it all the same: {name}.get()" if can_travel else ""
                size = size_text(entry["bytes"])
                notice(f"{name} ({entry['type']}, {size}) stays on the cluster. {why}{again}")

    def _show_cached(self, run: CloudRun, before: str) -> None:
        notice(f"The same code and inputs as run {before} (--cache): these are its outputs.")
        self.notebook.recorder.flush()
        with open_store() as store, contextlib.suppress(RunNotFound):
            self.show_outputs(run.record, store.outputs(before))

    # In the background

    def _follow_later(self, run: CloudRun, header: dict[str, Any] | None) -> None:
        """Let the run's outputs land in the cell that started it; in a thread of its own."""
        shown = LaterOutput(self.shell, self.comms, run.session, header, run.id)
        event = None
        state = run.state
        while event != ("end", None):
            messages, event = run.take(shown.patience)
            shown.publish(messages)
            if event is not None and event[0] == "silent":
                shown.notice(_silent(event[1]))
            if run.state is not state:
                state = run.state
                shown.update(run.display_id, repr(run))
        shown.close()
        error = failure(run)
        if error is not None and run.state is not RunState.FAILED:
            shown.notice(str(error))

    def _outside(self, session: Any, messages: list[dict[str, Any]]) -> None:
        """Messages that belong to no cell that runs: of widgets, and of threads of cells before."""
        if session.id not in self._overheard:
            self._overheard[session.id] = LaterOutput(self.shell, self.comms, session, None)
        for message in messages:
            self._overheard[session.id].overhear(message)

    # From the record

    def show_outputs(self, run: Run, outputs: list[dict[str, Any]]) -> None:
        """Show the outputs of a run as outputs of the cell that runs now."""
        shown = CellOutput(self.shell, self.comms, None, run.id)
        for output in outputs:
            content = dict(output)
            shown.publish([{"msg_type": content.pop("output_type"), "content": _joined(content)}])
        shown.close()

    def show_attached(self, run: CloudRun) -> None:
        """Show a run from its first message on; an interrupt stops watching, the run goes on."""
        shown = CellOutput(self.shell, self.comms, run.session, run.id)
        silent = True
        try:
            event = None
            while event != ("end", None):
                messages, event = run.take(shown.patience)
                shown.publish(messages)
                silent = silent and not messages
                if event is not None and event[0] == "silent":
                    notice(_silent(event[1]))
        except KeyboardInterrupt:
            run.link.forget(run.id, run.listen)
            shown.close()
            notice(f"No longer watching run {run.id}; it goes on. To stop it: %cloud cancel {run.id}")
            return
        shown.close()
        if run.message:
            notice(f"Run {run.id}: {run.message}.")
        elif silent:
            nothing_shown(run.id, run.state)

    def close(self) -> None:
        """End with the kernel."""
        self.shell.events.unregister("pre_run_cell", self._collect)
        self.notebook.close()


def _joined(content: dict[str, Any]) -> dict[str, Any]:
    text = content.get("text")
    return {**content, "text": "".join(text)} if isinstance(text, list) else content


def _silent(facts: dict[str, Any]) -> str:
    return f"The worker {facts['worker']} has not answered for {facts['seconds']:.0f} s; still waiting."
