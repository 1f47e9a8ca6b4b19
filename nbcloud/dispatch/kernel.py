"""A session that runs notebooks from a file: code goes in, all of its messages come out.

Nothing of the caller's namespace travels, and nothing comes home but outputs: what ``%%cloud`` adds to a
kernel is not wanted here, and a cell fails as it would in any kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jupyter_client.session import Session as JupyterSession

from nbcloud import secret_values
from nbcloud.cells.analysis import CellNames, analyze
from nbcloud.clusters.base import Progress, silent
from nbcloud.config import settings
from nbcloud.dispatch.identity import Identity
from nbcloud.dispatch.options import CellOptions
from nbcloud.dispatch.recorder import Recorder
from nbcloud.dispatch.run import CloudRun
from nbcloud.dispatch.sessions import Sessions
from nbcloud.runs.record import Run

if TYPE_CHECKING:
    from nbcloud.sessions.client.session import Session


class CloudKernel:
    """A kernel on a cluster, from its first cell to its end.

    Parameters
    ----------
    name : str
        Of its session.
    options : CellOptions
        Cluster and resources.
    recorder : Recorder
        Is given what its cells say.
    path : str
        The notebook's, for those who list sessions.
    folder : str, optional
        Where its first cell runs, if that is there; the folder of this process otherwise.
    """

    def __init__(
        self,
        name: str,
        options: CellOptions,
        recorder: Recorder,
        path: str = "",
        folder: str | None = None,
    ) -> None:
        self._folder = folder
        self._options = replace(options, session=name)
        self._recorder = recorder
        self.notes: list[str] = []
        """Sentences for the user, such as on versions that differ."""
        self._sessions = Sessions(
            Identity(path, name, lasting=True), {}, None, moment=int, tell=self.notes.append
        )
        self.session: Session | None = None
        self.seed: int | None = None
        """By which its random numbers begin at its first cell."""
        self._latest: CloudRun | None = None
        self._header = JupyterSession().msg_header("execute_request")

    def reopen(self) -> bool:
        """Go on with the session that an earlier process left; whether there is one."""
        self.session = self._sessions.reopen(cluster=self._options.cluster)
        return self.session is not None

    def start(self, progress: Progress = silent) -> None:
        """Open a session; one that an earlier process left under its name is ended before."""
        if self.reopen():
            assert self.session is not None
            self._sessions.reset(self.session)
        self.session = self._sessions.of_cell(self._options, progress)

    def execute(self, code: str, count: int) -> CloudRun:
        """Send one cell.

        Parameters
        ----------
        code : str
        count : int
            Its execution count.

        Returns
        -------
        CloudRun
            Its id is what the kernel's messages name as their parent.
        """
        from nbcloud.sessions.client.session import Limits, Parcel
        from nbcloud.sessions.messages import execute_frames

        session = self.session
        assert session is not None
        found = analyze(code)
        run = self._follow(session, Run(session=session.name))
        request, buffers = session.request(
            run.id,
            CellNames(imports=found.imports),
            Parcel(),
            count=count,
            out=(),
            auto=False,
            limits=Limits(settings().home_limit, settings().out_limit),
            secret_values=secret_values.known(found.secrets),
        )
        if count > 1:  # where a cell went, the next one is, as in any kernel
            request["cwd"] = None
        elif self._folder is not None:
            request["cwd"] = self._folder
        if count == 1 and self.seed is not None:
            request["seed"] = self.seed
        run.sent += 1
        session.link.run(
            session.worker,
            after=self._recorder.wake,
            run=run.id,
            session=session.id,
            timeout=None,
            **execute_frames(code, request, buffers, {**self._header, "msg_id": run.id}),
        )
        return run

    def runs(self) -> list[str]:
        """The ids of all that the session has run, the first one first."""
        session = self.session
        assert session is not None
        return sorted(each["id"] for each in session.link.ask("runs") if each["session"] == session.id)

    def attach(self, run_id: str) -> CloudRun:
        """A run that an earlier process sent, from its first message on."""
        session = self.session
        assert session is not None
        run = self._follow(session, Run(id=run_id, session=session.name))
        session.link.ask("read", run=run.id, after=0)
        return run

    def _follow(self, session: Session, record: Run) -> CloudRun:
        """A run of the session, whose messages are heard from now on."""
        run = self._latest = CloudRun(session.link, record, self._recorder, whole=True)
        run.session = session
        session.link.listen(run.id, run.listen)
        return run

    def cancel(self) -> None:
        """Stop the cell that runs; may be called from any thread."""
        if self._latest is not None and not self._latest.done():
            self._latest.cancel()

    def withdraw(self) -> None:
        """Stop the cell that runs; nothing of it comes any more."""
        if self._latest is not None and not self._latest.done():
            self._latest.withdraw()

    def close(self) -> None:
        """End the session."""
        if self.session is not None and not self.session.lost:
            self._sessions.reset(self.session, "its notebook has ended")
