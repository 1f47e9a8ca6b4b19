"""Runs and MLflow: how far its mirror is behind, and what brings it up to date."""

from __future__ import annotations

import argparse
import time

from nbcloud.clusters.base import Progress
from nbcloud.commands.answers import Answer, ago
from nbcloud.config import settings
from nbcloud.dispatch.attach import complete_records
from nbcloud.dispatch.recorder import open_store
from nbcloud.errors import StoreError, UsageError
from nbcloud.runs.mirror.client import Away
from nbcloud.runs.mirror.feed import Feed, Standing, shown
from nbcloud.runs.mirror.process import Mirror, alone
from nbcloud.runs.store import Store
from nbcloud.wording import counted

_LOOK_SECONDS = 1.0


def mirror(arguments: argparse.Namespace, progress: Progress) -> Answer:
    """Bring the mirror up to date, or say how it stands."""
    target = settings().tracking
    if not target:
        raise UsageError(
            "It is not said where runs are to be mirrored to.",
            'Put into nbcloud.toml: tracking = "mlflow:https://HOST"',
        )
    complete_records()
    with open_store() as store:
        feed = Feed(store, shown(target))
        if not arguments.status:
            feed.enlist(past=arguments.all)
            _catch_up(store, Mirror(store, target), progress)
        return _answer(feed.standing(), shown(target))


def _catch_up(store: Store, mirror: Mirror, progress: Progress) -> None:
    try:
        mirror.reach()
        while True:
            with alone(store.directory, _LOOK_SECONDS) as held:
                if held:
                    mirror.catch_up(refused=True, say=progress)
                    return
            standing = mirror.feed.standing()
            if standing is not None and not standing.behind:
                return  # the other process has done it
            progress("another process is sending")
            time.sleep(_LOOK_SECONDS)
            mirror.reach()
    except Away as away:
        mirror.feed.trouble(str(away))
        raise StoreError(
            f"MLflow at {mirror.feed.target} can't be reached: {away}",
            "All is on record here, and goes there later: nbcloud mirror",
        ) from None


def _answer(standing: Standing | None, target: str) -> Answer:
    if standing is None:
        text = f"Nothing was mirrored to {target} yet: it begins with the next run."
        return Answer(text, data={"target": target, "runs": 0, "behind": 0, "refused": {}, "trouble": ""})
    parts = [f"{counted(standing.runs, 'run')} of this store are at {target}; begun {ago(standing.since)}."]
    if standing.behind:
        why = standing.trouble or "they are on their way"
        parts.append(f"{counted(standing.behind, 'run')} changed and are not there as they are now: {why}")
    else:
        parts.append("Nothing is behind.")
    if standing.refused:
        parts.append(
            f"{counted(len(standing.refused), 'run')} MLflow did not take, or not whole; to try again: "
            "nbcloud mirror"
        )
    rows = [[run, why] for run, why in standing.refused.items()]
    failed = bool(standing.refused)
    return Answer("\n".join(parts), ["run", "why not"] if rows else [], rows, vars(standing), failed=failed)
