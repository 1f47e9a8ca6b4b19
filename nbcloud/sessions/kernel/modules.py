"""The kernel's side of local modules: files of the notebook's own code, put in place and kept fresh."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from nbcloud.errors import TransferError


class RemoteModules:
    """Local modules of the notebook, as this kernel has them."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._imported: dict[str, str] = {}

    def refresh(self, entries: Sequence[dict[str, Any]], buffers: Sequence[Any], spool: Path) -> list[str]:
        """Make the modules importable as they are in the notebook, reloading those that changed.

        Parameters
        ----------
        entries : sequence of dict
            ``name``, ``relative`` (path below an import root), ``path`` (where the notebook has it),
            ``hash``, and ``data`` (position of its text in ``buffers``) once it was asked for;
            dependencies first.

        Returns
        -------
        list of str
            Hashes of files that must be sent.
        """
        missing = [entry["hash"] for entry in entries if not self._in_place(entry, buffers, spool)]
        if missing:
            return missing
        stale = [entry for entry in entries if self._is_stale(entry)]
        if stale:
            importlib.invalidate_caches()
        for entry in stale:
            _reload(entry["name"])
        self._imported.update((entry["name"], entry["hash"]) for entry in entries)
        return []

    def settle(self) -> None:
        """Take what a cell of the session wrote as known: as in any kernel, unseen until a reload."""
        for name in self._imported:
            file = getattr(sys.modules.get(name), "__file__", None)
            if file:
                self._imported[name] = _hash(Path(file))

    def _is_stale(self, entry: dict[str, Any]) -> bool:
        known = self._imported.get(entry["name"])
        return known is not None and known != entry["hash"]

    def _in_place(self, entry: dict[str, Any], buffers: Sequence[Any], spool: Path) -> bool:
        if _hash(Path(entry["path"])) == entry["hash"]:  # the same file system
            return True
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="modules-", dir=spool))
            sys.path.insert(0, str(self._root))
        relative = PurePosixPath(entry["relative"])
        if relative.is_absolute() or ".." in relative.parts:
            raise TransferError(f"The module file {entry['relative']!r} lies outside of its import root.")
        target = self._root / relative
        if _hash(target) == entry["hash"]:
            return True
        if entry.get("data") is None:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bytes(buffers[entry["data"]]))
        return True


def _hash(path: Path) -> str:
    try:
        return str(xxhash.xxh3_128_hexdigest(path.read_bytes()))
    except OSError:
        return ""


def _reload(name: str) -> None:
    """Run a changed module again, and let functions and classes made from it follow."""
    from IPython.extensions.autoreload import superreload

    module = sys.modules.get(name)
    if module is None:
        return
    if module.__file__:
        # Compiled code is told from stale code by a time in whole seconds; an edit may be younger.
        with contextlib.suppress(OSError, NotImplementedError):
            Path(importlib.util.cache_from_source(module.__file__)).unlink()
    superreload(module)
