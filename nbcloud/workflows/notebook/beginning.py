"""How a notebook's kernel comes to be: new, left by an earlier process, or made again from a checkpoint."""

from __future__ import annotations

from typing import Any

from papermill.log import logger

from nbcloud.dispatch.kernel import CloudKernel
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import NbcloudError, RunNotFound
from nbcloud.workflows.notebook.checkpoints import Kept
from nbcloud.workflows.notebook.client import CloudClient
from nbcloud.workflows.notebook.manager import SteadyManager
from nbcloud.workflows.notebook.outcome import is_executed


def is_left(kernel: CloudKernel, manager: SteadyManager) -> bool:
    """Whether the session is there that an earlier process left, with all that the file says has run."""
    if not kernel.reopen():
        return False
    assert kernel.session is not None
    restored = restored_in(manager)
    return not restored or restored["session"] == kernel.session.id


def restored_in(manager: SteadyManager) -> dict[str, Any]:
    """Of what goes on from a checkpoint: its session, and how many cells and messages were before."""
    return dict(manager.nb.metadata.papermill.get("restored", {}))


def restore(kernel: CloudKernel, manager: SteadyManager) -> bool:
    """Give a new session what the notebook's checkpoint has; whether there is one."""
    kept = Kept.of(manager.nb)
    if kept is None:
        return False
    about = manager.nb.metadata.papermill
    # First: who is killed before the session has it all must not find it good.
    about["restored"] = {"session": ""}
    manager.notebook_start(first=kept.cell + 1)
    manager.write()
    _open(kernel)
    assert kernel.session is not None
    number = manager.nb.cells[kept.cell].execution_count
    try:
        kept.checkpoint.give(kernel.session, kept.imports)
    except NbcloudError as error:
        logger.warning("The checkpoint behind cell %s can't be used: %s", number, error)
        return False
    cells = sum(map(is_executed, manager.nb.cells))
    messages = _messages(str(kept.run))
    about["restored"] = {"session": kernel.session.id, "cells": cells, "messages": messages}
    logger.warning("The session of %s is gone: it goes on behind cell %s.", manager.output_path, number)
    return True


def _messages(run_id: str) -> int:
    try:
        with open_store() as store:
            return store.last_number(run_id)
    except RunNotFound:
        return 0


def start(kernel: CloudKernel, manager: SteadyManager, *, again: bool) -> CloudClient:
    """The client of a new kernel, in which all of the notebook runs, perhaps ``again``."""
    if again:
        logger.warning("The session of %s is gone: all of it runs again.", manager.output_path)
    for key in ("restored", "checkpoint"):
        manager.nb.metadata.papermill.pop(key, None)
    manager.notebook_start()
    _open(kernel)
    return CloudClient(kernel)


def _open(kernel: CloudKernel) -> None:
    kernel.start(lambda text: logger.info("%s …", text))
    for note in kernel.notes:
        logger.warning("%s", note)


def go_on(kernel: CloudKernel, manager: SteadyManager) -> CloudClient:
    """The client of a kernel that has what the completed cells left.

    A session runs the cells of one notebook, in its order: so the place of a run tells its cell.
    """
    manager.go_on()
    client = CloudClient(kernel)
    client.count = client.restored = restored_in(manager).get("cells", 0)
    client.sent = kernel.runs()
    return client
