"""The commands of ``%cloud``: those of the shell, and those that need a notebook."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer
from nbcloud.commands.export import add_export_options, export
from nbcloud.commands.notices import nothing_shown
from nbcloud.commands.parser import Parser
from nbcloud.commands.verbs import add_verbs
from nbcloud.dispatch.attach import attach, complete_records
from nbcloud.dispatch.endings import Ended, end_own, end_session
from nbcloud.dispatch.gang import gang_name
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import RunNotFound, SessionNotFound, UsageError
from nbcloud.jupyter.progress import Phases
from nbcloud.runs.record import Run
from nbcloud.wording import size_text

if TYPE_CHECKING:
    from nbcloud.dispatch.notebook import Notebook
    from nbcloud.jupyter.cell import CellRunner
    from nbcloud.sessions.client.session import Session


class LineCommands:
    """``%cloud`` in one notebook.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    runner : callable
        Returns the notebook's cell runner.
    """

    def __init__(self, shell: Any, runner: Callable[[], CellRunner]) -> None:
        self._shell = shell
        self._runner = runner
        self._parser = Parser(
            prog="%cloud", description="Clusters, sessions and runs. On top of a cell: %%cloud --help"
        )
        verbs = add_verbs(self._parser)
        self._add_notebook_verbs(verbs)
        self.parsers = self._parser.verbs()

    def _add_notebook_verbs(self, verbs: argparse._SubParsersAction[Parser]) -> None:
        def add(
            name: str, verb: Callable[[argparse.Namespace, Progress], Answer | None], text: str
        ) -> Parser:
            parser: Parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
            parser.set_defaults(function=verb)
            return parser

        parser = add("logs", self._logs, "show a run's outputs from its record, in this cell")
        parser.add_argument(
            "run",
            nargs="?",
            help="its id, the beginning of it, or its name; the notebook's latest by default",
        )
        parser = add("attach", self._attach, "show a run from its first message on, and go on live")
        parser.add_argument(
            "run",
            nargs="?",
            help="its id, the beginning of it, or its name; the notebook's latest by default",
        )
        parser = add("names", self._names, "list the variables of the notebook's session")
        parser.add_argument("-s", "--session", help="another session")
        parser.add_argument("--json", action="store_true", help="answer with JSON")
        for name, verb, text in (
            ("pull", self._pull, "bring variables of the session here"),
            ("push", self._push, "send variables of the notebook to the session"),
        ):
            parser = add(name, verb, text)
            parser.add_argument("names", nargs="+", metavar="NAME")
            parser.add_argument("-s", "--session", help="another session")
        parser = add("export", self._export, "export a model to ONNX, verified, into the registry")
        parser.add_argument("model", help="the variable that has it, or its handle")
        parser.add_argument("sample", help="a variable: a few rows of what it takes")
        parser.add_argument("name", help="the model's name in the registry")
        add_export_options(parser)
        parser = add("reset", self._reset, "end the notebook's session; its variables are gone")
        parser.add_argument(
            "name", nargs="?", metavar="SESSION", help="another session, any that %%cloud status shows"
        )
        parser.add_argument("-s", "--session", help="another session")
        parser.add_argument("-c", "--cluster", help="a session of this cluster")

    def run(self, line: str) -> Any:
        """Run one command; what it answers is displayed by the notebook."""
        arguments = self._parser.parse_line(line or "status")
        if arguments.verb is None:
            raise UsageError("%cloud needs a command.", f"There are: {', '.join(self.parsers)}.")
        self._runner().notebook.recorder.flush()  # what this notebook has seen is on record when it asks
        with Phases(self._shell, alone=False) as phases:
            answer = arguments.function(arguments, phases.tell)
            if answer is None:
                return None
            return answer.data if getattr(arguments, "json", False) else phases.answer(answer)

    def _session(self, name: str | None) -> Session:
        notebook = self._runner().notebook
        found = notebook.sessions.find(name) or notebook.sessions.reopen(name)
        if found is not None:
            return found
        if name is None:
            raise SessionNotFound("This notebook has no session yet.", "The first %%cloud cell starts one.")
        others = ", ".join(session.name for session in notebook.sessions.alive()) or "none"
        raise SessionNotFound(
            f"This notebook has no session {name!r}; open: {others}.", f"To start one: %%cloud -s {name}"
        )

    def _find(self, wanted: str | None) -> Run:
        self._runner().notebook.recorder.flush()  # the latest may have begun a moment ago
        with open_store() as store:
            if wanted:
                return store.get(wanted)
            path = self._runner().notebook.identity.path
            found = store.search(notebook=path, limit=1) if path else store.search(limit=1)
        if not found:
            raise RunNotFound("This notebook has no run on record.", "The first %%cloud cell makes one.")
        return found[0]

    def _logs(self, arguments: argparse.Namespace, progress: Progress) -> None:  # noqa: ARG002
        self._runner().notebook.recorder.flush()
        complete_records()
        run = self._find(arguments.run)
        with open_store() as store:
            outputs = store.outputs(run.id)
        if not outputs:
            nothing_shown(run.id, run.state)
        self._runner().show_outputs(run, outputs)

    def _attach(self, arguments: argparse.Namespace, progress: Progress) -> None:
        runner = self._runner()
        run = self._find(arguments.run)
        try:
            attached = attach(run.id, runner.notebook.recorder)
        except RunNotFound:
            self._logs(argparse.Namespace(run=run.id), progress)
            return
        runner.show_attached(attached)

    def _export(self, arguments: argparse.Namespace, progress: Progress) -> Answer:
        namespace = self._shell.user_ns
        for name in (arguments.model, arguments.sample):
            if name not in namespace:
                near = difflib.get_close_matches(name, [each for each in namespace if each[:1] != "_"], n=1)
                hint = f"Did you mean {near[0]}?" if near else "Give the names of variables of this notebook."
                raise UsageError(f"There is no variable {name!r} here.", hint)
        return export(namespace[arguments.model], namespace[arguments.sample], arguments, progress)

    def _names(self, arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG002
        listed = self._session(arguments.session).list_names()
        rows = [[n["name"], n["type"], n["text"], size_text(n["nbytes"])] for n in listed]
        return Answer(
            "" if rows else "The session has no variables.", ["name", "type", "shape", "size"], rows, listed
        )

    def _pull(self, arguments: argparse.Namespace, progress: Progress) -> Answer:
        progress("waiting for the session")
        session = self._session(arguments.session)
        report = session.pull(arguments.names, self._runner().notebook.limits())
        absent = [entry["name"] for entry in report if entry["kind"] == "missing"]
        if absent:
            raise UsageError(
                f"The session {session.name!r} has no variable {absent[0]!r}.", "See: %cloud names"
            )
        stay = [entry for entry in report if entry["kind"] == "handle"]
        if stay:
            return Answer(f"{stay[0]['name']} stays there: {stay[0]['reason']}", data=report)
        return Answer(f"Here now: {', '.join(arguments.names)}.", data=report)

    def _push(self, arguments: argparse.Namespace, progress: Progress) -> Answer:
        progress("waiting for the session")
        notebook = self._runner().notebook
        session = arguments.session and (
            notebook.sessions.find(arguments.session) or notebook.sessions.reopen(arguments.session)
        )
        session = session or notebook.sessions.of_cell(CellOptions(session=arguments.session), progress)
        parcel = session.push(arguments.names, notebook.limits())
        return Answer(f"There now: {', '.join(sorted(parcel.names))}.", data=parcel.records)

    def _reset(self, arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG002
        if arguments.name and arguments.session:
            raise UsageError(f"%cloud reset ends one session: {arguments.name!r} or {arguments.session!r}?")
        notebook = self._runner().notebook
        name = arguments.name or arguments.session
        if name:
            return Answer(_farewell(notebook, end_session(notebook, name, arguments.cluster)))
        ended = end_own(notebook, arguments.cluster)
        if len(ended) == 1:
            return Answer(_farewell(notebook, ended[0]))
        names = " and ".join(repr(each.name) for each in ended)
        return Answer(f"The sessions {names} have ended; the next cell starts new ones.")


def _farewell(notebook: Notebook, ended: Ended) -> str:
    if ended.state == "starting":
        return f"The session {ended.name!r} had not begun, and waits no more on {ended.cluster!r}."
    own = notebook.identity.session
    mine = ended.name in {own, gang_name(own)}
    rest = "; the next cell starts a new one" if mine else f" on the cluster {ended.cluster!r}"
    return f"The session {ended.name!r} has ended{rest}."
