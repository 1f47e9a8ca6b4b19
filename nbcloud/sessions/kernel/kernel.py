"""ipykernel's kernel, with the names that a cell needs bound before it and gathered after it.

An ``execute_request`` whose metadata has an ``nbcloud`` part first binds its inputs; after the cell an
``nbcloud_done`` message, with its place behind all of the cell's outputs, tells the names that it bound, as
values or as handles.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelbase import Kernel
from IPython.core.error import StdinNotImplementedError

from nbcloud import secret_values
from nbcloud.redact import Redactor, environment_secrets
from nbcloud.runs import tracking
from nbcloud.sessions.kernel import randomness
from nbcloud.sessions.kernel.logged import CellSink
from nbcloud.sessions.kernel.names import RemoteNames
from nbcloud.sessions.kernel.streams import OrderedOutStream
from nbcloud.sessions.messages import AFTER, CALL, DONE


class SessionKernel(IPythonKernel):
    """An IPython kernel that takes inputs with a cell and gives results with its end."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = RemoteNames(self.shell)
        self.shell_handlers[CALL] = self.nbcloud_call
        self._serialize = self.session.serialize
        self.session.serialize = self._serialize_masked
        self._redactor = Redactor()
        # These, whatever the user's code puts in their place.
        self._streams = [
            stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, OrderedOutStream)
        ]
        self._mask({})
        self._logged = CellSink(self)
        tracking.install(self._logged)

    if set(IPythonKernel.execute_request.__code__.co_names) == {"super", "execute_request"}:
        # It passes on to this, and no more. Without it there is room on the stack for do_execute below, and a
        # recursion ends as deep as in any kernel.
        execute_request = Kernel.execute_request

    async def do_execute(
        self, code: str, silent: bool, *args: Any, cell_meta: Any = None, **kwargs: Any
    ) -> Any:
        """Bind the inputs, run the cell, gather the results."""
        request = (cell_meta or {}).get("nbcloud")
        if request is None:
            return await super().do_execute(code, silent, *args, cell_meta=cell_meta, **kwargs)
        usage = _Usage()
        try:
            if request["secrets"]:
                self._mask(request["secrets"])
            with self._interruptible():
                missing = self.names.bind(request, self.get_parent("shell").get("buffers") or [])
                key = self.names.cache_key(request) if request["cache"] else ""
        except KeyboardInterrupt:
            return self._refused(request, "KeyboardInterrupt", "while the inputs were being unpacked")
        except BaseException as error:  # noqa: BLE001 - an input's own __setstate__ may raise anything
            return self._refused(request, type(error).__name__, _evalue(error))
        if missing:
            return self._done(request, {"status": "missing", "missing": missing}, [])
        before = self.names.done_before(key)
        if before:
            return self._done(request, {"status": "cached", "of": before}, [])
        self.shell.execution_count = request["count"]
        if "seed" in request:  # the first cell of a notebook
            randomness.begin(request["seed"])
        self.names.watch()
        self._logged.begin_cell()
        tracking.log_params({name: self.shell.user_ns[name] for name in request["params"]})
        try:
            with self._interruptible():
                reply = await super().do_execute(code, silent, *args, cell_meta=cell_meta, **kwargs)
        except KeyboardInterrupt:  # before the user's code, or right behind it
            reply = {"status": "error", "ename": "KeyboardInterrupt", "evalue": ""}
        end: dict[str, Any] = {
            "status": reply["status"],
            "payload": reply.get("payload", []),
            "ename": reply.get("ename", ""),
            "evalue": reply.get("evalue", ""),
        }
        buffers: list[Any] = []
        try:
            with self._interruptible():
                if code.startswith(("%%writefile", "%%file")):
                    self.names.settle_modules()
                end["names"], buffers = self.names.gather(request)
                if key and end["status"] == "ok":
                    self.names.remember(request, key, end["names"])
        except BaseException as error:  # noqa: BLE001 - interrupted, or a value's own code went wrong
            end["names"] = self.names.nothing()
            end["trouble"] = f"What the cell left could not be gathered: {type(error).__name__}: {error}"
        end["usage"] = usage.spent()
        self._done(request, end, buffers)
        return reply

    # An interrupt reaches the user's code, or is held back until that comes: a request that it cut off
    # halfway would get no answer.

    def pre_handler_hook(self) -> None:
        """Hold interrupts back."""
        self._interrupted = False
        self.saved_sigint_handler = signal.signal(signal.SIGINT, self._hold_back)

    def _hold_back(self, *_signal: Any) -> None:
        self._interrupted = True

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._interrupted:
                self._interrupted = False
                raise KeyboardInterrupt
            yield
        finally:
            try:
                signal.signal(signal.SIGINT, self._hold_back)
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, self._hold_back)
                raise

    @property
    def _supports_kernel_subshells(self) -> bool:
        return bool(self.shell_channel_thread)

    def _publish_execute_input(self, *_args: Any, **_kwargs: Any) -> None:
        """The journal has the code already."""

    def _publish_status(self, status: str, *args: Any, **kwargs: Any) -> None:
        """Only what the host asks for: when a request is done with."""
        if status != "busy":
            super()._publish_status(status, *args, **kwargs)

    def _mask(self, secrets: dict[str, str]) -> None:
        """Keep these secrets, and those of the environment, out of every message."""
        secret_values.give(secrets)
        self._redactor = Redactor(environment_secrets(os.environ) | secret_values.all_known())
        for stream in self._streams:
            stream.redact_with(self._redactor)

    def _serialize_masked(self, msg: dict[str, Any], ident: Any = None) -> Any:
        if self._redactor and isinstance(msg.get("content"), dict):
            msg = {**msg, "content": self._redactor.json(msg["content"])}
        return self._serialize(msg, ident)

    def _refused(self, request: dict[str, Any], ename: str, evalue: str) -> dict[str, Any]:
        """The cell did not run: an input could not be revived here."""
        return self._done(request, {"status": "refused", "ename": ename, "evalue": evalue}, [])

    def _done(self, request: dict[str, Any], end: dict[str, Any], buffers: list[Any]) -> dict[str, Any]:
        for stream in self._streams:
            stream.drain()
        if self._streams:
            self._streams[0].send_soon()  # the text of both
        self._logged.end_cell()
        self._tell({"run": request["run"], **end}, self.get_parent("shell"), buffers)
        return {
            "status": "ok" if end["status"] in {"ok", "cached"} else "error",
            "execution_count": self.shell.execution_count - 1,
            "ename": end.get("ename", ""),
            "evalue": end.get("evalue", ""),
            "payload": [],
            "user_expressions": {},
        }

    def _tell(self, content: dict[str, Any], parent: dict[str, Any], buffers: list[Any]) -> None:
        """Tell the host something that comes behind all outputs up to now.

        Not on iopub, where another thread must be woken first, but beside it, with the number of the last
        output.
        """
        content = {**content, AFTER: self.iopub_thread.numbered}
        # By the socket itself: its stream would wait for the event loop.
        socket, ident = self.shell_stream.socket, self._parent_ident["shell"]
        self.session.send(socket, DONE, content, parent=parent, buffers=buffers, ident=ident)

    async def nbcloud_call(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Pull, push, list or release names between cells."""
        content = parent["content"]
        buffers: list[Any] = []
        try:
            answer, buffers = self.names.call(content["method"], content["arguments"], parent["buffers"])
            reply = {"status": "ok", "answer": answer}
        except Exception as error:  # noqa: BLE001 - told to the caller, whose call it is
            reply = {"status": "error", "ename": type(error).__name__, "evalue": str(error)}
        self._tell({"call": content["call"], **reply}, parent, buffers)
        self.session.send(stream, f"{CALL}_reply", {"status": reply["status"]}, parent, ident=ident)

    def _no_input(self, *_args: Any, **_kwargs: Any) -> str:
        raise StdinNotImplementedError(
            "input() can't ask here: this cell runs on a cluster, where nobody types. "
            "Read the value in a local cell, which a %%cloud cell can use; "
            "a notebook that runs from a file gets it as a parameter."
        )

    raw_input = getpass = _no_input


def _evalue(error: BaseException) -> str:
    """What an error says; of one in a module of the user's own, with its line."""
    text = str(error)
    if isinstance(error, SyntaxError):
        shown = "".join(traceback.format_exception_only(error)).splitlines()
        text = "\n".join([text, *shown[1:-1]])
    return text


class _Usage:
    """What a cell took: processor seconds of the kernel and its finished children, and peak memory."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = self._cpu_seconds()

    @staticmethod
    def _cpu_seconds() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    def spent(self) -> dict[str, float]:
        spent = {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": round(self._cpu_seconds() - self._cpu, 3),
        }
        if sys.platform != "win32":
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            spent["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return spent
