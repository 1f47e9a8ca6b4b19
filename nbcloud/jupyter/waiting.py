"""What a run waits for that does not begin: another run of its session."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future
from typing import Any

from nbcloud.commands.notices import notice
from nbcloud.dispatch.run import CloudRun
from nbcloud.errors import NbcloudError
from nbcloud.runs.record import RunState

_PATIENCE = 2.0


class Turn:
    """Tells, once, whose end a run waits for.

    Parameters
    ----------
    run : CloudRun
        Just sent.
    session : nbcloud.sessions.client.session.Session
        Its session.
    """

    def __init__(self, run: CloudRun, session: Any) -> None:
        self._run = run
        self._session = session
        self._due = time.monotonic() + _PATIENCE
        self._asked: Future[Any] | None = None
        self._over = False

    def look(self) -> None:
        """Ask when it is time, and tell when the answer is there; to be called again and again."""
        if self._over or time.monotonic() < self._due:
            return
        if self._run.state is not RunState.QUEUED:
            self._over = True
        elif self._asked is None:
            with contextlib.suppress(NbcloudError):  # a cluster that is lost tells the run itself
                self._asked = self._run.link.ask_soon("sessions")
        elif self._asked.done():
            self._over = True
            if self._asked.exception() is None:
                self._tell(self._asked.result())

    def _tell(self, sessions: list[dict[str, Any]]) -> None:
        active = next((facts["active"] for facts in sessions if facts["id"] == self._session.id), "")
        if active and active != self._run.id:
            notice(f"Waiting for run {active} in this session; to end it: %cloud cancel {active}")
