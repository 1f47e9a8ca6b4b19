"""The members of a sweep run, as many at once as the cluster has room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from jupyter_core.utils import ensure_event_loop

from nbcloud.dispatch.links import Room, connect
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import RunCancelled, RunError, RunPruned, RunTimeout, UsageError
from nbcloud.runs.filters import parse
from nbcloud.workflows.notebook.outcome import Stage
from nbcloud.workflows.notebook.run import run_notebook
from nbcloud.workflows.notebook.stopping import Stopping
from nbcloud.workflows.sweep.folder import Member, Sweep
from nbcloud.workflows.sweep.search import Given, Search

_TICK = 0.5
_LOOK = 2.0
"""Seconds between two looks at what those that run have logged."""
_MOST = 1000
"""Members that one process can attend to at once."""
_STOPPED = "The sweep was stopped."


@dataclass
class Limits:
    """What ends members, or the sweep.

    Attributes
    ----------
    parallel : int, optional
        How many are begun at once; by default as many as the cluster has threads, and one that waits.
    retries : int
        How often a member that fails is tried again.
    member_timeout : float, optional
        Seconds that a member may take from when it has its session, all its tries together.
    until : str
        A filter, as of ``nbcloud runs``: the rest is stopped when a member that is done meets it.
    """

    parallel: int | None = None
    retries: int = 0
    member_timeout: float | None = None
    until: str = ""

    def __post_init__(self) -> None:
        for name, least in {"parallel": 1, "retries": 0}.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise UsageError(f"{name} can't be {value!r}: it must be at least {least}.")
        if self.member_timeout is not None and not isinstance(self.member_timeout, int | float):
            raise UsageError(f"member_timeout can't be {self.member_timeout!r}: it is a number of seconds.")
        if not isinstance(self.until, str):
            raise UsageError(f"until can't be {self.until!r}: it is a text like 'metrics.loss < 0.1'.")
        if self.until:
            parse(self.until)


@dataclass
class _Running:
    member: Member
    stopping: Stopping = field(default_factory=Stopping)


class Runner:
    """Runs what is left of a sweep; one member that fails does not stop the others.

    Parameters
    ----------
    sweep : Sweep
    search : Search, optional
        Chooses members behind those that the sweep has.
    limits : Limits
    again : bool
        Run those again that have failed.
    changed : callable
        Is called when a member was begun or has ended, with this.
    **options
        Those of `run_notebook`.
    """

    def __init__(
        self,
        sweep: Sweep,
        *,
        search: Search | None = None,
        limits: Limits | None = None,
        again: bool = False,
        changed: Callable[[Runner], None] = lambda _: None,
        **options: Any,
    ) -> None:
        self.sweep = sweep
        self.running: list[Member] = []
        self.ended: list[Member] = []
        self.met = ""
        """The member that met the condition at which the rest was stopped, in a sentence."""
        self._search = search or Given()
        self._limits = limits or Limits()
        self._changed = changed
        self._options = options
        self._left = sweep.left(again=again)
        self._under_way: dict[Future[None], _Running] = {}
        self._looked = 0.0

    def run(self) -> None:
        """Run them all.

        Raises
        ------
        KeyboardInterrupt
            After all that runs was stopped; the sweep can be gone on with.
        NbcloudError
            When a member could not be begun: so it would be with all.
        """
        left = {member.number for member in self._left}
        for member in self.sweep.members:
            if member.number not in left:
                self._search.tell(member, member.outcome)
                self.met = self.met or self._meets(member)
        following = None if self.met else self._next()
        if following is None:
            return
        room = Room(connect(self._options.get("cluster")))
        with ThreadPoolExecutor(_MOST, thread_name_prefix="nbcloud-sweep") as pool:
            try:
                while following is not None or self._under_way:
                    if following is not None:
                        self._begin(pool, following)
                    else:
                        self._wait()
                    # One more waits, all prepared, for whoever ends first to leave its place on the cluster.
                    most = self._limits.parallel or min(_MOST, room.count() + 1)
                    wanted = not self.met and len(self._under_way) < most
                    following = self._next() if wanted else None
            finally:
                self._stop_all()
                pool.shutdown(cancel_futures=True)

    def _next(self) -> Member | None:
        """The member that is to run next."""
        if self._left:
            return self._left.pop(0)
        parameters = self._search.ask(len(self.sweep.members))
        return None if parameters is None else self.sweep.add(parameters)

    def _begin(self, pool: ThreadPoolExecutor, member: Member) -> None:
        running = _Running(member)
        self._under_way[pool.submit(self._work, running)] = running
        self.running.append(member)
        self._changed(self)

    def _wait(self) -> None:
        """Wait a moment, and see to those that have ended and those that should."""
        done, _ = wait(self._under_way, timeout=_TICK, return_when=FIRST_COMPLETED)
        for future in done:
            member = self._under_way.pop(future).member
            self.running.remove(member)
            future.result()
            self.ended.append(member)
            self._search.tell(member, member.outcome)
            self._changed(self)
            self.met = self.met or self._meets(member)
        now = time.monotonic()
        look = now - self._looked > _LOOK
        self._looked = now if look else self._looked
        for running in self._under_way.values():
            self._see_to(running, look=look)

    def _see_to(self, running: _Running, *, look: bool) -> None:
        """Stop a member that should not go on."""
        limit, since = self._limits.member_timeout, running.stopping.since
        if self.met:
            running.stopping.stop(RunCancelled(_STOPPED))
        elif running.stopping.why is not None:
            running.stopping.stop(running.stopping.why)
        elif limit and since is not None and time.monotonic() - since > limit:
            running.stopping.stop(RunTimeout(f"It took longer than {limit:g} s."))
        elif look and (why := self._search.hopeless(running.member)):
            running.stopping.stop(RunPruned(f"It was given up: {why}."))

    def _meets(self, member: Member) -> str:
        """Whether a member ended so that the rest is not wanted any more."""
        end = member.outcome
        if not self._limits.until or end.stage is not Stage.DONE:
            return ""
        with open_store() as store:
            found = store.search(filter=f"{self._limits.until} and attributes.id = '{end.run}'", limit=1)
        if found:
            self.sweep.keep_options(until=None)  # who goes on now wants the rest
        return f"Member {member.number} has {self._limits.until}." if found else ""

    def _stop_all(self) -> None:
        """Stop what still runs, and wait for it."""
        while self._under_way:
            for future, running in self._under_way.items():
                if not future.cancel():
                    running.stopping.stop(RunCancelled(_STOPPED))
            done, _ = wait(self._under_way, timeout=_TICK)
            for future in done:
                del self._under_way[future]

    def _work(self, running: _Running) -> None:
        """Run a member in a thread of its own."""
        try:
            self._try(running)
        finally:
            ensure_event_loop().close()  # nbclient's, of this thread

    def _try(self, running: _Running) -> None:
        """Run a member; what it raises is in its file, and one that has failed may run again."""
        member = running.member
        tags = {"sweep": str(self.sweep.directory.absolute()), "member": str(member.number)}
        options: Mapping[str, Any] = {**self._options, "tags": {**self._options.get("tags", {}), **tags}}
        for _ in range(self._limits.retries + 1):
            try:
                running.stopping.check()
                run_notebook(
                    str(self.sweep.source),
                    str(member.output),
                    member.parameters,
                    resume=True,  # of a member that was lost, what is behind its checkpoint
                    progress_bar=False,
                    stopping=running.stopping,
                    **options,
                )
            except RunError:
                if running.stopping.why is not None:
                    return
            else:
                return
