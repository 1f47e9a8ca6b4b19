"""Where what code logs goes: with the outputs of a cell, or into the store by a thread of the process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from nbcloud.runs.entries import Entry
from nbcloud.runs.record import RunState, new_run_id

Place = tuple[str, str]
"""The run in whose log something stands, and the nested one that it belongs to; both may be empty."""


class Sink(Protocol):
    """Where entries go."""

    def put(self, place: Place, entry: Entry) -> None:
        """Take an entry, and return at once."""

    def goes_on(self, place: Place) -> bool:
        """Whether there is a run at this place, without one having to be begun."""

    def begin(self, place: Place, name: str, tags: dict[str, str]) -> Place:
        """Begin a run, nested in that of ``place``."""

    def end(self, place: Place, state: RunState) -> None:
        """End a run that ``begin`` began."""

    def keep(self, place: Place, name: str, source: Path | bytes) -> None:
        """Take a file in, as it is now."""

    def flush(self) -> None:
        """Wait until what was put is safe."""


def begin_nested(sink: Sink, place: Place, name: str, tags: dict[str, str]) -> Place:
    """Begin a run whose entries stand among those of the run in which it is nested."""
    log, above = place
    nested = log, new_run_id()
    document = {"kind": "nested", "name": name, "tags": tags, "time": time.time(), "parent": above}
    sink.put(nested, ["begin", document])
    return nested


def end_nested(sink: Sink, place: Place, state: RunState) -> None:
    """End it."""
    sink.put(place, ["end", state.value, time.time()])
