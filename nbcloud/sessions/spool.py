"""Large buffers between processes of one machine: files in memory, mapped and never copied again.

A blob is a file that holds the buffers of one payload one behind the other, each on a 64-byte boundary.
The reader maps it privately: its arrays are writable, and what it writes stays its own. The bytes of a
blob never change once it has its name, so one blob can serve many readers.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from nbcloud.config import private_dir
from nbcloud.errors import TransferError

if sys.platform != "win32":
    import fcntl

_ALIGN = 64
_SHARE = 4
_LEAST = 2**30
_FRESH_SECONDS = 60.0
"""A younger blob may be on its way to its reader."""
_TOKEN = "token"  # noqa: S105 - the name of a file, not a secret
_OWNER = "owner"
"""The file that the process of a directory keeps locked: the system lets go of it when the process dies."""


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each buffer of a blob begins, and the blob's size, in bytes."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // _ALIGN) * _ALIGN
    return offsets, end


def write_blob(directory: Path, name: str, buffers: Sequence[memoryview]) -> None:
    """Write ``buffers`` as the blob ``name``; readers see all of it or none.

    Raises
    ------
    TransferError
        When the directory's file system is full.
    """
    target = directory / name
    with contextlib.suppress(FileNotFoundError):
        os.utime(target)
        return
    part = directory / f"{name}.{secrets.token_hex(4)}.part"
    sizes = [buffer.nbytes for buffer in buffers]
    offsets, end = layout(sizes)
    _make_room(directory, end)
    try:
        # write() reports a full file system as an error; filling a map would end in SIGBUS.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            for offset, buffer in zip(offsets, buffers, strict=True):
                os.lseek(descriptor, offset, os.SEEK_SET)
                rest = buffer
                while rest.nbytes:
                    rest = rest[os.write(descriptor, rest) :]
            os.truncate(descriptor, max(end, 1))
        finally:
            os.close(descriptor)
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise TransferError(
            f"{end:,} bytes don't fit in {directory}: {error.strerror}.",
            "Free memory there (%cloud reset drops a session's values) or send less.",
        ) from error


def _make_room(directory: Path, size: int) -> None:
    """Remove blobs past the share of the file system that a spool may take, the oldest first.

    Whoever has mapped them keeps them; for whoever has not, they are sent once more.
    """
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.name not in {_TOKEN, _OWNER} and not entry.name.endswith(".part"):
                    found.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    excess = (
        sum(nbytes for _, nbytes, _ in found)
        + size
        - max(_LEAST, shutil.disk_usage(directory).total // _SHARE)
    )
    for changed, nbytes, path in sorted(found):
        if excess <= 0 or time.time() - changed < _FRESH_SECONDS:
            break
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
            excess -= nbytes


def map_blob(path: Path, sizes: Sequence[int]) -> list[memoryview]:
    """The buffers of a blob, writable, private to this process, not yet read from the file."""
    offsets, end = layout(sizes)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < end:
            raise TransferError(f"The blob {path.name} is shorter than its {end:,} bytes.")
        view = memoryview(mmap.mmap(file.fileno(), max(end, 1), access=mmap.ACCESS_COPY))
    return [view[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


def _base() -> Path:
    shared = Path("/dev/shm")  # noqa: S108 - memory; the folder below it is private
    if sys.platform == "linux" and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 2**30:
        return shared
    return Path(tempfile.gettempdir())


class Spool:
    """A private directory of blobs that belongs to one process and is emptied with it.

    ``token`` proves to a client that it reads the same directory, so that both are on one machine.
    """

    def __init__(self) -> None:
        self.directory = own_directory(_base())
        self.token = secrets.token_hex(16)
        (self.directory / _TOKEN).write_text(self.token)

    def serve(self, operation: str, message: dict[str, Any]) -> dict[str, Any]:
        """Do what a client on another machine asks for: ``blob_write``, ``blob_read`` or ``blob_drop``.

        Returns
        -------
        dict
            The answer: ``data`` when it was to be read, ``error`` when it could not be done.
        """
        try:
            path = self._path(message["file"])
            match operation:
                case "blob_write":
                    _write_piece(path, message)
                case "blob_read":
                    with path.open("rb") as file:
                        file.seek(message["offset"])
                        return {"data": file.read(message["size"])}
                case "blob_drop":
                    path.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            return {"error": str(error)}
        return {}

    def _path(self, name: str) -> Path:
        if not name.isalnum():
            raise ValueError(f"{name!r} is not the name of a blob.")
        return self.directory / name

    def close(self) -> None:
        """Remove the directory; maps that are open stay readable."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _write_piece(path: Path, message: dict[str, Any]) -> None:
    """Add one piece to a blob that takes its name with the last."""
    if not message["writer"].isalnum():
        raise ValueError(f"{message['writer']!r} is not the name of a writer.")
    part = path.with_suffix(f".{message['writer']}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.seek(message["offset"])
        file.write(message["data"])
        if message["last"]:
            file.truncate(message["total"])
    if message["last"]:
        part.replace(path)


def is_shared(directory: str, token: str) -> bool:
    """Whether this process sees the spool ``directory`` that has ``token``."""
    try:
        return (Path(directory) / _TOKEN).read_text() == token
    except OSError:
        return False


def own_directory(base: Path) -> Path:
    """A new private directory of this process below ``base``; those of dead processes are removed."""
    parent = _parent(base)
    if parent.is_symlink() or (
        parent.exists() and hasattr(os, "getuid") and parent.stat().st_uid != os.getuid()
    ):
        # Anyone may make a folder of this name there: values are not put where another could reach them.
        raise TransferError(
            f"{parent} belongs to another user.", "Remove it, or set TMPDIR to a folder of yours."
        )
    private_dir(parent)
    _remove_orphans(parent)
    directory = parent / f"{os.getpid()}-{secrets.token_hex(4)}"
    # It gets the name under which others judge it when it has its owner.
    unborn = private_dir(parent / f".{directory.name}")
    _own(unborn)
    return unborn.rename(directory)


def _parent(base: Path) -> Path:
    return base / f"nbcloud-{os.getuid() if hasattr(os, 'getuid') else 0}"


def remove_orphans() -> None:
    """Remove what killed workers of this user left on this machine."""
    for base in {_base(), Path(tempfile.gettempdir())}:
        parent = _parent(base)
        if parent.is_dir():
            _remove_orphans(parent)


def _remove_orphans(parent: Path) -> None:
    for child in parent.iterdir():
        pid = child.name.partition("-")[0]
        if pid.isdigit() and _is_orphan(child, int(pid)):
            shutil.rmtree(child, ignore_errors=True)


if sys.platform == "win32":

    def _own(directory: Path) -> None:
        """The process number in the directory's name must do."""

    def _is_orphan(directory: Path, pid: int) -> bool:  # noqa: ARG001 - the same everywhere
        return not psutil.pid_exists(pid)

else:
    _locks: list[int] = []

    def _own(directory: Path) -> None:
        """Lock the directory's owner file for as long as this process lives."""
        for descriptor in [each for each in _locks if not os.fstat(each).st_nlink]:
            _locks.remove(descriptor)  # of a directory that was removed
            os.close(descriptor)
        _locks.append(os.open(directory / _OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        fcntl.flock(_locks[-1], fcntl.LOCK_EX)

    def _is_orphan(directory: Path, pid: int) -> bool:
        """Whether the process of that directory is dead.

        Its number alone does not tell: it may live in another container, which has numbers of its own.
        """
        try:
            descriptor = os.open(directory / _OWNER, os.O_RDWR)
        except OSError:  # an older nbcloud made it
            return not psutil.pid_exists(pid)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True


def chunks(buffers: Iterable[memoryview], size: int) -> Iterator[tuple[int, memoryview]]:
    """The bytes of a blob, as (offset, piece) of at most ``size`` bytes, for sending it elsewhere."""
    views = list(buffers)
    offsets, _ = layout([view.nbytes for view in views])
    for offset, view in zip(offsets, views, strict=True):
        for start in range(0, view.nbytes, size):
            yield offset + start, view[start : start + size]
