"""Runs that are run again, and in what two of them differ."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer, duration
from nbcloud.commands.batch import add_parameter, given
from nbcloud.commands.parser import Parser
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.extras import check
from nbcloud.runs.differences import Difference, differences

_COLORS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
_MOST_LINES = 200
_RUN = "its id, the beginning of it, or its name"


def add_diff_options(parser: Parser) -> None:
    """Of ``diff``."""
    for name in ("first", "second"):
        parser.add_argument(name, metavar="RUN", help=_RUN)


def diff(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """In what two runs differ."""
    complete_records()
    with open_store() as store:
        first, second = (store.get(wanted) for wanted in (arguments.first, arguments.second))
        if first.id == second.id:
            raise UsageError(
                f"Both are run {first.id}: a name means the newest run that has it.",
                "Give ids; to list them: nbcloud runs NAME",
            )
        found = differences(store, first, second)
    if not found:
        return Answer(f"Runs {first.id} and {second.id} are alike in all that is on record.", data=[])
    return _answer(found, first.id, second.id)


def add_rerun_options(parser: Parser) -> None:
    """Of ``nbcloud rerun``."""
    parser.add_argument("run", metavar="RUN", help=_RUN)
    add_parameter(parser, "over those that it had")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the new notebook")
    parser.add_argument("-c", "--cluster", help="another than it was on: its name, a profile, or an address")
    parser.add_argument("--loose", action="store_true", help="take parameters that it does not have")


def rerun(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """A run that is on record, again."""
    check("papermill", "to run notebooks")
    from nbcloud.workflows.rerun import declared_by
    from nbcloud.workflows.rerun import rerun as run_again

    complete_records()
    parameters = given(arguments, declared_by(arguments.run)) if arguments.parameter else {}
    with open_store() as store:
        wanted = store.get(arguments.run)
    named = f" ({wanted.name}, the newest of that name)" if wanted.name == arguments.run else ""
    progress(f"running {wanted.id}{named} again")
    done = run_again(
        arguments.run, parameters, arguments.output, cluster=arguments.cluster, loose=arguments.loose
    )
    answer = _answer(done.differences, done.before.id, done.after.id)
    outcome = "The outcome is the same" if done.same else "The outcome is another"
    took = f"{duration(done.after.seconds)}, before {duration(done.before.seconds)}"
    answer.text = f"{answer.text}\n{outcome}: run {done.after.id} ({took}), {done.notebook}.".lstrip()
    answer.data = {"run": done.after.id, "same": done.same, "differences": answer.data}
    answer.failed, answer.differs = done.after.state != "done", not done.same
    return answer


def _answer(found: list[Difference], first: str, second: str) -> Answer:
    rows = [
        [f"{each.section}: {each.name}", _cell(each.before), _cell(each.after)]
        for each in found
        if not each.lines
    ]
    texts = [line for each in found if each.lines for line in _lines(each, first, second)]
    return Answer("\n".join(texts), ["", first, second], rows, [asdict(each) for each in found])


def _lines(each: Difference, first: str, second: str) -> Iterable[str]:
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    yield f"--- {each.section} of {first}"
    yield f"+++ {each.section} of {second}"
    for line in each.lines[:_MOST_LINES]:
        color = _COLORS.get(line[:1], "") if colored else ""
        yield f"{color}{line}\x1b[0m" if color else line
    if len(each.lines) > _MOST_LINES:
        yield f"… {len(each.lines) - _MOST_LINES} more lines: --json has all"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.8g}" if isinstance(value, float) else str(value)
