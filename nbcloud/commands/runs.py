"""Runs on record: listed, with what their code logged."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer, ago, duration
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import UsageError
from nbcloud.runs.record import Run
from nbcloud.runs.tracked import Tracked


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
            limit=arguments.limit,
        )
        logged = store.tracked(run.id for run in found) if arguments.metrics else {}
    answer = _answer(found, logged)
    asked = (text, arguments.state, arguments.tag, arguments.filter, arguments.order_by)
    if not found and any(asked):
        answer.text = "No run on record is like that."
    return answer


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
            run.session,
            (run.error or {}).get("ename", "") or run.message[:60],
            *(_cell(logged[run.id].params, key) for key in params),
            *(_cell(logged[run.id].metrics, key) for key in metrics),
        ]
        for run in found
    ]
    columns = ["run", "name", "state", "asked", "took", "session", "error", *params, *metrics]
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
