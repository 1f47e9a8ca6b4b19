"""What happened to a model, in order: each event a file of its own, written once and never changed.

A version, an alias that moves, a tag, a stage, a deletion is one event. Its number is its place in the order:
who writes a number first has it, anyone else reads what came and decides again. So nothing is ever half
done, two who act at once don't undo each other, and what was can always be told.
"""

from __future__ import annotations

import getpass
import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from nbcloud.errors import ModelError
from nbcloud.models.registry.storage import Storage

Event = dict[str, Any]
FORMAT = 1
"""Version of the events. Adding a kind or a key keeps it where older readers may leave it out."""

_TRIES = 100
_EVENT = re.compile(r"[0-9]{8}\.json")
"""Not what a tool that copies folders may put beside them."""


class Log:
    """The events of one model."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage
        self._folder = f"models/{name}/log"
        self._known: list[Event] = []

    def events(self) -> list[Event]:
        """All events, oldest first."""
        names = [name for name in self._storage.names(self._folder) if _EVENT.fullmatch(name)]
        for number in range(len(self._known), len(names)):
            self._known.append(self._read(number + 1))
        return list(self._known)

    def append(self, decide: Callable[[list[Event]], Event]) -> Event:
        """Add an event.

        Parameters
        ----------
        decide : callable
            Is given all events so far and returns the new one, or raises; is asked again when somebody else
            was sooner.
        """
        for _ in range(_TRIES):
            events = self.events()
            event = {
                "format": FORMAT,
                "number": len(events) + 1,
                "time": time.time(),
                "by": f"{_user()}@{socket.gethostname()}",
                **decide(events),
            }
            data = json.dumps(event, sort_keys=True, ensure_ascii=False).encode()
            if self._storage.create(self._path(event["number"]), data):
                self._known.append(event)
                return event
        raise ModelError(f"The registry's {self._folder!r} is too busy to be written to.", "Try again.")

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:08}.json"

    def _read(self, number: int) -> Event:
        path = self._path(number)
        try:
            event: Event = json.loads(self._storage.read(path))
            _ = event["kind"], event["time"], event["by"]
            if event["format"] > FORMAT:
                raise ModelError(
                    f"{path} in the registry is of format {event['format']}; this nbcloud knows {FORMAT}.",
                    "Type: pip install -U nbcloud",
                )
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} in the registry can't be read ({error}).") from None
        return event


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in many containers
        return "unknown"
