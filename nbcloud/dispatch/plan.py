"""What a cell would send, and where: ``%%cloud --dry-run``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbcloud.cells.analysis import analyze
from nbcloud.cells.ledger import Ledger
from nbcloud.clusters import registry
from nbcloud.config import settings
from nbcloud.dispatch.gang import session_name
from nbcloud.dispatch.notebook import Notebook
from nbcloud.dispatch.options import CellOptions
from nbcloud.sessions.client.inputs import Inputs


@dataclass(frozen=True)
class Plan:
    """The plan of one cell.

    Attributes
    ----------
    where : str
        Cluster and session, in words.
    inputs : list of dict
        ``name``, ``kind``, ``bytes`` to travel, ``why``.
    """

    where: str
    inputs: list[dict[str, Any]]


def plan(notebook: Notebook, code: str, options: CellOptions) -> Plan:
    """Work out a cell's inputs without sending or starting anything."""
    cell = analyze(code)
    session = (
        None if options.fresh else notebook.sessions.find(session_name(notebook.identity.session, options))
    )
    if session is not None:
        inputs, remote = session.inputs, session.names
    else:
        hidden = getattr(notebook.shell, "user_ns_hidden", {})
        inputs, remote = Inputs(notebook.namespace, Ledger(notebook.namespace), hidden), set()
    choice = inputs.choose(cell.reads | set(options.inputs))
    rows = [{**record, "why": _why(record)} for record in choice.records()]
    rows += [
        {"name": name, "kind": "refused", "bytes": 0, "why": str(error)}
        for name, error in choice.refused.items()
    ]
    only_there = sorted((cell.reads & remote) - choice.names)
    rows += [{"name": name, "kind": "value", "bytes": 0, "why": "is there"} for name in only_there]
    return Plan(_where(notebook, options, session is not None), rows)


def _why(record: dict[str, Any]) -> str:
    if record["kind"] == "value":
        return "new or changed: travels" if record["bytes"] else "is there, unchanged"
    return "imported there" if record["kind"] == "module" else "is there, used in place"


def _where(notebook: Notebook, options: CellOptions, is_open: bool) -> str:
    cluster = options.cluster or settings().cluster
    up = (
        ""
        if any(cluster in {info.name, info.address} for info in registry.entries())
        else " (not up: it would be started)"
    )
    name = (
        "a one-off session"
        if options.fresh
        else f"session {session_name(notebook.identity.session, options)!r}"
    )
    new = "" if is_open or options.fresh else " (new)"
    return f"{name}{new} on cluster {cluster!r}{up}"
