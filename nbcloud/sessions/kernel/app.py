"""The process of one session: ipykernel's application, set up for a kernel that a host looks after."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from nbcloud.sessions.kernel.blackbox import BlackBox
from nbcloud.sessions.kernel.streams import OrderedOutStream
from nbcloud.sessions.messages import BLACK_BOX, TEMPLATE


def _die_with_parent() -> None:
    """Have the operating system end this process when the worker that started it is gone.

    ipykernel's own watch of the parent needs the interpreter lock, which C code may hold for long.
    """
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    parent = int(os.environ.get("JPY_PARENT_PID") or 0)
    if parent and os.getppid() != parent:  # it died before the call above
        os._exit(1)


_FILES = {io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom}


class _NoShellThread:
    """What a kernel without subshells has in place of the thread for them.

    ipykernel takes any falsy one for none, but asks it for its parent before it awaits a cell.
    """

    parent_thread = threading.main_thread()

    def __bool__(self) -> bool:
        return False


class SessionApp(IPKernelApp):
    """The process of one session."""

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Do nothing: the host says only ``-f FILE``, and a parser of all options takes its time."""

    def init_control(self, context: Any) -> None:
        """Without subshells: each message would pass through one more thread."""
        super().init_control(context)
        self.shell_channel_thread = _NoShellThread()

    def init_iopub(self, context: Any) -> None:
        """A reader that is behind makes the kernel wait; a message is never dropped."""
        super().init_iopub(context)
        import zmq

        self.iopub_thread.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._number_outputs()
        # A port on which ipykernel listens for forked children; theirs write to the file descriptors instead.
        self.iopub_thread._pipe_flag = False
        self.iopub_thread.io_loop.add_callback(self.iopub_thread._pipe_in.close)

    def _number_outputs(self) -> None:
        """Put a number before each message on iopub, so that what is said beside it finds its place."""
        thread, lock = self.iopub_thread, threading.Lock()
        send = thread.send_multipart
        thread.numbered = 0

        def send_numbered(parts: list[Any], *args: Any, **kwargs: Any) -> None:
            with lock:
                number = thread.numbered + 1
                send([b"%d" % number, *parts], *args, **kwargs)
                thread.numbered = number  # not before: an interrupt between the two must leave no gap

        thread.send_multipart = send_numbered


def main() -> None:
    """Run one kernel; with ``--template``, in each process that the template forks."""
    _die_with_parent()
    del sys.path[0]  # the worker's directory, by -m; IPython adds the current one, as it does in any kernel
    forked = sys.argv[1:2] == [TEMPLATE]
    if forked:
        from nbcloud.sessions.kernel import preloads, template

        template.serve()
        _die_with_parent()
    config = Config()
    config.IPKernelApp.connection_file = sys.argv[2]
    # The notebook keeps the history; a second writer on the same file would only fight for its lock.
    config.HistoryManager.hist_file = ":memory:"
    config.IPKernelApp.outstream_class = (
        "nbcloud.sessions.kernel.preloads.stream"
        if forked
        else "nbcloud.sessions.kernel.streams.OrderedOutStream"
    )
    # A cell that lacked values comes once more, and may look the same.
    config.Session.digest_history_size = 0
    config.IPKernelApp.kernel_class = "nbcloud.sessions.kernel.kernel.SessionKernel"
    if BLACK_BOX in os.environ:
        OrderedOutStream.backlog.black_box = BlackBox(Path(os.environ.pop(BLACK_BOX)))
    app = SessionApp.instance(config=config)
    app.initialize(sys.argv[1:])
    if forked:
        preloads.look_again()
    # Its handler shows no more than warnings, but each message would be made ready for it several times.
    app.log.setLevel(logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt):
        app.start()
    _end()


def _end() -> None:
    """End as any interpreter does, but take no imported module apart: that is nine tenths of the time."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # of which IPython's lets go of all that the user had
    gc.collect()
    for each in gc.get_objects():
        if type(each) in _FILES:
            with contextlib.suppress(OSError, ValueError):
                each.flush()
    os._exit(0)
