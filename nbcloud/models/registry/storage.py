"""Where a registry lies: a folder, S3, GCS, … through fsspec; files are written once and whole, or not."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nbcloud.config import private_dir, settings
from nbcloud.errors import ModelError, UsageError

_TRIES = 20
_CLIENTS = ("botocore.", "aiobotocore.", "aiohttp.", "gcsfs.", "google.", "azure.")
"""Packages whose errors are of no kind of Python's own."""
_KEPT = 24 * 3600.0
"""Seconds for which a file that nothing names is kept: somebody may be about to name it."""


class Storage:
    """Files by their paths below a root, and large ones by their content.

    A file must be written only where none is, in one step, so that of two who write at the same moment one
    comes second. Folders do so, S3, GCS and what speaks like them; each is put to the test before the first
    write, since not all that speaks S3 does.

    Parameters
    ----------
    root : str
        A folder, or an address that fsspec knows: ``s3://bucket/models``.

    Raises
    ------
    UsageError
        When the address is of a kind whose package is not installed.
    """

    def __init__(self, root: str) -> None:
        import fsspec

        self.root = root
        try:
            self._files, path = fsspec.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"The registry {root!r} can't be reached: {error}.", "Install the package that it names."
            ) from None
        self._base = PurePosixPath(path)
        self._local = Path(path).absolute() if "file" in _protocols(self._files) else None
        self._exclusive = self._local is not None

    # Small files

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        with _explained(self.root):
            try:
                found = self._files.ls(self._at(folder), detail=False, refresh=True)
            except FileNotFoundError:
                return []
            except TypeError:  # a kind of storage that keeps no listings
                found = self._files.ls(self._at(folder), detail=False)
        names = (PurePosixPath(str(each)).name for each in found)
        return sorted(name for name in names if name and not name.startswith("."))

    def read(self, path: str) -> bytes:
        """A whole file."""
        with _explained(self.root):
            return self._read(path)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file that is not there yet; False when somebody was sooner. It is there whole, or not."""
        with _explained(self.root):
            if self._local is not None:
                return _create(self._local / path, data)
            if not self._exclusive:
                self._try_exclusive()
            return self._put(path, data)

    def _put(self, path: str, data: bytes) -> bool:
        for _ in range(_TRIES):
            try:
                self._files.pipe_file(self._at(path), data, mode="create")
                return True
            except FileExistsError:
                # An answer may have been lost, and the request sent again: then what is there is this.
                return self._read(path) == data
            except OSError as error:
                if error.errno != errno.EBUSY:  # S3: another writes this name at this moment
                    raise
                time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - so that they part
        return False

    def _try_exclusive(self) -> None:
        """Write one name twice: only the first may be taken.

        Raises
        ------
        ModelError
            When both are, or neither.
        """
        path = f"tried-{secrets.token_hex(8)}"
        try:
            self._exclusive = self._put(path, b"1") and not self._put(path, b"2")
        except (TypeError, NotImplementedError):
            self._exclusive = False
        finally:
            with contextlib.suppress(OSError):
                self._files.rm_file(self._at(path))
        if not self._exclusive:
            raise ModelError(
                f"The registry {self.root!r} can't be written to safely: its storage does not write a file "
                "only where none is, so two who write at once would undo each other.",
                "Keep the registry in a folder, on S3 or on GCS.",
            )

    def _read(self, path: str) -> bytes:
        if self._local is not None:  # a model of many versions is many small files
            return (self._local / path).read_bytes()
        self._files.invalidate_cache()
        return bytes(self._files.cat_file(self._at(path)))

    # Files by their content

    def keep(self, source: Path) -> tuple[str, int]:
        """Keep a file under its SHA-256, which is returned with its size in bytes."""
        digest = _digest(source)
        at = _blob(digest)
        with _explained(self.root):
            if self._local is None:
                self._files.put_file(str(source), self._at(at))
            elif not (self._local / at).exists() or _digest(self._local / at) != digest:
                with _whole(self._local / at) as partial:
                    shutil.copyfile(source, partial)
                    partial.chmod(0o444)
            else:
                os.utime(self._local / at)  # new again for `sweep`
        return digest, source.stat().st_size

    def fetch(self, digest: str) -> Path:
        """A file of this machine with that content, which is checked.

        Raises
        ------
        ModelError
            When it is lost, or is not what it was.
        """
        at = _blob(digest)
        local = (self._local or _cache()) / at
        if self._local is None and not local.exists():
            with _explained(self.root), _whole(local) as partial:
                self._files.get_file(self._at(at), str(partial))
        if not local.exists():
            raise ModelError(f"The registry {self.root!r} has lost a file of the model ({digest[:12]}).")
        if _digest(local) == digest:
            return local
        if self._local is None:
            local.unlink()
        raise ModelError(
            f"A file of the model in {self.root!r} is not what it was when it was registered: {local}.",
            "Something has changed or damaged it: register the model again.",
        )

    def sweep(self, used: set[str]) -> int:
        """Remove what nothing names and nobody has kept for a day; returns the bytes that it took."""
        freed = 0
        with _explained(self.root):
            self._files.invalidate_cache()
            found = self._files.find(self._at("blobs"), detail=True)
            for path, facts in found.items():
                name = PurePosixPath(path).name
                if name in used or time.time() - _modified(self._files, path) < _KEPT:
                    continue
                self._files.rm_file(path)
                freed += int(facts.get("size") or 0)
        return freed

    def _at(self, path: str) -> str:
        return str(self._base / path)


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blob(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _cache() -> Path:
    return private_dir(settings().data_dir / "models-cache")


def _modified(files: Any, path: str) -> float:
    try:
        return float(files.modified(path).timestamp())
    except NotImplementedError:
        return time.time()


def _create(path: Path, data: bytes) -> bool:
    private_dir(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)  # unlike a renaming, it fails where something is
        except FileExistsError:
            return False
    finally:
        Path(name).unlink(missing_ok=True)
    _sync(path.parent)
    return True


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write to, whose file is at ``path`` once it is whole."""
    private_dir(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _explained(root: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, ImportError)) and not type(error).__module__.startswith(_CLIENTS):
            raise
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ModelError(f"The registry {root!r} can't be used: {told.rstrip('.')}.") from error
