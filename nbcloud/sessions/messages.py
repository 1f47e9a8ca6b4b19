"""Jupyter messages as they are sent to a session's kernel, and those that only such a kernel knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jupyter_client.session import Session as JupyterSession

CALL = "nbcloud_call"
"""To a kernel: a question about its names."""
DONE = "nbcloud_done"
"""From a kernel: the end of a cell, or the answer to a question."""
AFTER = "after"
"""In the content of ``DONE``: the number of the output behind which it has its place."""
BLACK_BOX = "NBCLOUD_KERNEL_BLACK_BOX"
"""In the environment of a kernel: the file of its black box."""
TEMPLATE = "--template"
"""First argument of a process that forks kernels; then come a socket's descriptor and names to import."""

_messages = JupyterSession()


def frames(
    msg_type: str,
    content: dict[str, Any],
    *,
    header: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    buffers: Sequence[Any] = (),
) -> dict[str, Any]:
    """A Jupyter message as the fields that a host passes on to a kernel.

    Parameters
    ----------
    header : dict, optional
        The header of the notebook's own request, so that what the kernel says of it names that as its parent.
    """
    own = header or _messages.msg_header(msg_type)
    own = {**own, "msg_type": msg_type}
    del own["date"]  # which a kernel would read, and write again with each message
    return {
        "header": _messages.pack(own),
        "parent": b"{}",
        "metadata": _messages.pack(metadata or {}),
        "content": _messages.pack(content),
        "buffers": [bytes(buffer) for buffer in buffers],
    }


def execute_frames(
    code: str, request: dict[str, Any], buffers: Sequence[Any], header: dict[str, Any] | None
) -> dict[str, Any]:
    """The ``execute_request`` of a cell."""
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": False,
    }
    return frames("execute_request", content, header=header, metadata={"nbcloud": request}, buffers=buffers)


def content_of(message: dict[str, Any]) -> dict[str, Any]:
    """The content of a message that came."""
    content: dict[str, Any] = _messages.unpack(message["content"])
    return content
