"""Tab behind ``%cloud`` and ``%%cloud``: commands, flags; names of clusters, sessions, runs and variables."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from nbcloud.commands.cell import cell_parser

if TYPE_CHECKING:
    from nbcloud.jupyter.magics import CloudMagics

_RUN_VERBS = {"logs", "attach", "cancel"}
_CLUSTER_FLAGS = {"-c", "--cluster"}
_SESSION_FLAGS = {"-s", "--session"}
_NAME_FLAGS = {"-i", "--in", "-o", "--out"}


def complete(magics: CloudMagics, event: Any) -> list[str]:
    """What may come next on the line.

    Parameters
    ----------
    magics : CloudMagics
    event : namespace
        IPython's: ``line`` and ``symbol``, the word under the cursor.
    """
    line = event.line.lstrip()
    words = line.split()
    if not line.endswith(" "):
        words = words[:-1]
    begun = line.split()[-1] if line and not line.endswith(" ") else ""
    offered = _cell(magics, words[1:], begun) if line.startswith("%%") else _line(magics, words[1:], begun)
    fitting = [word for word in offered if word.startswith(begun)]
    # IPython replaces only the part of the word behind its last delimiter.
    cut = len(begun) - len(event.symbol) if begun.endswith(event.symbol) else 0
    return [word[cut:] for word in fitting]


def _cell(magics: CloudMagics, words: list[str], begun: str) -> list[str]:
    last = words[-1] if words else ""
    if last in _CLUSTER_FLAGS:
        return _clusters()
    if last in _SESSION_FLAGS:
        return _sessions(magics)
    if last in _NAME_FLAGS:
        listed, comma, _ = begun.rpartition(",")
        return [f"{listed}{comma}{name}" for name in _names(magics, remote=last in {"-o", "--out"})]
    return cell_parser().flags()


def _line(magics: CloudMagics, words: list[str], begun: str) -> list[str]:
    verbs = magics.lines.parsers
    if not words:
        return [*verbs, "--help"]
    if begun.startswith("-"):
        return verbs[words[0]].flags() if words[0] in verbs else []
    if words[-1] in _CLUSTER_FLAGS or words[0] in {"up", "down", "status"}:
        return _clusters()
    if words[-1] in _SESSION_FLAGS:
        return _sessions(magics)
    if words[0] in _RUN_VERBS:
        return _runs()
    if words[0] in {"pull", "push"}:
        return _names(magics, remote=words[0] == "pull")
    return []


def _clusters() -> list[str]:
    from nbcloud.clusters import registry

    return [info.name for info in registry.entries()]


def _sessions(magics: CloudMagics) -> list[str]:
    found: set[str] = set()
    # Completion never starts anything, and never fails.
    with contextlib.suppress(Exception):
        for session in magics.runner.notebook.open_sessions():
            found |= {facts["name"] for facts in session.link.ask("sessions", timeout=1)}
    return sorted(found)


def _runs() -> list[str]:
    from nbcloud.dispatch.recorder import open_store

    with open_store() as store:
        return [run.id for run in store.search(limit=30)]


def _names(magics: CloudMagics, *, remote: bool) -> list[str]:
    shell = magics.shell
    names = {name for name in shell.user_ns if not name.startswith("_") and name not in shell.user_ns_hidden}
    if remote:
        for session in magics.runner.notebook.open_sessions():
            names |= session.names
    return sorted(names)
