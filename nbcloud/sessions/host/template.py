"""A worker's template: the process that forks its kernels, and when it can't be used, why.

A kernel is never forked where it might differ from one that is started cold: the template must have the
environment that the kernel is to have, and nothing that it imported may have changed on disk since.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbcloud.sessions.messages import TEMPLATE

logger = logging.getLogger(__name__)

_IMPORT_SECONDS = 60.0
_FORK_SECONDS = 5.0
_PATIENCE = 1.5
"""How long after its start a template is waited for; a cold kernel takes about as long."""
_REST = 10.0
"""Seconds between the starts of two templates, should what they depend on change all the time."""
_LIVES = 2
_LINE = 2**24
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


class Child:
    """A kernel that was forked.

    Parameters
    ----------
    pid : int
    watched : mapping
        Paths and times of what it has imported.
    """

    def __init__(self, pid: int, watched: Mapping[str, int]) -> None:
        self.pid = pid
        self._watched = watched

    @property
    def changed(self) -> str:
        """A file or folder that has changed since it was imported; empty when none has."""
        return _change(self._watched)

    def wait(self) -> int:
        """Wait for its end; returns its exit code, of a signal the negative number."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Template:
    """What forks the kernels of a worker: a process, and a new one when that is outdated or dies.

    Parameters
    ----------
    directory : Path
        For its log.
    preload : sequence of str
        Modules to import, besides those that every kernel imports.

    Attributes
    ----------
    refusal : str
        Why it will not be used any more; empty while it may be.
    left_out : str
        Why its kernels have not all of the modules; empty while they have.
    """

    def __init__(self, directory: Path, preload: Sequence[str]) -> None:
        self._directory = directory
        self._preload = [*preload]
        self._process: _Process | None = None
        self._deaths = 0
        self._lock = asyncio.Lock()
        self.left_out = ""
        self.refusal = "" if sys.platform == "linux" else f"on {sys.platform} a fork is not safe"

    async def loaded(self, environment: Mapping[str, str]) -> None:
        """Wait until it has imported all that it can, or is given up."""
        while not self.refusal:
            async with self._lock:
                process = self._process or self._begin(dict(environment))
                if process.unfit in self._preload:
                    process = self._without(process.unfit, dict(environment))
            await asyncio.wait([process.loading])
            if process.unfit not in self._preload:
                return

    async def fork(self, environment: Mapping[str, str], **request: str) -> Child | str:
        """Fork a kernel; or say why one must be started cold.

        Parameters
        ----------
        environment : mapping
            All of the kernel's, but its black box.
        **request
            ``connection_file``, ``black_box`` and ``log``.
        """
        async with self._lock:
            try:
                process = await self._fit(dict(environment))
                return await process.fork(request)
            except _Unusable as why:
                logger.info("A kernel is started without the template: %s.", why)
                return str(why)

    async def _fit(self, environment: dict[str, str]) -> _Process:
        """A process that can fork a kernel with this environment."""
        if self.refusal:
            raise _Unusable(self.refusal)
        process = self._process
        if process is None:
            process = self._begin(environment)
        elif process.ended and not process.refusal:
            self._deaths += 1
            if self._deaths >= _LIVES:
                self._refuse("it died twice")
            self._begin(environment)
            raise _Unusable("it died")
        elif process.ready and (change := process.changed(environment)):
            if time.monotonic() > process.started + _REST:
                self._begin(environment)
            raise _Unusable(change)
        await asyncio.wait([process.loading], timeout=process.started + _PATIENCE - time.monotonic())
        if process.unfit in self._preload:
            self._without(process.unfit, environment)
            raise _Unusable(self.left_out)
        if process.refusal:
            self._refuse(process.refusal)
        if not process.ready:
            raise _Unusable("it is still importing")
        return process

    def _begin(self, environment: dict[str, str]) -> _Process:
        self.close()
        self._process = _Process(self._directory / "template.log", environment, self._preload)
        return self._process

    def _without(self, module: str, environment: dict[str, str]) -> _Process:
        """Begin anew with the other modules; the process that imported this one is no good any more."""
        assert self._process is not None
        why = self._process.refusal
        self.left_out = f"{self.left_out}; {why}".removeprefix("; ")
        self._preload.remove(module)
        logger.warning("Kernels begin without a module: %s.", why)
        return self._begin(environment)

    def _refuse(self, why: str) -> None:
        self.refusal = why
        self.close()
        logger.warning("Kernels are started without a template: %s.", why)
        raise _Unusable(why)

    @property
    def pid(self) -> int:
        """Its process; 0 before the first kernel."""
        return self._process.pid if self._process is not None else 0

    def close(self) -> None:
        """End it; its kernels go on."""
        if self._process is not None:
            self._process.close()


class _Unusable(Exception):
    """Why a kernel must be started cold."""


class _Process:
    """One process that forks kernels."""

    def __init__(self, log: Path, environment: dict[str, str], preload: Sequence[str]) -> None:
        self.started = time.monotonic()
        self.refusal = ""
        self.unfit = ""
        """The module at whose import it was refused."""
        self._log = log
        self._environment = environment
        self._watched: dict[str, int] = {}
        self._channel, theirs = socket.socketpair()
        command = [sys.executable, "-m", "nbcloud.sessions.kernel", TEMPLATE, str(theirs.fileno()), *preload]
        with theirs, log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self.pid = self._process.pid
        self.loading = asyncio.ensure_future(self._load())

    @property
    def ready(self) -> bool:
        """Whether it can fork."""
        return bool(self._watched)

    @property
    def ended(self) -> bool:
        """Whether it has died."""
        return self._process.poll() is not None

    async def _load(self) -> None:
        """Follow its imports."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._channel, limit=_LINE)
        name = ""
        try:
            while not self._watched and not self.refusal:
                async with asyncio.timeout(_IMPORT_SECONDS):
                    said = await self._hear()
                name = said.get("loading", name)
                self._watched = said.get("watched", {})
                if "refused" in said:
                    self.unfit = name
                    self.refusal = f"the preload {name!r} can't be shared: {said['refused']}"
        except EOFError:
            self.unfit = name
            words = self._log.read_text(errors="replace").strip()[-500:]
            self.refusal = f"it ended at the import of {name!r}: {words}" if name else f"it ended: {words}"
        except TimeoutError:
            self.unfit = name
            what = f"the preload {name!r}" if name else "what every kernel imports"
            self.refusal = f"{what} takes longer than {_IMPORT_SECONDS:g} s"
            self.close()

    async def fork(self, request: Mapping[str, str]) -> Child:
        """Fork a kernel."""
        try:
            async with asyncio.timeout(_FORK_SECONDS):
                with _adopting():
                    self._writer.write(json.dumps(request).encode() + b"\n")
                    pid = int((await self._hear())["pid"])
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # is it ours?
        except (EOFError, OSError, TimeoutError, LookupError) as error:
            self.close()
            raise _Unusable(f"it did not fork: {error!r}") from error
        return Child(pid, self._watched)

    async def _hear(self) -> dict[str, Any]:
        line = await self._reader.readline()
        if not line:
            raise EOFError
        heard: dict[str, Any] = json.loads(line)
        return heard

    def changed(self, environment: Mapping[str, str]) -> str:
        """What is different now from what it knows; empty when nothing is."""
        for name in sorted(environment.keys() | self._environment.keys()):
            if environment.get(name) != self._environment.get(name):
                return f"the environment variable {name} has changed"
        path = _change(self._watched)
        return f"{path} has changed" if path else ""

    def close(self) -> None:
        """End it."""
        self.loading.cancel()
        self._process.kill()
        self._process.wait()
        if hasattr(self, "_writer"):
            self._writer.close()
        else:
            self._channel.close()


def _change(watched: Mapping[str, int]) -> str:
    """A path that has another time now."""
    for path, time_then in watched.items():
        try:
            if Path(path).stat().st_mtime_ns != time_then:
                return path
        except OSError:
            return path
    return ""


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Let Linux give this process the orphans of the processes that it has started."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    before = ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
