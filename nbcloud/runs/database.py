"""runs.db: the SQLite index over all runs, kept whole among processes, threads, crashes and damage.

Durability: the database is in WAL mode with ``synchronous=NORMAL``. A commit is then a ``write`` into the WAL
that the system holds from that moment on, so killing the process, however hard, loses nothing that was
acknowledged. ``FULL`` would add a sync of the disk to each commit (milliseconds, in the way of a cell), and
protect only the last commits before a power cut, which run.json and the synced run.ipynb hold as well.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from nbcloud.config import private_dir
from nbcloud.errors import StoreError
from nbcloud.runs import tracked
from nbcloud.runs.files import exclusive, explained
from nbcloud.wording import counted

T = TypeVar("T")

# Each entry brings the schema to the next PRAGMA user_version. Entries are never changed, only added.
# ``number`` is the run's id as an integer: the primary key, and at once the order of time. ``runs`` has only
# what is searched, so that even a scan of all of it is quick; all else about a run is in its document. What
# comes later (params, metrics, artifacts) refers to runs(number).
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            number INTEGER PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
            name TEXT NOT NULL, notebook TEXT NOT NULL, session TEXT NOT NULL, cluster TEXT NOT NULL,
            created REAL NOT NULL, finished REAL,
            pending INTEGER NOT NULL DEFAULT 0,  -- its run.ipynb is not written yet
            indexed INTEGER NOT NULL DEFAULT 0   -- its words are in run_words
        )""",
        """CREATE TABLE documents (
            number INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE, document TEXT NOT NULL
        )""",
        """CREATE TABLE tags (
            run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,
            PRIMARY KEY (run, key)
        ) WITHOUT ROWID""",
        "CREATE INDEX tags_by_key ON tags (key, run)",
        "CREATE INDEX tags_by_value ON tags (key, value, run)",
        "CREATE INDEX runs_by_state ON runs (state)",
        "CREATE INDEX runs_by_name ON runs (name)",
        "CREATE INDEX runs_by_notebook ON runs (notebook)",
        "CREATE INDEX runs_by_session ON runs (session)",
        "CREATE INDEX runs_by_cluster ON runs (cluster)",
        "CREATE INDEX runs_pending ON runs (number) WHERE pending",
        "CREATE INDEX runs_not_indexed ON runs (number) WHERE NOT indexed",
    ),
    tracked.TABLES,
    tracked.ITEM_TABLES,
    (
        "ALTER TABLE runs ADD COLUMN deleted REAL",
        "CREATE INDEX runs_deleted ON runs (deleted) WHERE deleted IS NOT NULL",
    ),
    (
        "ALTER TABLE runs ADD COLUMN experiment TEXT NOT NULL DEFAULT 'Default'",
        "CREATE INDEX runs_by_experiment ON runs (experiment)",
    ),
    (
        # The run that was changed last has the highest number; none is given twice.
        """CREATE TABLE changes (
            revision INTEGER PRIMARY KEY AUTOINCREMENT,
            run INTEGER NOT NULL UNIQUE REFERENCES runs ON DELETE CASCADE
        )""",
        "INSERT INTO changes (run) SELECT number FROM runs ORDER BY number",
        """CREATE TABLE mirrors (
            target TEXT PRIMARY KEY, since REAL NOT NULL,
            revision INTEGER NOT NULL,           -- all changes up to this one are there
            trouble TEXT NOT NULL DEFAULT ''
        ) WITHOUT ROWID""",
        """CREATE TABLE mirrored (
            run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, target TEXT NOT NULL,
            id TEXT NOT NULL, experiment TEXT NOT NULL, place INTEGER NOT NULL, count INTEGER NOT NULL,
            sending INTEGER NOT NULL, artifacts TEXT NOT NULL, gone INTEGER NOT NULL, trouble TEXT NOT NULL,
            PRIMARY KEY (run, target)
        ) WITHOUT ROWID""",
    ),
)

_BUSY_SECONDS = 10.0
# A connection that came through a fork must neither be used nor closed (closing drops the parent's locks).
_inherited: list[sqlite3.Connection] = []


class Database:
    """One connection, shared by the threads of this process under a lock, opened at the first use.

    Parameters
    ----------
    path : Path
        The file; a lock file lies beside it.
    prepare : callable
        Called with each new connection that may write; makes what depends on the SQLite at hand.
    fill : callable
        Called when the database has just been made, in the transaction that makes it: puts in the runs whose
        files lie on the disk, and returns their number.
    """

    def __init__(
        self,
        path: Path,
        prepare: Callable[[sqlite3.Connection], None],
        fill: Callable[[sqlite3.Connection], int],
    ) -> None:
        self.path = path
        self._prepare = prepare
        self._fill = fill
        self._filled = 0
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, ...] = ()
        self._lock = threading.RLock()

    def read(self, sql: str, values: Iterable[Any] = ()) -> list[Any]:
        """All rows of a query."""
        return self.ask(lambda connection: connection.execute(sql, tuple(values)).fetchall())

    def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``change`` as one transaction, alone among all processes; what it returns is committed then.

        It may be called twice, should the database turn out to be damaged.
        """

        def transaction(connection: sqlite3.Connection) -> T:
            return _transaction(connection, change)

        return self.ask(transaction)

    def checkpoint(self) -> None:
        """Move the WAL into the database. It syncs the disk: not for a moment when somebody waits."""
        self.read("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                if self._identity[0] == os.getpid():
                    connection.close()
                else:
                    _inherited.append(connection)

    def ask(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """What ``operation`` returns for the connection, where a transaction is its own affair."""
        with self._lock, explained("Using the store of runs", self.path):
            try:
                try:
                    return operation(self._open())
                except sqlite3.DatabaseError as error:
                    if not _is_corrupt(error):
                        raise
                    self._replace()
                    return operation(self._open())
            except sqlite3.Error as error:
                raise _told(error, self.path) from error

    def _identify(self) -> tuple[int, ...]:
        # Where another process moved a damaged database aside, or somebody removed the folder, the connection
        # would go on writing into a file that no one else sees.
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return (os.getpid(),)
        return os.getpid(), status.st_dev, status.st_ino

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._identity == self._identify():
            return self._connection
        self.close()
        self._connection = connection = self._connect()
        self._identity = self._identify()
        return connection

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from opening, and so from migrating or replacing, the database."""
        with exclusive(self.path.with_name(f"{self.path.name}.lock")) as held:
            if not held:
                raise StoreError(
                    f"Another process has kept {self.path} locked for two minutes.", "Try again later."
                )
            yield

    def _connect(self) -> sqlite3.Connection:
        if not self.path.parent.exists():
            private_dir(self.path.parent)
        if not _writable(self.path):
            return _connect_to_read(self.path)
        with self._alone():
            # Not opened besides when it is there: closing it would drop the locks of this process on it.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            self._identity = self._identify()
            connection = _plain_connection(str(self.path))
            try:
                _set_wal(connection)
                connection.execute("PRAGMA synchronous=NORMAL")
                # Checkpoints sync the disk, in the commit that happens to be due (10 to 200 ms measured): the
                # store asks for them when a run is finished, and this is only a bound for the WAL, 32 MiB.
                connection.execute("PRAGMA wal_autocheckpoint=8192")
                connection.execute("PRAGMA foreign_keys=ON")
                self._migrate(connection)
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version > len(MIGRATIONS):
            raise StoreError(
                f"The store of runs at {self.path} was written by a newer nbcloud (its schema is {version}, "
                f"this one knows {len(MIGRATIONS)}).",
                "pip install -U nbcloud.",
            )
        if version < len(MIGRATIONS):
            _transaction(connection, self._upgrade)

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        if version == 0:
            self._prepare(connection)
            self._filled = self._fill(connection)

    def _replace(self) -> None:
        """Move the damaged database aside and make it again from the files."""
        damaged = self._identity
        self.close()
        aside = self.path.with_name(f"{self.path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
        with self._alone():
            if damaged != self._identify():
                return  # another process has replaced it meanwhile
            for suffix in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(aside.with_name(aside.name + suffix))
        self._open()
        warnings.warn(
            f"The database of runs at {self.path} was damaged; it was moved to {aside.name}, and made again "
            f"from the records of {counted(self._filled, 'run')} on the disk.",
            RuntimeWarning,
            stacklevel=5,
        )


def _plain_connection(target: str, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(
        target, uri=uri, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _connect_to_read(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise StoreError(
            f"There is no store of runs at {path}, and none can be made there: the folder is read-only.",
            "Set NBCLOUD_DATA_DIR to a folder that you may write to.",
        )
    try:
        connection = _plain_connection(f"{path.as_uri()}?mode=ro", uri=True)
        _version(connection)
    except sqlite3.OperationalError:
        connection.close()
        # Without the right to make the WAL's index, SQLite reads only what it is told that nobody writes.
        connection = _plain_connection(f"{path.as_uri()}?immutable=1", uri=True)
    return connection


def _writable(path: Path) -> bool:
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _set_wal(connection: sqlite3.Connection) -> None:
    # Going to WAL needs the file for itself for a moment, and SQLite doesn't wait for that. The lock file
    # keeps other openers out, but not where the system has no locks.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _transaction(connection: sqlite3.Connection, change: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = change(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
    return result


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


_REASONS = {
    sqlite3.SQLITE_FULL: (
        "the disk is full",
        "Free some space, or set NBCLOUD_DATA_DIR to a folder on another disk.",
    ),
    sqlite3.SQLITE_READONLY: ("it is read-only", "Set NBCLOUD_DATA_DIR to a folder that you may write to."),
    sqlite3.SQLITE_BUSY: ("another process keeps it locked", "Try again later."),
    sqlite3.SQLITE_IOERR: ("the disk refuses to read or write", "Is it full, or are you over your quota?"),
    sqlite3.SQLITE_CANTOPEN: (
        "it can't be opened",
        "Set NBCLOUD_DATA_DIR to a folder that you may write to.",
    ),
}


def _told(error: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    why, hint = _REASONS.get(code, (str(error), ""))
    return StoreError(f"The store of runs at {path} can't be used: {why}.", hint, path=str(path), code=code)
