"""Files that are there whole or not at all, whenever the power goes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbcloud.errors import StoreError


def sync_folder(folder: Path) -> None:
    """Make names in a folder last; where folders can't be opened, the system does it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes, unfinished: Path) -> None:
    """Write a file under another name first."""
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)


def copy_file(source: Path, target: Path) -> None:
    """Copy all bytes of a file, and make them last."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
        writer.flush()
        os.fsync(writer.fileno())


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that changes what ``path`` stands for; the lock ends with the process.

    Parameters
    ----------
    wait : bool
        Until another process is done, which is soon.

    Raises
    ------
    StoreError
        When another process is, and is not waited for.
    """
    with path.open("a") as file:
        try:
            import fcntl
        except ImportError:  # Windows, where one process updates
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise StoreError(
                f"Another process changes {path.parent} at this moment.", "Try again when it is done."
            ) from None
        yield
