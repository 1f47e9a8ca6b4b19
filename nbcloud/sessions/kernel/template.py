"""A process that has imported what kernels import, and forks one for each request.

Imports are all that a forked kernel shares: it begins where one that was started cold has imported the same,
and takes the same way from there.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import site
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Any

from nbcloud.sessions.kernel.preloads import Unfit, preload
from nbcloud.sessions.messages import BLACK_BOX, TEMPLATE

_KERNEL = (
    "nbcloud.sessions.kernel.kernel",
    "faulthandler",
    "ipykernel.debugger",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "sqlite3",
    "tornado.platform.asyncio",
)
"""What ipykernel imports by and by as it starts, and at its first cell."""


def serve() -> None:
    """Import, then fork for each request.

    Returns in the kernels, with arguments, environment and descriptors as if they had been started cold.
    """
    channel = socket.socket(fileno=int(sys.argv[2])).makefile("rwb")
    try:
        for name in _KERNEL:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        # As ipykernel does it, ahead of all imports of the user's.
        os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        for name in sys.argv[3:]:
            _say(channel, loading=name)
            preload(name)
    except Unfit as why:
        _say(channel, refused=str(why))
        os._exit(0)
    _say(channel, watched=_watched())
    _compile_expressions()
    gc.collect()
    gc.freeze()  # a collection, of which each kernel has one at its end, would copy all pages that they share
    while request := channel.readline():
        kernel = _fork(json.loads(request))
        if kernel is None:
            channel.close()
            return
        _say(channel, pid=kernel)
    os._exit(0)


def _compile_expressions() -> None:
    """What Python's tokenizer and IPython's completer compile at their first use: a tenth of a start."""
    from IPython.core.completer import CompletionSplitter
    from IPython.core.inputtransformer2 import TransformerManager

    CompletionSplitter()
    TransformerManager().transform_cell("pass\n")


def _say(channel: io.BufferedRWPair, **message: Any) -> None:
    channel.write(json.dumps(message).encode() + b"\n")
    channel.flush()


def _watched() -> dict[str, int]:
    """Folders and files, with their times, whose change would have a kernel import something else.

    An installer adds to and removes from the folder of packages; what lies elsewhere may be edited in place.
    """
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    installed = (*packages, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    watched = [*packages]
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith(tuple(f"{folder}{os.sep}" for folder in installed)):
            watched.append(file)
    times = {}
    for path in watched:
        with contextlib.suppress(OSError):
            times[path] = Path(path).stat().st_mtime_ns
    return times


# Forks


def _fork(request: dict[str, Any]) -> int | None:
    """The pid of a new kernel; in the kernel itself, None.

    A process between is gone before the kernel begins, so that the worker, which asks Linux for orphans
    meanwhile, is its parent: it sees the kernel's end, and its own end is the kernel's.
    """
    born, birth = os.pipe()
    wait, go = os.pipe()
    between = os.fork()
    if not between:
        if os.fork():
            os._exit(0)
        os.setsid()
        os.close(born)
        os.close(go)
        os.write(birth, str(os.getpid()).encode())
        os.close(birth)
        os.read(wait, 1)
        os.close(wait)
        _as_if_cold(request)
        return None
    os.close(birth)
    os.close(wait)
    pid = os.read(born, 20)
    os.close(born)
    os.waitpid(between, 0)
    os.close(go)
    return int(pid or 0)


def _as_if_cold(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(f"/proc/{os.getppid()}/cwd")
    os.environ[BLACK_BOX] = request["black_box"]
    arguments = ["-f", request["connection_file"]]
    sys.argv[1:] = arguments
    sys.orig_argv[-len(sys.orig_argv) + sys.orig_argv.index(TEMPLATE) :] = arguments
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # Python reseeds its own
