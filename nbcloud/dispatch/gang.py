"""``--workers N``: the session of a cell that runs on several workers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbcloud.dispatch.options import CellOptions
from nbcloud.errors import UsageError
from nbcloud.wording import counted

if TYPE_CHECKING:
    from nbcloud.sessions.client.session import Session


def session_name(own: str, options: CellOptions) -> str:
    """The name of the session of a cell, whose notebook's own is ``own``."""
    return options.session or (gang_name(own) if options.workers else own)


def gang_name(own: str) -> str:
    """What a notebook's gang is called; of whatever size, so that it never holds two by mistake."""
    return f"{own}-workers"


def check_workers(session: Session, options: CellOptions) -> None:
    """Refuse to run a cell on another number of workers than its session has.

    Raises
    ------
    UsageError
        With both numbers.
    """
    asked = options.workers or 0
    if session.workers == asked:
        return
    anew = f"end it first: %cloud reset {session.name}"
    if not session.workers:
        raise UsageError(
            f"--workers {asked}: the session {session.name!r} is one kernel.",
            f"Name another (-s NAME), or {anew}",
        )
    has = counted(session.workers, "worker")
    if not asked:
        raise UsageError(
            f"The session {session.name!r} has {has}, and the cell asks for none.",
            f"To run on all of them: --workers {session.workers}",
        )
    raise UsageError(
        f"--workers {asked}: the session {session.name!r} has {has}.",
        f"Ask for {session.workers}, name another (-s NAME), or {anew}",
    )
