"""Files that runs have logged: kept once for each content, below the folder of the store.

::

    artifacts/<2 digits>/<sha256>    0600, whole and never changed
    artifacts/incoming/              what is not whole yet
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Set
from pathlib import Path

from nbcloud.config import private_dir
from nbcloud.runs.files import explained

_BLOCK = 2**20
_FRESH_SECONDS = 86400.0


class Artifacts:
    """The contents of files, by their SHA-256.

    Parameters
    ----------
    root : Path
        The folder of the store.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "artifacts"

    def path(self, digest: str) -> Path:
        """Where a content lies, if it is there."""
        return self._folder / digest[:2] / digest

    def keep(self, source: Path | bytes) -> tuple[str, int]:
        """Take in a file or a content; returns its hash and size."""
        incoming = self._incoming()
        with explained("Keeping an artifact", incoming):
            handle, name = tempfile.mkstemp(dir=incoming)  # 0600
            temporary = Path(name)
            try:
                digest, size = hashlib.sha256(), 0
                with contextlib.ExitStack() as stack:
                    target = stack.enter_context(open(handle, "wb"))  # noqa: PTH123 - a descriptor
                    if isinstance(source, bytes):
                        blocks = iter([source])
                    else:
                        file = stack.enter_context(source.open("rb"))
                        blocks = iter(lambda: file.read(_BLOCK), b"")
                    for block in blocks:
                        digest.update(block)
                        size += target.write(block)
                self._settle(temporary, digest.hexdigest())
            finally:
                temporary.unlink(missing_ok=True)
        return digest.hexdigest(), size

    def add_part(self, digest: str, offset: int, data: bytes) -> None:
        """Take in a part of a content; one that comes again does no harm."""
        if self.path(digest).exists():
            return
        path = self._incoming() / digest
        with explained("Keeping a part of an artifact", path):
            handle = os.open(path, os.O_CREAT | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
            with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
                file.seek(offset)
                file.write(data)

    def complete(self, digest: str) -> bool:
        """Whether a content is there, all parts of it having come."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.path(digest))  # for ``sweep``, which nobody has told of a run that has it, too
            return True
        path = self._incoming() / digest
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                self._settle(path, digest)
        return self.path(digest).exists()

    def sweep(self, known: Set[str]) -> int:
        """Remove contents that are not among these hashes; returns their bytes.

        What came within the last day stays: the run that has it may not be on record yet.
        """
        freed = 0
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.name not in known and status.st_mtime < time.time() - _FRESH_SECONDS:
                    path.unlink()
                    freed += status.st_size
        return freed

    def _incoming(self) -> Path:
        with explained("Keeping an artifact", self._folder):
            if not self._folder.exists():
                private_dir(self._folder.parent)
                private_dir(self._folder)
            return private_dir(self._folder / "incoming")

    def _settle(self, path: Path, digest: str) -> None:
        target = self.path(digest)
        with explained("Keeping an artifact", target):
            private_dir(target.parent)
            with contextlib.suppress(FileNotFoundError):  # another process has just put it there
                path.replace(target)
