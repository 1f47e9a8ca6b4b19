"""Tab behind ``nbcloud`` in a shell, by argcomplete: commands, flags and files, and what there is by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import argcomplete
from argcomplete.completers import FilesCompleter

from nbcloud.commands import names
from nbcloud.commands.parser import Parser

Offer = Callable[[argparse.Namespace], list[str]]
_BUNDLED = "nbcloud edge bundle model"


def complete(parser: Parser) -> None:
    """Answer the shell that asks by its variables, and end this process."""
    _add_offers(parser)
    argcomplete.autocomplete(parser, always_complete_options=False)


def _add_offers(parser: Parser) -> None:
    for inner in parser.verbs().values():
        _add_offers(inner)
    for action in parser._actions:
        offer = _OFFERS.get(f"{parser.prog} {action.dest}") or _OFFERS.get(action.dest)
        if offer is not None:
            and_files = f"{parser.prog} {action.dest}" == _BUNDLED
            action.completer = _completer(offer, and_files)  # type: ignore[attr-defined]


def _completer(offer: Offer, and_files: bool) -> Callable[..., list[str]]:
    def completed(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        return [*offer(parsed_args), *(FilesCompleter()(prefix) if and_files else ())]

    return completed


def _states(parsed: argparse.Namespace) -> Any:
    return names.models(getattr(parsed, "registry", None))


def _versions(parsed: argparse.Namespace) -> list[str]:
    return names.versions(_states(parsed))


def _models(parsed: argparse.Namespace) -> list[str]:
    return [state.name for state in _states(parsed)]


def _aliases(parsed: argparse.Namespace) -> list[str]:
    return names.aliases(_states(parsed), getattr(parsed, "model", None) or parsed.name)


def _stages(_: argparse.Namespace) -> list[str]:
    from nbcloud.models.registry.registry import STAGES

    return list(STAGES)


def _runs(_: argparse.Namespace) -> list[str]:
    ids, named = names.runs()
    return [*ids, *named]


_OFFERS: dict[str, Offer] = {
    "cluster": lambda _: names.clusters(),
    "profile": lambda _: names.clusters(),
    "group": lambda parsed: names.groups(parsed.cluster),
    "run": _runs,
    "nbcloud optimize model": _versions,
    _BUNDLED: lambda parsed: [f"models:/{each}" for each in _versions(parsed)],
    "nbcloud export name": _models,
    "nbcloud export alias": lambda parsed: names.aliases(_states(parsed), parsed.name or ""),
    **{
        f"nbcloud models {verb} model": _versions
        for verb in ("show", "alias", "tag", "untag", "stage", "get")
    },
    **{f"nbcloud models {verb} model": _versions for verb in ("push", "rm")},
    **{f"nbcloud models diff {place}": _versions for place in ("before", "after")},
    **{f"nbcloud models {verb} name": _models for verb in ("ls", "history", "rollback", "unalias")},
    **{f"nbcloud models {verb} alias": _aliases for verb in ("alias", "rollback", "unalias")},
    "nbcloud models stage stage": _stages,
}
"""By the name of an argument, or by its command and its name. Others are files."""
