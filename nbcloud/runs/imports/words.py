"""What a run of MLflow's is here."""

from __future__ import annotations

import hashlib
import json
import math
import time
from typing import Any

from nbcloud.runs.entries import Entry, metric
from nbcloud.runs.mirror.facts import LARGEST, RUN_TAG, status_of
from nbcloud.runs.record import IMPORTED, Run, RunState, is_run_id, number_id, time_number

RUN_ID = "mlflow.run_id"
"""The tag that has what the run is called there."""
ADDRESS = "mlflow.uri"
PARENT = "mlflow.parentRunId"
_KEPT = ("mlflow.user", "mlflow.note.content", "mlflow.source.name")
_STATES = {
    "SCHEDULED": RunState.QUEUED,
    "RUNNING": RunState.RUNNING,
    "FINISHED": RunState.DONE,
    "KILLED": RunState.CANCELLED,
}
_RANDOM = (1 << 20) - 1


def id_of(there: Any, attempt: int) -> str:
    """The id that a run has here: that from which it was mirrored, or one that follows from MLflow's.

    Parameters
    ----------
    there : mlflow.entities.Run
    attempt : int
        0, and more where another run has the id already.
    """
    mirrored = there.data.tags.get(RUN_TAG, "")
    if is_run_id(mirrored):
        return str(mirrored)
    digest = hashlib.sha256(there.info.run_id.encode()).digest()
    return number_id(time_number(_began(there)) | (int.from_bytes(digest[:4], "big") + attempt) & _RANDOM)


def state_of(there: Any) -> RunState:
    """The state; of one that nbcloud has mirrored, ours."""
    exact, status = there.data.tags.get("nbcloud.state", ""), there.info.status
    if exact in set(RunState) and status_of(RunState(exact)) == status:
        return RunState(exact)
    return _STATES.get(status, RunState.FAILED)


def run_of(there: Any, run_id: str, parent: str, experiment: str, address: str) -> Run:
    """The run, without what it logged."""
    tags, state = there.data.tags, state_of(there)
    commit, branch = tags.get("mlflow.source.git.commit"), tags.get("mlflow.source.git.branch")
    own = {key: value for key, value in tags.items() if not key.startswith("mlflow.") or key in _KEPT}
    began, ended = _began(there), there.info.end_time
    return Run(
        id=run_id,
        name=there.info.run_name or tags.get("mlflow.runName", ""),
        kind=IMPORTED,
        parent=parent,
        experiment=experiment,
        state=state,
        notebook=tags.get("mlflow.source.name", "") if tags.get("mlflow.source.type") == "NOTEBOOK" else "",
        created=began,
        started=None if state is RunState.QUEUED else began,
        finished=(ended / 1000 if ended else began) if state.ended else None,
        tags={**own, RUN_ID: there.info.run_id, ADDRESS: address},
        git={"commit": commit, "branch": branch, "dirty": False} if commit else None,
        message=tags.get("nbcloud.message", ""),
    )


def _began(there: Any) -> float:
    """When it began, in unix seconds; never in the future, where an id could not lie."""
    return float(min((there.info.start_time or 0) / 1000, time.time()))


def value_of(text: str) -> Any:
    """A parameter, which is a text there: as a number, where its text is exactly that number's."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    number = isinstance(value, int | float) and math.isfinite(value)
    return value if number and json.dumps(value) == text else text


def number_of(value: float) -> float:
    """A value of a metric; its databases have no infinity."""
    return math.copysign(math.inf, value) if abs(value) >= LARGEST else value


def value_entry(value: Any) -> Entry:
    """The entry of one value of a metric."""
    return metric(value.key, number_of(value.value), value.step, value.timestamp / 1000)


def dataset_entries(there: Any) -> list[Entry]:
    """The entries of its datasets; a name that several have is told apart by their digests."""
    inputs = list(there.inputs.dataset_inputs) if there.inputs else []
    entries: dict[str, Entry] = {}
    for each in sorted(inputs, key=lambda each: str(each.dataset.digest)):
        dataset = each.dataset
        facts: dict[str, Any] = {
            "kind": dataset.source_type,
            "hash": dataset.digest,
            "source": dataset.source,
        }
        facts |= {"schema": _json(dataset.schema)} if dataset.schema else {}
        profile = _json(dataset.profile)
        if isinstance(profile, dict) and "num_rows" in profile:
            facts["rows"] = profile["num_rows"]
        context = next((tag.value for tag in each.tags if tag.key == "mlflow.data.context"), "")
        facts |= {"context": context} if context else {}
        name = dataset.name
        if name in entries and entries[name][2]["hash"] != dataset.digest:
            name = f"{name} {dataset.digest}"
        entries[name] = ["dataset", name, facts]
    return list(entries.values())


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return text
