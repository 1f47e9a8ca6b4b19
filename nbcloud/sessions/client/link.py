"""One process's connection to one cluster: a thread, a channel to the journal, questions and answers.

The first connection brings the journal and the hosts to the cluster's scheduler and workers. A connection
that breaks is made again, and the channel goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from distributed.comm import Comm

from nbcloud.clusters.base import ClusterInfo
from nbcloud.clusters.connect import alive
from nbcloud.clusters.routes import leave
from nbcloud.errors import ClusterLost, NbcloudError, SessionError
from nbcloud.sessions.channel import PROTOCOL, SOON, Channel
from nbcloud.sessions.client.greeting import CONNECT_SECONDS, arguments, greet, install
from nbcloud.sessions.client.shortcut import Shortcut

_AGAIN_SECONDS = 0.5
_PATIENCE = 60.0
_PING_SECONDS = 3.0
_AFTER = 0.1
_TICK = 0.5

RESTARTED = "the scheduler was started anew; what runs and sessions it had is lost"

Listener = Callable[[dict[str, Any]], None]
"""Is called in the link's thread; must not block."""


class Link:
    """A connection to a cluster, shared by all that this process does there.

    Parameters
    ----------
    info : ClusterInfo

    Raises
    ------
    ClusterLost
        When the scheduler does not answer.
    VersionSkew
        When the cluster runs an nbcloud of another protocol.
    """

    def __init__(self, info: ClusterInfo) -> None:
        self.info = info
        self.lost = ""
        self.skew: list[str] = []
        """Sentences about versions that differ between here and there."""
        self._identity = secrets.token_hex(8)
        self._asks: dict[str, tuple[Future[Any], Callable[[str], None] | None]] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._heard = time.monotonic()
        self._shortcuts: dict[str, Shortcut] = {}
        """By the worker's address."""
        self._by_journal: dict[str, str] = {}
        """Runs that were sent by the journal and have not ended, with their sessions."""
        self._scheduler = ""
        """The identity of the latest one that answered."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, daemon=True, name=f"nbcloud-{info.name}")
        self._thread.start()
        first: Future[None] = Future()
        asyncio.run_coroutine_threadsafe(self._serve(first), self._loop)
        try:
            first.result(2 * CONNECT_SECONDS)
        except FutureTimeout:
            self.close()
            raise ClusterLost(
                f"The scheduler of {info.name!r} at {info.address} does not answer.",
                f"See %cloud status, or end it: %cloud down {info.name}",
            ) from None
        except BaseException:
            self.close()
            raise

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._channel = Channel(self._received)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    # What others call, from any thread

    def ask(
        self,
        operation: str,
        *,
        timeout: float | None = 60.0,
        phase: Callable[[str], None] | None = None,
        **fields: Any,
    ) -> Any:
        """Ask the journal (or, through it, a session) and wait for the answer.

        Raises
        ------
        SessionError
            When the answer is a refusal.
        ClusterLost
            When the cluster is gone, or gives no answer within ``timeout`` seconds.
        """
        future = self.ask_soon(operation, phase=phase, **fields)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        # In pieces: a signal that comes right before a wait, or on Windows, is only heeded after it.
        while not wait([future], min(_TICK, max(0.0, deadline - time.monotonic()))).done:
            if time.monotonic() < deadline:
                continue
            raise ClusterLost(
                f"The cluster {self.info.name!r} gave no answer within {timeout:g} s.", "See %cloud status."
            )
        return future.result()

    def ask_soon(
        self, operation: str, *, phase: Callable[[str], None] | None = None, ask: str = "", **fields: Any
    ) -> Future[Any]:
        """Ask, and return the future of the answer; ``ask`` is what the question is known by."""
        future: Future[Any] = Future()
        ask = ask or secrets.token_hex(8)
        with self._lock:
            if self.lost:
                raise ClusterLost(self.lost)
            self._asks[ask] = (future, phase)
        self.post(operation, ask=ask, **fields)
        return future

    def withdraw(self, ask: str) -> None:
        """Tell the journal that nobody waits any more for what was asked to be opened."""
        with self._lock:
            self._asks.pop(ask, None)
        self.post("withdraw", ask=ask)

    def post(self, operation: str, **fields: Any) -> None:
        """Tell the journal something that needs no answer."""
        with contextlib.suppress(RuntimeError):  # the loop has ended with the link
            self._loop.call_soon_threadsafe(self._post, {"op": operation, **fields})

    def _post(self, message: dict[str, Any]) -> None:
        if message["op"] in {"interrupt", "stop"} and not message["ask"]:
            for shortcut in self._shortcuts.values():
                if message["run"] in shortcut.runs:  # it must not overtake its run
                    shortcut.post(message)
                    return
        self._channel.post(message)

    def shorten(self, worker: str, host: str) -> None:
        """Look for a way to a worker beside the scheduler; nobody waits for it.

        Parameters
        ----------
        worker : str
            Its address.
        host : str
            The identity of its host.
        """
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._shorten, worker, host)

    def _shorten(self, worker: str, host: str) -> None:
        if self.info.kind == "kubernetes":  # its workers' addresses are good inside only
            return
        known = self._shortcuts.get(worker)
        if known is not None and known.host == host and not known.over:
            return
        if known is not None:  # another host has the address now, or it was out of reach
            known.close()
        self._shortcuts[worker] = Shortcut(
            worker,
            host,
            lambda: self._identity,
            arguments(self.info),
            self._received,
            self._without_shortcut,
        )

    def run(self, worker: str, *, after: Callable[[], None], **request: Any) -> None:
        """Send a run to its session, on the quickest way there is.

        Parameters
        ----------
        worker : str
            The address of the session's worker.
        after : callable
            Is called in the link's thread when most cells would be over.
        request
            ``run``, ``session``, ``timeout`` and the frames of the cell.
        """
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._send, worker, request, after)

    def _send(self, worker: str, request: dict[str, Any], after: Callable[[], None]) -> None:
        self._loop.call_later(_AFTER, after)
        shortcut = self._shortcuts.get(worker)
        # What comes later must not overtake what takes the long way; nor does a run change its way.
        is_long = request["session"] in self._by_journal.values()
        if shortcut is None or not shortcut.connected or is_long:
            self._by_journal[request["run"]] = request["session"]
            self._channel.post({"op": "run", "ask": "", **request})
            return
        about = {
            "run": request["run"],
            "session": request["session"],
            "anew": request["run"] in shortcut.runs,
        }
        shortcut.execute(request)
        self._channel.post({"op": "announce", "ask": "", **about}, within=SOON)

    def _without_shortcut(self, runs: list[str], messages: list[dict[str, Any]]) -> None:
        """A shortcut broke: the journal tells the rest."""
        for message in messages:  # what came all the same is known there
            operation = "run" if message["op"] == "execute" else message["op"]
            self._channel.post({"ask": "", **message, "op": operation})
        for run in runs:
            self._received({"op": "detached", "run": run})

    def listen(self, key: str, listener: Listener) -> None:
        """Have messages of a run, or of a session (by its id), given to one more listener."""
        with self._lock:
            self._listeners.setdefault(key, []).append(listener)

    def forget(self, key: str, listener: Listener | None = None) -> None:
        """Have a listener, or all of them, given nothing more."""
        with self._lock:
            left = (
                []
                if listener is None
                else [each for each in self._listeners.get(key, ()) if each != listener]
            )
            self._listeners.pop(key, None)
            if left:
                self._listeners[key] = left

    @property
    def silence(self) -> float:
        """Seconds since the scheduler was last heard of, when something is being waited for; else 0."""
        return time.monotonic() - self._heard if (self._listeners or self._asks) else 0.0

    def close(self) -> None:
        """End the connection and its thread."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        self._thread.join(2)

    async def _stop(self) -> None:
        self._channel.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.call_soon(self._loop.stop)

    # The thread

    async def _serve(self, first: Future[None]) -> None:
        since = time.monotonic()
        while not self._closed:
            try:
                if first.done() and await asyncio.to_thread(self._is_gone):
                    raise ConnectionRefusedError
                comm, welcome = await self._connect()
            except NbcloudError as error:
                self._fail(first, error)
                return
            except (OSError, TimeoutError) as error:
                gone = await asyncio.to_thread(self._is_gone)
                if gone or not first.done() or time.monotonic() - since > _PATIENCE:
                    self._fail(first, self._gone(error))
                    return
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            except Exception as error:  # noqa: BLE001 - whatever Dask raises, nobody may wait for ever
                self._fail(first, ClusterLost(f"The cluster {self.info.name!r} can't be used: {error!r}."))
                return
            if not first.done():
                first.set_result(None)
            ping = asyncio.create_task(self._ping())
            try:
                await self._channel.run(comm, welcome["received"])
            finally:
                ping.cancel()
            since = time.monotonic()

    def _is_gone(self) -> bool:
        """Whether the scheduler is dead for certain, rather than out of reach."""
        if self.info.kind == "existing":  # it may come back at its address
            return False
        try:
            return not alive(self.info)
        except Exception:  # noqa: BLE001 - whoever was asked does not know, whatever it is that keeps it
            return False

    def _gone(self, error: Exception) -> ClusterLost:
        if not self._is_gone():
            return ClusterLost(
                f"The scheduler of {self.info.name!r} at {self.info.address} does not answer ({error}).",
                f"See %cloud status, or end it: %cloud down {self.info.name}",
            )
        return ClusterLost(f"The scheduler of the cluster {self.info.name!r} was stopped or killed.")

    def _fail(self, first: Future[None], error: NbcloudError) -> None:
        """Nothing more will come: tell everyone who waits."""
        with self._lock:
            self.lost = str(error)
            asks, self._asks = list(self._asks.values()), {}
            listeners = [each for listed in self._listeners.values() for each in listed]
        if not first.done():
            first.set_exception(error)
        for future, _ in asks:
            if not future.done():
                future.set_exception(error)
        gone = self._is_gone()
        if gone:
            leave(self.info)
        for listener in listeners:
            listener({"op": "cluster_lost", "why": error.message.rstrip("."), "gone": gone})

    async def _connect(self) -> tuple[Comm, dict[str, Any]]:
        for attempt in range(3):
            hello = {"id": self._identity, "protocol": PROTOCOL, "received": self._channel.received}
            comm, welcome = await greet(self.info, hello)
            if welcome is not None:
                before, self._scheduler = self._scheduler, welcome["scheduler"]
            if welcome is not None and not welcome["forgotten"]:
                return comm, welcome
            comm.abort()
            if welcome is not None:
                self._begin_anew(RESTARTED if before not in {"", self._scheduler} else "")
            elif attempt == 0:
                await install(self.info)
        raise ClusterLost(f"nbcloud could not be brought to the cluster {self.info.name!r}.")

    def _begin_anew(self, why: str) -> None:
        """The journal forgot this client while it was away: whoever waits must ask again.

        ``why`` is the sentence for what is lost for certain; empty when it may be there.
        """
        self._identity = secrets.token_hex(8)
        self._channel = Channel(self._received)
        with self._lock:
            asks, self._asks = list(self._asks.values()), {}
            listeners = [(key, each) for key, listed in self._listeners.items() for each in listed]
        for future, _ in asks:
            if not future.done():
                forgotten = why or "the cluster forgot the question: the connection was lost"
                future.set_exception(SessionError(f"{forgotten[0].upper()}{forgotten[1:]}."))
        self._by_journal.clear()
        for shortcut in self._shortcuts.values():
            for run, session in shortcut.runs.items():
                self._channel.post(
                    {"op": "announce", "ask": "", "run": run, "session": session, "anew": False}
                )
        for key, listener in listeners:
            listener({"op": "reconnected", "key": key, "why": why})

    async def _ping(self) -> None:
        self._heard = time.monotonic()
        while True:
            await asyncio.sleep(_PING_SECONDS)
            if self._listeners or self._asks:
                self._channel.post({"op": "ping", "ask": ""})

    def _received(self, message: dict[str, Any]) -> None:
        self._heard = time.monotonic()
        operation = message["op"]
        if operation in {"answer", "phase"}:
            self._answered(message)
            return
        key = message.get("run") or message.get("session", "")
        if operation == "end":
            # A refusal of the journal that alone was given the run: then nothing of it has run anywhere.
            message["by_journal"] = self._by_journal.pop(key, None) is not None
        with self._lock:
            listeners = list(self._listeners.get(key, ()))
        for listener in listeners:
            listener(message)

    def _answered(self, message: dict[str, Any]) -> None:
        with self._lock:
            entry = self._asks.get(message["ask"])
            if entry is None:
                return
            if message["op"] == "answer":
                del self._asks[message["ask"]]
        future, phase = entry
        if message["op"] == "phase":
            if phase is not None:
                phase(message["text"])
        elif not future.done():
            if message.get("error"):
                future.set_exception(SessionError(message["error"]))
            else:
                future.set_result(message.get("answer", message))
