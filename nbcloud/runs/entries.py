"""What code logs, as messages of the run that it belongs to.

A message of the type ``nbcloud_log`` has the content ``{"run": …, "entries": […]}``. An empty ``run`` is the
one among whose messages it stands; else it is one nested in that. An entry is one of

- ``["metric", key, value, step, time]``: a value that JSON has no number for is a text, such as ``"nan"``
- ``["param", key, value]`` and ``["tag", key, text]``
- ``["artifact", name, {"hash": …, "bytes": …}]``, behind its parts: ``["part", hash, offset]``, each alone in
  a message that has the bytes as its buffer
- ``["record", name, content]`` and ``["dataset", name, facts]``
- ``["experiment", name]``: to which the run belongs
- ``["begin", document]`` and ``["end", state, time]``: of a nested run

The number of the message and the place of an entry in it tell each entry from all others of its run, however
often it is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LOGGED = "nbcloud_log"
"""The type of these messages."""
AT_ONCE = 1000
"""Entries in one message, at most."""
_PLACES = 20
_MARK = b'"msg_type":"%s"' % LOGGED.encode()
_NUMBER = re.compile(rb'\{"n": ?(\d+)')
_MOST_BITS = 1024
"""Of a whole number that is still below the largest float."""
_HEAD = 96
"""Bytes of a line that hold its number, time and type."""

PART = 2**19
"""Bytes of an artifact in one message, at most."""
ITEMS = ("artifact", "record", "dataset")

Entry = list[Any]


def metric(key: str, value: float, step: int | None, time: float) -> Entry:
    """The entry of one value of a metric."""
    return ["metric", key, value if math.isfinite(value) else str(value), step, time]


def whole(step: Any) -> int:
    """A step as the database takes it.

    Raises
    ------
    TypeError, ValueError, OverflowError
        When it is no whole number of 64 bits.
    """
    number = int(step)
    if number.bit_length() > 63:
        raise OverflowError(f"{step} has more than 64 bits")
    return number


def plain(value: Any) -> Any:
    """A value as JSON has it: itself, where that is possible, else its text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):  # without a float near it, it can't be compared
        return value if value.bit_length() < _MOST_BITS else f"{value:#x}"
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:  # a number of numpy, a tensor of one element
        return plain(item())
    return str(value)


def contents(entries: Iterable[tuple[str, Entry]]) -> Iterator[dict[str, Any]]:
    """Entries, each with its run, as contents of as few messages as keep their order."""
    content: dict[str, Any] = {}
    for run, entry in entries:
        if not content or content["run"] != run or len(content["entries"]) == AT_ONCE:
            if content:
                yield content
            content = {"run": run, "entries": []}
        content["entries"].append(entry)
    if content:
        yield content


def line(number: int, when: float, content: dict[str, Any]) -> bytes:
    """Such a message as a line of a log, where no journal writes it."""
    text = json.dumps(content).encode()
    return b'{"n":%d,"time":%.6f,%b,"content":%b,"metadata":{}}\n' % (number, when, _MARK, text)


def place(number: int, index: int) -> int:
    """Where an entry stands among all of its run: the message's number, and its index in that."""
    return number << _PLACES | index


def is_logged(line: bytes) -> bool:
    """Whether a line of a run's log is such a message."""
    return _MARK in line[:_HEAD]


def is_part(line: bytes) -> bool:
    """Whether a line is such a message with bytes of an artifact."""
    return b'"part"' in line and json.loads(line)["content"]["entries"][0][0] == "part"


def logged_in(lines: bytes) -> list[dict[str, Any]]:
    """Those of a log's lines that are such messages."""
    if _MARK not in lines:
        return []
    return [json.loads(line) for line in lines.splitlines() if is_logged(line)]


def span(lines: bytes) -> tuple[int, int]:
    """The numbers of the first and the last of a log's lines."""
    whole = lines.rstrip(b"\n")
    heads = (_NUMBER.match(lines), _NUMBER.match(whole, whole.rfind(b"\n") + 1))
    first, last = (int(head[1]) if head else -1 for head in heads)
    return first, last
