"""Runs that nobody listens to: their records are completed from the journal, and they can be shown again."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from nbcloud.clusters import registry
from nbcloud.config import settings
from nbcloud.dispatch.links import link_to
from nbcloud.dispatch.recorder import Recorder, open_store
from nbcloud.dispatch.run import CloudRun
from nbcloud.errors import ClusterError, NbcloudError, RunNotFound, SessionError
from nbcloud.runs.owners import is_running
from nbcloud.runs.record import EXPORT, IMPORTED, Run, RunState
from nbcloud.runs.store import Store

_SYNC_SECONDS = 20.0
_STRANGER_SECONDS = 30 * 86400.0


def attach(run_id: str, recorder: Recorder) -> CloudRun:
    """Listen to a run from its first message on, and keep its record if nobody else does.

    Raises
    ------
    RunNotFound
        When it is not on record, or its cluster no longer has its journal.
    """
    recorder.flush()
    with open_store() as store:
        run = store.get(run_id)
        owned = not run.state.ended and not is_running(str(run.extra.get("client", "")))
        recorded = store.last_number(run.id) if owned else run.messages or 2**62
    info = registry.by_id(run.cluster_id)
    if info is None:
        raise RunNotFound(f"The cluster of run {run.id} is gone.", f"Its record: %cloud logs {run.id}")
    link = link_to(info)
    attached = CloudRun(link, run, recorder if owned else _Silent(), recorded=recorded)
    link.listen(run.id, attached.listen)
    try:
        link.ask("read", run=run.id, after=0)
    except SessionError as error:
        link.forget(run.id, attached.listen)
        raise RunNotFound(f"{error}", f"Its record: %cloud logs {run.id}") from None
    return attached


class _Silent(Recorder):
    """Of a run that another process keeps on record."""

    def lines(self, run_id: str, lines: bytes) -> None:
        """Nothing to do."""

    def change(self, run_id: str, **changes: Any) -> None:
        """Nothing to do."""


def complete_records() -> list[Run]:
    """Bring the records of runs up to date whose notebook went away, and clean up behind them.

    Returns
    -------
    list of Run
        Those that still run.
    """
    with open_store() as store:
        store.tidy()
        # One that is nested in another, and has no process of its own, ends with that.
        ours = [run for run in store.unfinished() if run.kind != IMPORTED]
        alone = [run for run in ours if "client" in run.extra or not run.parent]
        orphans = [run for run in alone if not is_running(str(run.extra.get("client", "")))]
        clusters = {info.id: info for info in registry.entries()}
        running: list[Run] = []
        for run in sorted(orphans, key=lambda run: run.kind == "sweep"):  # behind its members
            if any(member.parent == run.id for member in running):
                continue
            if run.cluster_id in clusters:
                with contextlib.suppress(ClusterError):
                    if _from_cluster(run):
                        running.append(run)
                    continue
            with contextlib.suppress(NbcloudError):
                _from_file(store, run)
        registry.clean_journals(lambda path: _is_on_record(store, path))
        return running


def _from_cluster(run: Run) -> bool:
    """Read what is missing from the live journal; whether the run still goes on."""
    recorder = Recorder()
    try:
        attached = attach(run.id, recorder)
    except RunNotFound:
        with open_store() as store:
            _from_file(store, run)
        return False
    state = next((f["state"] for f in attached.link.ask("runs") if f["id"] == run.id), "lost")
    if state in {"queued", "running"}:
        attached.link.forget(run.id, attached.listen)
        recorder.close()
        return True
    attached.wait(_SYNC_SECONDS)
    recorder.close()
    return False


def _from_file(store: Store, run: Run) -> None:
    """Read what is missing from the journal that a dead cluster left, or say that nothing is left."""
    why = "its cluster ended, and nobody was listening"
    if run.kind in {"process", "notebook", "sweep", EXPORT}:
        why = "its process ended without a word"
    state, message = RunState.LOST, run.message or why
    finished = run.finished
    for path in Path(settings().runtime_dir).glob(f"clusters/*/journal/{run.id}.jsonl"):
        last = store.last_number(run.id)
        new = []
        for line in path.read_bytes().splitlines(keepends=True):
            with contextlib.suppress(ValueError):  # a torn last line
                entry = json.loads(line)
                if entry["n"] > last and line.endswith(b"\n"):
                    new.append(line)
                if entry["msg_type"] == "nbcloud_finished":
                    state, message = RunState(entry["content"]["state"]), entry["content"]["why"]
                    finished = entry["time"]
        if new:
            store.append(run.id, b"".join(new))
    store.finish(store.get(run.id).changed(state=state, message=message, finished=finished))


def _is_on_record(store: Store, path: Path) -> bool:
    """Whether nobody needs this file of a cluster that has ended any more."""
    try:
        run = store.get(path.stem)
    except NbcloudError:
        # Another store of this user may wait for it (NBCLOUD_DATA_DIR), but not for ever.
        return time.time() - path.stat().st_mtime > _STRANGER_SECONDS
    if run.state is RunState.LOST:  # its notebook lost it with the cluster, which may have written more
        _from_file(store, run)
    return run.state.ended
