"""What is due at a target, and how far it has got there."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from nbcloud.runs.record import EXPORT
from nbcloud.runs.records import Records

SCHEME = "mlflow:"
MODEL = "models:/"
"""How versions begin among what was sent."""
_AT_ONCE = 100


def shown(target: str) -> str:
    """The address of a target without what may be secret in it, as it stands in the store and in messages."""
    parts = urlsplit(target.removeprefix(SCHEME))
    if "@" not in parts.netloc:
        return target.removeprefix(SCHEME)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@dataclass(frozen=True)
class Sent:
    """How far a run has got.

    Attributes
    ----------
    id : str
        What it is called there; empty while nobody knows whether it is there.
    experiment : str
    place, count : int
        The values of metrics up to this place are there, and how many these are.
    sending : int
        Those up to this place may be there.
    artifacts : dict
        Hashes of the files that are there.
    gone : bool
        Whether it was deleted there, because it was here.
    trouble : str
        Why it is not all there.
    """

    id: str = ""
    experiment: str = ""
    place: int = -1
    count: int = 0
    sending: int = -1
    artifacts: dict[str, str] = field(default_factory=dict)
    gone: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class Standing:
    """How a mirror stands.

    Attributes
    ----------
    target : str
    since : float
        From when on runs are mirrored, in unix seconds.
    runs : int
        How many are there.
    behind : int
        How many have changed and are not there yet, as they are now.
    refused : dict
        Of those that MLflow did not take, the reason.
    trouble : str
        Why the mirror is behind; empty where it only has not come to it yet.
    """

    target: str
    since: float
    runs: int
    behind: int
    refused: dict[str, str]
    trouble: str


class Feed:
    """Of one store and one target.

    Parameters
    ----------
    store : Records
    target : str
        As ``shown`` has it.
    """

    def __init__(self, store: Records, target: str) -> None:
        self._database = store._database
        self.target = target

    def enlist(self, *, past: bool = False) -> None:
        """Mirror what changes from now on; ``past``: all that is on record."""
        latest = "0" if past else "COALESCE(MAX(revision), 0)"
        again = "UPDATE SET revision = 0" if past else "NOTHING"

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                f"INSERT INTO mirrors (target, since, revision) SELECT ?, ?, {latest} FROM changes WHERE 1 "  # noqa: S608
                f"ON CONFLICT (target) DO {again}",
                (self.target, time.time()),
            )

        self._database.write(change)

    def due(self) -> list[tuple[int, int]]:
        """The next changes: their numbers, and those of the runs."""
        return self._database.read(
            "SELECT c.revision, c.run FROM changes c, mirrors m WHERE m.target = ? "
            "AND c.revision > m.revision ORDER BY c.revision LIMIT ?",
            (self.target, _AT_ONCE),
        )

    def refused(self) -> list[int]:
        """The numbers of runs that MLflow did not take."""
        query = "SELECT run FROM mirrored WHERE target = ? AND trouble <> ''"
        return [number for (number,) in self._database.read(query, (self.target,))]

    def exported(self) -> list[tuple[int, str | None, dict[str, str]]]:
        """Of exports that are there: their numbers, their registries, and what their versions are called."""
        rows = self._database.read(
            "SELECT r.number, json_extract(d.document, '$.registry'), m.artifacts FROM mirrored m "
            "JOIN runs r ON r.number = m.run JOIN documents d USING (number) "
            "WHERE m.target = ? AND r.kind = ? ORDER BY r.number",
            (self.target, EXPORT),
        )
        found = []
        for number, registry, artifacts in rows:
            sent = json.loads(artifacts)
            found.append((number, registry, {uri: sent[uri] for uri in sent if uri.startswith(MODEL)}))
        return found

    def done(self, revision: int) -> None:
        """All up to this change is there, or was refused."""
        self._change(
            "UPDATE mirrors SET revision = ?, trouble = '' WHERE target = ?", (revision, self.target)
        )

    def trouble(self, why: str) -> None:
        """The target can't be reached."""
        self._change("UPDATE mirrors SET trouble = ? WHERE target = ?", (why, self.target))

    def since(self) -> float:
        """When it was enlisted."""
        rows = self._database.read("SELECT since FROM mirrors WHERE target = ?", (self.target,))
        return float(rows[0][0]) if rows else 0.0

    def sent(self, number: int) -> Sent | None:
        """How far a run has got; None where it has not been begun."""
        rows = self._database.read(
            "SELECT id, experiment, place, count, sending, artifacts, gone, trouble FROM mirrored "
            "WHERE run = ? AND target = ?",
            (number, self.target),
        )
        if not rows:
            return None
        known = Sent(*rows[0])
        return replace(known, artifacts=json.loads(rows[0][5]), gone=bool(known.gone))

    def keep(self, number: int, sent: Sent) -> None:
        """Put on record how far a run has got, if it is still there."""
        values = vars(sent) | {"artifacts": json.dumps(sent.artifacts)}
        self._change(
            f"INSERT OR REPLACE INTO mirrored (run, target, {', '.join(values)}) "  # noqa: S608
            f"SELECT number, ?, {', '.join('?' * len(values))} FROM runs WHERE number = ?",
            (self.target, *values.values(), number),
        )

    def standing(self) -> Standing | None:
        """How the mirror stands; None where it was never enlisted."""
        rows = self._database.read(
            "SELECT since, trouble, (SELECT COUNT(*) FROM changes c WHERE c.revision > m.revision), "
            "(SELECT COUNT(*) FROM mirrored d WHERE d.target = m.target AND d.id <> '' AND NOT d.gone) "
            "FROM mirrors m WHERE target = ?",
            (self.target,),
        )
        if not rows:
            return None
        since, trouble, behind, runs = rows[0]
        refused = self._database.read(
            "SELECT r.id, d.trouble FROM mirrored d JOIN runs r ON r.number = d.run "
            "WHERE d.target = ? AND d.trouble <> '' ORDER BY r.number",
            (self.target,),
        )
        return Standing(self.target, since, runs, behind, dict(refused), trouble)

    def values(self, number: int, after: int, limit: int) -> list[tuple[Any, ...]]:
        """The next values of a run's metrics: place, key, step, time, value."""
        return self._database.read(
            "SELECT place, key, step, time, value FROM metrics WHERE run = ? AND place > ? "
            "ORDER BY place LIMIT ?",
            (number, after, limit),
        )

    def before(self, number: int, key: str, upto: int) -> list[tuple[Any, ...]]:
        """The values of one metric up to a place: step, time, value."""
        return self._database.read(
            "SELECT step, time, value FROM metrics WHERE run = ? AND key = ? AND place <= ?",
            (number, key, upto),
        )

    def count(self, number: int, upto: int) -> int:
        """How many values of metrics a run has up to a place."""
        query = "SELECT COUNT(*) FROM metrics WHERE run = ? AND place <= ?"
        return int(self._database.read(query, (number, upto))[0][0])

    def _change(self, sql: str, values: tuple[Any, ...]) -> None:
        self._database.write(lambda connection: connection.execute(sql, values))
