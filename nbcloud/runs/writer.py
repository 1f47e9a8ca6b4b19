"""What a process logs outside of cloud cells: into the store of this user, by one thread of its own."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from nbcloud import secret_values
from nbcloud.config import settings
from nbcloud.errors import NbcloudError, StoreError
from nbcloud.redact import Redactor, environment_secrets
from nbcloud.runs import experiments
from nbcloud.runs.artifacts import Artifacts
from nbcloud.runs.entries import Entry, contents, line
from nbcloud.runs.mirror.wake import enlist, wake
from nbcloud.runs.owners import process_mark
from nbcloud.runs.record import Run, RunState, environment_facts, git_facts
from nbcloud.runs.sinks import Place, begin_nested, end_nested
from nbcloud.runs.store import Store

logger = logging.getLogger(__name__)

_PAUSE = 0.05
"""Seconds that an entry may wait for others to be written with it."""
_RETRY = 1.0
_LIMIT = 60.0

Step = Callable[[Store], object]


class Writer:
    """A sink of `nbcloud.runs.tracking` that writes.

    What waits is lost with the process, unless ``flush`` returned before. In a forked child it begins anew,
    with a run of its own.
    """

    def __init__(self) -> None:
        self._begin_process("")
        atexit.register(self._close)

    def _begin_process(self, above: str) -> None:
        self._process = os.getpid()
        self._above = above
        """The run of the process that forked this one."""
        self._own = ""
        self._logs: set[str] = set()
        """The runs of this process that have not ended."""
        self._numbers: dict[str, int] = {}
        """How many messages each has."""
        self._work: deque[tuple[str, str, Entry] | Step] = deque()
        self._steps: deque[Step] = deque()
        self._woken, self._hurry = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._trouble: StoreError | None = None

    def put(self, place: Place, entry: Entry) -> None:
        """Take an entry, to be written soon."""
        log, part = self._here(place)
        self._work.append((log, part, entry))
        if not self._woken.is_set():
            self._woken.set()

    def goes_on(self, place: Place) -> bool:
        """Whether this process has begun a run there."""
        self._look_for_fork(place)
        return place[0] in self._logs or bool(self._own)

    def begin(self, place: Place, name: str, tags: dict[str, str]) -> Place:
        """Begin a run: nested in that of ``place``, or one that stands for itself."""
        self._look_for_fork(place)
        if place[0]:
            return begin_nested(self, self._here(place), name, tags)
        with self._lock:
            return self._begin(name, tags), ""

    def end(self, place: Place, state: RunState) -> None:
        """End a run."""
        self._look_for_fork(place)
        if place[1]:
            end_nested(self, place, state)
        elif place[0] in self._logs:
            self._end(place[0], state)

    def keep(self, place: Place, name: str, source: Path | bytes) -> None:
        """Take a file in."""
        digest, size = Artifacts(Path(settings().data_dir).absolute()).keep(source)
        self.put(place, ["artifact", name, {"hash": digest, "bytes": size}])

    def flush(self) -> None:
        """Wait until all that was put is written.

        Raises
        ------
        StoreError
            When it can't be.
        """
        if self._thread is None or self._process != os.getpid():
            return
        written = threading.Event()
        self._do(lambda _store: written.set())
        deadline = time.monotonic() + _LIMIT
        while not written.wait(_PAUSE):
            if self._trouble is not None:
                raise self._trouble
            if time.monotonic() > deadline:
                raise StoreError(
                    f"What was logged could not be written within {_LIMIT:g} s.", "Try it again."
                )
            self._hurry.set()
        wake(Path(settings().data_dir).absolute())  # the thread may not come to it at the process's end

    def _here(self, place: Place) -> Place:
        """The place in a log of this process."""
        self._look_for_fork(place)
        if place[0] in self._logs:
            return place
        with self._lock:
            self._own = self._own or self._begin(_program(), {})
        return self._own, ""

    def _look_for_fork(self, place: Place) -> None:
        if self._process != os.getpid():
            self._begin_process(place[0] or self._own)

    def _begin(self, name: str, tags: dict[str, str]) -> str:
        now = time.time()
        run = Run(
            name=name,
            kind="process",
            parent=self._above,
            experiment=experiments.current(),
            state=RunState.RUNNING,
            notebook=os.environ.get("JPY_SESSION_NAME", ""),
            created=now,
            started=now,
            tags=tags,
            host=platform.node(),
            extra={"client": process_mark()},
        )
        cwd = Path.cwd()
        self._logs.add(run.id)
        self._do(lambda store: store.begin(replace(run, versions=environment_facts(), git=git_facts(cwd))))
        return run.id

    def _end(self, log: str, state: RunState) -> None:
        now = time.time()
        self._logs.discard(log)
        self._do(lambda store: store.update(log, state=state, finished=now))

    def _do(self, step: Step) -> None:
        self._work.append(step)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, daemon=True, name="nbcloud-logged")
            self._thread.start()
        self._woken.set()
        self._hurry.set()

    def _write(self) -> None:
        store = Store()
        secrets: dict[str, str] = {}
        while True:
            self._woken.wait()
            self._hurry.wait(_PAUSE)
            self._hurry.clear()
            self._woken.clear()
            found = environment_secrets(os.environ) | secret_values.all_known()
            if found != secrets:
                secrets, store.redactor = found, Redactor(found)
            enlist(store)
            self._steps += self._taken(store.redactor)
            if not self._carry_out(store):
                self._woken.set()
                self._hurry.wait(_RETRY)
            wake(store.directory)

    def _taken(self, redactor: Redactor) -> Iterator[Step]:
        """What waits, as steps that may be repeated."""
        work = [self._work.popleft() for _ in range(len(self._work))]
        for log, group in groupby(work, key=lambda each: each[0] if isinstance(each, tuple) else None):
            if log is None:
                yield from (step for step in group if callable(step))
                continue
            entries = [(each[1], each[2]) for each in group if isinstance(each, tuple)]
            lines = b"".join(self._line(log, redactor.json(content)) for content in contents(entries))
            yield partial(Store.append, run_id=log, lines=lines)

    def _line(self, log: str, content: dict[str, Any]) -> bytes:
        self._numbers[log] = self._numbers.get(log, 0) + 1
        return line(self._numbers[log], time.time(), content)

    def _carry_out(self, store: Store) -> bool:
        """Do the steps, in order; False when the disk refuses one."""
        while self._steps:
            try:
                self._steps[0](store)
            except StoreError as error:
                if self._trouble is None:
                    logger.warning("nbcloud could not keep what was logged, and tries again: %s", error)
                self._trouble = error
                return False
            except NbcloudError as error:  # its run was ended or deleted by another process
                logger.warning("nbcloud could not keep what was logged: %s", error)
            self._steps.popleft()
            self._trouble = None
        return True

    def _close(self) -> None:
        """End what the process has not ended."""
        if self._process != os.getpid():
            return
        raised = getattr(sys, "last_type", None) is not None and not hasattr(sys, "ps1")
        for log in list(self._logs):
            self._end(log, RunState.FAILED if raised else RunState.DONE)
        try:
            self.flush()
        except StoreError as error:
            logger.warning("nbcloud could not keep what was logged: %s", error)


def _program() -> str:
    """The name of the script that runs; empty where there is none."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(path).name if path else ""
