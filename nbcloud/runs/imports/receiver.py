"""One run of MLflow's into the store: whatever of it is not here yet, so that it may be done again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbcloud.errors import StoreError
from nbcloud.runs.entries import Entry, contents, line
from nbcloud.runs.imports.files import Refused, RemoteFile, bring, files_of
from nbcloud.runs.imports.words import dataset_entries, number_of, value_entry, value_of
from nbcloud.runs.mirror.client import Away, ask, told
from nbcloud.runs.mirror.facts import milliseconds, point
from nbcloud.runs.record import Run, RunState
from nbcloud.runs.store import Store
from nbcloud.runs.tracked import Tracked
from nbcloud.wording import size_text

LACKING = "lacking"
"""Among what else is in a run's document: of how many of its files it is known that they did not come."""
_SAID_EVERY = 2.0
_LARGE = 2**26


@dataclass
class Tally:
    """What became of an experiment's runs.

    Attributes
    ----------
    experiment : str
    new : int
    renewed : int
        Those that were here, and have changed there.
    known : int
        Those that are here as they are there.
    own : int
        Those that were mirrored from this store.
    deleted : int
        Those that were deleted here.
    values, files, bytes : int
        What was brought; in a dry run of files, what would be.
    """

    experiment: str
    new: int = 0
    renewed: int = 0
    known: int = 0
    own: int = 0
    deleted: int = 0
    values: int = 0
    files: int = 0
    bytes: int = 0

    @property
    def brought(self) -> int:
        """Runs that are new here, or were brought up to date."""
        return self.new + self.renewed


class Receiver:
    """Writes runs as they come.

    Parameters
    ----------
    store : Store
    client : mlflow.MlflowClient
    address : str
    folder : Path or None
        The one that the address is of.
    say : callable
        Is told how it goes on, every few seconds.
    """

    def __init__(
        self, store: Store, client: Any, address: str, folder: Path | None, say: Callable[[str], object]
    ) -> None:
        self.troubles: dict[str, str] = {}
        self._store = store
        self._client = client
        self._address = address
        self._folder = folder
        self._say = say
        self._said = time.monotonic()

    def write(self, wanted: Run, again: Run | None, there: Any, tally: Tally) -> None:
        """Bring what is not here of a run that is not on record, or not as one that has ended."""
        if again is None:
            begun = RunState.QUEUED if wanted.state.ended else wanted.state
            # Queued, as nothing of it will change there: its files are the ones that it ended with.
            self._store.begin(replace(wanted, state=begun, finished=None))
        tracked = self._store.tracked([wanted.id])[wanted.id]
        params = {key: value_of(value) for key, value in there.data.params.items()}
        entries: list[Entry] = [
            ["param", key, value] for key, value in params.items() if tracked.params.get(key) != value
        ]
        entries += [each for each in dataset_entries(there) if tracked.datasets.get(each[1]) != each[2]]
        self._append(wanted.id, entries)
        for key in there.data.metrics:
            values = self._lacking(wanted.id, key, there)
            self._append(wanted.id, values)
            tally.values += len(values)
        settled = again is None or again.state is RunState.QUEUED or not wanted.state.ended
        lacking = self._bring_files(wanted, there, tracked if settled else Tracked(), tally)
        facts = ("name", "parent", "experiment", "tags", "started", "message")
        changes = {field: getattr(wanted, field) for field in facts}
        if lacking:
            changes |= {"extra": {**wanted.extra, LACKING: len(lacking)}}
            changes |= {"message": self.troubles[there.info.run_id]}
        self._store.update(wanted.id, **changes)
        self._store.update(wanted.id, state=wanted.state, finished=wanted.finished)

    def _lacking(self, run_id: str, key: str, there: Any) -> list[Entry]:
        """The values of a metric that are not on record."""
        here = Counter(
            point(each.step, milliseconds(each.time), each.value) for each in self._store.history(run_id, key)
        )
        lacking = []
        for each in self._client.get_metric_history(there.info.run_id, key):
            entry = value_entry(each)
            found = point(each.step, each.timestamp, number_of(each.value))
            if here[found] > 0:
                here[found] -= 1
            else:
                lacking.append(entry)
        return lacking

    def _append(self, run_id: str, entries: list[Entry]) -> None:
        for content in contents(("", entry) for entry in entries):
            masked = self._store.redactor.json(content)
            number = self._store.last_number(run_id) + 1
            self._store.append(run_id, line(number, time.time(), masked))

    def files(self, there: Any) -> Iterator[RemoteFile]:
        """The files of a run; those that can't be taken are among the troubles."""
        for file in files_of(there, self._client, self._address, self._folder):
            if isinstance(file, Refused):
                self.troubles[there.info.run_id] = f"{file}, and was left there."
            else:
                yield file

    def _bring_files(self, run: Run, there: Any, here: Tracked, tally: Tally) -> list[str]:
        """Bring files that are not here; returns why some don't come."""
        lacking = []
        try:
            for file in self.files(there):
                if here.artifacts.get(file.name, {}).get("bytes", -1) == file.size:
                    continue
                self.tell(f"{file.name} of {run.name or run.id}, {size_text(file.size)}", file.size > _LARGE)
                try:
                    facts = bring(file, self._store.artifacts)
                except Exception as error:  # noqa: BLE001 - MLflow's, of whatever it uses to reach its files
                    lacking.append(f"{file.name}: {self._why(error)}")
                    continue
                self._append(run.id, [["artifact", file.name, facts]])
                tally.files += 1
                tally.bytes += facts["bytes"]
        except Exception as error:  # noqa: BLE001 - the same, when it lists them
            lacking.append(self._why(error))
        if lacking:
            self.troubles[there.info.run_id] = f"Not all of its files came: {lacking[0]}"
        return lacking

    def _why(self, error: Exception) -> str:
        """What is said of a file that does not come, unless it is this store or the server that fails."""
        if isinstance(error, StoreError | Away):
            raise error
        ask(self._client)
        return self._store.redactor.text(told(error))

    def tell(self, text: str, important: bool = False) -> None:
        """Say how it goes on, if there is something to say, or nothing was said for a while."""
        if important or time.monotonic() - self._said > _SAID_EVERY:
            self._said = time.monotonic()
            self._say(f"importing: {text}")
