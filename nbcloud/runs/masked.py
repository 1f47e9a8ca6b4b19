"""Runs and outputs without secrets, on their way to the disk."""

from __future__ import annotations

import dataclasses
import json
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
    found: dict[str, Any] = {name: redactor.json(getattr(run, name)) for name in names}
    return dataclasses.replace(run, **{**found, "masked": run.masked or found["code"] != run.code})


def redact_lines(redactor: Redactor, lines: bytes) -> bytes:
    """Lines of a journal without secrets; of those that only this process knows the worker has not heard."""
    if not redactor:
        return lines
    text = lines.decode(errors="replace")
    if redactor.text(text) == text:
        return lines
    return b"".join(_redact_line(redactor, line) for line in lines.splitlines(keepends=True))


def _redact_line(redactor: Redactor, line: bytes) -> bytes:
    message = json.loads(line)
    masked = {key: redactor.json(message[key]) for key in ("content", "metadata") if key in message}
    return json.dumps(message | masked, separators=(",", ":")).encode() + b"\n"


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
