"""The thread that writes the history: the loop puts values, and waits for nothing."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from agent import log
from agent.clock import AT_ONCE, Clock, Moment, moment
from agent.fault import Fault
from agent.history import diff
from agent.history.change import Change, Row, Subject, What, counts_of, object_text, pods_of
from agent.history.query import Query
from agent.history.store import DAMAGED, NAME, DamagedError, Entry, Store, StoreError, read, set_aside
from agent.words import one_line

_log = log.get(__name__)

T = TypeVar("T")


class Thread(Protocol):
    """A thread that was started."""

    def is_alive(self) -> bool: ...

    def join(self, timeout: float) -> None: ...


StartThread = Callable[[str, Callable[[], None]], Thread]

TOO_MANY, NOT_WRITTEN, DEFECT = "too_many", "not_written", "defect"
"""Why a change is not in the history."""
WAITING = 2_000
"""Changes that may wait to be written; more are counted and not kept."""
UNWRITTEN = 500
"""Rows that are kept in memory while the file cannot be written."""
RETRY_SECONDS = 10.0
"""After so long it is tried again to write a file that could not be written."""
TRIM_SECONDS = 60.0
"""How often rows that are too old are removed though nothing comes."""
GATHER_SECONDS = 0.05
_LATE = 1_000
"""Rows whose time in the kernel is still to come, that are remembered."""
_SET_BY = 3_600.0
"""A clock that was set by more seconds is doubted: rows go by their age, and all of them would."""
_DOUBTED = 3_600.0
"""For how many seconds."""
_DETAIL = 1_000
"""Characters of one line of detail."""
_TOLD = frozenset({Subject.POLICY, Subject.POD, Subject.NAMESPACE, Subject.REMOTE_PODS})
"""What the log does not tell anyway."""


class Writer:
    """Takes changes from the loop, and writes and logs them on a thread of its own.

    :meth:`put` and :meth:`settle` are for the loop and never block. :meth:`faults` and :meth:`rows` are for
    any thread. Whatever happens to the file, nothing is raised: it is a fault to tell.
    """

    def __init__(self, directory: Path, size: int, age: float, clock: Clock) -> None:
        """``size`` in bytes and ``age`` in seconds bound the file in ``directory``."""
        self._directory = directory
        self._size = size
        self._age = age
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = False
        self._thread: Thread | None = None
        self._changes: deque[Change] = deque()
        self._settled: deque[tuple[int, float]] = deque()
        self._dropped = 0
        self._dropped_told = 0
        self._given_up: Counter[str] = Counter({TOO_MANY: 0, NOT_WRITTEN: 0, DEFECT: 0})
        self._store: Store | None = None
        self._unwritten: deque[tuple[int, Entry]] = deque()
        self._lost = 0
        """Rows that were given up while the file could not be written."""
        self._late: dict[int, int] = {}
        """The row in the file, for a change's number."""
        self._retry_at = AT_ONCE
        self._offset = clock.time() - clock.monotonic()
        self._trusted_at = AT_ONCE
        self._trouble = ""
        self._aside = (directory / DAMAGED).exists()
        self._suspect = False

    def start(self, start_thread: StartThread) -> None:
        """Begin to write, on a thread that is started so: called with its name and what it runs."""
        self._thread = start_thread("history", self._work_until_stopped)

    def stop(self, seconds: float = 2.0) -> None:
        """Write what waits, for so long at most, and end."""
        self._stopping = True
        self._wake.set()
        # Also for one that has not begun yet: what waits is all that there is of this run.
        if self._thread is not None:
            self._thread.join(seconds)

    def put(self, change: Change) -> None:
        """Have a change written; where too many wait, it is only counted."""
        if len(self._changes) >= WAITING:
            self._dropped += 1
            return
        self._changes.append(change)
        self._wake.set()

    def settle(self, numbers: Iterable[int], at: float) -> None:
        """Note when the kernel had changes that were put before, by their numbers."""
        self._settled.extend((number, at) for number in numbers)
        self._wake.set()

    def faults(self) -> tuple[Fault, ...]:
        """Return what is wrong with the file; nothing of it keeps the agent from enforcing."""
        found = []
        if self._thread is not None and not self._stopping and not self._thread.is_alive():
            found.append(Fault("no history is written: its thread has ended", "see the log", blocking=False))
        path = self._directory / NAME
        if self._trouble:
            found.append(
                Fault(
                    f"the history cannot be written to {path}: {self._trouble}",
                    "make room there, or choose another directory with --state-dir",
                    blocking=False,
                )
            )
        if self._aside:
            found.append(
                Fault(
                    f"the history in {path} was damaged, and a new one was begun",
                    f"look at {path.with_name(DAMAGED)}, then delete it",
                    blocking=False,
                )
            )
        return tuple(found)

    def missing(self) -> Mapping[str, int]:
        """Return how many changes are not in the history since the start, by the word for why."""
        return {**self._given_up, TOO_MANY: self._dropped}

    def rows(self, query: Query) -> list[Row]:
        """Return the rows that a query asks for. Raises StoreError.

        A file that is damaged while it is written to is noticed here first: it is opened anew and checked.
        """
        if not self._size:
            raise StoreError("no history is kept: --history-size is 0")
        try:
            return read(self._directory, query)
        except DamagedError:
            self._suspect = True
            self._wake.set()
            raise

    def work(self) -> None:
        """Write what waits. For the thread; a test calls it instead."""
        changes = _drained(self._changes)
        settled = dict(_drained(self._settled))
        missing = self._dropped - self._dropped_told
        if missing:
            self._dropped_told += missing
            _log.warning("changes are missing in the history", changes=missing, reason="too many at once")
            changes.append(_lost(missing, "too many at once", self._clock.time()))
        for change in changes:
            self._unwritten.append((change.number, self._told(change)))
        self._unwritten = deque(
            (number, _settled(entry, settled.pop(number)) if number in settled else entry)
            for number, entry in self._unwritten
        )
        if not self._size:
            self._unwritten.clear()
        elif self._clock.monotonic() >= self._retry_at:
            self._write(settled)
        while len(self._unwritten) > UNWRITTEN:
            self._unwritten.popleft()
            self._give_up(1, NOT_WRITTEN)

    def _give_up(self, rows: int, why: str) -> None:
        """Count rows that are lost: the file will say so, the metrics do."""
        self._lost += rows
        self._given_up[why] += rows

    def _told(self, change: Change) -> Entry:
        """Return the row of a change, which is logged; of one that cannot be told, one that says so."""
        try:
            entry = _entry(change)
            _tell(entry.row)
        except Exception as error:
            # What tenants write is in it: one of them must not cost the others their rows.
            _log.exception("a change cannot be told")
            self._given_up[DEFECT] += 1
            return _entry(_lost(1, f"it cannot be told: {type(error).__name__}", self._clock.time()))
        return entry

    def _work_until_stopped(self) -> None:
        while not self._stopping:
            self._wake.wait(TRIM_SECONDS if self._store is not None else RETRY_SECONDS)
            self._wake.clear()
            try:
                self.work()
            except Exception as error:
                # The history is never a reason to end: what is enforced does not depend on it.
                _log.exception("the history failed")
                # What fails so would fail again with all that comes after it.
                self._give_up(len(self._unwritten), DEFECT)
                self._unwritten.clear()
                self._failed(StoreError(f"{type(error).__name__}: {error}"))
            if not self._stopping:
                # Rows that come together are written together.
                self._clock.sleep(GATHER_SECONDS)
        with contextlib.suppress(Exception):
            self.work()
        if self._store is not None:
            self._store.close()

    def _write(self, settled: dict[int, float]) -> None:
        if self._suspect and self._store is not None:
            self._store.close()
            self._store = None
            self._late.clear()
        self._suspect = False
        try:
            store = self._store
            if store is None:
                store = self._store = self._open()
            waiting = list(self._unwritten)
            if self._lost:
                lost = _lost(self._lost, "the file could not be written", self._clock.time())
                waiting.insert(0, (0, _entry(lost)))
            rows = store.append([entry for _, entry in waiting]) if waiting else []
            self._unwritten.clear()
            self._lost = 0
            self._late.update(
                (number, row)
                for (number, entry), row in zip(waiting, rows, strict=True)
                if entry.kernel is None
            )
            for number in settled.keys() & self._late.keys():
                store.settle(self._late.pop(number), settled[number])
            while len(self._late) > _LATE:
                del self._late[next(iter(self._late))]
            store.trim(self._age_from())
        except StoreError as error:
            self._failed(error)
            return
        self._aside = self._aside and (self._directory / DAMAGED).exists()
        if self._trouble:
            _log.info("the history is written again", file=str(self._directory / NAME))
            self._trouble = ""

    def _age_from(self) -> float:
        """Return the time that ages are counted from, in ``time.time()`` seconds.

        After the clock has been set by much, no row is too old for a while: it may be set right again.
        """
        now, offset = self._clock.monotonic(), self._clock.time() - self._clock.monotonic()
        if abs(offset - self._offset) > _SET_BY:
            self._offset, self._trusted_at = offset, now + _DOUBTED
        return self._clock.time() if now >= self._trusted_at else AT_ONCE

    def _open(self) -> Store:
        try:
            return Store(self._directory, self._size, self._age)
        except DamagedError as error:
            self._set_aside(error)
            return Store(self._directory, self._size, self._age)

    def _set_aside(self, error: DamagedError) -> None:
        aside = set_aside(self._directory)
        _log.error("the history was damaged", reason=str(error), set_aside=str(aside))
        self._aside = True

    def _failed(self, error: StoreError) -> None:
        """Let go of the file, and try again later."""
        if self._store is not None:
            self._store.close()
            self._store = None
        self._late.clear()
        self._retry_at = self._clock.monotonic() + RETRY_SECONDS
        if isinstance(error, DamagedError):
            try:
                self._set_aside(error)
            except StoreError as another:
                error = another
            else:
                self._retry_at = AT_ONCE
                return
        if str(error) != self._trouble:
            _log.error("the history cannot be written", file=str(self._directory / NAME), reason=str(error))
            self._trouble = str(error)


def _drained(waiting: deque[T]) -> list[T]:
    """Take all that waits; the other thread may put more meanwhile."""
    return [waiting.popleft() for _ in range(len(waiting))]


def _lost(number: int, why: str, now: float) -> Change:
    return Change(0, Subject.HISTORY, What.LOST, now, kernel=now, detail=(why,), stands_for=number)


def _entry(change: Change) -> Entry:
    """Return the row of a change. What others wrote is one line each, fit for a terminal and a log."""
    namespace, name = one_line(change.namespace), one_line(change.name)
    row = Row(
        change.subject,
        change.what,
        moment(change.seen),
        object_text(namespace, name),
        None if change.api is None else moment(change.api),
        None if change.kernel is None else moment(change.kernel),
        one_line(change.who),
        diff.lines(change.old, change.new),
        tuple(one_line(line, _DETAIL) for line in change.detail),
        change.effect,
        change.stands_for,
    )
    return Entry(row, namespace, name, change.seen, change.api, change.kernel)


def _settled(entry: Entry, at: float) -> Entry:
    return entry._replace(row=msgspec.structs.replace(entry.row, kernel=moment(at)), kernel=at)


def _tell(row: Row) -> None:
    """Log a row, once, with the fields that it has."""
    if row.subject not in _TOLD:
        return
    fields = {
        "diff": list(row.diff),
        "detail": list(row.detail),
        "who": row.who,
        "api": _iso(row.api),
        "seen": _iso(row.seen),
        "kernel": _iso(row.kernel),
        **{name: list(pods) for name, pods in pods_of(row.effect) if pods},
        **{name: number for name, number in counts_of(row.effect) if number},
    }
    told = {name: value for name, value in fields.items() if value}
    _log.info(f"{row.subject.value} {row.what.value}", **{_FIELD[row.subject]: row.object}, **told)


_FIELD = {
    Subject.POLICY: "policy",
    Subject.POD: "pod",
    Subject.NAMESPACE: "namespace",
    Subject.REMOTE_PODS: "namespace",
}


def _iso(found: Moment | None) -> str:
    return "" if found is None else found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
