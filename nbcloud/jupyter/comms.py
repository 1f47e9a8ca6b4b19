"""Widgets of a remote cell: their comm messages, passed both ways between browser and session."""

from __future__ import annotations

import base64
from typing import Any

import comm


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

    def from_session(self, session: Any, message: dict[str, Any]) -> None:
        """Pass a comm message on to the browser; may be called from any thread."""
        if self._kernel is None:
            return
        kind, content = message["msg_type"], message["content"]
        manager = comm.get_comm_manager()
        if kind == "comm_open":
            remote = _RemoteComm(self, session, content["comm_id"], content["target_name"])
            manager.register_comm(remote)
        elif kind == "comm_close":
            known = manager.get_comm(content["comm_id"])
            if isinstance(known, _RemoteComm):
                manager.unregister_comm(known)
        parent = message.get("parent")
        self._kernel.session.send(
            self._kernel.iopub_socket,
            kind,
            content,
            metadata=message.get("metadata") or {},
            parent={"header": parent} if parent else self._kernel.get_parent("shell"),
            buffers=[base64.b64decode(buffer) for buffer in message.get("buffers", ())],
            ident=self._kernel._topic("comm"),
        )

    def to_session(self, session: Any, message: dict[str, Any]) -> None:
        """Pass a comm message of the browser on."""
        from nbcloud.sessions.client import frames

        if session.lost:
            return
        header = message["header"]
        fields = frames(
            header["msg_type"],
            message["content"],
            header=header,
            metadata=message.get("metadata") or {},
            buffers=message.get("buffers") or (),
        )
        session.link.post("comm", session=session.id, ask="", **fields)
