"""Runs on record: listed, with what their code logged."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer, ago, duration
from nbcloud.commands.parser import read_option
from nbcloud.config import parse_seconds
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.runs.record import Run
from nbcloud.runs.removal import bring_back, collect_garbage, put_away
from nbcloud.runs.tracked import Tracked
from nbcloud.wording import counted, size_text


def list_runs(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Runs on record."""
    if arguments.limit < 1:
        raise UsageError(f"-n {arguments.limit}: it must be at least 1.")
    complete_records()
    text = " ".join(arguments.text) or None
    with open_store() as store:
        found = store.search(
            text,
            state=arguments.state,
            tag=arguments.tag,
            filter=arguments.filter,
            order_by=arguments.order_by,
            deleted=arguments.deleted,
            limit=arguments.limit,
        )
        logged = store.tracked(run.id for run in found) if arguments.metrics else {}
    answer = _answer(found, logged)
    asked = (text, arguments.state, arguments.tag, arguments.filter, arguments.order_by)
    if not found and any(asked):
        answer.text = "No run on record is like that."
    return answer


def experiments(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Experiments that have runs."""
    complete_records()
    with open_store() as store:
        found = store.experiments()
    rows = [[each.name, str(each.runs), str(each.unfinished), ago(each.latest)] for each in found]
    text = "" if rows else "No run is on record."
    columns = ["experiment", "runs", "unfinished", "latest"]
    return Answer(text, columns, rows, [vars(each) for each in found])


def compare(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """What runs logged, side by side."""
    complete_records()
    with open_store() as store:
        found = [store.get(wanted) for wanted in arguments.run]
        logged = store.tracked(run.id for run in found)
    of_runs = [
        {"name": run.name or _first_line(run.code), "state": str(run.state), "took": duration(run.seconds)}
        | {f"params.{key}": value for key, value in logged[run.id].params.items()}
        | {f"metrics.{key}": value for key, value in logged[run.id].metrics.items()}
        | {f"datasets.{name}": facts["hash"][:12] for name, facts in logged[run.id].datasets.items()}
        | {f"artifacts.{name}": facts["hash"][:12] for name, facts in logged[run.id].artifacts.items()}
        for run in found
    ]
    rows = []
    for key in _keys(of_runs):
        cells = [_cell(of_run, key) for of_run in of_runs]
        rows.append([key, *cells, "differs" if len(set(cells)) > 1 else ""])
    data = [run.to_json() | vars(logged[run.id]) for run in found]
    return Answer("", ["", *(run.id for run in found), ""], rows, data)


def artifacts(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """The files that a run logged."""
    complete_records()
    with open_store() as store:
        run = store.get(arguments.run)
        known = store.tracked([run.id])[run.id].artifacts
        if arguments.output is not None:
            folder = Path(arguments.output).expanduser()
            for name in known:
                target = _inside(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(store.artifact(run.id, name), target)
            text = f"Copied {counted(len(known), 'file')} to {folder}."
            return Answer(text, data=known)
    rows = [[name, size_text(facts["bytes"]), facts["hash"]] for name, facts in known.items()]
    text = "" if rows else f"Run {run.id} has logged no file."
    return Answer(text, ["file", "size", "sha256"], rows, known)


def _inside(folder: Path, name: str) -> Path:
    """A path below a folder; what a run calls its files must not lead out of it."""
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"The artifact {name!r} would lie outside of {folder}.", "Nothing more was copied.")
    return target


def delete(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Put runs away."""
    complete_records()
    with open_store() as store:
        gone = [each.id for wanted in arguments.run for each in put_away(store, wanted)]
    text = (
        f"Deleted {', '.join(gone)}. Until %cloud gc removes them, this undoes it: %cloud restore {gone[0]}"
    )
    return Answer(text, data=gone)


def restore(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Bring deleted runs back."""
    with open_store() as store:
        back = [each.id for wanted in arguments.run for each in bring_back(store, wanted)]
    return Answer(f"Restored: {', '.join(back)}.", data=back)


def gc(arguments: argparse.Namespace, progress: Progress) -> Answer:  # noqa: ARG001
    """Remove for good what was deleted long ago."""
    older = read_option("--older", arguments.older, parse_seconds) or 0.0
    with open_store() as store:
        gone, freed = collect_garbage(store, older)
    text = f"Removed {counted(len(gone), 'run')} and {size_text(freed)} of files that no run has."
    return Answer(text, data={"runs": gone, "bytes": freed})


def _answer(found: list[Run], logged: dict[str, Tracked]) -> Answer:
    """Runs as a table, with columns for what they logged where that is given."""
    params = _keys(logged[run.id].params for run in found if logged)
    metrics = _keys(logged[run.id].metrics for run in found if logged)
    rows = [
        [
            run.id,
            run.name or _first_line(run.code),
            str(run.state),
            ago(run.created),
            duration(run.seconds),
            run.experiment,
            run.session,
            (run.error or {}).get("ename", "") or run.message[:60],
            *(_cell(logged[run.id].params, key) for key in params),
            *(_cell(logged[run.id].metrics, key) for key in metrics),
        ]
        for run in found
    ]
    columns = ["run", "name", "state", "asked", "took", "experiment", "session", "error", *params, *metrics]
    data = [run.to_json() | (vars(logged[run.id]) if logged else {}) for run in found]
    return Answer("" if rows else "No run is on record.", columns, rows, data)


def _keys(of_runs: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order in which they come."""
    return list(dict.fromkeys(key for of_run in of_runs for key in of_run))


def _cell(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return ""
    value = values[key]
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _first_line(code: str) -> str:
    line = next((line.strip() for line in code.splitlines() if line.strip()), "")
    return line if len(line) <= 40 else line[:39] + "…"
