"""A preload of ``dask scheduler``: the journal, and hosts on the workers, before any client has come.

Workers then start a kernel ahead while they join. Without it the first client brings both: an image that
lacks something of theirs still has a scheduler, which can be asked what.
"""

from __future__ import annotations

import logging
import pickle

from distributed import Scheduler

logger = logging.getLogger(__name__)


async def dask_setup(scheduler: Scheduler) -> None:
    """Begin with the scheduler."""
    try:
        from nbcloud.config import settings
        from nbcloud.sessions.host.arrival import Arriving
        from nbcloud.sessions.journal.journal import PLUGIN, Journal
    except ImportError as error:
        logger.warning("nbcloud's sessions can't be had here: %s", error)
        return
    host = Arriving(settings().preload)
    journal = Journal(None, settings().journal_memory)
    await scheduler.register_scheduler_plugin(plugin=pickle.dumps(journal), name=PLUGIN, idempotent=True)
    await scheduler.register_worker_plugin(None, plugin=pickle.dumps(host), name=PLUGIN, idempotent=True)
