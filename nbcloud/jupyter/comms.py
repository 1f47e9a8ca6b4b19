"""Widgets of a remote cell: their comm messages, passed both ways between browser and session."""

from __future__ import annotations

import base64
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import comm

from nbcloud.errors import NbcloudError

_CONTROL = "jupyter.widget.control"
_TICK = 0.5
_SILENCE = 10.0


class _RemoteComm:
    """A comm that lives in a session: what the browser tells it goes there."""

    def __init__(self, relay: CommRelay, session: Any, comm_id: str, target_name: str) -> None:
        self._relay = relay
        self._session = session
        self.comm_id = comm_id
        self.target_name = target_name

    def handle_msg(self, message: dict[str, Any]) -> None:
        """The browser says something."""
        self._relay.to_session(self._session, message)

    def handle_close(self, message: dict[str, Any]) -> None:
        """The browser closes it."""
        self._relay.to_session(self._session, message)

    def close(self, *_args: Any, **_kwargs: Any) -> None:
        """The local kernel ends; the session's widget does not."""


class CommRelay:
    """Comms of all sessions of one notebook.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
        One without a kernel has no browser, and drops all comm messages.
    """

    def __init__(self, shell: Any) -> None:
        self._kernel = getattr(shell, "kernel", None)

    def from_session(self, session: Any, message: dict[str, Any], cell: dict[str, Any] | None = None) -> None:
        """Pass a comm message on to the browser; may be called from any thread.

        Parameters
        ----------
        cell : dict, optional
            Header of the request of the cell that shows the run; that of the cell that runs by default.
        """
        if self._kernel is None:
            return
        kind, content = message["msg_type"], message["content"]
        manager = comm.get_comm_manager()
        if kind == "comm_open":
            remote = _RemoteComm(self, session, content["comm_id"], content["target_name"])
            manager.register_comm(remote)
            # A page that is loaded anew asks this target for the states of all widgets, and would get only
            # those of this kernel. When it is refused, it asks each comm for its own.
            manager.register_target(_CONTROL, _refuse)
        elif kind == "comm_close":
            known = manager.get_comm(content["comm_id"])
            if isinstance(known, _RemoteComm):
                manager.unregister_comm(known)
        parent = message.get("parent")
        if not parent:
            parent = cell or self._kernel.get_parent("shell").get("header") or {}
            _captured_here(content, parent)
        self._kernel.session.send(
            self._kernel.iopub_socket,
            kind,
            content,
            metadata=message.get("metadata") or {},
            parent={"header": parent},
            buffers=[base64.b64decode(buffer) for buffer in message.get("buffers", ())],
            ident=self._kernel._topic("comm"),
        )

    def to_session(self, session: Any, message: dict[str, Any]) -> None:
        """Pass a comm message of the browser on, and wait until it has been handled.

        The browser takes what is printed meanwhile for an output of this message, and holds back further
        movements of a slider. When a cell runs there, the message waits behind it, and nothing waits here.
        """
        from nbcloud.sessions.messages import frames

        if session.lost:
            return
        # A subshell of this kernel is none of the session's.
        header = {key: value for key, value in message["header"].items() if key != "subshell_id"}
        fields = frames(
            header["msg_type"],
            message["content"],
            header=header,
            metadata=message.get("metadata") or {},
            buffers=message.get("buffers") or (),
        )
        try:
            handled = session.link.ask_soon("comm", session=session.id, **fields)
        except NbcloudError:  # the cluster is gone; the next cell says so
            return
        while not session.lost and session.link.silence < _SILENCE:
            try:
                handled.result(_TICK)
            except FutureTimeout:
                continue
            except NbcloudError:
                pass
            return


def _refuse(opened: Any, _message: dict[str, Any]) -> None:
    opened.close()


def _captured_here(content: dict[str, Any], cell: dict[str, Any]) -> None:
    """Have an Output widget capture what is shown as an output of ``cell``: another one may have run it."""
    data = content.get("data")  # a comm may carry any JSON
    state = data.get("state") if isinstance(data, dict) else None
    if isinstance(state, dict) and state.get("msg_id"):
        state["msg_id"] = cell.get("msg_id", "")
