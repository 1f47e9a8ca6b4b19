"""The journal's messages as outputs of a cell: of the one that runs, or of one that ran before."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from nbcloud.config import settings
from nbcloud.errors import RemoteError
from nbcloud.jupyter.comms import CommRelay

_TAIL_LINES = 20
_LONG_PAUSE = 2.0
_DISPLAYS_A_SECOND = 400
_COMMS = {"comm_open", "comm_msg", "comm_close"}


class CellError(RemoteError):
    """What the user's code raised, shown as its kernel showed it."""

    def __str__(self) -> str:
        return self.evalue

    def _render_traceback_(self) -> list[str]:
        return self.traceback


def cell_error(ename: str, evalue: str, traceback: list[str]) -> CellError:
    """An exception that IPython shows as the remote one: same name, value and traceback."""
    kind = type(ename, (CellError,), {"__module__": "nbcloud"})
    return kind(evalue, ename=ename, evalue=evalue, traceback=traceback)  # type: ignore[no-any-return]


class _Formatted:
    """An object that is shown as the given bundle."""

    def __init__(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self._bundle = data, metadata

    def _repr_mimebundle_(self, **_kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._bundle

    def __repr__(self) -> str:
        return str(self._bundle[0].get("text/plain", ""))


def collapse(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop what the messages behind it make invisible: cleared outputs and overwritten updates.

    Only for showing; the record keeps all of them.
    """
    last_update = {
        message["content"]["transient"]["display_id"]: index
        for index, message in enumerate(messages)
        if message["msg_type"] == "update_display_data" and message["content"].get("transient", {}).get("display_id")
    }
    kept = []
    for index, message in enumerate(messages):
        kind, content = message["msg_type"], message["content"]
        if kind == "update_display_data":
            display_id = content.get("transient", {}).get("display_id")
            if display_id and last_update[display_id] != index:
                continue
        if kind == "clear_output":
            # Those with a display id stay, since a later update may be for another cell's copy of them.
            kept = [m for m in kept if m["msg_type"] in _COMMS or m["content"].get("transient", {}).get("display_id")]
        kept.append(message)
    return kept


class CellOutput:
    """Outputs of the cell that runs at this moment.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    comms : CommRelay
    session : str
        Id of the session whose widgets these are.
    """

    def __init__(self, shell: Any, comms: CommRelay, session: Any, run: str) -> None:
        self._shell = shell
        self._comms = comms
        self._session = session
        self._run = run
        self._left = settings().shown_limit
        self._written: set[str] = set()
        self._hidden = 0
        self._hidden_lines = 0
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES + 1)
        self._told = 0.0
        self._allowance = float(_DISPLAYS_A_SECOND)
        self._paced = time.monotonic()

    def publish(self, messages: list[dict[str, Any]]) -> None:
        """Show messages, in order."""
        for message in collapse(messages):
            self._show(message["msg_type"], message["content"], message)
        for name in self._written:
            getattr(sys, name).flush()
        self._written.clear()

    def _show(self, kind: str, content: dict[str, Any], message: dict[str, Any]) -> None:
        match kind:
            case "stream":
                self._stream(content["name"], content["text"])
            case "display_data" | "update_display_data":
                self._pace()
                self._shell.display_pub.publish(
                    content["data"],
                    content.get("metadata") or {},
                    transient=content.get("transient") or {},
                    update=kind == "update_display_data",
                )
            case "execute_result":
                self._result(content)
            case "clear_output":
                self._shell.display_pub.clear_output(content.get("wait", False))
            case "comm_open" | "comm_msg" | "comm_close":
                self._comms.from_session(self._session, message)

    def publish_error(self, content: dict[str, Any]) -> None:
        """Show a traceback that does not end the cell that runs."""
        _write("stderr", "\n".join(content["traceback"]) + "\n")
        sys.stderr.flush()

    def _result(self, content: dict[str, Any]) -> None:
        # Through the hook that is in force, so that %%capture and the Out history see it.
        sys.displayhook(_Formatted(content["data"], content.get("metadata") or {}))

    def _stream(self, name: str, text: str) -> None:
        self._written.add(name)
        if self._left > 0 and self._left >= len(text):
            self._left -= len(text)
            _write(name, text)
            return
        if self._left > 0:
            cut = text.rfind("\n", 0, self._left) + 1
            _write(name, text[:cut])
            text, self._left = text[cut:], 0
        self._hide(text)

    def _hide(self, text: str) -> None:
        """Count what a browser would not survive; the record has it."""
        first = not self._hidden
        self._hidden += len(text)
        self._hidden_lines += text.count("\n")
        lines = text.splitlines(keepends=True)
        if self._tail and not self._tail[-1].endswith("\n") and lines:
            lines[0] = self._tail.pop() + lines[0]
        self._tail.extend(lines)
        if time.monotonic() - self._told > _LONG_PAUSE:
            self._told = time.monotonic()
            self._say(f"… {self._hidden_lines:,} lines more, in the record: %cloud logs {self._run}", update=not first)

    def _say(self, text: str, *, update: bool) -> None:
        self._shell.display_pub.publish(
            {"text/plain": text}, {}, transient={"display_id": f"nbcloud-long-{self._run}"}, update=update
        )

    def close(self) -> None:
        """Show the end of what was too long."""
        if self._hidden:
            self._say(
                f"… {self._hidden_lines:,} lines more ({self._hidden:,} characters), in the record: "
                f"%cloud logs {self._run}. The last of them:",
                update=True,
            )
            _write("stdout", "".join(list(self._tail)[-_TAIL_LINES:]))
            sys.stdout.flush()

    def _pace(self) -> None:
        """Stay below the rate at which Jupyter's server drops messages without a word."""
        now = time.monotonic()
        self._allowance = min(_DISPLAYS_A_SECOND, self._allowance + (now - self._paced) * _DISPLAYS_A_SECOND)
        self._paced = now
        if self._allowance < 1:
            time.sleep(1 / _DISPLAYS_A_SECOND)
            return
        self._allowance -= 1


def _write(name: str, text: str) -> None:
    (sys.stderr if name == "stderr" else sys.stdout).write(text)


class LaterOutput:
    """Outputs of a cell that has ended: messages that name its request as their parent.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    comms : CommRelay
    session : nbcloud.sessions.client.Session
    parent : dict or None
        Header of the cell's request; None to take each message's own.
    """

    def __init__(self, shell: Any, comms: CommRelay, session: Any, parent: dict[str, Any] | None) -> None:
        self._kernel = getattr(shell, "kernel", None)
        self._comms = comms
        self._session = session
        self._parent = parent

    def publish(self, message: dict[str, Any]) -> None:
        """Send a message; may be called from any thread."""
        kind = message["msg_type"]
        if kind in _COMMS:
            self._comms.from_session(self._session, message)
        elif kind in {"stream", "execute_result", "display_data", "update_display_data", "clear_output", "error"}:
            self._send(kind, message["content"], message.get("parent"))

    def _send(self, kind: str, content: dict[str, Any], parent: dict[str, Any] | None = None) -> None:
        if self._kernel is None:  # a terminal has no cells that could grow
            sys.stdout.write(content.get("text") or content.get("data", {}).get("text/plain", ""))
            return
        header = self._parent or parent or {}
        self._kernel.session.send(
            self._kernel.iopub_socket, kind, content, parent={"header": header}, ident=self._kernel._topic(kind)
        )
