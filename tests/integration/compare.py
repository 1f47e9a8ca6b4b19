"""Whether two executions of one notebook show the same, cell by cell.

What differs between any two local executions as well is made equal: addresses, times, temporary files,
processes, ids of widgets. Cells that are not steady by nature (random numbers without a seed, the order of a
set) are recognised by executing the notebook locally twice, and then compared in outline only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NORMAL = [
    (re.compile(r"0x[0-9a-fA-F]{6,}"), "0xADDRESS"),
    (re.compile(r"\bat 0x[0-9a-fA-F]+"), "at 0xADDRESS"),
    (re.compile(r"/tmp/(?:ipykernel_\d+|tmp\w+)"), "/tmp/TEMPORARY"),
    (re.compile(r"/tmp/TEMPORARY/\d+\.py"), "CELL.py"),
    (re.compile(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "ID"),
    # %time, %timeit, tqdm
    (re.compile(r"(?m)^(?:CPU times|Wall time|Compiler\s*:|Parser\s*:).*$"), "TIME"),
    (re.compile(r"[\d.]+ ?[nµμum]?s ± [\d.]+ ?[nµμum]?s per loop.*"), "TIME"),
    (re.compile(r"The slowest run took .*"), "TIME"),
    (re.compile(r"\d+:\d\d(?::\d\d)?<\?{0,2}[\d:]*, +[\d.?]+ ?(?:it/s|s/it)"), "RATE"),
    (re.compile(r"\[\d\d:\d\d<[^\]]*\]"), "RATE"),
    (re.compile(r"\bin [\d.]+(?:e-\d+)? seconds"), "in TIME seconds"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?"), "DATE"),
]
# A cell's code is compiled line by line where it is timed; IPython says "File <timed exec>:1".
_ORDER = ("stdout", "stderr")


@dataclass(frozen=True)
class Difference:
    """One thing that a cell shows otherwise."""

    cell: int
    what: str
    expected: Any
    actual: Any

    def __str__(self) -> str:
        return f"cell {self.cell}, {self.what}:\n  expected {self.expected!r}\n  but was  {self.actual!r}"


def normal(text: str) -> str:
    """A text without what differs between any two executions."""
    text = _ANSI.sub("", text)
    for pattern, replacement in _NORMAL:
        text = pattern.sub(replacement, text)
    return text


def differences(
    expected: Iterable[dict[str, Any]], actual: Iterable[dict[str, Any]], unsteady: Iterable[int] = ()
) -> list[Difference]:
    """Compare the code cells of two executions.

    Parameters
    ----------
    expected, actual : iterable of nbformat cells
        The code cells, in order.
    unsteady : iterable of int
        Indices of the cells of which only the outline is compared.
    """
    loose = set(unsteady)
    found: list[Difference] = []
    for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
        read = _outline if index in loose else _facts
        found += _compared(index, list(read(one)), list(read(other)))
    return found


def unsteady_cells(first: Iterable[dict[str, Any]], second: Iterable[dict[str, Any]]) -> set[int]:
    """Indices of the cells that show something else when the notebook is executed again."""
    return {difference.cell for difference in differences(first, second)}


def _compared(
    index: int, expected: list[tuple[str, Any]], actual: list[tuple[str, Any]]
) -> Iterator[Difference]:
    kinds = [kind for kind, _ in expected], [kind for kind, _ in actual]
    if kinds[0] != kinds[1]:
        yield Difference(index, "outputs", expected, actual)
        return
    for (kind, one), (_, other) in zip(expected, actual, strict=True):
        if one != other:
            yield Difference(index, kind, one, other)


def _facts(cell: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a cell shows, in order: kind and content of each thing."""
    yield "execution count", cell.get("execution_count")
    for output in _merged(cell["outputs"]):
        match output["output_type"]:
            case "stream":
                yield output["name"], normal(_joined(output["text"]))
            case "error":
                yield "error", (output["ename"], normal(output["evalue"]))
                yield "traceback", [normal(frame).rstrip() for frame in output["traceback"]]
            case kind:
                if kind == "execute_result":
                    yield "result's number", output["execution_count"]
                yield kind, {mime: _content(mime, data) for mime, data in sorted(output["data"].items())}


def _outline(cell: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Only the kinds of what a cell shows."""
    for output in _merged(cell["outputs"]):
        match output["output_type"]:
            case "stream":
                yield output["name"], None
            case "error":
                yield "error", output["ename"]
            case kind:
                yield kind, sorted(output["data"])


def _merged(outputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Outputs with each stream's text between two other outputs in one piece.

    How the two streams interleave is not compared: a local kernel buffers them one by one.
    """
    texts = dict.fromkeys(_ORDER, "")
    for output in [*outputs, None]:
        if output is not None and output["output_type"] == "stream":
            texts[output["name"]] += _joined(output["text"])
            continue
        yield from (
            {"output_type": "stream", "name": name, "text": text} for name, text in texts.items() if text
        )
        texts = dict.fromkeys(_ORDER, "")
        if output is not None:
            yield output


def _content(mime: str, data: Any) -> Any:
    if isinstance(data, (dict, bool, int, float)) or (isinstance(data, list) and mime.endswith("json")):
        return normal(json.dumps(data, sort_keys=True))
    text = _joined(data)
    return text.strip() if mime in {"image/png", "image/jpeg"} else normal(text)


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
