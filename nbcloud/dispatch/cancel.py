"""A run on record is stopped, whoever asked for it."""

from __future__ import annotations

from nbcloud.clusters import registry
from nbcloud.clusters.base import ClusterInfo
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.links import link_to
from nbcloud.dispatch.run import CANCELLED
from nbcloud.errors import NbcloudError, UsageError
from nbcloud.runs.record import EXPORT, IMPORTED, Run


def cancel(run: Run) -> str:
    """Stop a run that has not ended; returns what is said of it.

    Raises
    ------
    UsageError
        When it can't be stopped from here.
    """
    if run.state.ended:
        return f"Run {run.id} is {run.state} already."
    if run.kind in {"process", EXPORT}:
        raise UsageError(
            f"Run {run.id} is that of a process on {run.host}, not of a cluster.", "End the process there."
        )
    if run.kind == IMPORTED:
        raise UsageError(
            f"Run {run.id} was imported from MLflow, where it has not ended.",
            f"Stop it where it runs; to forget it here: %cloud delete {run.id}",
        )
    if run.kind == "sweep":
        raise UsageError(
            f"Run {run.id} is a sweep, which the cell that began it stops: interrupt its notebook's kernel.",
            f"Its members can be cancelled one by one: %cloud runs --filter \"parent = '{run.id}'\"",
        )
    info = registry.by_id(run.cluster_id)
    if info is None:
        complete_records()
        return f"Run {run.id} is over: its cluster is gone."
    try:
        link_to(info).ask("stop", run=_running(info, run), **CANCELLED)
    except NbcloudError as error:
        raise UsageError(f"Run {run.id} can't be cancelled: {error}") from None
    return f"Run {run.id} is being stopped."


def _running(info: ClusterInfo, run: Run) -> str:
    """The id under which the cluster knows it: of a notebook, it has the cells."""
    if run.kind != "notebook":
        return run.id
    sessions = link_to(info).ask("sessions")
    cell = next((each["active"] for each in sessions if each["name"] == run.session and each["active"]), None)
    if cell is None:
        raise UsageError("no cell of it runs at this moment.", "Try it again.")
    return str(cell)
