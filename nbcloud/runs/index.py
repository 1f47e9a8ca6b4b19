"""Runs as rows of the database: written, searched, found by the beginning of an id."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nbcloud.errors import StoreError
from nbcloud.runs.files import RunFiles, dump
from nbcloud.runs.record import Run, RunState, id_number, is_run_id, time_number
from nbcloud.runs.tracked import by_run, keep

_COLUMNS = ("id", "kind", "state", "name", "notebook", "session", "cluster", "created", "finished", "parent")


def prepare_words(connection: sqlite3.Connection) -> None:
    """Make the index of words where this SQLite has FTS5, and bring it up to date.

    A Python whose SQLite lacks FTS5 may have added runs meanwhile; those are marked as not indexed.
    """
    if not _knows_fts5(connection):
        return
    if not has_words(connection):
        # Without an index of their own, beginnings of 2 to 5 letters take up to a second in 100,000 runs.
        connection.execute(
            "CREATE VIRTUAL TABLE run_words USING fts5(name, code, tags, error, prefix='2 3 4 5')"
        )
    late = connection.execute("SELECT document FROM documents JOIN runs USING (number) WHERE NOT indexed")
    for run in runs_of(late.fetchall()):
        _put_words(connection, run)


def has_words(connection: sqlite3.Connection) -> bool:
    """Whether the index of words is there and this SQLite can use it."""
    table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'run_words'").fetchone()
    return table is not None and _knows_fts5(connection)


def _knows_fts5(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


def put(connection: sqlite3.Connection, run: Run, before: Run | None, pending: bool | None = None) -> None:
    """Write a run: a new one, or one that was ``before``; ``pending`` of None leaves that mark as it is."""
    row = {column: _clean(getattr(run, column)) for column in _COLUMNS} | {"number": id_number(run.id)}
    if pending is not None:
        row["pending"] = pending
    connection.execute(
        f"INSERT INTO runs ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "  # noqa: S608
        f"ON CONFLICT (number) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in row)}",
        list(row.values()),
    )
    connection.execute(
        "INSERT INTO documents VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET document = excluded.document",
        (row["number"], dump(run.to_json()).decode()),
    )
    if before is None or before.tags != run.tags:
        if before is not None:
            connection.execute("DELETE FROM tags WHERE run = ?", (row["number"],))
        tags = [(row["number"], _clean(key), _clean(str(value))) for key, value in run.tags.items()]
        connection.executemany("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", tags)
    if before is None or _words(before) != _words(run):
        if has_words(connection):
            _put_words(connection, run)
        else:
            connection.execute("UPDATE runs SET indexed = 0 WHERE number = ?", (row["number"],))


def _put_words(connection: sqlite3.Connection, run: Run) -> None:
    number = id_number(run.id)
    connection.execute("DELETE FROM run_words WHERE rowid = ?", (number,))
    connection.execute(
        "INSERT INTO run_words (rowid, name, code, tags, error) VALUES (?, ?, ?, ?, ?)",
        (number, *_words(run)),
    )
    connection.execute("UPDATE runs SET indexed = 1 WHERE number = ?", (number,))


def _words(run: Run) -> tuple[str, str, str, str]:
    tags = " ".join(f"{key}={value}" for key, value in run.tags.items())
    error = f"{run.error.get('ename', '')} {run.error.get('evalue', '')} " if run.error else ""
    return _clean(run.name), _clean(run.code), _clean(tags), _clean(error + run.message)


def _clean(value: Any) -> Any:
    # SQLite takes no lone surrogates.
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def put_all(connection: sqlite3.Connection, directory: Path) -> int:
    """Put all runs whose documents lie on the disk into an empty database, and return their number."""
    count = 0
    logged: list[RunFiles] = []
    for path in (directory / "runs").iterdir() if (directory / "runs").is_dir() else ():
        if not is_run_id(path.name):
            continue
        files = RunFiles(directory, path.name)
        with contextlib.suppress(StoreError):
            run = files.read_document()
            log_is_due = run.state is not RunState.LOST and files.messages.exists()
            put(
                connection, run, None, pending=run.state.ended and (log_is_due or not files.notebook.exists())
            )
            count += 1
            if files.logged.exists() or files.messages.exists():
                logged.append(files)
    for files in logged:  # when all are in: what one has logged may belong to a part of it
        for run_id, entries in by_run(files.directory.name, files.read_logged()).items():
            keep(connection, run_id, entries)
    return count


def load(connection: sqlite3.Connection, run_id: str) -> Run | None:
    """The run with this whole id."""
    row = connection.execute(
        "SELECT document FROM documents WHERE number = ?", (id_number(run_id),)
    ).fetchone()
    return None if row is None else Run.from_json(row[0])


def remove(connection: sqlite3.Connection, run_id: str) -> None:
    """Take a run out."""
    number = (id_number(run_id),)
    connection.execute("DELETE FROM runs WHERE number = ?", number)
    if has_words(connection):
        connection.execute("DELETE FROM run_words WHERE rowid = ?", number)


class Search:
    """The conditions of a search, and the SQL that meets them through the index that helps most.

    SQLite would have to guess how many rows each index leaves. Runs of one name or notebook are few, and
    those of one state or cluster many: so the condition that is given first walks its index from the newest
    run on, and the others only filter.
    """

    def __init__(self) -> None:
        self._source = "runs r"
        self._order = "r.number"
        self._conditions: list[str] = []
        self._values: list[Any] = []
        self._driven = False

    def words(self, text: str, indexed: bool) -> None:
        """All words of ``text``, or words that begin so, must occur in the name, code, tags or error."""
        words = text.split()
        if indexed:
            quoted = ('"' + word.replace('"', '""') + '"*' for word in words if any(map(str.isalnum, word)))
            if query := " ".join(quoted):
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

    def since(self, when: float) -> None:
        """Created at ``when`` or later."""
        # The id's time may be a moment before the run's.
        self._add(f"{self._order} >= ?", time_number(when - 1))
        self._add("r.created >= ?", when)

    def sql(self, limit: int) -> tuple[str, list[Any]]:
        """The query for the documents, newest first, and its values."""
        where = f"WHERE {' AND '.join(self._conditions)}" if self._conditions else ""
        numbers = f"SELECT r.number FROM {self._source} {where} ORDER BY {self._order} DESC LIMIT ?"  # noqa: S608
        query = f"SELECT document FROM documents WHERE number IN ({numbers}) ORDER BY number DESC"  # noqa: S608
        return query, [*self._values, limit]

    def _drive(self, source: str, order: str) -> None:
        self._source, self._order, self._driven = source, order, True

    def _use(self) -> str:
        # A unary plus keeps SQLite from taking the column's index.
        plus, self._driven = "+" if self._driven else "", True
        return plus

    def _add(self, condition: str, *values: Any) -> None:
        self._conditions.append(condition)
        self._values += map(_clean, values)


def runs_of(rows: Iterable[tuple[str]]) -> list[Run]:
    """The runs of rows of documents."""
    return [Run.from_json(document) for (document,) in rows]
