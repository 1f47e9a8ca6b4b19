"""Which clusters this user has up: one JSON file each, found by every kernel, CLI and Jupyter server."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from nbcloud.clusters import process
from nbcloud.clusters.base import ClusterInfo, check_name
from nbcloud.config import private_dir, settings
from nbcloud.errors import ClusterError, ConfigError, NbcloudError, VersionSkew

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

_POLL = 0.02


def folder() -> Path:
    """The registry's directory, for this user only."""
    path = settings().runtime_dir.absolute() / "clusters"
    try:
        return private_dir(path)
    except OSError as error:
        raise ConfigError(
            f"The folder {path} can't be used: {error.strerror}.", "NBCLOUD_RUNTIME_DIR names another place."
        ) from error


def _path(name: str, where: Path | None = None) -> Path:
    return (where or folder()) / f"{check_name(name)}.json"


def private_opener(path: str, flags: int) -> int:
    """For ``open(…, opener=…)``: a file that only this user may read."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "w", encoding="utf-8", opener=private_opener) as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# --- entries ---------------------------------------------------------------------------------------------


def put(info: ClusterInfo, where: Path | None = None) -> None:
    """Register ``info``, in place of an earlier entry of its name."""
    write_private(_path(info.name, where), info.to_json())


def get(name: str, where: Path | None = None) -> ClusterInfo | None:
    """The entry of that name, of a live cluster or not; None without one, or with one that can't be read.

    Raises
    ------
    VersionSkew
        When a newer nbcloud wrote the entry.
    """
    path = _path(name, where)
    try:
        return ClusterInfo.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except VersionSkew:
        raise
    except (OSError, ValueError) as error:
        why = (
            "it is not JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
        )
        logger.warning("The registry's entry %s can't be used: %s.", path, why)
        return None


def remove(name: str, cluster_id: str, where: Path | None = None) -> None:
    """Forget the entry of that name, if it is still the one of ``cluster_id``."""
    path = _path(name, where)
    with suppress(OSError, ValueError):
        if json.loads(path.read_text(encoding="utf-8")).get("id") == cluster_id:
            path.unlink()


def state(info: ClusterInfo) -> Literal["live", "dead", "elsewhere"]:
    """What becomes of an entry: an ``existing`` cluster counts as live until it is forgotten.

    ``elsewhere`` is an entry that another machine made in a shared home: only that machine can tell.
    """
    if info.pid is None or process.is_alive(info.pid, info.started):
        return "live"
    return "dead" if info.host == platform.node() else "elsewhere"


def entries() -> list[ClusterInfo]:
    """All registered clusters, those that are starting too; dead and malformed entries are cleaned away."""
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            info = get(path.stem)
        except VersionSkew as error:
            logger.warning("%s", error)
            continue
        if info is not None and state(info) != "dead":
            found.append(info)
        else:
            _clean(path.stem)
    return found


def by_id(cluster_id: str) -> ClusterInfo | None:
    """The cluster that has this id, if it is there still; another one may have its name meanwhile."""
    return next((info for info in entries() if info.id == cluster_id), None)


def _clean(name: str) -> None:
    with suppress(ClusterError), lock(name, timeout=0):
        # Under the lock, and looked at again: it may have been replaced by a good one meanwhile.
        path = _path(name)
        with suppress(OSError, ValueError, VersionSkew):
            info = ClusterInfo.from_json(path.read_text(encoding="utf-8"))
            if state(info) == "dead":
                discard(info)
            return
        path.unlink(missing_ok=True)


def discard(info: ClusterInfo) -> None:
    """Forget a dead cluster, and remove what is left of it: stray processes, files; journals by and by."""
    process.kill(process.members(None, info.id))
    remove_directory(info)
    remove(info.name, info.id)


def remove_directory(info: ClusterInfo, where: Path | None = None) -> None:
    """Remove the cluster's own directory, except ``journal/`` from which records may still be completed.

    `clean_journals` removes that when they are.
    """
    if info.directory is None:
        return
    directory = Path(info.directory)
    # The path comes from a file: nothing but a cluster's directory is ever removed.
    if directory.parent != (where or folder()) or directory.name != f"{info.name}-{info.id}":
        return
    with suppress(OSError):
        for child in directory.iterdir():
            if child.name == "journal" and child.is_dir() and any(child.iterdir()):
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child, ignore_errors=True)
            else:
                child.unlink(missing_ok=True)
        directory.rmdir()


def clean_journals(is_on_record: Callable[[Path], bool]) -> None:
    """Remove the files in the journals of ended clusters, as far as all that they say is on record."""
    for journal in folder().glob("*/journal"):
        name, _, cluster_id = journal.parent.name.rpartition("-")
        with suppress(NbcloudError, OSError), lock(name, timeout=0):
            entry = get(name)
            if entry is not None and entry.id == cluster_id:
                continue
            for file in journal.iterdir():
                if is_on_record(file):
                    file.unlink()
            journal.rmdir()  # refused while something is in it
            journal.parent.rmdir()


# --- what was asked for ----------------------------------------------------------------------------------


def remember(name: str, options: dict[str, Any], where: Path | None = None) -> None:
    """Keep the options of a local cluster beyond its end, to start it again alike; until `forget`."""
    write_private(_path(name, where).with_suffix(".options"), json.dumps(options))


def recall(name: str) -> dict[str, Any] | None:
    """The options of the last local cluster of that name, unless it was told to end."""
    try:
        options = json.loads(_path(name).with_suffix(".options").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return options if isinstance(options, dict) else None


def forget(name: str) -> None:
    """Forget the options of that name."""
    _path(name).with_suffix(".options").unlink(missing_ok=True)


# --- one at a time ---------------------------------------------------------------------------------------


if sys.platform == "win32":

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def lock(name: str, *, timeout: float, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep every other process of this user from starting or ending the cluster ``name``.

    The system lets go of it when the process dies. ``waiting`` is called once if another one has it.

    Raises
    ------
    ClusterError
        When another process has it for longer than ``timeout`` seconds.
    """
    path = folder() / f"{check_name(name)}.lock"
    deadline = time.monotonic() + timeout
    with open(path, "ab", opener=private_opener) as file:
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                raise ClusterError(
                    f"Another process has been starting or ending the cluster {name!r} for {timeout:g} s.",
                    "Wait for it, or use another name.",
                )
            if waiting is not None:
                waiting()
                waiting = None
            time.sleep(_POLL)
        yield
