"""The journal's messages as outputs of a cell: of the one that runs, or of one that ran before."""

from __future__ import annotations

import html
import sys
from typing import Any

from nbcloud.dispatch.feed import SKIPPED
from nbcloud.errors import RemoteError
from nbcloud.jupyter.comms import CommRelay
from nbcloud.jupyter.pacing import PacedOutput
from nbcloud.runs.outputs import compose, output_text

_COMMS = {"comm_open", "comm_msg", "comm_close"}
_NEW = {"stream", "execute_result", "display_data", "error"}
_OUTPUTS = {"stream", "execute_result", "display_data", "update_display_data", "clear_output", "error"}


class CellError(RemoteError):
    """What the user's code raised, shown as its kernel showed it."""

    shown = False
    """Whether the reader has seen it already, in its place among the outputs."""

    def __str__(self) -> str:
        return self.evalue

    def _render_traceback_(self) -> list[str]:
        return self.traceback


def cell_error(ename: str, evalue: str, traceback: list[str], *, shown: bool = False) -> CellError:
    """An exception that IPython shows as the remote one: same name, value and traceback."""
    kind = type(ename, (CellError,), {"__module__": "nbcloud", "shown": shown})
    return kind(evalue, ename=ename, evalue=evalue, traceback=traceback)  # type: ignore[no-any-return]


def show_errors_once(shell: Any) -> None:
    """Have IPython pass over errors that are raised here after they were shown."""
    show = shell._showtraceback

    def unless_shown(kind: type[BaseException], error: BaseException, traceback: list[str]) -> None:
        if isinstance(error, CellError) and error.shown:
            shell._last_traceback = traceback  # for the reply to the cell's request
        else:
            show(kind, error, traceback)

    shell._showtraceback = unless_shown


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

    Only for showing; the record keeps all of them. A comm message may turn what follows into the output of a
    widget, so that nothing is dropped across one.
    """
    last_update = {
        message["content"]["transient"]["display_id"]: index
        for index, message in enumerate(messages)
        if message["msg_type"] == "update_display_data"
        and message["content"].get("transient", {}).get("display_id")
    }
    kept: list[dict[str, Any]] = []
    area = clear = 0
    waits = False  # for the next output, which takes the place of those before the clear
    for index, message in enumerate(messages):
        kind, content = message["msg_type"], message["content"]
        if kind == "update_display_data":
            display_id = content.get("transient", {}).get("display_id")
            if display_id and last_update[display_id] != index:
                continue
        if kind == "clear_output":
            waits = bool(content.get("wait"))
            clear = len(kept)
        if (kind == "clear_output" and not waits) or (waits and clear >= area and kind in _NEW):
            # Those with a display id stay, since a later update may be for another cell's copy of them.
            kept[area:clear] = [
                m for m in kept[area:clear] if m["content"].get("transient", {}).get("display_id")
            ]
            waits = False
        kept.append(message)
        if kind in _COMMS:
            area = len(kept)
    return kept


def _remark(text: str) -> dict[str, str]:
    """Words of nbcloud's own among outputs of the user's."""
    style = "color: var(--jp-ui-font-color2, gray); font-style: italic"
    return {"text/plain": text, "text/html": f'<div style="{style}">{html.escape(text)}</div>'}


class CellOutput(PacedOutput):
    """Outputs of the cell that runs at this moment.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    comms : CommRelay
    session : nbcloud.sessions.client.session.Session
        The session whose widgets these are.
    run : str
    """

    def __init__(self, shell: Any, comms: CommRelay, session: Any, run: str) -> None:
        super().__init__(run)
        self._shell = shell
        self._comms = comms
        self._session = session
        self._error: dict[str, Any] | None = None
        self.error_shown = True
        """Whether the reader has seen the latest error; one that came as text only counts as seen."""

    def publish(self, messages: list[dict[str, Any]]) -> None:
        """Show messages, in order."""
        for message in collapse(messages):
            self._show(message["msg_type"], message["content"], message)
        if not self.patience:
            self._release()

    def _show(self, kind: str, content: dict[str, Any], message: dict[str, Any]) -> None:
        self._show_error()
        if kind not in {"stream", SKIPPED}:
            self._release(ends=True)
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
            case "error":
                self._error, self.error_shown = content, False
            case "comm_open" | "comm_msg" | "comm_close":
                self._pace()
                self._comms.from_session(self._session, message)
            case _ if kind == SKIPPED:
                self._skip(content)

    def _show_error(self) -> None:
        """Show an error in its place, when something comes behind it: a figure, or more of the cell."""
        content, self._error = self._error, None
        if content is None:
            return
        self.error_shown = True
        self._release(ends=True)
        kernel = getattr(self._shell, "kernel", None)
        if kernel is None:
            self._write("stderr", "\n".join(content["traceback"]) + "\n")
            return
        kernel.send_response(kernel.iopub_socket, "error", content, ident=kernel._topic("error"))

    def _result(self, content: dict[str, Any]) -> None:
        # Through the hook that is in force, so that %%capture and the Out history see it.
        sys.displayhook(_Formatted(content["data"], content.get("metadata") or {}))

    def _write(self, name: str, text: str) -> None:
        stream = sys.stderr if name == "stderr" else sys.stdout
        stream.write(text)
        stream.flush()

    def _display(self, text: str, display_id: str, *, update: bool) -> None:
        transient = {"display_id": display_id}
        self._shell.display_pub.publish(_remark(text), {}, transient=transient, update=update)

    def close(self, *, raised: bool = False) -> None:
        """Show what is left.

        Parameters
        ----------
        raised : bool
            Whether the last error is what ended the cell, and is raised here, too.
        """
        if not raised:
            self._show_error()
        super().close()


class LaterOutput(PacedOutput):
    """Outputs of a cell that has ended: messages that name its request as their parent.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
    comms : CommRelay
    session : nbcloud.sessions.client.session.Session
    parent : dict or None
        Header of the cell's request; None to take each message's own.
    run : str
    """

    def __init__(
        self, shell: Any, comms: CommRelay, session: Any, parent: dict[str, Any] | None, run: str = ""
    ) -> None:
        super().__init__(run)
        self._kernel = getattr(shell, "kernel", None)
        self._comms = comms
        self._session = session
        self._parent = parent

    def publish(self, messages: list[dict[str, Any]]) -> None:
        """Show messages of the run, in order and paced; for a thread of its own."""
        for message in collapse(messages):
            if message["msg_type"] == "stream":
                self._stream(message["content"]["name"], message["content"]["text"])
            elif message["msg_type"] == SKIPPED:
                self._skip(message["content"])
            else:
                self._release(ends=True)
                self._pace()
                self.send(message)
        if not self.patience:
            self._release()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message at once; may be called from any thread."""
        kind = message["msg_type"]
        if kind in _COMMS:
            self._comms.from_session(self._session, message, self._parent)
        elif kind in _OUTPUTS:
            self._send(kind, message["content"], message.get("parent"))

    def overhear(self, message: dict[str, Any]) -> None:
        """Send a message that belongs to no run, at once; of text no more than a browser can take.

        A child process may never stop writing, and has no cell that somebody would interrupt.
        """
        if message["msg_type"] == "stream":
            if self._left <= 0:
                return
            text = message["content"]["text"]
            self._left -= self._growth(text)
            if self._left <= 0:
                where = f"the session {self._session.name!r} writes outside of its cells"
                message["content"]["text"] = f"{text}\nnbcloud: What {where} is no longer shown.\n"
        self.send(message)

    def _send(self, kind: str, content: dict[str, Any], parent: dict[str, Any] | None = None) -> None:
        if self._kernel is None:  # a terminal has no cells that could grow
            sys.stdout.writelines(output_text(output, ansi=True) for output in compose([(kind, content, {})]))
            return
        header = self._parent or parent or {}
        self._kernel.session.send(
            self._kernel.iopub_socket,
            kind,
            content,
            parent={"header": header},
            ident=self._kernel._topic(kind),
        )

    def _write(self, name: str, text: str) -> None:
        self._send("stream", {"name": name, "text": text})

    def _display(self, text: str, display_id: str, *, update: bool) -> None:
        content = {"data": _remark(text), "metadata": {}, "transient": {"display_id": display_id}}
        self._send("update_display_data" if update else "display_data", content)

    def update(self, display_id: str, text: str) -> None:
        """Change a text that is displayed."""
        data = {"text/plain": text}
        self._send(
            "update_display_data", {"data": data, "metadata": {}, "transient": {"display_id": display_id}}
        )

    def notice(self, text: str) -> None:
        """Say something to the user in the cell."""
        self._add("stderr", f"nbcloud: {text}\n")
        self._release()
