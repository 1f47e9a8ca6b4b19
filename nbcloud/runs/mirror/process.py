"""The process that mirrors: started by ``wake``, it ends by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nbcloud.config import settings
from nbcloud.errors import NbcloudError, StoreError
from nbcloud.redact import Redactor, environment_secrets
from nbcloud.runs.files import exclusive
from nbcloud.runs.mirror.client import Away, ask, connect, told
from nbcloud.runs.mirror.feed import SCHEME, Feed, Sent, shown
from nbcloud.runs.mirror.models import Models
from nbcloud.runs.mirror.sender import Sender
from nbcloud.runs.store import Store

PURPOSE = "to mirror runs"
_POLL = 1.0
_LINGER = 20.0
"""Seconds without a change after which the process ends; the next change starts another."""
_PATIENCE = 600.0
"""Seconds that it waits for a target that is away."""
_LONGEST_PAUSE = 60.0


@contextmanager
def alone(directory: Path, wait: float = 0.0) -> Iterator[bool]:
    """Whether no other process mirrors runs of this store meanwhile."""
    with exclusive(directory / "mirror.lock", wait) as held:
        yield held


class Mirror:
    """Brings what is due to a target.

    Parameters
    ----------
    store : Store
    target : str
        As the setting ``tracking`` names it.
    """

    def __init__(self, store: Store, target: str) -> None:
        self.feed = Feed(store, shown(target))
        self._store = store
        self._target = target
        self._client: Any = None
        self._models: Models | None = None
        password = urlsplit(target.removeprefix(SCHEME)).password or ""
        self._redactor = Redactor(environment_secrets(os.environ) | {"tracking": unquote(password)})

    def reach(self) -> None:
        """See whether the target answers.

        Raises
        ------
        Away
            When it does not.
        """
        self._client = self._client or connect(self._target, PURPOSE)
        try:
            ask(self._client)
        except Away as away:
            raise Away(self._redactor.text(str(away))) from None

    def catch_up(self, *, refused: bool, say: Callable[[str], object] = lambda _: None) -> int:
        """Send what is due, and on demand what was refused; returns the number of runs.

        Raises
        ------
        Away
            When the target can't be reached; that is on record then.
        """
        try:
            self._client = self._client or connect(self._target, PURPOSE)
            self._models = self._models or Models(self.feed, self._client, self._target)
            sender = Sender(self._store, self.feed, self._client, self._models, self._redactor)
            again = self.feed.refused() if refused else []
            for number in again:
                self._send(sender, number)
            count = len(again)
            while due := self.feed.due():
                for revision, number in due:
                    self._send(sender, number)
                    self.feed.done(revision)
                    count += 1
                say(f"{count} runs are there")
            if self._models.fresh:
                self._models.follow()
        except Away as away:
            self.feed.trouble(str(away))
            raise
        return count

    def _send(self, sender: Sender, number: int) -> None:
        try:
            sender.send(number)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - MLflow's, of whatever it uses to reach its server
            why = self._redactor.text(told(error))
            self.reach()
            # It answers, so it is this run that it doesn't take; that must not keep back the others.
            self.feed.keep(number, replace(self.feed.sent(number) or Sent(), trouble=why))


def keep_up(store: Store, target: str) -> None:
    """Mirror until nothing changes any more."""
    mirror = Mirror(store, target)
    # Looked at once more behind the lock: what changed while it was held has woken nobody.
    while mirror.feed.due():
        with alone(store.directory) as held:
            if not held:
                return
            if not _follow(mirror, store):
                return


def _follow(mirror: Mirror, store: Store) -> bool:
    """Send what comes; False when the target stays away."""
    changed = answered = time.monotonic()
    asked, pause = changed - _LONGEST_PAUSE, _POLL
    while store.directory.exists():  # else its user has removed it
        now = time.monotonic()
        try:
            again = now - asked >= _LONGEST_PAUSE  # what was refused may be taken now
            asked = now if again else asked
            if mirror.catch_up(refused=again) and not again:
                changed = time.monotonic()
            answered, pause = time.monotonic(), _POLL
            if answered - changed > _LINGER:
                return True
        except Away:
            if now - answered > _PATIENCE:
                return False
            pause = min(2 * pause, _LONGEST_PAUSE)
        time.sleep(pause)
    return False


def main() -> int:
    """Mirror the store of the settings to the target of the settings."""
    with Store() as store:
        target = settings().tracking
        try:
            keep_up(store, target)
        except NbcloudError as error:
            Feed(store, shown(target)).trouble(str(error))
            return 1
    return 0
