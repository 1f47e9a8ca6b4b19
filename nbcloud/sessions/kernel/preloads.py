"""Modules that a template imports for its kernels, and what tells that they can't share one.

A preload is refused that would be another in a kernel's cell: one that prints, keeps threads or a GPU, makes
temporary files, or asks the notebook's shell for more than whether it is one.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from nbcloud.sessions.kernel.streams import OrderedOutStream

_THREAD_SECONDS = 1.0
"""How long threads of a preload may go on after it."""
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")

_CALM = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""What keeps a library from a thread that it can do without: jemalloc's of pyarrow, which pandas imports."""

_AGAIN = {
    "ipywidgets": "_handle_ipython",
    "matplotlib_inline.backend_inline": "_enable_matplotlib_integration",
}
"""Modules that look for the shell when they are imported, and the function by which they do."""


class Unfit(Exception):
    """Why a module can't be shared."""


def preload(name: str) -> None:
    """Import a module for all kernels to come.

    Raises
    ------
    Unfit
        Where it would be another in a kernel's cell.
    """
    logged = os.fstat(2).st_size
    with _early_streams(), _calm(), _shell() as asked, _made_files() as made:
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


def look_again() -> None:
    """Have modules look for the shell that were imported before there was one."""
    for name, function in _AGAIN.items():
        if name in sys.modules:
            getattr(sys.modules[name], function)()


def _import(name: str) -> str:
    try:
        importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything
        return f"its import failed: {type(error).__name__}: {error}"
    return ""


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Variables that libraries read when they are loaded; the kernels have them no more."""
    added = {name: value for name, value in _CALM.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
