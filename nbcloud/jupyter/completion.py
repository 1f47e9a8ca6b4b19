"""Tab behind ``%cloud`` and ``%%cloud``: commands, flags; names of clusters, sessions, runs and variables."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from nbcloud.commands.cell import cell_parser
from nbcloud.errors import ConfigError

if TYPE_CHECKING:
    from nbcloud.jupyter.cell import CellRunner
    from nbcloud.jupyter.lines import LineCommands

_LINE = re.compile(r"\s*%%?cloud\s")
_RUN_VERBS = {"logs", "attach", "cancel"}
_GROUP_FLAGS = {"-g", "--group"}
_CLUSTER_FLAGS = {"-c", "--cluster"}
_SESSION_FLAGS = {"-s", "--session"}
_NAME_FLAGS = {"-i", "--in", "-o", "--out"}


class Magics(Protocol):
    """As much of the magics as their completion needs."""

    shell: Any

    @property
    def runner(self) -> CellRunner:
        """Runs cells."""

    @property
    def lines(self) -> LineCommands:
        """Runs commands."""


def matcher(magics: Magics) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """The completions of these magics for IPython; where they have any, there are no others."""

    @context_matcher(identifier="nbcloud", priority=1000)  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> SimpleMatcherResult:
        begun, fitting = "", list[str]()
        if _LINE.match(context.text_until_cursor):
            begun, fitting = complete(magics, context.text_until_cursor)
        completions = [SimpleCompletion(text=word, type="magic") for word in fitting]
        return SimpleMatcherResult(
            completions=completions, matched_fragment=begun, suppress=bool(completions), ordered=True
        )

    return match  # type: ignore[no-any-return]


def complete(magics: Magics, text: str) -> tuple[str, list[str]]:
    """What may come next on a line.

    Parameters
    ----------
    magics : Magics
    text : str
        The line up to the cursor.

    Returns
    -------
    str, list of str
        The word that is begun, and the words that it may become.
    """
    line = text.lstrip()
    words = line.split()
    begun = "" if line.endswith(" ") else words.pop()
    offered = _cell(magics, words[1:], begun) if line.startswith("%%") else _line(magics, words[1:], begun)
    return begun, [word for word in offered if word.startswith(begun)]


def _cell(magics: Magics, words: list[str], begun: str) -> list[str]:
    last = words[-1] if words else ""
    if last in _CLUSTER_FLAGS:
        return _clusters()
    if last in _SESSION_FLAGS:
        return _sessions(magics)
    if last in _NAME_FLAGS:
        listed, comma, _ = begun.rpartition(",")
        return [f"{listed}{comma}{name}" for name in _names(magics, remote=last in {"-o", "--out"})]
    return cell_parser().flags()


def _line(magics: Magics, words: list[str], begun: str) -> list[str]:
    verbs = magics.lines.parsers
    if not words:
        return [*verbs, "--help"]
    if begun.startswith("-"):
        return verbs[words[0]].flags() if words[0] in verbs else []
    if words[-1] in _GROUP_FLAGS:
        return _groups()
    if words[-1] in _CLUSTER_FLAGS or words[0] in {"up", "down", "status", "doctor", "sync", "cost"}:
        return _clusters()
    if words[-1] in _SESSION_FLAGS:
        return _sessions(magics)
    if words[0] in _RUN_VERBS:
        return _runs(magics)
    if words[0] in {"pull", "push"}:
        return _names(magics, remote=words[0] == "pull")
    return []


def _clusters() -> list[str]:
    from nbcloud.clusters import registry
    from nbcloud.config.profiles import profiles

    found = [info.name for info in registry.entries()]
    with contextlib.suppress(ConfigError):
        found += [name for name in profiles() if name not in found]
    return found


def _groups() -> list[str]:
    from nbcloud.clusters import registry

    return sorted({group for info in registry.entries() for group in info.options.get("groups", {})})


def _sessions(magics: Magics) -> list[str]:
    found: set[str] = set()
    # Completion never starts anything, and never fails.
    with contextlib.suppress(Exception):
        for session in magics.runner.notebook.open_sessions():
            found |= {facts["name"] for facts in session.link.ask("sessions", timeout=1)}
    return sorted(found)


def _runs(magics: Magics) -> list[str]:
    from nbcloud.dispatch.recorder import open_store

    with open_store() as store:
        recent = store.search(limit=30)
    found = [run.id for run in recent]
    # The newest may not be on record yet.
    own = [run for run in reversed(magics.runner.notebook.runs) if run not in found]
    named = dict.fromkeys(run.name for run in recent if run.name and not set(run.name) & set(" \t\"'\\"))
    return [*own, *found, *named]


def _names(magics: Magics, *, remote: bool) -> list[str]:
    shell = magics.shell
    names = {name for name in shell.user_ns if not name.startswith("_") and name not in shell.user_ns_hidden}
    if remote:
        for session in magics.runner.notebook.open_sessions():
            names |= session.names
    return sorted(names)
