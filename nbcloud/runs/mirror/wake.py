"""Sees to it that runs are mirrored, where the settings say so; for the threads that keep records."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from nbcloud.config import settings
from nbcloud.errors import NbcloudError
from nbcloud.runs.files import exclusive
from nbcloud.runs.mirror.feed import Feed, shown
from nbcloud.runs.store import Store

logger = logging.getLogger(__name__)

_BOOT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from nbcloud.runs.mirror.process import main
sys.exit(main())
"""
_PAUSE = 5.0
"""Seconds between two starts, within which a process has come up and holds its lock."""
_enlisted: set[tuple[Path, str]] = set()
_lock = threading.Lock()
_started = -_PAUSE


def enlist(store: Store) -> None:
    """What changes in this store from now on is to be mirrored; called before it changes."""
    with contextlib.suppress(NbcloudError):  # trouble with the store is told when something is written
        target = settings().tracking
        if not target or (store.directory, target) in _enlisted:
            return
        feed = Feed(store, shown(target))
        feed.enlist()
        _enlisted.add((store.directory, target))
        if not _installed():
            why = 'mlflow is not installed here; type: pip install "nbcloud[mlflow]"'
            feed.trouble(why)
            logger.warning("nbcloud does not mirror runs: %s", why)


def wake(directory: Path) -> None:
    """Start the process that mirrors, unless one is there."""
    global _started
    with contextlib.suppress(NbcloudError, OSError):
        target = settings().tracking
        if not target or not directory.exists() or not _installed():
            return
        with _lock:
            if time.monotonic() - _started < _PAUSE:
                return
            with exclusive(directory / "mirror.lock", 0.0) as free:
                if not free:
                    return
            _started = time.monotonic()
            process = subprocess.Popen(
                # -P, because the working directory is no place to import from.
                [sys.executable, "-P", "-c", _BOOT, str(Path(__file__).parents[3])],
                env={**os.environ, "NBCLOUD_DATA_DIR": str(directory), "NBCLOUD_TRACKING": target},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            threading.Thread(target=process.wait, name="nbcloud-reaper", daemon=True).start()


def _installed() -> bool:
    return importlib.util.find_spec("mlflow") is not None
