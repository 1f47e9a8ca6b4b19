"""Brings runs of MLflow into a store, each to where it stands there now."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbcloud.errors import StoreError, UsageError
from nbcloud.runs.files import exclusive
from nbcloud.runs.imports.receiver import LACKING, Receiver, Tally
from nbcloud.runs.imports.words import PARENT, RUN_ID, id_of, number_of, run_of, value_of
from nbcloud.runs.masked import redact_run
from nbcloud.runs.mirror.client import ask, told
from nbcloud.runs.mirror.facts import RUN_TAG, point
from nbcloud.runs.mirror.feed import shown
from nbcloud.runs.record import IMPORTED, Run, is_run_id
from nbcloud.runs.store import Store
from nbcloud.wording import counted

_PAGE = 200


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other processes from importing into this store meanwhile.

    Raises
    ------
    StoreError
        When one does already.
    """
    with exclusive(directory / "import.lock", 1.0) as held:
        if not held:
            raise StoreError(
                f"Another process imports runs into {directory}.", "Repeat the command when it has ended."
            )
        yield


class Importer:
    """Imports from one server, or one folder.

    Parameters
    ----------
    store : Store
    client : mlflow.MlflowClient
    address : str
    folder : Path, optional
        The one that the address is of.
    dry : bool
        Look, and change nothing.
    say : callable
        Is told how it goes on, every few seconds.
    """

    def __init__(
        self,
        store: Store,
        client: Any,
        address: str,
        folder: Path | None = None,
        *,
        dry: bool = False,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.tallies: dict[str, Tally] = {}
        self._receiver = Receiver(store, client, address, folder, say)
        self._store = store
        self._client = client
        self._address = address
        self._dry = dry
        self._ids: dict[str, str] = {}
        """Of the runs that were looked at, the ids here; empty for what is not here."""
        self._experiments: dict[str, str] = {}

    @property
    def troubles(self) -> dict[str, str]:
        """Of runs that could not be brought, or not whole, the reason; by what they are called there."""
        return self._receiver.troubles

    def experiments(self, names: Iterable[str] = ()) -> list[Any]:
        """The experiments there: those of these names, or all.

        Raises
        ------
        UsageError
            When there is none of such a name; the nearest is named.
        """
        found = {each.name: each for each in _pages(self._client.search_experiments)}
        self._experiments = {each.experiment_id: name for name, each in found.items()}
        for name in names:
            if name not in found:
                near = difflib.get_close_matches(name, found, n=1)
                hint = f"Did you mean {near[0]!r}? " if near else ""
                some = ", ".join(list(found)[:10]) + (", …" if len(found) > 10 else "")
                raise UsageError(f"MLflow has no experiment {name!r}.", f"{hint}There are: {some or 'none'}.")
        return [found[name] for name in dict.fromkeys(names)] or list(found.values())

    def bring(self, experiment: Any) -> None:
        """Bring all runs of an experiment that are not deleted there.

        Raises
        ------
        Away
            When MLflow does not answer any more.
        """
        self.tallies.setdefault(experiment.name, Tally(experiment.name))
        order = ["attributes.start_time ASC"]  # so that what others are nested in comes before them
        for there in _pages(self._client.search_runs, [experiment.experiment_id], order_by=order):
            self._run(there)

    def _run(self, there: Any) -> str:
        """Bring a run; returns its id here."""
        name = there.info.run_id
        if name not in self._ids:
            self._ids[name] = ""  # should it be nested in itself
            try:
                self._ids[name] = self._brought(there)
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - MLflow's, of whatever it uses to reach its server
                ask(self._client)
                self.troubles[name] = self._store.redactor.text(told(error))
        return self._ids[name]

    def _brought(self, there: Any) -> str:
        tally = self._tally(there)
        run_id, known = self._on_record(there)
        if known is not None and known.kind != IMPORTED:
            tally.own += 1
            return run_id
        if known is not None and known.deleted is not None:
            tally.deleted += 1
            return run_id
        wanted = run_of(there, run_id, self._parent(there), tally.experiment, shown(self._address))
        wanted = redact_run(self._store.redactor, wanted)
        if known is not None and known.state.ended and self._is_same(known, wanted, there):
            tally.known += 1
            return run_id
        again = None if known is None or known.state.ended else known
        before = tally.values, tally.files
        if self._dry:
            for file in self._receiver.files(there):
                tally.files += 1
                tally.bytes += file.size
        else:
            if known is not None and again is None:
                self._store.remove(run_id)  # a record that has ended takes nothing more
            self._receiver.write(wanted, again, there, tally)
        if known is None:
            tally.new += 1
        elif again is not None and again.state is wanted.state and before == (tally.values, tally.files):
            tally.known += 1  # it runs there, and has not moved
        else:
            tally.renewed += 1
        self._receiver.tell(counted(sum(each.brought for each in self.tallies.values()), "run"))
        return run_id

    def _tally(self, there: Any) -> Tally:
        number = there.info.experiment_id
        if number not in self._experiments:
            self._experiments[number] = self._client.get_experiment(number).name
        name = self._experiments[number]
        return self.tallies.setdefault(name, Tally(name))

    def _on_record(self, there: Any) -> tuple[str, Run | None]:
        """The id of a run here, and the run, where it is here."""
        attempt = 0
        while True:
            run_id = id_of(there, attempt)
            known: Run | None = self._store.load(run_id)
            mirrored = is_run_id(there.data.tags.get(RUN_TAG, ""))
            if known is None or mirrored or known.tags.get(RUN_ID) == there.info.run_id:
                return run_id, known
            attempt += 1

    def _parent(self, there: Any) -> str:
        """The id here of the run in which it is nested; that one comes first."""
        above = there.data.tags.get(PARENT, "")
        if not above or above in self._ids:
            return self._ids.get(above, "")
        try:
            found = self._client.get_run(above)
        except Exception:  # noqa: BLE001 - MLflow's, of whatever it uses to reach its server
            ask(self._client)
            return ""  # it is gone there
        return self._run(found) if found.info.lifecycle_stage == "active" else ""

    def _is_same(self, known: Run, wanted: Run, there: Any) -> bool:
        """Whether a run that has ended here is as it is there, but for what is just set here."""
        if LACKING in known.extra or known.tags.get(RUN_ID) != there.info.run_id:
            return False
        if (known.state, known.finished) != (wanted.state, wanted.finished):
            return False
        tracked = self._store.tracked([known.id])[known.id]
        latest = {key: point(0, 0, number_of(value)) for key, value in there.data.metrics.items()}
        here = {key: point(0, 0, value) for key, value in tracked.metrics.items()}
        params = {key: value_of(value) for key, value in there.data.params.items()}
        if latest != here or self._store.redactor.json(params) != tracked.params:
            return False
        changes = {
            field: getattr(wanted, field)
            for field in ("name", "parent", "experiment", "tags")
            if getattr(known, field) != getattr(wanted, field)
        }
        if changes and not self._dry:
            self._store.update(known.id, **changes)
        return True


def _pages(search: Callable[..., Any], *words: Any, **options: Any) -> Iterator[Any]:
    """What MLflow finds, page by page."""
    token = None
    while True:
        page = search(*words, **options, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
