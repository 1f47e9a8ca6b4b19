"""``%%cloud --sweep``: its members, read from texts, and the table of what they came to."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from typing import Any

from nbcloud.dispatch.members import CellSweep, Member
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.runs.record import Run
from nbcloud.wording import raised_text
from nbcloud.workflows.distributions import Distribution
from nbcloud.workflows.parameters import grid, values_of
from nbcloud.workflows.sweep.table import Ended


def members_of(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of what the parameters may be.

    Parameters
    ----------
    texts : sequence of str
        As ``nbcloud sweep -g`` takes them: ``lr=0.1,0.01``, ``seed=0:4``.

    Raises
    ------
    UsageError
        When a text is no list of values.
    """
    domains: dict[str, Sequence[Any]] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or not rest:
            raise UsageError(
                f"--sweep {text!r} is no list of values.", "Write for example: --sweep lr=0.1,0.01"
            )
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError(f"--sweep {text}: {name!r} is not the name of a variable.")
        if name in domains:
            raise UsageError(f"--sweep {name} is given twice.", f"Write all values in one: {name}=1,2,3")
        _, values = values_of({}, text, loose=True)
        if isinstance(values, Distribution):
            raise UsageError(
                f"--sweep {name}={values} has no end of values.",
                f"Write some: {name}=0.1,0.01; to draw them or search among them: nbcloud sweep NOTEBOOK",
            )
        domains[name] = values
    members = grid(domains)
    if not members:
        raise UsageError("The sweep has no member.", "Write for example: --sweep seed=0:4")
    return members


def ended_members(sweep: CellSweep) -> list[Ended]:
    """What the members of a sweep came to, from their records."""
    with open_store() as store:
        runs = {each.run.id: store.get(each.run.id) for each in sweep.members if each.run is not None}
    return [_ended(each, runs) for each in sweep.members]


def _ended(member: Member, runs: dict[str, Run]) -> Ended:
    run = runs.get(member.run.id) if member.run is not None else None
    seconds = run.seconds if run is not None else None
    return Ended(
        member.number,
        member.parameters,
        member.state,
        seconds,
        error_of(member),
        run.id if run is not None else "",
    )


def error_of(member: Member) -> str:
    """Why a member is not done, in one line; empty where it is."""
    if member.run is None or not member.ended:
        return ""
    error = member.run.error
    text = raised_text(error["ename"], error["evalue"]) if error else ""
    return (text or member.run.message).partition("\n")[0]
