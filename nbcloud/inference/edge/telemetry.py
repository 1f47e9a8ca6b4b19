"""What is seen on a device, queued on disk in bounded bytes until there is a link.

::

    telemetry/1763862495123456789.jsonl    one event a line; the newest file is appended to
    telemetry/1763862471987654321.ready    complete, and to be delivered

Files are delivered whole, the oldest first, and removed only after that. A device that stops between the two
delivers a file again, under the same ``batch``, and the receiver drops what it has.
"""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from nbcloud.errors import StoreError, UsageError
from nbcloud.inference.edge.files import locked, replace_file
from nbcloud.inference.edge.model import EdgeModel

LIMIT = 4 * 2**20
"""Bytes of a queue, by default."""
_OPEN, _READY = ".jsonl", ".ready"
_PARTS = 8
"""A full queue loses its oldest file, one of so many."""
_WINDOW = 100
"""Answers that one event tells of."""
_TIMEOUT = 30


class Queue:
    """Events in a folder, at most ``limit`` bytes of them.

    Parameters
    ----------
    folder : path
        Made with the first event.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = folder
        self._limit = limit

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event; a full queue loses its oldest ones.

        Raises
        ------
        StoreError
            When the event alone is too large, or can't be written.
        """
        line = json.dumps(event, separators=(",", ":"), default=str).encode() + b"\n"
        if len(line) > self._limit // _PARTS:
            raise StoreError(f"An event of {len(line):,} bytes is too large for the queue {self.folder}.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / "lock", wait=True), self._current(len(line)).open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            told = f"Telemetry can't be written to {self.folder}: {error.strerror or error}."
            raise StoreError(told, "Look at its disk and rights.") from error

    def files(self) -> list[Path]:
        """All files, the oldest first."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if path.suffix in (_OPEN, _READY)]
        return sorted(found, key=lambda path: path.stem)

    def events(self, path: Path) -> list[Any]:
        """What a file tells; a line that the device could not finish is left out."""
        found = []
        for line in path.read_bytes().split(b"\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def deliver(self, to: str, device: str, *, ca: Path | None = None) -> int:
        """Send all events; returns how many were.

        Parameters
        ----------
        to : str
            ``https://…``, which gets a POST for each file; or a folder.
        ca : path, optional
            Certificates that the receiver's must be signed by.

        Raises
        ------
        StoreError
            When there is no link; what was not delivered stays.
        """
        if "://" in to and urlsplit(to).scheme != "https":
            raise UsageError(f"{to} is neither an https URL nor a folder.", "Telemetry goes by https only.")
        with locked(self.folder / "delivery"):
            # Answers go on, and are told in new files, however slow the link is.
            with locked(self.folder / "lock", wait=True):
                for path in self.files():
                    path.rename(path.with_suffix(_READY))
            return sum(self._send(path, to, device, ca) for path in sorted(self.folder.glob(f"*{_READY}")))

    def _send(self, path: Path, to: str, device: str, ca: Path | None) -> int:
        events = self.events(path)
        if events:
            batch = {"device": device, "batch": path.stem, "events": events}
            _send(to, json.dumps(batch).encode(), f"{device}-{path.stem}.json", ca)
        path.unlink(missing_ok=True)
        return len(events)

    def _current(self, more: int) -> Path:
        """The file to append to, after room was made."""
        files = self.files()
        while files and sum(path.stat().st_size for path in files) + more > self._limit:
            files.pop(0).unlink(missing_ok=True)
        if files and files[-1].suffix == _OPEN:
            newest = files[-1]
            if newest.stat().st_size + more <= self._limit // _PARTS and not _is_torn(newest):
                return newest
        # Names must grow, also when the clock of a device goes back.
        last = int(files[-1].stem) if files else 0
        return self.folder / f"{max(time.time_ns(), last + 1):020}{_OPEN}"


def _is_torn(path: Path) -> bool:
    content = path.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def _send(to: str, content: bytes, name: str, ca: Path | None) -> None:
    if "://" not in to:
        try:
            replace_file(Path(to) / name, content, Path(to) / f".{name}")
        except OSError as error:
            raise StoreError(
                f"Telemetry can't be written to {to}: {error.strerror}.", "What was not delivered stays here."
            ) from error
        return
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(to, content, headers, method="POST")  # noqa: S310 - https, as checked
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT, context=context):  # noqa: S310
            return
    except (OSError, ValueError) as error:
        raise StoreError(
            f"Telemetry can't be delivered to {to}: {error}.", "What was not delivered stays here."
        ) from error


class Telemetry:
    """Events of one model: how long its answers take, how far its inputs are from the golden ones.

    Use it with ``with``, so that what is seen last is told, too.

    Parameters
    ----------
    say : callable
        Is given the first trouble with the queue: a full disk must not end the answers.
    """

    def __init__(self, queue: Queue, model: EdgeModel, say: Callable[[str], None] = warnings.warn) -> None:
        self._queue = queue
        self._say: Callable[[str], None] | None = say
        self._title = model.manifest.title
        self._golden = {name: _statistics(value) for name, value in model.golden_inputs.items()}
        self._begin()

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(self, *_: Any) -> None:
        self.tell()

    def observe(self, inputs: Mapping[str, Any], seconds: float) -> None:
        """Count one answer; a hundred make an event."""
        self._seconds.append(seconds)
        for name, value in inputs.items():
            seen = _statistics(value)
            if seen is not None and self._golden.get(name) is not None:
                self._means.setdefault(name, []).append(seen[0])
        if len(self._seconds) >= _WINDOW:
            self.tell()

    def disagreement(self, inputs: Mapping[str, Any], found: Any, expected: Any) -> None:
        """Tell that somebody who knows, or a larger model, answers otherwise."""
        shapes = {name: list(np.shape(value)) for name, value in inputs.items()}
        told = {"found": np.asarray(found).tolist(), "expected": np.asarray(expected).tolist()}
        self._append({**self._event("disagreement"), "inputs": shapes, **told})

    def tell(self) -> None:
        """Queue what was counted so far."""
        if self._seconds:
            low, middle, high = (float(x) * 1e3 for x in np.percentile(self._seconds, (0, 50, 95)))
            self._append(
                {
                    **self._event("answers"),
                    "count": len(self._seconds),
                    "milliseconds": {
                        "least": round(low, 3),
                        "median": round(middle, 3),
                        "p95": round(high, 3),
                    },
                    "drift": {name: self._drift(name, means) for name, means in self._means.items()},
                }
            )
        self._begin()

    def _append(self, event: Mapping[str, Any]) -> None:
        try:
            self._queue.append(event)
        except StoreError as error:
            if self._say is not None:
                self._say(f"{error} Answers go on without.")
            self._say = None

    def _begin(self) -> None:
        self._seconds: list[float] = []
        self._means: dict[str, list[float]] = {}

    def _event(self, kind: str) -> dict[str, Any]:
        return {"event": kind, "time": round(time.time(), 3), "model": self._title}

    def _drift(self, name: str, means: list[float]) -> float:
        """How far the inputs' mean is from the golden ones', in their standard deviations."""
        known = self._golden[name]
        mean, deviation = known or (0.0, 0.0)
        return round((float(np.mean(means)) - mean) / max(deviation, 1e-12), 4)


def _statistics(values: Any) -> tuple[float, float] | None:
    """Mean and standard deviation of numbers; None of texts, and of nothing."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        return None
    finite = array[np.isfinite(array)]
    if not finite.size:
        return None
    return float(np.mean(finite, dtype=np.float64)), float(np.std(finite, dtype=np.float64))
