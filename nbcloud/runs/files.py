"""The files of a run, all named here, and how they are written so that no crash leaves a half of one.

::

    runs.db               the index over all runs (see database)
    artifacts/            files that runs logged (see artifacts)
    runs/<id>/            0700
        run.json          the run document
        messages.jsonl    the journal's messages, one a line, while the run is not finished
        run.ipynb         code, outputs and document of a finished run, as a notebook
        logged.jsonl      those messages of a finished run in which its code logged something
    deleted/              on the way out

The documents on disk are complete: the database can be made again from them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbcloud.errors import StoreError
from nbcloud.runs.entries import is_logged, is_part, span
from nbcloud.runs.record import Run

if sys.platform != "win32":
    import fcntl

_HINTS = {
    errno.ENOSPC: "Free some space, or set NBCLOUD_DATA_DIR to a folder on another disk.",
    errno.EDQUOT: "Free some of your quota, or set NBCLOUD_DATA_DIR to a folder on another disk.",
    errno.EFBIG: "Raise the limit (ulimit -f).",
    errno.EROFS: "Set NBCLOUD_DATA_DIR to a folder that you may write to.",
    errno.EACCES: "Set NBCLOUD_DATA_DIR to a folder that you may write to.",
    errno.EPERM: "Set NBCLOUD_DATA_DIR to a folder that you may write to.",
}


@contextlib.contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside into a ``StoreError`` that says what could not be done, where and why."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        hint = _HINTS.get(error.errno or 0, "")
        raise StoreError(
            f"{doing} failed at {path}: {why}.", hint, path=str(path), code=error.errno
        ) from error


class RunFiles:
    """Paths of the files of one run."""

    def __init__(self, root: Path, run_id: str) -> None:
        self.directory = root / "runs" / run_id
        self.document = self.directory / "run.json"
        self.messages = self.directory / "messages.jsonl"
        self.notebook = self.directory / "run.ipynb"
        self.logged = self.directory / "logged.jsonl"

    def create(self) -> None:
        """Make the directory and an empty log of messages, for this user only."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self.messages, os.O_CREAT | os.O_WRONLY, 0o600))

    def write_document(self, run: Run) -> None:
        """Replace run.json."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not synced: a killed process loses nothing by that, and after a power cut run.ipynb has it too.
        write_atomically(self.document, dump(run.to_json()), sync=False)

    def write_notebook(self, run: Run, outputs: list[dict[str, Any]]) -> None:
        """Replace run.ipynb."""
        write_atomically(self.notebook, dump(_notebook(run, outputs)), sync=True)

    def keep_logged(self) -> None:
        """Copy what code logged, except the bytes of artifacts, from the log, which is about to go."""
        with self.messages.open("rb") as log:
            lines = [line for line in log if is_logged(line) and not is_part(line)]
        if lines:
            write_atomically(self.logged, b"".join(lines), sync=True)

    def read_logged(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """The messages above a number in which code logged something, of a run that is finished or not."""
        for path in (self.logged, self.messages):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                for line in filter(is_logged, file):
                    if span(line)[0] > after:
                        with contextlib.suppress(ValueError):  # a torn last line
                            yield json.loads(line)

    def read_document(self) -> Run:
        """The run of run.json, or that of run.ipynb where the former is damaged.

        Raises
        ------
        StoreError
            When neither can be read.
        """
        try:
            return Run.from_json(self.document.read_bytes())
        except (OSError, StoreError):
            return Run.from_json(self._load_notebook()["metadata"].get("nbcloud"))

    def read_outputs(self) -> list[dict[str, Any]]:
        """The outputs in run.ipynb.

        Raises
        ------
        StoreError
            When it is missing or isn't the notebook of a run.
        """
        cells = self._load_notebook()["cells"]
        outputs = cells[0].get("outputs") if cells and isinstance(cells[0], dict) else None
        if not isinstance(outputs, list) or not all(
            isinstance(o, dict) and "output_type" in o for o in outputs
        ):
            raise StoreError(
                f"{self.notebook} is not the notebook of a run any more: its first cell has no outputs."
            )
        return outputs

    def _load_notebook(self) -> dict[str, Any]:
        with explained("Reading a run's outputs", self.notebook):
            data = self.notebook.read_bytes()
        try:
            notebook = json.loads(data)
            if not isinstance(notebook["cells"], list) or not isinstance(notebook["metadata"], dict):
                raise TypeError("cells and metadata are not what they should be")
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.notebook} is damaged and can't be read as a notebook ({error}).",
                "The code and the facts of the run are still on record.",
            ) from error
        return dict(notebook)


def _notebook(run: Run, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": run.id,
        "metadata": {},
        "source": run.code,
        "execution_count": run.execution_count,
        "outputs": outputs,
    }
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "nbcloud": run.to_json(),
    }
    return {"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def dump(value: Any) -> bytes:
    """JSON in UTF-8; what JSON has no type for becomes text: a record must not fail for one odd value."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8, but JSON can escape it.
        return json.dumps(value, default=str).encode()


def write_atomically(path: Path, data: bytes, sync: bool, mode: int = 0o600) -> None:
    """Replace the file at ``path``, so that there is always the old or the new one, whole.

    Callers see to it that only one at a time replaces this file.
    """
    # One fixed name: what a crash leaves behind is overwritten when the crashed step is repeated.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        handle = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | getattr(os, "O_BINARY", 0), mode)
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(data)
            file.flush()
            if sync:
                os.fsync(handle)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # nobody has asked for the temporary one
        raise


def lock(handle: int, wait: float | None = None) -> bool:
    """Take the lock of an open file; it goes when the file is closed, or with the process, however that ends.

    Parameters
    ----------
    handle : int
        A descriptor.
    wait : float, optional
        Seconds to wait for it; as long as it takes, otherwise.

    Returns
    -------
    bool
        False if another descriptor still held it after that time. Where the system has no such locks
        (Windows, some network disks) nothing is held, and True is given: what they guard is safe to repeat.
    """
    if sys.platform != "win32":
        deadline = time.monotonic() + (wait or 0.0)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
            except OSError:
                break
            else:
                break
    return True


def unlock(handle: int) -> None:
    """Give the lock of an open file back."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def exclusive(path: Path, wait: float = 120.0) -> Iterator[bool]:
    """Hold the lock of a file or directory; False if it stayed taken for ``wait`` seconds."""
    if sys.platform == "win32" and path.is_dir():  # can't be opened there
        yield True
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield lock(handle, wait)
    finally:
        os.close(handle)
