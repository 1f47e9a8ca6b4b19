"""In what two runs differ: what was run, with what, where, and what came of it."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nbcloud.runs.outputs import outputs_text
from nbcloud.runs.provenance import CLUSTER, DIFF, PACKAGES, SOURCE, kept
from nbcloud.runs.record import Run
from nbcloud.runs.records import Records
from nbcloud.wording import raised_text

OUTCOME = frozenset({"state", "metrics", "records", "artifacts", "outputs"})
"""The sections of what came of a run."""

_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
_TEXTS = ("text/plain", "text/html", "text/markdown", "application/json")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same.

    Attributes
    ----------
    section : str
        ``code``, ``parameters``, ``inputs``, ``resources``, ``cluster``, ``environment``, ``git``, or one of
        `OUTCOME`.
    name : str
        Which of the section; empty for a text as a whole.
    before, after : object
        Of the first and of the second run; None where one has it not.
    lines : tuple of str
        Of a text: what differs, as a unified diff.
    """

    section: str
    name: str
    before: Any = None
    after: Any = None
    lines: tuple[str, ...] = ()


def differences(store: Records, first: Run, second: Run) -> list[Difference]:
    """All in which two runs differ; times are not compared."""
    return [*_asked(store, first, second), *_came(store, first, second)]


def _asked(store: Records, first: Run, second: Run) -> Iterator[Difference]:
    logged = store.tracked([first.id, second.id])
    yield from _text("code", *(_code(store, run) for run in (first, second)))
    yield from _values("parameters", logged[first.id].params, logged[second.id].params)
    yield from _values("inputs", *(_inputs(run) for run in (first, second)))
    yield from _values("inputs", *(_hashes(logged[run.id].datasets) for run in (first, second)))
    yield from _values("resources", *(_given(run.resources) for run in (first, second)))
    clusters = [_cluster(store, run) for run in (first, second)]
    if all(clusters):  # of one that was gone too soon, nothing is known
        yield from _values("cluster", *clusters)
    yield from _values("environment", *(_environment(store, run) for run in (first, second)))
    yield from _values("environment", *({"seed": run.extra.get("seed")} for run in (first, second)))
    yield from _values("git", *({"commit": (run.git or {}).get("commit")} for run in (first, second)))
    yield from _text("git", *(kept(store, run.id, DIFF) for run in (first, second)))


def _came(store: Records, first: Run, second: Run) -> Iterator[Difference]:
    logged = store.tracked([first.id, second.id])
    yield from _values("state", *({"state": str(run.state), "error": _error(run)} for run in (first, second)))
    yield from _values("metrics", logged[first.id].metrics, logged[second.id].metrics)
    yield from _values("records", *(_records(logged[run.id].records) for run in (first, second)))
    yield from _values("artifacts", *(_hashes(logged[run.id].artifacts) for run in (first, second)))
    outputs = [store.outputs(run.id) for run in (first, second)]
    yield from _text("outputs", *(_ADDRESS.sub("at 0x…", outputs_text(each)) for each in outputs))
    yield from _values("outputs", *(_pictures(each) for each in outputs))


def _values(section: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*before, *after]):
        a, b = before.get(name), after.get(name)
        if a != b and not (a != a and b != b):  # NaN is like NaN
            yield Difference(section, name, a, b)


def _text(section: str, before: str, after: str) -> Iterator[Difference]:
    if before != after:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
        yield Difference(section, "", lines=tuple(lines)[2:])


def _code(store: Records, run: Run) -> str:
    source = kept(store, run.id, SOURCE)
    if not source:
        return run.code
    cells = enumerate(json.loads(source)["cells"], 1)
    return "\n".join(f"# cell {place}: {cell['cell_type']}\n{cell['source']}" for place, cell in cells)


def _environment(store: Records, run: Run) -> dict[str, str]:
    packages = (line.partition("==") for line in kept(store, run.id, PACKAGES).splitlines() if "==" in line)
    return {**run.versions, **{name: version for name, _, version in packages}}


def _cluster(store: Records, run: Run) -> dict[str, Any]:
    """Its settings, flat."""
    known: dict[str, Any] = json.loads(kept(store, run.id, CLUSTER) or "{}")
    return known | dict(known.pop("settings", {}))


def _inputs(run: Run) -> dict[str, str]:
    return {each["name"]: str(each["hash"])[:16] for each in run.inputs}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _hashes(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: str(each["hash"])[:16] for name, each in facts.items()}


def _records(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {name: each["value"] if "value" in each else _digest(each) for name, each in records.items()}


def _error(run: Run) -> str:
    return raised_text(run.error["ename"], run.error["evalue"]) if run.error else run.message


def _pictures(outputs: list[dict[str, Any]]) -> dict[str, str]:
    """Hashes of what is shown and is no text, by its place among the outputs."""
    return {
        f"output {place}, {kind}": _digest(data)
        for place, output in enumerate(outputs, 1)
        for kind, data in sorted(output.get("data", {}).items())
        if kind not in _TEXTS
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:16]
