"""A search over runs as SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from nbcloud.runs.files import dump
from nbcloud.runs.filters import Condition
from nbcloud.runs.index import clean
from nbcloud.runs.record import RunState, time_number

_FEW = 2000


class Search:
    """The conditions of a search, and the SQL that meets them through the index that helps most.

    SQLite would have to guess how many rows each index leaves. Runs of one name or notebook are few, and
    those of one state or cluster many: so the condition that is given first walks its index from the newest
    run on, and the others only filter.
    """

    def __init__(self) -> None:
        self._source = "runs r"
        self._number = self._order = "r.number"
        self._conditions: list[str] = []
        self._values: list[Any] = []
        self._direction = "DESC"
        self._driven = False

    def words(self, text: str, indexed: bool) -> None:
        """All words of ``text``, or words that begin so, must occur in the name, code, tags or error."""
        words = text.split()
        if indexed:
            quoted = ('"' + word.replace('"', '""') + '"*' for word in words if any(map(str.isalnum, word)))
            if (query := " ".join(quoted)) and self._driven:
                self._add("r.number IN (SELECT rowid FROM run_words WHERE run_words MATCH ?)", query)
                return
            if query:
                self._drive("run_words w CROSS JOIN runs r ON r.number = w.rowid", "w.rowid")
                self._add("run_words MATCH ?", query)
                return
        for word in words:
            written = dump(word).decode()[1:-1]
            pattern = "%" + written.replace("!", "!!").replace("%", "!%").replace("_", "!_") + "%"
            self._add(
                "(SELECT document FROM documents d WHERE d.number = r.number) LIKE ? ESCAPE '!'", pattern
            )

    def tag(self, tag: str) -> None:
        """A tag ``key`` with any value, or ``key=value``."""
        key, equals, value = tag.partition("=")
        condition, values = ("t.key = ? AND t.value = ?", [key, value]) if equals else ("t.key = ?", [key])
        if self._driven:
            self._add(f"EXISTS (SELECT 1 FROM tags t WHERE t.run = r.number AND {condition})", *values)  # noqa: S608
        else:
            self._drive("tags t CROSS JOIN runs r ON r.number = t.run", "t.run")
            self._add(condition, *values)

    def filter(self, conditions: Sequence[Condition], connection: sqlite3.Connection) -> None:
        """All of these conditions hold.

        Where nothing else drives the search, that one does which the fewest runs meet; of those that many
        meet, one about a metric, since an index has their values in the order of the runs.
        """
        rest = list(conditions)
        if not self._driven:
            present = [each for each in conditions if each.table and not each.absent]
            count, driver = min(
                ((_count(connection, each), each) for each in present),
                key=lambda counted: (counted[0], counted[1].table != "latest"),
                default=(_FEW, None),
            )
            if driver is not None and (count < _FEW or driver.table == "latest"):
                rest.remove(driver)
                by_run = "" if count < _FEW else "INDEXED BY latest_by_key"
                self._drive(f"{driver.table} d {by_run} CROSS JOIN runs r ON r.number = d.run", "d.run")
                self._add(f"d.key = ? AND {driver.about('d')}", driver.key, *driver.values)
        for condition in rest:
            if condition.table:
                sign = "NOT EXISTS" if condition.absent else "EXISTS"
                row = f"SELECT 1 FROM {condition.table} x WHERE x.run = {self._number} AND x.key = ?"  # noqa: S608
                self._add(f"{sign} ({row} AND {condition.about('x')})", condition.key, *condition.values)
            else:
                self._add(condition.about("r"), *condition.values)

    def order(self, table: str, key: str, descending: bool) -> None:
        """The runs that have this, from its least on, or from its greatest; called before all else."""
        self._direction = "DESC" if descending else "ASC"
        if not table:
            self._order, self._driven = f"r.{key}", True
            return
        column = "value" if table == "latest" else "number"
        self._drive(f"{table} o CROSS JOIN runs r ON r.number = o.run", "o.run")
        self._order = f"o.{column}"
        self._add(f"o.key = ? AND o.{column} IS NOT NULL", key)

    def where(self, column: str, wanted: str | None) -> None:
        """``column`` has this value; for the name, ``*`` stands for any text."""
        if wanted is not None:
            operator = "GLOB" if column == "name" and "*" in wanted else "="
            self._add(f"{self._use()}r.{column} {operator} ?", wanted)

    def states(self, states: Sequence[RunState]) -> None:
        """The state is one of these."""
        if len(states) == 1:
            self.where("state", states[0])
        elif states:
            # Several lists must be sorted into one, which pays only while they are short.
            plus = "+" if RunState.DONE in states else self._use()
            self._add(f"{plus}r.state IN ({', '.join('?' * len(states))})", *states)

    def deleted(self, wanted: bool) -> None:
        """Only what was put away, or only the rest."""
        self._add(f"r.deleted IS {'NOT ' if wanted else ''}NULL")

    def since(self, when: float) -> None:
        """Created at ``when`` or later."""
        # The id's time may be a moment before the run's.
        self._add(f"{self._number} >= ?", time_number(when - 1))
        self._add("r.created >= ?", when)

    def sql(self, limit: int) -> tuple[str, list[Any]]:
        """The query for the documents, in their order, and its values."""
        where = f"WHERE {' AND '.join(self._conditions)}" if self._conditions else ""
        found = f"SELECT r.number AS number, {self._order} AS place FROM {self._source} {where}"  # noqa: S608
        found += f" ORDER BY {self._order} {self._direction} LIMIT ?"
        query = (
            f"SELECT document FROM ({found}) JOIN documents USING (number) ORDER BY place {self._direction}"  # noqa: S608
        )
        return query, [*self._values, limit]

    def _drive(self, source: str, number: str) -> None:
        self._source, self._driven = source, True
        self._number = self._order = number

    def _use(self) -> str:
        # A unary plus keeps SQLite from taking the column's index.
        plus, self._driven = "+" if self._driven else "", True
        return plus

    def _add(self, condition: str, *values: Any) -> None:
        self._conditions.append(condition)
        self._values += map(clean, values)


def _count(connection: sqlite3.Connection, condition: Condition) -> int:
    """How many runs meet a condition; counted no further than it matters."""
    rows = f"SELECT 1 FROM {condition.table} x WHERE x.key = ? AND {condition.about('x')} LIMIT {_FEW}"  # noqa: S608
    count = connection.execute(f"SELECT COUNT(*) FROM ({rows})", (condition.key, *condition.values))  # noqa: S608
    return int(count.fetchone()[0])
