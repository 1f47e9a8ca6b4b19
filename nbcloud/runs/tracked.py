"""What code logged, as rows of the database: written from messages, read by run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nbcloud.runs.entries import ITEMS, Entry, place
from nbcloud.runs.record import id_number

TABLES = (
    "ALTER TABLE runs ADD COLUMN parent TEXT NOT NULL DEFAULT ''",
    "CREATE INDEX runs_by_parent ON runs (parent) WHERE parent <> ''",
    # A value that is no number (NaN) is NULL.
    """CREATE TABLE metrics (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, key TEXT NOT NULL, place INTEGER NOT NULL,
        step INTEGER, time REAL NOT NULL, value REAL, PRIMARY KEY (run, key, place)
    ) WITHOUT ROWID""",
    """CREATE TABLE latest (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, key TEXT NOT NULL, place INTEGER NOT NULL,
        step INTEGER NOT NULL, time REAL NOT NULL, value REAL, PRIMARY KEY (run, key)
    ) WITHOUT ROWID""",
    "CREATE INDEX latest_by_key ON latest (key, run, value)",
    "CREATE INDEX latest_by_value ON latest (key, value, run)",
    # ``text`` is for people, ``number`` for what can be compared as one, and ``json`` is exact.
    """CREATE TABLE params (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, key TEXT NOT NULL, place INTEGER NOT NULL,
        text TEXT NOT NULL, number REAL, json TEXT NOT NULL, PRIMARY KEY (run, key)
    ) WITHOUT ROWID""",
    "CREATE INDEX params_by_text ON params (key, text, run)",
    "CREATE INDEX params_by_number ON params (key, number, run)",
)
"""What the schema has for this; the part of a migration, and so never changed."""


ITEM_TABLES = (
    # What has a name and facts: artifacts, recorded values, datasets. ``hash`` is of an artifact's content.
    """CREATE TABLE items (
        run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, kind TEXT NOT NULL, name TEXT NOT NULL,
        place INTEGER NOT NULL, content TEXT NOT NULL, hash TEXT, PRIMARY KEY (run, kind, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX items_by_hash ON items (hash) WHERE hash IS NOT NULL",
)
"""What a later migration added."""


@dataclass(frozen=True)
class Point:
    """One value of a metric.

    Attributes
    ----------
    step : int or None
    time : float
        Unix seconds.
    value : float
    """

    step: int | None
    time: float
    value: float


@dataclass
class Tracked:
    """What a run has logged up to now.

    Attributes
    ----------
    params : dict
    metrics : dict
        The latest value of each: that of the highest step, and of the latest time among those.
    artifacts : dict
        ``hash`` and ``bytes`` of each file.
    records : dict
        Of each recorded value ``value``, or the ``data`` and ``metadata`` of what was displayed.
    datasets : dict
        ``hash``, ``kind``, ``rows`` and ``schema``, as far as each is known.
    """

    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)


Placed = list[tuple[int, Entry]]
"""Entries, each with its place among all of its run."""


def by_run(run_id: str, messages: Iterable[dict[str, Any]]) -> dict[str, Placed]:
    """The entries of messages that stand in the log of ``run_id``, by the runs that they belong to."""
    found: dict[str, Placed] = {}
    for message in messages:
        entries = found.setdefault(message["content"]["run"] or run_id, [])
        entries += (
            (place(message["n"], at), entry) for at, entry in enumerate(message["content"]["entries"])
        )
    return found


def changed(connection: sqlite3.Connection, number: int) -> None:
    """Give a run's last change the next number, by which mirrors know that they lack it."""
    connection.execute("INSERT OR REPLACE INTO changes (run) VALUES (?)", (number,))


def keep(connection: sqlite3.Connection, run_id: str, entries: Placed) -> None:
    """Write entries of one run, if it is still there; those that are there already stay as they are."""
    number = id_number(run_id)
    if connection.execute("SELECT 1 FROM runs WHERE number = ?", (number,)).fetchone() is None:
        return
    changed(connection, number)
    values = [
        (number, key, at, step, time, _number(value))
        for at, (kind, key, *rest) in entries
        if kind == "metric"
        for value, step, time in [rest]
    ]
    connection.executemany("INSERT OR IGNORE INTO metrics VALUES (?, ?, ?, ?, ?, ?)", values)
    latest: dict[str, tuple[Any, ...]] = {}
    for _, key, at, step, time, value in values:
        new = (step or 0, time, at, value)
        if key not in latest or new[:3] >= latest[key][:3]:
            latest[key] = new
    connection.executemany(
        "INSERT INTO latest (run, key, step, time, place, value) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET step = excluded.step, time = excluded.time, place = excluded.place, "
        "value = excluded.value "
        "WHERE (excluded.step, excluded.time, excluded.place) > (latest.step, latest.time, latest.place)",
        [(number, key, *new) for key, new in latest.items()],
    )
    connection.executemany(
        "INSERT INTO params VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET place = excluded.place, "
        "text = excluded.text, number = excluded.number, json = excluded.json "
        "WHERE excluded.place > params.place",
        [(number, key, at, *_param(rest[0])) for at, (kind, key, *rest) in entries if kind == "param"],
    )
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET place = excluded.place, "
        "content = excluded.content, hash = excluded.hash WHERE excluded.place > items.place",
        [
            (number, kind, key, at, json.dumps(rest[0]), rest[0]["hash"] if kind == "artifact" else None)
            for at, (kind, key, *rest) in entries
            if kind in ITEMS
        ],
    )


def _number(value: float | str) -> float | None:
    number = float(value)
    return None if number != number else number


def _param(value: Any) -> tuple[str, float | None, str]:
    exact = json.dumps(value, ensure_ascii=True)
    text = value.encode(errors="replace").decode() if isinstance(value, str) else exact
    return text, float(value) if isinstance(value, int | float) else None, exact


def tracked(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, Tracked]:
    """What runs have logged, by their numbers."""
    found = {number: Tracked() for number in numbers}
    for number, of_run in found.items():
        for key, value in connection.execute("SELECT key, value FROM latest WHERE run = ?", (number,)):
            of_run.metrics[key] = float("nan") if value is None else value
        for key, value in connection.execute("SELECT key, json FROM params WHERE run = ?", (number,)):
            of_run.params[key] = json.loads(value)
        for kind, name, content in connection.execute(
            "SELECT kind, name, content FROM items WHERE run = ?", (number,)
        ):
            getattr(of_run, f"{kind}s")[name] = json.loads(content)
    return found


def history(connection: sqlite3.Connection, number: int, key: str) -> list[Point]:
    """All values of one metric of a run, in the order in which they were logged."""
    rows = connection.execute(
        "SELECT step, time, value FROM metrics WHERE run = ? AND key = ? ORDER BY place", (number, key)
    )
    return [Point(step, time, float("nan") if value is None else value) for step, time, value in rows]
