"""A process that has imported what kernels import, and forks one for each request.

Imports are all that a forked kernel shares: it begins where one that was started cold has imported the same,
and takes the same way from there. So a preload is refused that would be another in a kernel's cell: one that
prints, keeps threads or a GPU, or asks the notebook's shell for more than whether it is one.
"""

from __future__ import annotations

import builtins
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
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from nbcloud.sessions.kernel.streams import OrderedOutStream
from nbcloud.sessions.messages import BLACK_BOX, TEMPLATE

_THREAD_SECONDS = 1.0
"""How long threads of a preload may go on after it."""
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")

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

_AGAIN = {
    "ipywidgets": "_handle_ipython",
    "matplotlib_inline.backend_inline": "_enable_matplotlib_integration",
}
"""Modules that look for the shell when they are imported, and the function by which they do."""


class Unfit(Exception):
    """Why this process can't be a template."""


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
            _preload(name)
    except Unfit as why:
        _say(channel, refused=str(why))
        os._exit(0)
    _say(channel, watched=_watched())
    gc.collect()
    gc.freeze()  # a collection in a kernel would copy all pages that they share
    while request := channel.readline():
        kernel = _fork(json.loads(request))
        if kernel is None:
            channel.close()
            return
        _say(channel, pid=kernel)
    os._exit(0)


def settle() -> None:
    """Have modules look for the shell that were imported before there was one."""
    gc.unfreeze()
    for name, function in _AGAIN.items():
        if name in sys.modules:
            getattr(sys.modules[name], function)()


def _say(channel: io.BufferedRWPair, **message: Any) -> None:
    channel.write(json.dumps(message).encode() + b"\n")
    channel.flush()


# Preloads


def _preload(name: str) -> None:
    logged = os.fstat(2).st_size
    with _early_streams(), _shell() as asked, _made_files() as made:
        failed = _import(name)
    if asked:
        raise Unfit(f"it asks the notebook's shell when it is imported ({', '.join(sorted(asked))})")
    if failed:
        raise Unfit(failed)
    if printed := _printed(logged):
        raise Unfit(f"it prints when it is imported: {printed}")
    if made:
        raise Unfit("it makes temporary files when it is imported")
    if devices := _devices():
        raise Unfit(f"it opens a GPU when it is imported ({devices[0]})")
    if threads := _settled_threads():
        raise Unfit(f"it keeps {len(threads)} threads running when it is imported ({', '.join(threads)})")


def _import(name: str) -> str:
    try:
        importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything
        return f"its import failed: {type(error).__name__}: {error}"
    return ""


class _EarlyStream(OrderedOutStream):
    """What stdout or stderr will be; modules that are imported now may keep it."""

    def __init__(self, name: str, descriptor: int) -> None:
        self._name, self._descriptor = name, descriptor

    def write(self, string: str) -> int:
        os.write(self._descriptor, string.encode("utf-8", "replace"))
        return len(string)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def flush(self) -> None: ...

    def close(self) -> None: ...


_EARLY = {"stdout": _EarlyStream("stdout", 1), "stderr": _EarlyStream("stderr", 2)}


def stream(session: Any, thread: Any, name: str, **options: Any) -> OrderedOutStream:
    """A kernel's stdout or stderr: the very object that preloads have seen under this name."""
    early: OrderedOutStream = _EARLY[name]
    early.__dict__.clear()
    early.__class__ = OrderedOutStream
    early.__init__(session, thread, name, **options)  # type: ignore[misc]
    return early


@contextlib.contextmanager
def _early_streams() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _EARLY["stdout"], _EARLY["stderr"]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _StandIn:
    """Something of the notebook's shell, for modules that look at it: what is the same in every kernel."""

    def __init__(self, asked: set[str], **known: Any) -> None:
        vars(self).update(_asked=asked, _known=known)

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        if name == "__dict__":
            return own
        if name not in own["_known"]:
            own["_asked"].add(name)
            raise AttributeError(name)
        return own["_known"][name]

    def __contains__(self, section: str) -> bool:
        if section != "IPKernelApp":
            vars(self)["_asked"].add(section)
        return True


@contextlib.contextmanager
def _shell() -> Iterator[set[str]]:
    """A stand-in where modules look for the shell meanwhile; what they ask it that it can't know."""
    from ipykernel.zmqshell import ZMQInteractiveShell
    from IPython.core.interactiveshell import InteractiveShell

    asked: set[str] = set()
    config, kernel = _StandIn(asked), _StandIn(asked)
    shell = _StandIn(asked, __class__=ZMQInteractiveShell, config=config, kernel=kernel)
    held = sys.getrefcount(shell), sys.getrefcount(kernel)
    stand_ins = {
        "initialized": classmethod(lambda _: _caller(sys._getframe(1)) not in _AGAIN),
        "instance": classmethod(lambda *_, **__: shell),
    }
    vars(builtins)["get_ipython"] = lambda: shell
    for name, method in stand_ins.items():
        setattr(InteractiveShell, name, method)
    try:
        yield asked
    finally:
        del vars(builtins)["get_ipython"]
        for name in stand_ins:
            delattr(InteractiveShell, name)
    stand_ins.clear()
    if (sys.getrefcount(shell), sys.getrefcount(kernel)) > held:
        asked.add("itself, to keep")


def _caller(frame: FrameType | None) -> str:
    """The module that called, through IPython."""
    while frame is not None:
        name: str = frame.f_globals.get("__name__", "")
        if not name.startswith("IPython."):
            return name
        frame = frame.f_back
    return ""


@contextlib.contextmanager
def _made_files() -> Iterator[list[str]]:
    """Whether temporary files are made meanwhile: the first kernel to end would remove them for all."""
    module = vars(tempfile)
    names, made = module["_get_candidate_names"], list[str]()

    def noted() -> Any:
        made.append("")
        return names()

    module["_get_candidate_names"] = noted
    try:
        yield made
    finally:
        module["_get_candidate_names"] = names


def _printed(after: int) -> str:
    """What came to the log, with what C libraries wrote; a kernel's cell would have shown it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with Path("/proc/self/fd/2").open("rb") as log:
        log.seek(after)
        return log.read(200).decode("utf-8", "replace").strip()


def _devices() -> list[str]:
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(str(descriptor.readlink()))
    return [path for path in opened if path.startswith(_DEVICES)]


def _settled_threads() -> list[str]:
    """Names of threads that remain after a fork, before which well-behaved libraries end theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, that there are threads
        child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    deadline = time.monotonic() + _THREAD_SECONDS
    while len(others := _other_threads()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return others


def _other_threads() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            if int(task.name) != os.getpid():
                names.append((task / "comm").read_text().strip())
    return names


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
