"""Tab behind ``%cloud`` and ``%%cloud``: commands, flags; names of clusters, sessions, runs and variables."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from nbcloud.commands import names
from nbcloud.commands.cell import cell_parser

if TYPE_CHECKING:
    from nbcloud.commands.parser import Parser
    from nbcloud.jupyter.cell import CellRunner
    from nbcloud.jupyter.lines import LineCommands

_LINE = re.compile(r"\s*%%?cloud\s")
_RUN_VERBS = {"logs", "attach", "cancel", "compare", "diff", "artifacts", "delete"}
_GROUP_FLAGS = {"-g", "--group"}
_CLUSTER_FLAGS = {"-c", "--cluster"}
_SESSION_FLAGS = {"-s", "--session"}
_CLUSTER_VERBS = {"up", "down", "status", "doctor", "sync", "cost"}
_MODEL_NAMES = {"history", "ls", "rollback", "unalias"}
"""Actions of ``models`` that take a model's name; the others take one of its versions."""
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


class _Ours(list[SimpleCompletion]):
    """Completions beside which there are no others, even when there are none: IPython asks for the length."""

    def __len__(self) -> int:
        return max(super().__len__(), 1)


def matcher(magics: Magics) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """The completions of these magics for IPython; on their lines there are no others."""

    @context_matcher(identifier="nbcloud", priority=1000)  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> SimpleMatcherResult:
        if not _LINE.match(context.text_until_cursor):
            return SimpleMatcherResult(completions=[], suppress=False)
        begun, fitting = complete(magics, context.text_until_cursor)
        completions = _Ours(SimpleCompletion(text=word, type="magic") for word in fitting)
        return SimpleMatcherResult(
            completions=completions, matched_fragment=begun, suppress=True, ordered=True
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
        return names.clusters()
    if last in _SESSION_FLAGS:
        return _sessions(magics)
    if last in _NAME_FLAGS:
        listed, comma, _ = begun.rpartition(",")
        return [f"{listed}{comma}{name}" for name in _names(magics, remote=last in {"-o", "--out"})]
    if last == "--sweep":
        return [f"{name}=" for name in _names(magics, remote=False)]
    return cell_parser().flags()


def _line(magics: Magics, words: list[str], begun: str) -> list[str]:
    verbs = magics.lines.parsers
    if not words:
        return [*verbs, "--help"]
    verb, last = words[0], words[-1]
    if verb not in verbs:
        return []
    if verb == "models":
        return _models(verbs[verb], words[1:], begun)
    if begun.startswith("-"):
        return verbs[verb].flags()
    if last in _GROUP_FLAGS:
        return names.groups(next((word for flag, word in pairwise(words) if flag in _CLUSTER_FLAGS), None))
    if last in _CLUSTER_FLAGS:
        return names.clusters()
    if last in _SESSION_FLAGS:
        return _sessions(magics)
    choices = verbs[verb].choices(last)
    if choices is not None:
        return choices
    if verb == "export":
        given = [word for word in words[1:] if not word.startswith("-")]
        return _names(magics, remote=True) if len(given) < 2 else [state.name for state in names.models()]
    return _positionals(magics, verb)


def _positionals(magics: Magics, verb: str) -> list[str]:
    if verb in _CLUSTER_VERBS:
        return names.clusters()
    if verb in _RUN_VERBS:
        return _runs(magics)
    if verb in {"pull", "push"}:
        return _names(magics, remote=verb == "pull")
    return _sessions(magics) if verb == "reset" else []


def _models(parser: Parser, words: list[str], begun: str) -> list[str]:
    """What may come behind ``models``: an action, its flags, models of the registry."""
    actions = parser.verbs()
    if not words:
        return list(actions)
    action = words[0]
    if action not in actions:
        return []
    if begun.startswith("-"):
        return actions[action].flags()
    given = [word for word in words[1:] if not word.startswith("-")]
    if action == "stage" and given:
        from nbcloud.models.registry.registry import STAGES

        return list(STAGES)
    states = names.models()
    if action in {"alias", "rollback", "unalias"} and given:
        return names.aliases(states, given[0])
    if given and action != "diff":
        return []
    return [state.name for state in states] if action in _MODEL_NAMES else names.versions(states)


def _sessions(magics: Magics) -> list[str]:
    found: set[str] = set()
    # Completion never starts anything, and never fails.
    with contextlib.suppress(Exception):
        for session in magics.runner.notebook.sessions.alive():
            found |= {facts["name"] for facts in session.link.ask("sessions", timeout=1)}
    return sorted(found)


def _runs(magics: Magics) -> list[str]:
    found, named = names.runs()
    # The newest may not be on record yet.
    own = [run for run in reversed(magics.runner.notebook.runs) if run not in found]
    return [*own, *found, *named]


def _names(magics: Magics, *, remote: bool) -> list[str]:
    shell = magics.shell
    found = {name for name in shell.user_ns if not name.startswith("_") and name not in shell.user_ns_hidden}
    if remote:
        for session in magics.runner.notebook.sessions.alive():
            found |= session.names
    return sorted(found)
