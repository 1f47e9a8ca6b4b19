"""What a notebook's session had behind a cell with the tag ``checkpoint``, for when the session is gone.

The bytes are a file beside the notebook's record, named by their hash, which the notebook's metadata has: so
a process that is killed between the two leaves the checkpoint before, whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from papermill.log import logger

from nbcloud.cells.analysis import analyze
from nbcloud.config import settings
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import NbcloudError, RunNotFound
from nbcloud.runs.files import explained, write_atomically
from nbcloud.sessions.client.checkpoints import Checkpoint, digest
from nbcloud.sessions.client.session import Session
from nbcloud.workflows.notebook.manager import SteadyManager

TAG = "checkpoint"
_PREFIX = "checkpoint-"


def is_tagged(cell: Mapping[str, Any]) -> bool:
    """Whether what is there behind a cell is to be kept."""
    return TAG in cell["metadata"].get("tags", ())


def keep(manager: SteadyManager, index: int, session: Session, run_id: str) -> None:
    """Keep what a session has behind a cell; what goes wrong is a warning, and the checkpoint before stays.

    Parameters
    ----------
    manager : SteadyManager
    index : int
        Of the cell.
    session : Session
    run_id : str
        The notebook's record.
    """
    number = manager.nb.cells[index].execution_count
    reads = _reads(manager.nb.cells[index + 1 :])
    try:
        found, lacking = Checkpoint.take(session, reads, settings().out_limit)
        if found is None:
            names = ", ".join(f"{name} ({why})" for name, why in lacking.items())
            logger.warning(
                "The checkpoint behind cell %s was not made: later cells read what can't be kept: %s.",
                number,
                names,
            )
            return
        content = found.to_bytes()
        name = digest(content)
        path = _folder(run_id) / f"{_PREFIX}{name}"
        with explained("Keeping a checkpoint", path):
            write_atomically(path, content, sync=False)
    except NbcloudError as error:
        logger.warning("There is no checkpoint behind cell %s: %s", number, error)
        return
    manager.nb.metadata.papermill["checkpoint"] = {"cell": index, "hash": name, "run": run_id}
    manager.save()
    manager.write()
    _remove(run_id, other_than=path)


def forget(manager: SteadyManager) -> None:
    """The notebook has ended, and needs none any more."""
    about = manager.nb.metadata.papermill
    about.pop("restored", None)
    kept = about.pop("checkpoint", None)
    if kept is not None:
        manager.save()
        manager.write()
        _remove(str(kept["run"]))


@dataclass(frozen=True)
class Kept:
    """A checkpoint that was kept.

    Attributes
    ----------
    cell : int
        The index of the cell behind which it was.
    run : str
        The notebook's record.
    checkpoint : Checkpoint
    imports : frozenset of str
        What the cells up to that one imported.
    """

    cell: int
    run: str
    checkpoint: Checkpoint
    imports: frozenset[str]

    @classmethod
    def of(cls, notebook: Any) -> Self | None:
        """The one that a notebook's metadata names, if it is there and whole."""
        told = notebook.metadata.papermill.get("checkpoint")
        if told is None:
            return None
        try:
            cell, name = int(told["cell"]), str(told["hash"])
            content = (_folder(str(told["run"])) / f"{_PREFIX}{name}").read_bytes()
        except (OSError, NbcloudError, LookupError, TypeError, ValueError):
            logger.warning("The notebook's checkpoint is gone.")
            return None
        if digest(content) != name:
            logger.warning("The notebook's checkpoint is damaged, and is not used.")
            return None
        before = notebook.cells[: cell + 1]
        imports = frozenset().union(*(analyze(each.source).imports for each in before if _is_code(each)))
        return cls(cell, str(told["run"]), Checkpoint.from_bytes(content), imports)


def _is_code(cell: Any) -> bool:
    return bool(cell.cell_type == "code")


def _reads(cells: Iterable[Any]) -> list[str] | None:
    """Names that cells may read; None when that may be any."""
    found = [analyze(cell.source) for cell in cells if _is_code(cell)]
    return (
        None if any(each.star for each in found) else sorted({name for each in found for name in each.reads})
    )


def _folder(run_id: str) -> Path:
    """Where the files of a run are that is on record."""
    with open_store() as store:
        return store.files(store.get(run_id).id).directory


def _remove(run_id: str, other_than: Path | None = None) -> None:
    with contextlib.suppress(OSError, RunNotFound):
        for path in _folder(run_id).glob(f"{_PREFIX}*"):
            if path != other_than:
                path.unlink()
