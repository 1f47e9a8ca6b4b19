"""Runs and outputs without secrets, on their way to the disk."""

from __future__ import annotations

import dataclasses
from typing import Any

from nbcloud.redact import Redactor
from nbcloud.runs.record import Run

# What identifies a run, and is searched for; a mask would make it unreachable.
_IDENTITY = frozenset(
    (
        "id",
        "kind",
        "parent",
        "state",
        "notebook",
        "cell_id",
        "execution_count",
        "cluster",
        "cluster_id",
        "session",
        "created",
        "started",
        "finished",
        "deleted",
    )
)


def redact_run(redactor: Redactor, run: Run) -> Run:
    """The run without secrets in anything that a user or a program wrote."""
    if not redactor:
        return run
    names = (field.name for field in dataclasses.fields(run) if field.name not in _IDENTITY)
    return dataclasses.replace(run, **{name: redactor.json(getattr(run, name)) for name in names})


def redact_outputs(redactor: Redactor, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs of nbformat without secrets; what the format itself prescribes stays as it is."""
    if not redactor:
        return outputs
    return [{key: _redact_part(redactor, key, part) for key, part in output.items()} for output in outputs]


def _redact_part(redactor: Redactor, key: str, part: Any) -> Any:
    if key in ("output_type", "name"):
        return part
    if key == "data":
        return {mime: redactor.json(value) for mime, value in part.items()}
    return redactor.json(part)
