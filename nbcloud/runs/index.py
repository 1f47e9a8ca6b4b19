"""Runs as rows of the database: written, and made again from their files."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nbcloud.errors import StoreError
from nbcloud.runs.files import RunFiles, dump
from nbcloud.runs.record import Run, RunState, id_number, is_run_id
from nbcloud.runs.tracked import by_run, changed, keep

_COLUMNS = (
    "id",
    "kind",
    "state",
    "name",
    "notebook",
    "session",
    "cluster",
    "created",
    "finished",
    "parent",
    "experiment",
    "deleted",
)


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
    row = {column: clean(getattr(run, column)) for column in _COLUMNS} | {"number": id_number(run.id)}
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
    changed(connection, row["number"])
    if before is None or before.tags != run.tags:
        if before is not None:
            connection.execute("DELETE FROM tags WHERE run = ?", (row["number"],))
        tags = [(row["number"], clean(key), clean(str(value))) for key, value in run.tags.items()]
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
    return clean(run.name), clean(run.code), clean(tags), clean(error + run.message)


def clean(value: Any) -> Any:
    """The value as SQLite takes it: without lone surrogates."""
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


def runs_of(rows: Iterable[tuple[str]]) -> list[Run]:
    """The runs of rows of documents."""
    return [Run.from_json(document) for (document,) in rows]
