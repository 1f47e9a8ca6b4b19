"""How far a notebook is, and how it ended, as its file tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from nbcloud.errors import RunLost, RunPruned
from nbcloud.wording import raised_text

SKIPPED = "skipped"
"""The status of a cell that was not to run."""
LOST = RunLost.__name__
"""The ``ename`` of an output that stands for a kernel's, worker's or scheduler's death."""
PRUNED = RunPruned.__name__
"""That of one that stands for a search that gave the notebook up."""

INJECTED = "injected-parameters"
"""papermill's tag of the cell that it puts in for the parameters."""


class Stage(StrEnum):
    """How far the file of a notebook is."""

    NEW = "new"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    PRUNED = "pruned"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Whether it need not run again."""
        return self in {Stage.DONE, Stage.FAILED, Stage.PRUNED}


@dataclass(frozen=True)
class Outcome:
    """What the file of a notebook tells of its run.

    Attributes
    ----------
    stage : Stage
    run : str
        The id of its record.
    seconds : float or None
    error : str
        What it raised.
    checkpoint : bool
        Whether one is kept.
    parameters : mapping
        By which it runs.
    """

    stage: Stage
    run: str = ""
    seconds: float | None = None
    error: str = ""
    checkpoint: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)


def outcome(path: Path) -> Outcome:
    """Read a notebook's outcome off its file; one that can't be read is as good as new."""
    try:
        return outcome_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return Outcome(Stage.NEW)


def outcome_of(notebook: Mapping[str, Any]) -> Outcome:
    """The outcome of a notebook that papermill has run."""
    about = notebook["metadata"]["papermill"]
    run, seconds = str(about.get("run") or ""), about.get("duration")
    known: dict[str, Any] = {
        "checkpoint": "checkpoint" in about,
        "parameters": dict(about.get("parameters") or {}),
    }
    if error := raised(notebook):
        stage = {LOST: Stage.LOST, PRUNED: Stage.PRUNED}.get(error["ename"], Stage.FAILED)
        return Outcome(stage, run, seconds, raised_text(error["ename"], error["evalue"]), **known)
    whole = all(_status(cell) in {"", "completed", SKIPPED} for cell in notebook["cells"])
    return Outcome(Stage.DONE if whole and about.get("end_time") else Stage.BEGUN, run, seconds, **known)


def raised(notebook: Mapping[str, Any]) -> dict[str, str] | None:
    """``ename`` and ``evalue`` of what the cell raised at which a notebook ended."""
    errors = [
        output
        for cell in notebook["cells"]
        if _status(cell) == "failed"
        for output in cell.get("outputs", ())
        if output["output_type"] == "error"
    ]
    return {key: str(errors[-1][key]) for key in ("ename", "evalue")} if errors else None


def is_completed(cell: Mapping[str, Any]) -> bool:
    """Whether a cell has run to its end, or needs not run."""
    return _status(cell) in {"completed", SKIPPED}


def is_executed(cell: Mapping[str, Any]) -> bool:
    """Whether the kernel has run a cell to its end."""
    return _status(cell) == "completed" and cell.get("execution_count") is not None


def _status(cell: Mapping[str, Any]) -> str:
    """Papermill's word for how far a cell is; empty for one that it added itself."""
    return str(cell["metadata"].get("papermill", {}).get("status") or "")


def source_of(notebook: Mapping[str, Any]) -> str:
    """A notebook as it can be run again: without outputs, and without what papermill has put there."""
    cells = []
    for cell in notebook["cells"]:
        if INJECTED in cell["metadata"].get("tags", ()):
            continue
        bare = {**cell, "metadata": _without(cell["metadata"], "papermill", "execution")}
        if cell["cell_type"] == "code":
            bare.update(outputs=[], execution_count=None)
        cells.append(bare)
    metadata = _without(notebook["metadata"], "papermill", "widgets")
    return json.dumps({**notebook, "cells": cells, "metadata": metadata}, ensure_ascii=False)


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
