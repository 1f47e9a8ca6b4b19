"""Runs are put on record by a thread of their own, so that no cell waits for the disk."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nbcloud import secret_values
from nbcloud.dispatch.surroundings import packages_of, settings_of
from nbcloud.errors import NbcloudError, StoreError
from nbcloud.redact import Redactor, environment_secrets
from nbcloud.runs import provenance
from nbcloud.runs.mirror.wake import enlist, wake
from nbcloud.runs.provenance import git_diff
from nbcloud.runs.record import Run, environment_facts, git_facts
from nbcloud.runs.store import Store

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 30.0
_PATIENCE = 0.02


def open_store() -> Store:
    """The store of this user, with this process's secrets masked."""
    return Store(redactor=Redactor(_secrets()))


def _secrets() -> dict[str, str]:
    return environment_secrets(os.environ) | secret_values.all_known()


class Recorder:
    """Writes runs into the local store, in order, behind the caller's back.

    Trouble with the store never stops a cell: it is kept in ``trouble``, for the next status to show.
    """

    def __init__(self) -> None:
        self._work: deque[Callable[[Store], None] | None] = deque()
        self._woken = threading.Event()
        self._awaited = threading.Event()
        """Somebody waits for it."""
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._refused: dict[str, bytes] = {}
        self._asking: list[threading.Thread] = []
        self._masked: dict[str, str] = {}
        self.trouble = ""

    def begin(self, run: Run, cwd: str | None) -> None:
        """A run is about to be sent; kept when the recorder is woken, or with what becomes known of it."""

        def work(store: Store) -> None:
            self._mask(store)
            facts = replace(
                run, versions=environment_facts() | run.versions, git=git_facts(cwd) if cwd else None
            )
            if cwd and facts.git and facts.git["dirty"] and (diff := git_diff(cwd)):
                facts = replace(
                    facts, provenance=facts.provenance | provenance.keep(store, provenance.DIFF, diff)
                )
            store.begin(facts)

        self._work.append(work)
        self._start()

    def wake(self) -> None:
        """Keep what is known up to now."""
        self._woken.set()

    def lines(self, run_id: str, lines: bytes) -> None:
        """Messages of a run, as the journal's lines."""
        self._do(lambda store: self._append(store, run_id, lines))

    def _append(self, store: Store, run_id: str, lines: bytes) -> None:
        lines = self._refused.pop(run_id, b"") + lines
        try:
            store.append(run_id, lines)
        except StoreError:
            # Kept for the next try: a gap in the record could never be filled.
            self._refused[run_id] = lines
            raise

    def _mask(self, store: Store) -> None:
        secrets = _secrets()
        if secrets != self._masked:
            self._masked, store.redactor = secrets, Redactor(secrets)

    def change(self, run_id: str, **changes: Any) -> None:
        """Something about a run is known now; a state that is an end finishes its record."""

        def work(store: Store) -> None:
            self._mask(store)
            if run_id in self._refused:
                self._append(store, run_id, b"")
            run = store.update(run_id, **changes)
            if changes.get("worker"):
                self._ask_around(run)

        self._do(work)

    def _ask_around(self, run: Run) -> None:
        """Keep with a run what is around it: asked aside, as messages must not wait for that."""

        def ask() -> None:
            texts = {
                provenance.CLUSTER: settings_of(run.cluster_id),
                provenance.PACKAGES: packages_of(run.cluster_id, run.worker),
            }
            self._do(lambda store: _keep_texts(store, run.id, texts))

        self._asking = [each for each in self._asking if each.is_alive()]
        self._asking.append(threading.Thread(target=ask, daemon=True, name="nbcloud-surroundings"))
        self._asking[-1].start()

    def _do(self, work: Callable[[Store], None]) -> None:
        self._work.append(work)
        self._start()
        self._woken.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, daemon=True, name="nbcloud-recorder")
                self._thread.start()
                atexit.register(self.flush)

    def _keep(self) -> None:
        store: Store | None = None
        rested = True
        while True:
            if not self._work:
                rested = True
                if store is not None:
                    wake(store.directory)
                self._woken.wait()
                self._woken.clear()
                # A short cell is over by then; until it is, this thread would only be in its way.
                self._awaited.wait(_PATIENCE)
                self._awaited.clear()
                continue
            work = self._work.popleft()
            if work is None:
                break
            try:
                store = store or Store()
                if rested:
                    enlist(store)
                    rested = False
                work(store)
            except (NbcloudError, OSError) as error:
                self.trouble = str(error)
                logger.warning("nbcloud could not keep a record: %s", error)
        if store is not None:
            wake(store.directory)
            store.close()

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Wait until all that was given is on record; whether it is."""
        if self._thread is None:
            return True
        done = threading.Event()

        def finished(store: Store) -> None:
            wake(store.directory)
            done.set()

        self._awaited.set()
        self._do(finished)
        return done.wait(timeout)

    def close(self) -> None:
        """Flush, and end the thread."""
        self.flush()
        for asking in self._asking:
            asking.join(_FLUSH_SECONDS)
        thread, self._thread = self._thread, None
        if thread is not None:
            self._work.append(None)
            self._awaited.set()
            self._woken.set()
            thread.join(_FLUSH_SECONDS)
            atexit.unregister(self.flush)


def _keep_texts(store: Store, run_id: str, texts: dict[str, str]) -> None:
    known = store.get(run_id).provenance
    for name, text in texts.items():
        if text:
            known = known | provenance.keep(store, name, text)
    store.update(run_id, provenance=known)
