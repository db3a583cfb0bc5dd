"""The file of the history: SQLite, bounded by size and age, readable while it is written and after.

One thread writes; who reads has a connection of its own, in this process or another.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.clock import moment
from agent.decoding import decode
from agent.history.change import Effect, Row, Subject, What, object_text
from agent.history.query import Query

NAME = "history.db"
"""The file's name in the state directory."""
DAMAGED = "history.db.damaged"
"""Where a file that cannot be read is set aside; there is room for one."""

_VERSION = 1
_PAGE = 4096
_WAL_PAGES = 100
"""Pages in the write-ahead log after which they are moved into the file."""
_BUSY_SECONDS = 2.0
_TENTH = 10
"""When the file is full, the oldest tenth of the rows goes."""
_REMOTE_SHARE = 4
"""Rows about pods of other nodes go first while they are more than one in so many."""

_NAMESPACE_SHARE = 4
"""Then those of the namespace that has most, while these are more than one in so many: whoever may change
objects there may make as many rows as they like, and others' are not to go for them."""
ANSWER_BYTES = 4 << 20
"""Of what rows hold besides names and times, in one answer; what is older is left out."""

_SCHEMA = f"""
CREATE TABLE rows (
    id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    what TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    seen REAL NOT NULL,
    api REAL,
    kernel REAL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX rows_seen ON rows (seen);
CREATE INDEX rows_object ON rows (namespace, name);
CREATE TABLE pods (pod TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (pod, row)) STRICT, WITHOUT ROWID;
CREATE INDEX pods_row ON pods (row);
PRAGMA user_version = {_VERSION};
"""

_DAMAGED_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class StoreError(Exception):
    """The file cannot be written or read. The text says why."""


class DamagedError(StoreError):
    """The file is there and is no history, or one that is broken."""


class _Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a row nothing is looked up by."""

    who: str = ""
    diff: tuple[str, ...] = ()
    detail: tuple[str, ...] = ()
    effect: Effect = Effect()
    count: int = 1


class Entry(NamedTuple):
    """A row to be written, its object and times apart. Times are ``time.time()`` seconds."""

    row: Row
    namespace: str
    name: str
    seen: float
    api: float | None
    kernel: float | None


class Store:
    """The file, opened for writing. For one thread.

    ``size``: bytes that it may take, its write-ahead log of half a megabyte aside; ``age``: seconds after
    which a row goes. Every method raises :class:`StoreError`; one that is :class:`DamagedError` calls for
    :func:`set_aside`.
    """

    def __init__(self, directory: Path, size: int, age: float) -> None:
        """Open the file, or make it, readable by its owner alone."""
        self._size = size
        self._age = age
        path = directory / NAME
        with _errors():
            directory.mkdir(parents=True, exist_ok=True)
            # The files beside it take its mode over.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)
            self._connection = sqlite3.connect(path, _BUSY_SECONDS, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def _open(self) -> None:
        run = self._connection.execute
        if _one(run("PRAGMA page_count")) == 0:
            run(f"PRAGMA page_size = {_PAGE}")
            run("PRAGMA auto_vacuum = INCREMENTAL")
        run("PRAGMA journal_mode = WAL")
        # A row that a power cut loses is no harm; a broken file would be.
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA cache_size = -256")
        run("PRAGMA temp_store = MEMORY")
        run(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        run(f"PRAGMA journal_size_limit = {_WAL_PAGES * _PAGE}")
        if run("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise DamagedError("its pages do not fit together")
        version = _one(run("PRAGMA user_version"))
        if version == 0 and _one(run("SELECT count(*) FROM sqlite_schema")) == 0:
            self._connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        elif version != _VERSION:
            raise DamagedError(f"it is a file of another kind or version ({version})")

    def close(self) -> None:
        """Close the file; what was written is in it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def append(self, entries: Sequence[Entry]) -> list[int]:
        """Write rows, all or none; return their numbers in the file."""
        with _errors(), self._transaction():
            return [self._insert(entry) for entry in entries]

    def settle(self, number: int, at: float) -> None:
        """Note when the kernel had what a row tells."""
        with _errors(), self._transaction():
            self._connection.execute("UPDATE rows SET kernel = ? WHERE id = ?", (at, number))

    def trim(self, now: float) -> int:
        """Remove what is too old, and the oldest while the file is too large; return how many rows went."""
        with _errors():
            removed = self._delete("seen < ?", now - self._age)
            while self._bytes() > self._size and (rows := self._count("1")):
                whose, values, rows = self._first_to_go(rows)
                last = self._connection.execute(
                    f"SELECT id FROM rows WHERE {whose} ORDER BY id LIMIT 1 OFFSET ?",  # noqa: S608
                    (*values, rows // _TENTH),
                ).fetchone()
                removed += self._delete(f"{whose} AND id <= ?", *values, last[0])
            if removed:
                self._connection.execute("PRAGMA incremental_vacuum").fetchall()
            return removed

    def _first_to_go(self, rows: int) -> tuple[str, tuple[str, ...], int]:
        """Return the condition of the rows that go first, its values, and how many of ``rows`` these are."""
        remote = self._count("subject = ?", Subject.REMOTE_PODS)
        if remote * _REMOTE_SHARE > rows:
            return "subject = ?", (Subject.REMOTE_PODS.value,), remote
        most = self._connection.execute(
            "SELECT namespace, count(*) FROM rows WHERE namespace != ''"
            " GROUP BY namespace ORDER BY count(*) DESC LIMIT 1"
        ).fetchone()
        if most is not None and most[1] * _NAMESPACE_SHARE > rows:
            return "namespace = ?", (most[0],), most[1]
        return "1", (), rows

    def _insert(self, entry: Entry) -> int:
        row = entry.row
        body = _Body(row.who, row.diff, row.detail, row.effect, row.count)
        number = self._connection.execute(
            "INSERT INTO rows (subject, what, namespace, name, seen, api, kernel, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.subject.value, row.what.value, entry.namespace, entry.name),
                *(entry.seen, entry.api, entry.kernel, msgspec.json.encode(body)),
            ),
        ).lastrowid
        assert number is not None  # noqa: S101 - an INSERT has one
        self._connection.executemany(
            "INSERT INTO pods (pod, row) VALUES (?, ?)", [(pod, number) for pod in row.effect.pods()]
        )
        return number

    def _bytes(self) -> int:
        pages = _one(self._connection.execute("PRAGMA page_count"))
        free = _one(self._connection.execute("PRAGMA freelist_count"))
        return (pages - free) * _PAGE

    def _count(self, where: str, *values: object) -> int:
        return _one(self._connection.execute(f"SELECT count(*) FROM rows WHERE {where}", values))  # noqa: S608

    def _delete(self, where: str, *values: object) -> int:
        with self._transaction():
            self._connection.execute(
                f"DELETE FROM pods WHERE row IN (SELECT id FROM rows WHERE {where})",  # noqa: S608
                values,
            )
            return self._connection.execute(f"DELETE FROM rows WHERE {where}", values).rowcount  # noqa: S608

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise


def read(directory: Path, query: Query) -> list[Row]:
    """Return the newest rows that a query asks for, oldest first. For any thread and any process.

    They are fewer where they hold more than :data:`ANSWER_BYTES`. Raises StoreError; where nothing has been
    written yet, there are none.
    """
    path = directory / NAME
    if not path.exists():
        return []
    where, values = _condition(query)
    with _errors():
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, _BUSY_SECONDS, uri=True)) as connection:
            connection.execute("PRAGMA cache_size = -256")
            rows = connection.execute(
                "SELECT subject, what, namespace, name, seen, api, kernel, body FROM rows"  # noqa: S608
                f" WHERE {where} ORDER BY seen DESC, id DESC LIMIT ?",
                (*values, query.limit),
            )
            found = list(_not_too_many(rows))
    return [_row(*columns) for columns in reversed(found)]


def _not_too_many(rows: Iterable[Any]) -> Iterator[Any]:
    """Yield rows, one at least, until they hold more than one answer may."""
    size = 0
    for columns in rows:
        size += len(columns[-1])
        if size > ANSWER_BYTES and size > len(columns[-1]):
            return
        yield columns


def set_aside(directory: Path) -> Path:
    """Move a file that is damaged out of the way, over one that was before; return where it is.

    Raises StoreError.
    """
    path, aside = directory / NAME, directory / DAMAGED
    with _errors():
        os.replace(path, aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(NAME + suffix).unlink(missing_ok=True)
    return aside


def _condition(query: Query) -> tuple[str, list[object]]:
    parts: list[str] = []
    values: list[object] = []

    def add(part: str, *more: object) -> None:
        parts.append(part)
        values.extend(more)

    if query.pod is not None:
        pod = query.pod
        add(
            "(subject = ? AND namespace = ? AND name = ? OR id IN (SELECT row FROM pods WHERE pod = ?)"
            " OR subject = ?)",
            *(Subject.POD.value, pod.namespace, pod.name, str(pod), Subject.REPAIR.value),
        )
    if query.policy is not None:
        add(
            "subject IN (?, ?) AND namespace = ? AND name = ?",
            *(Subject.POLICY.value, Subject.BUDGET.value, *query.policy),
        )
    if query.namespace:
        add("namespace = ?", query.namespace)
    if query.since is not None:
        add("seen >= ?", query.since)
    if query.until is not None:
        add("seen <= ?", query.until)
    return " AND ".join(parts) or "1", values


def _row(
    subject: str,
    what: str,
    namespace: str,
    name: str,
    seen: float,
    api: float | None,
    kernel: float | None,
    body: bytes,
) -> Row:
    try:
        rest = decode(body, _Body)
        return Row(
            Subject(subject),
            What(what),
            moment(seen),
            object_text(namespace, name),
            None if api is None else moment(api),
            None if kernel is None else moment(kernel),
            rest.who,
            rest.diff,
            rest.detail,
            rest.effect,
            rest.count,
        )
    except ValueError as error:
        raise DamagedError(f"a row cannot be read: {error}") from None


def _one(cursor: sqlite3.Cursor) -> int:
    found: Any = cursor.fetchone()
    return int(found[0])


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what the file system and SQLite raise into a StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind = DamagedError if code in _DAMAGED_CODES else StoreError
        raise kind(str(error)) from error
    except OSError as error:
        raise StoreError(error.strerror or str(error)) from error
