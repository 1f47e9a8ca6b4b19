"""One notebook, run by papermill on a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from nbcloud.errors import RemoteError


class Stage(StrEnum):
    """How far the file of a notebook is."""

    NEW = "new"
    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


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
    """

    stage: Stage
    run: str = ""
    seconds: float | None = None
    error: str = ""


def outcome(path: Path) -> Outcome:
    """Read a notebook's outcome off its file; one that can't be read is as good as new."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        about = notebook["metadata"]["papermill"]
        cells = [cell for cell in notebook["cells"] if cell["metadata"].get("papermill", {}).get("status")]
        states = {cell["metadata"]["papermill"]["status"] for cell in cells}
    except (OSError, ValueError, KeyError, TypeError):
        return Outcome(Stage.NEW)
    run, seconds = str(about.get("run") or ""), about.get("duration")
    errors = [
        f"{each['ename']}: {each['evalue']}"
        for cell in cells
        for each in cell.get("outputs", ())
        if each["output_type"] == "error" and cell["metadata"]["papermill"]["status"] == "failed"
    ]
    if errors:
        return Outcome(Stage.FAILED, run, seconds, errors[-1])
    if states <= {"completed"} and about.get("end_time"):
        return Outcome(Stage.DONE, run, seconds)
    return Outcome(Stage.BEGUN, run, seconds)


def run_notebook(
    source: str,
    output: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    **options: Any,
) -> None:
    """Run a notebook on a cluster.

    Parameters
    ----------
    source, output : str
        Paths, or what else papermill reads and writes (``s3://…``).
    parameters : mapping, optional
    resume : bool
        Go on with ``output``, where that was begun.
    **options
        Those of papermill and of its engine ``nbcloud``.

    Raises
    ------
    RemoteError
        What a cell raised; ``output`` has it, too.
    RunError
        When the run was lost or stopped.
    """
    begun = resume and outcome(Path(output)).stage is Stage.BEGUN
    try:
        papermill.execute_notebook(
            output if begun else source,
            output,
            parameters=None if begun else dict(parameters or {}),
            engine_name="nbcloud",
            kernel_name="python3",
            language="python",
            resume=begun,
            **options,
        )
    except PapermillExecutionError as error:
        where = f"cell {error.exec_count}" if error.exec_count else "a cell"
        raise RemoteError(
            f"{error.ename}: {error.evalue} (in {where} of {output}).",
            ename=error.ename,
            evalue=error.evalue,
            traceback=[error.traceback],
        ) from None
