"""``%%cloud --sweep``: one cell over many sets of parameters, each a run in a session of its own."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import ChainMap, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbcloud.cells.analysis import analyze
from nbcloud.cells.ledger import Ledger
from nbcloud.clusters.base import Progress, silent
from nbcloud.dispatch.links import Room, connect
from nbcloud.dispatch.notebook import Notebook, refuse_stuck, refuse_undefined
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.run import CloudRun
from nbcloud.errors import UsageError
from nbcloud.runs import experiments
from nbcloud.runs.entries import plain
from nbcloud.runs.owners import process_mark
from nbcloud.runs.record import Run, RunState

if TYPE_CHECKING:
    from nbcloud.sessions.client.inputs import Choice
    from nbcloud.sessions.client.link import Link
    from nbcloud.sessions.client.session import Session

_STOPPED = "the sweep was stopped"


@dataclass
class Member:
    """One set of parameters, and what has become of it.

    Attributes
    ----------
    number : int
    parameters : dict
    run : CloudRun or None
        The latest one: there are several when it was tried again.
    names : dict
        What its cell has left that was asked for.
    state : str
        That of a run, or ``"waiting"`` or ``"starting"`` before there is one.
    """

    number: int
    parameters: dict[str, Any]
    run: CloudRun | None = None
    names: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    tries: int = 0
    ask: str = ""
    """What the question for its session is known by, while that is open."""
    session: Session | None = None
    stopped: bool = False

    @property
    def state(self) -> str:
        """See the class."""
        if self.run is not None:
            return str(self.run.state)
        if self.stopped:
            return str(RunState.CANCELLED)
        return "starting" if self.ask else "waiting"


class CellSweep:
    """The members of one cell's sweep, run as many at once as the cluster has threads.

    To be driven by the thread that runs the notebook's cells.

    Parameters
    ----------
    notebook : Notebook
    code : str
    options : CellOptions
        Timeout, retries, resources and tags count for each member.
    parameters : sequence of dict
        Of each member.
    count : int
        The cell's number in the notebook.
    cell_id : str

    Raises
    ------
    Undefined, NotPicklable, TransferError, UsageError
        When no member could run; nothing was begun.
    """

    def __init__(
        self,
        notebook: Notebook,
        code: str,
        options: CellOptions,
        parameters: Sequence[dict[str, Any]],
        *,
        count: int = 1,
        cell_id: str = "",
    ) -> None:
        self.members = [Member(number, each) for number, each in enumerate(parameters)]
        self.record = Run(kind="sweep")
        self.stopped = False
        self.left = False
        """Whether the one who shows it is to stop, and what runs to go on."""
        self._notebook = notebook
        self._code = code
        # As one in the background: nothing comes home but what was asked for.
        self._options = replace(options, fresh=True, background=True)
        self._count = count
        self._cell_id = cell_id
        self._cell = analyze(code)
        self._choice = self._choose()
        self._waiting = deque(self.members)
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._room: Room
        self._link: Link

    def _choose(self) -> Choice:
        """The inputs of all members, packed once."""
        from nbcloud.sessions.client.inputs import Inputs
        from nbcloud.sessions.client.session import out_of_reach, undefined

        namespace, names = self._notebook.namespace, self.members[0].parameters
        refuse_undefined(undefined(self._cell, ChainMap(names, dict(namespace))))
        for name in self._options.inputs:
            if name not in namespace and name not in names:
                raise UsageError(f"-i {name}: the notebook has no variable {name!r}.")
        shared = {name: value for name, value in namespace.items() if name not in names}
        hidden = getattr(self._notebook.shell, "user_ns_hidden", {})
        choice = Inputs(shared, Ledger(shared), hidden).choose(self._cell.reads | {*self._options.inputs})
        for handle in choice.handles:
            raise out_of_reach(handle)
        required = {each.name for each in self._cell.required}
        refuse_stuck(choice.refused, required | {*self._options.inputs})
        used = {use for bundle in choice.bundles for use in bundle.payload.uses}
        for name in names:
            if name not in self._cell.reads | used | {*self._options.inputs}:
                raise self._unread(name)
        return choice

    def _unread(self, name: str) -> UsageError:
        if name in self._cell.binds:
            return UsageError(
                f"--sweep {name}: the cell binds {name!r} itself before it reads it.",
                "Take that out of the cell: the sweep binds it before.",
            )
        return UsageError(
            f"--sweep {name}: the cell does not read {name!r}.", f"To bind it all the same: -i {name}"
        )

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """What all members are sent, as for a run's record."""
        return self._choice.records()

    def begin(self, progress: Progress = silent) -> None:
        """Find the cluster, and put the sweep on record."""
        self._link = connect(self._options.cluster, progress=progress)
        self._room = Room(self._link)
        info, options = self._link.info, self._options
        swept = {name: [plain(each.parameters[name]) for each in self.members] for name in self._names}
        self.record = Run(
            kind="sweep",
            name=options.name,
            code=self._code,
            notebook=self._notebook.identity.path,
            cell_id=self._cell_id,
            execution_count=self._count,
            cluster=info.name,
            cluster_id=info.id,
            tags=options.tags,
            experiment=experiments.current(),
            extra={"client": process_mark(), "sweep": swept},
        )
        recorder = self._notebook.recorder
        recorder.begin(self.record, str(Path.cwd()))
        recorder.change(self.record.id, state=RunState.RUNNING, started=time.time())
        self._fill()

    @property
    def _names(self) -> list[str]:
        return list(self.members[0].parameters)

    def _fill(self) -> None:
        """Begin as many members as there is room for."""
        under_way = sum(bool(each.ask or each.run) and not each.ended for each in self.members)
        while self._waiting and under_way < self._room.count() and not self.stopped:
            self._open(self._waiting.popleft())
            under_way += 1

    def _open(self, member: Member) -> None:
        member.run, member.tries = None, member.tries + 1
        member.ask, asked = self._notebook.sessions.ask_one_off(self._link, self._options)
        asked.add_done_callback(lambda answered: self._events.put(lambda: self._send(member, answered)))

    # Driven

    @property
    def over(self) -> bool:
        """Whether no member is under way or waits."""
        return all(each.ended for each in self.members)

    def step(self, seconds: float) -> None:
        """Wait for something to happen, and see to it.

        Raises
        ------
        NbcloudError
            When a member could not be begun: so it would be with all.
        """
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=seconds)
            event()
        for member in self.members:
            if member.run is not None and not member.ended:
                self._look_at(member, member.run)
        self._fill()

    def _send(self, member: Member, answered: Future[dict[str, Any]]) -> None:
        if not member.ask:  # it was withdrawn
            return
        member.ask = ""
        if member.stopped:
            member.ended = True
            return
        notebook, options = self._notebook, self._options
        namespace = ChainMap(member.names, member.parameters, dict(notebook.namespace))
        member.session = session = notebook.sessions.one_off(self._link, answered.result(), namespace)
        bundles, _ = Ledger(member.parameters).bundles(member.parameters)
        names = self._choice.names | member.parameters.keys()
        parcel = session.parcel(replace(self._choice, names=names, bundles=[*self._choice.bundles, *bundles]))
        record = notebook.record(self._code, options, session, parcel, self._count, self._cell_id).changed(
            parent=self.record.id,
            name=f"{options.name}-{member.number}" if options.name else "",
            tags={**options.tags, "member": str(member.number)},
        )
        run = CloudRun(self._link, record, notebook.recorder)
        member.run, run.session = run, session
        run.on_end = lambda _ended: self._events.put(lambda: None)  # and wake the one who waits
        notebook.recorder.begin(record, str(Path.cwd()))
        session.link.listen(run.id, run.listen)
        notebook.runs[run.id] = run
        notebook.send(run, session, self._cell, parcel, self._code, options, self._count, None, self._names)

    def _look_at(self, member: Member, run: CloudRun) -> None:
        over = run.done()
        while run.take(0)[0]:  # what it shows is on record, and nobody looks at it here
            pass
        if over:
            self._end(member, run)

    def _end(self, member: Member, run: CloudRun) -> None:
        again = run.state is RunState.FAILED and member.tries <= self._options.retries
        interrupted = run.error is not None and run.error["ename"] == "KeyboardInterrupt"
        if not self.stopped and ((again and not interrupted) or (run.unbegun and member.tries == 1)):
            member.run = None
            self._waiting.appendleft(member)
            return
        member.ended = True
        end, buffers = run.end
        if "names" in end and member.session is not None:
            member.session.receive(end["names"], buffers, run.id)

    # Stopped, by any thread

    def interrupt(self) -> None:
        """Begin no more members, and cancel those that run."""
        self._events.put(self._interrupt)

    def kill(self, session: str = "") -> None:  # noqa: ARG002 - the interface of what is interrupted
        """End the kernels of the members that run."""
        self._events.put(self._kill)

    def leave(self) -> None:
        """Have it left alone; what runs goes on."""
        self.left = True

    def _interrupt(self) -> None:
        self.stopped = True
        for member in self.members:
            if member.run is not None and not member.ended:
                member.run.cancel()
            elif not member.ended:
                self._withdraw(member)

    def _kill(self) -> None:
        for member in self.members:
            if member.run is not None and not member.ended and member.session is not None:
                member.run.kill(member.session.id)

    def _withdraw(self, member: Member) -> None:
        ask, member.ask = member.ask, ""
        member.stopped = member.ended = True
        if ask:
            self._link.withdraw(ask)

    def close(self) -> None:
        """It is over: put that on record, and stop what still runs."""
        for member in self.members:
            if member.run is not None and not member.ended:
                member.run.withdraw()
                self.stopped = member.ended = True
            elif not member.ended:
                self._withdraw(member)
                self.stopped = True
        state, message = self._outcome()
        self._notebook.recorder.change(self.record.id, state=state, finished=time.time(), message=message)

    def _outcome(self) -> tuple[RunState, str]:
        if self.stopped:
            return RunState.CANCELLED, _STOPPED
        others = sum(each.state != RunState.DONE for each in self.members)
        if others:
            return RunState.FAILED, f"{others} of {len(self.members)} members are not done"
        return RunState.DONE, ""

    def values(self) -> Mapping[str, list[Any]]:
        """The values of the ``-o`` names, in the order of the members; None of one that has left none.

        Raises
        ------
        UsageError
            When a name was left by no member, though one is done.
        """
        found = {}
        for name in self._options.outputs:
            if not any(name in each.names for each in self.members) and any(
                each.state == RunState.DONE for each in self.members
            ):
                raise UsageError(f"-o {name}: the cell has run, and left no variable {name!r}.")
            found[name] = [each.names.get(name) for each in self.members]
        return found
