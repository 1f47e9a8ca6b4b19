"""A session where it lives: its kernel, and the runs that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import psutil

from nbcloud.sessions.channel import Channel
from nbcloud.sessions.host.process import Frames, KernelProcess
from nbcloud.sessions.host.process import Message as FromKernel
from nbcloud.sessions.host.run import HostedRun, frames_of
from nbcloud.sessions.host.usage import Usage
from nbcloud.sessions.messages import CALL, DONE
from nbcloud.sessions.messages import frames as message_frames
from nbcloud.sessions.runlog import UNBEGUN, Message

GRACE = 5.0
"""Seconds between an interrupt that must be obeyed and the kill."""
_REMEMBERED = 1000
_MARKS = {DONE, "execute_reply", "status"}
_QUIET = {"execute_input", "iopub_welcome"}

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class HostedSession:
    """A kernel in use.

    Parameters
    ----------
    name : str
        The session's id.
    kernel : KernelProcess
    memory : int or None
        Bytes that it may take.
    ended : threading.Event
        Set when the session is over.
    journal : Channel
    spawn : callable
        Starts a task that ends with the worker.
    facts : dict
        Where it is, for the first message of each run.
    devices : sequence of str
        The GPUs that it has for its own.
    """

    def __init__(
        self,
        name: str,
        kernel: KernelProcess,
        memory: int | None,
        ended: threading.Event,
        *,
        journal: Channel,
        spawn: Spawn,
        facts: dict[str, Any],
        devices: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.kernel = kernel
        self.ended = ended
        self._journal = journal
        self._spawn = spawn
        self.facts = facts
        self._devices = [*devices]
        self._usage: Usage | None = None
        self._following: asyncio.Task[None] | None = None
        self._active: HostedRun | None = None
        self._waiting: deque[HostedRun] = deque()
        self._ended_runs: deque[str] = deque(maxlen=_REMEMBERED)
        self._executing = 0
        self._closing = False
        self._verdict: tuple[str, str] | None = None
        self._deadline: asyncio.Task[None] | None = None
        self._comms: dict[str, str] = {}
        """Comm messages that the kernel has not handled yet, and who asked."""
        self._tasks = [spawn(self._pump())]
        if memory:
            self._tasks.append(spawn(self._watch_memory(memory)))

    # What is asked of it

    def execute(self, request: dict[str, Any], reader: Channel | None) -> None:
        """Run a cell when those before it have ended; one that came already is not run again."""
        known = self._find(request["run"])
        if request["run"] in self._ended_runs:
            return
        if known is None:
            self._waiting.append(HostedRun(request, self._journal, reader))
            self._next()
        elif known is self._active and known.lacks_values:
            known.take(request)
            self._give(known)

    def interrupt(self, run: str) -> None:
        """Raise KeyboardInterrupt in a run, or let it not begin."""
        found = self._find(run)
        if found is None:
            return
        if found is not self._active:
            self._withdraw(found, "it was interrupted before it began")
        elif found.lacks_values:
            self._finish({"state": "cancelled", "why": "it was interrupted before it began"})
        else:
            self._spawn(self.kernel.interrupt())

    def stop(self, run: str, state: str, why: str) -> None:
        """End a run for sure, by an interrupt or else with its kernel."""
        found = self._find(run)
        if found is None:  # it may have ended meanwhile
            return
        if found is not self._active:
            self._withdraw(found, f"{why} before it began")
            return
        if found.lacks_values:
            self._finish({"state": state, "why": f"{why} before it began"})
            return
        self._verdict = (state, why)
        self._spawn(self._stop_for_sure(found))

    def give_up(self, run: str) -> None:
        """Nobody is there to send what a run lacks."""
        if self._active is not None and self._active.id == run and self._active.lacks_values:
            self._finish({"state": "lost", "why": "its session lacked values, and its notebook is gone"})

    def missing_of(self, runs: list[str]) -> list[str]:
        """Those of ``runs`` that never came here."""
        return [run for run in runs if self._find(run) is None and run not in self._ended_runs]

    def kill(self, state: str, why: str) -> None:
        """End the kernel, and what it runs in the given state."""
        self._verdict = self._verdict or (state, why)
        self.kernel.kill()

    def close(self, why: str) -> None:
        """End the kernel on purpose; one that runs nothing has its time to end by itself."""
        busy = self._active is not None
        self._verdict = self._verdict or ("lost", why)
        if busy or self._closing:
            self.kernel.kill()
            return
        self._closing = True
        self.kernel.shut_down()
        self._tasks.append(self._spawn(self._kill_later()))

    async def _kill_later(self) -> None:
        await asyncio.sleep(GRACE)
        self.kernel.kill()

    def settle(self, environment: dict[str, str], **more: Any) -> None:
        """Change the kernel's environment before it is given anything more.

        Parameters
        ----------
        environment : dict
        **more
            For a member of a gang: its ``rank``, and the ``spool`` of this machine.
        """
        arguments = {"environment": environment, **more}
        content = {"call": "", "method": "settle", "arguments": arguments}
        self.kernel.send(frames_of(message_frames(CALL, content)))

    def call(self, frames: Frames) -> None:
        """Pass a question on to the kernel."""
        self.kernel.send(frames)

    def comm(self, frames: Frames, ask: str) -> None:
        """Pass a comm message to the kernel; answered when handled, at once when it waits for a run."""
        self.kernel.send(frames)
        if self._active is None:
            self._comms[json.loads(frames.header)["msg_id"]] = ask
        else:
            self._journal.post({"op": "answer", "ask": ask, "answer": None})

    def _find(self, run: str) -> HostedRun | None:
        if self._active is not None and self._active.id == run:
            return self._active
        return next((waiting for waiting in self._waiting if waiting.id == run), None)

    # Runs

    def _next(self) -> None:
        if self._active is None and self._waiting:
            self._active = self._waiting.popleft()
            self._give(self._active)

    def _give(self, run: HostedRun) -> None:
        """Give the kernel a run."""
        anew, run.lacks_values = run.count > 0, False
        self._verdict = None
        self._stop_deadline()
        if run.timeout:
            why = f"it took longer than its timeout of {run.timeout:g} s"
            self._deadline = self._spawn(self._stop_after(run, run.timeout, why))
        if run.place and not anew:
            self.settle(run.place["environment"], rank=run.place["rank"], spool=run.place["spool"])
        self.kernel.mark()
        self._executing += 1
        self.kernel.send(run.frames)
        if not anew:
            run.begin(self.facts)
            told = {"op": "usage", "session": self.name, "run": run.id}
            self._usage = Usage(
                self.kernel.pid, self._devices, lambda now: self._journal.post({**told, "usage": now})
            )
            self._following = self._spawn(self._usage.follow())

    async def _stop_after(self, run: HostedRun, seconds: float, why: str) -> None:
        await asyncio.sleep(seconds)
        if self._active is run:
            self.stop(run.id, "timeout", why)

    async def _stop_for_sure(self, run: HostedRun) -> None:
        """Interrupt a run; kill its kernel if it goes on all the same."""
        await self.kernel.interrupt()
        await asyncio.sleep(GRACE)
        if self._active is run and self._verdict is not None:
            state, why = self._verdict
            self._verdict = (state, f"{why}, and did not stop when interrupted, so its kernel was ended")
            self.kernel.kill()

    def _withdraw(self, run: HostedRun, why: str) -> None:
        self._waiting.remove(run)
        self._ended_runs.append(run.id)
        run.end({"state": "cancelled", "why": why, "exit_code": None}, None)

    def _finish(self, end: dict[str, Any], frames: Frames | None = None) -> None:
        run, self._active, self._verdict = self._active, None, None
        self._stop_deadline()
        if run is not None:
            self._ended_runs.append(run.id)
            run.end({"exit_code": None, **end, **self._used()}, frames)
        self._next()

    def _used(self) -> dict[str, Any]:
        """What the run that ends has taken, when it was long enough to tell."""
        usage, self._usage = self._usage, None
        if self._following is not None:
            self._following.cancel()
            self._following = None
        summary = usage.summary() if usage is not None else {}
        return {"usage": summary} if summary else {}

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # What the kernel says

    async def _pump(self) -> None:
        """Pass the kernel's messages on, and feel it when those who read can't take more."""
        while True:
            self._take(await self.kernel.messages())
            await self._journal.light()
            if self._active is not None:
                await self._active.light()

    def _take(self, batch: list[FromKernel]) -> None:
        said: list[Message] = []
        outside: list[tuple[Any, ...]] = []
        for frames, header, parent in batch:
            kind = header["msg_type"]
            if kind in _MARKS:  # tells that something is over, and must not overtake what was said before
                self._say(said)
                self._say_outside(outside)
                said, outside = [], []
            if kind == DONE:
                self._done(frames)
            elif kind == "execute_reply":
                self._replied()
            elif kind == "status":
                self._status(parent, frames)
            elif kind in _QUIET:
                continue
            elif self._active is not None and parent.get("msg_id") == self._active.message_id:
                said.append((time.time(), kind, frames.content, frames.metadata, frames.buffers))
            else:
                said_by = (kind, frames.content, frames.metadata, frames.buffers, frames.parent)
                outside.append((time.time(), *said_by))
        self._say(said)
        self._say_outside(outside)

    def _say(self, messages: list[Message]) -> None:
        if self._active is not None:
            self._active.say(messages)

    def _say_outside(self, items: list[tuple[Any, ...]]) -> None:
        """Pass on what belongs to no run."""
        if items:
            self._journal.post({"op": "outside", "session": self.name, "items": items})

    def _done(self, frames: Frames) -> None:
        content = json.loads(frames.content)
        if content.get("call") == "":  # the host's own
            return
        if "call" in content:
            answer = {"ask": content["call"], "content": frames.content, "buffers": frames.buffers}
            self._journal.post({"op": "answer", **answer})
            return
        if self._active is None or content["run"] != self._active.id:
            return
        if content["status"] == "missing":
            self._active.lack(frames)
            return
        state, why = ("done" if content["status"] in {"ok", "cached"} else "failed"), ""
        if self._verdict is not None and content["status"] != "ok":
            state, why = self._verdict
        self._finish({"state": state, "why": why}, frames)

    def _status(self, parent: dict[str, Any], frames: Frames) -> None:
        """The kernel is done with a comm message, perhaps."""
        ask = self._comms.pop(parent.get("msg_id", ""), None) if b'"idle"' in frames.content else None
        if ask is not None:
            self._journal.post({"op": "answer", "ask": ask, "answer": None})

    def _replied(self) -> None:
        """The kernel is done with a run: normally it has said so itself before."""
        # A run that is given anew has the message id that it had: their number tells which of them is over.
        self._executing -= 1
        if self._executing == 0 and self._active is not None and not self._active.lacks_values:
            why = f"its kernel ended it without an answer:\n{self.kernel.last_words()}"
            self._finish({"state": "lost", "why": why})

    async def _watch_memory(self, limit: int) -> None:
        """Kill a kernel that takes more than it asked for, before the machine suffers."""
        process = psutil.Process(self.kernel.pid)
        while True:
            await asyncio.sleep(0.5)
            with contextlib.suppress(psutil.Error):
                used = process.memory_info().rss + sum(
                    c.memory_info().rss for c in process.children(recursive=True)
                )
                if used > limit:
                    why = (
                        f"it used {used / 2**20:,.0f} MiB of memory, and had asked for "
                        f"{limit / 2**20:,.0f} MiB (--memory), so its kernel was ended"
                    )
                    self._verdict = ("lost", why)
                    self.kernel.kill()
                    return

    # Its end

    async def end(self, code: int) -> None:
        """The kernel has ended: report it, after all that it said before."""
        if not self._closing:
            await asyncio.sleep(0.05)  # what is still in its socket reaches the pump
        self._cancel_tasks()
        while batch := self.kernel.messages_now():
            self._take(batch)
        unsent = [
            (time.time(), "stream", json.dumps({"name": name, "text": text}).encode(), b"{}", list[bytes]())
            for name, text in self.kernel.unsent()
        ]
        self._say(unsent)
        state, why = self._verdict or ("lost", _epitaph(code, self.kernel.last_words()))
        waiting, self._waiting = self._waiting, deque()
        if self._active is not None:
            self._finish({"state": state, "why": why, "exit_code": code, "session_over": True})
        for run in waiting:
            before = f"{UNBEGUN}{why}"
            run.end({"state": "lost", "why": before, "exit_code": None}, None)
        self._journal.post({"op": "lost", "session": self.name, "why": why, "code": code})
        self.kernel.close()
        self.ended.set()

    def abort(self) -> None:
        """End with the worker."""
        self._cancel_tasks()
        self.kernel.close()
        self.ended.set()

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()


def _epitaph(code: int, last_words: str) -> str:
    """How a kernel that nobody ended came to its end, in words."""
    if code == 0:
        return "its kernel ended by exit() or quit()"
    if code > 0:
        return f"its kernel ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
    if name == "SIGKILL":
        return "its kernel was killed (SIGKILL), most likely because the machine ran out of memory"
    where = f":\n{last_words}" if last_words else ""
    return f"its kernel crashed ({name}){where}"
