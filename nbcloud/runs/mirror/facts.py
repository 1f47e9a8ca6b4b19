"""A run in MLflow's words: names, tags, states, values that it takes."""

from __future__ import annotations

import getpass
import json
import posixpath
import re
from typing import Any

from nbcloud.runs.record import Run, RunState

RUN_TAG = "nbcloud.run"
"""Has the id here of a run there."""
_TEXT = 5000  # what all versions of it take in a tag
LARGEST = 1.7976931348623157e308
"""In place of infinity, in its databases."""
_STATES = {
    RunState.QUEUED: "SCHEDULED",
    RunState.RUNNING: "RUNNING",
    RunState.DONE: "FINISHED",
    RunState.CANCELLED: "KILLED",
}

Point = tuple[int, int, str]
"""Step, milliseconds and value: what tells a value of a metric from another."""


def status_of(state: RunState) -> str:
    """MLflow's name for the state; ``nbcloud.state`` has ours."""
    return _STATES.get(state, "FAILED")


def milliseconds(when: float) -> int:
    """A time as MLflow has it."""
    return round(when * 1000)


def point(step: int | None, when_ms: int, value: float | None) -> Point:
    """A value of a metric, the same here and there."""
    if value is None or value != value:
        return step or 0, when_ms, "nan"
    return step or 0, when_ms, repr(max(-LARGEST, min(LARGEST, float(value))))


def name_of(key: str) -> str:
    """A name that MLflow takes."""
    name = re.sub(r"[^\w.\- :/]", "_", key)
    tidy = posixpath.normpath(name)
    if tidy != name or tidy == "." or tidy.startswith(("..", "/")):
        return "_" + name.replace("/", "_")
    return name


def tags_of(run: Run, parent: str) -> dict[str, str]:
    """The tags of a run: its own, MLflow's, and what is on record of it.

    Parameters
    ----------
    run : Run
    parent : str
        What the run in which it is nested is called there.
    """
    git = run.git or {}
    error = run.error or {}
    facts: dict[str, Any] = {
        RUN_TAG: run.id,
        "mlflow.user": _user(),
        "mlflow.source.name": run.notebook or run.name,
        "mlflow.source.type": "NOTEBOOK" if run.notebook else "LOCAL",
        "mlflow.parentRunId": parent,
        "mlflow.note.content": f"```python\n{run.code[: _TEXT - 20]}\n```" if run.code else "",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.branch": git.get("branch"),
        "nbcloud.git.dirty": str(git["dirty"]).lower() if git else "",
        "nbcloud.kind": run.kind,
        "nbcloud.state": run.state.value,
        "nbcloud.message": run.message,
        "nbcloud.error": f"{error.get('ename', '')}: {error.get('evalue', '')}" if error else "",
        "nbcloud.cell": run.cell_id,
        "nbcloud.cluster": run.cluster,
        "nbcloud.session": run.session,
        "nbcloud.host": run.host,
        "nbcloud.worker": run.worker,
        "nbcloud.output": run.extra.get("output"),
        "nbcloud.resources": _json(run.resources),
        "nbcloud.used": _json(run.used),
        "nbcloud.versions": _json(run.versions),
        "nbcloud.inputs": _json(run.inputs),
    }
    own = {name_of(key): str(value) for key, value in run.tags.items()}
    return {key: str(value)[:_TEXT] for key, value in {**facts, **own}.items() if value}


def _json(value: Any) -> str:
    return json.dumps(value, default=str) if value else ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""
