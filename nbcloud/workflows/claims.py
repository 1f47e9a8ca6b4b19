"""What one process writes, no other process writes at the same time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from nbcloud.config import private_dir, settings
from nbcloud.errors import UsageError
from nbcloud.runs.files import lock


@contextlib.contextmanager
def claimed(place: str) -> Iterator[None]:
    """Write to a place alone, for as long as this is held; whoever is killed holds it no more.

    Parameters
    ----------
    place : str
        A notebook's path, a sweep's folder, or an address.

    Raises
    ------
    UsageError
        When another process writes to it.
    """
    folder = private_dir(Path(settings().runtime_dir) / "claims")
    path = folder / hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
    handle = _take(path)
    if handle is None:
        raise UsageError(
            f"Another process is writing {place} at this moment.", "Wait for its end, or name another place."
        )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file; it stays, and is empty
            path.unlink()
        os.close(handle)


def _take(path: Path) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not lock(handle, 0.0):
            os.close(handle)
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # whoever held it before has just removed it
