"""The thread that writes: what waits, what is lost, and what becomes of a file that fails."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.clock import SYSTEM
from agent.history import writer as writing
from agent.history.change import Change, Effect, Subject, What
from agent.history.query import Query
from agent.history.store import DAMAGED, NAME, DamagedError, Store, StoreError
from agent.history.writer import Writer
from agent.kube.model import Key, NetworkPolicy
from agent.runtime.threads import Thread, start_thread
from tests.clock import FakeClock

NOW = 1_767_225_600.0
BIG = 16 << 20
YEAR = 365 * 86_400.0


def change(number: int, kernel: float | None = NOW + 1) -> Change:
    return Change(number, Subject.POLICY, What.ADDED, NOW + number, "prod", f"p{number}", kernel=kernel)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def writer(tmp_path: Path, clock: FakeClock) -> Writer:
    return Writer(tmp_path, BIG, YEAR, clock)


def names(writer: Writer) -> list[str]:
    return [row.object for row in writer.rows(Query(limit=1000))]


def test_changes_become_rows_with_their_diff(writer: Writer) -> None:
    policy = NetworkPolicy("prod", "p1", ingress=())
    writer.put(change(1)._replace(new=policy, who="kubectl (Update)", effect=Effect(selected=("prod/db",))))
    writer.work()
    (row,) = writer.rows(Query(pod=Key("prod", "db")))
    assert row.diff == ("+selects all pods", "+isolates ingress")
    assert (row.object, row.who, row.count) == ("prod/p1", "kubectl (Update)", 1)
    assert writer.faults() == ()


@pytest.mark.parametrize("written_before", [False, True])
def test_a_change_may_come_to_the_kernel_later(writer: Writer, written_before: bool) -> None:
    writer.put(change(1, None))
    writer.put(change(2, None))
    if written_before:
        writer.work()
        assert [row.kernel for row in writer.rows(Query())] == [None, None]
    writer.settle([1], NOW + 9)
    writer.work()
    times = [row.kernel and row.kernel.timestamp() for row in writer.rows(Query())]
    assert times == [NOW + 9, None]


def test_what_is_too_much_at_once_is_counted_and_told(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WAITING", 3)
    for number in range(1, 6):
        writer.put(change(number))
    writer.work()
    *kept, lost = writer.rows(Query())
    assert len(kept) == 3
    # The clock of this test tells another time than its changes.
    lost = next(row for row in (lost, *kept) if row.subject is Subject.HISTORY)
    assert (lost.what, lost.count, lost.detail) == (What.LOST, 2, ("too many at once",))
    assert writer.missing() == {"too_many": 2, "not_written": 0, "defect": 0}


def test_a_damaged_file_is_set_aside_and_named_until_somebody_has_seen_to_it(
    writer: Writer, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(b"damaged" * 1000)
    writer.put(change(1))
    writer.work()
    assert names(writer) == ["prod/p1"]
    (fault,) = writer.faults()
    assert "was damaged" in fault.what
    assert DAMAGED in fault.remedy
    assert not fault.blocking
    assert Writer(tmp_path, BIG, YEAR, FakeClock()).faults() == (fault,)
    (tmp_path / DAMAGED).unlink()
    writer.work()
    assert writer.faults() == ()


def test_a_file_that_breaks_while_it_is_written_is_set_aside_and_nothing_is_lost(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.put(change(1))
    writer.work()

    def fail(*_: object) -> list[int]:
        raise DamagedError("database disk image is malformed")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "append", fail)
        writer.put(change(2))
        writer.work()
    assert ["was damaged" in fault.what for fault in writer.faults()] == [True]
    assert (tmp_path / DAMAGED).exists()
    writer.put(change(3))
    writer.work()
    assert names(writer) == ["prod/p2", "prod/p3"]


def test_a_full_disk_is_a_fault_that_passes_and_what_came_meanwhile_is_written_then(
    writer: Writer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.put(change(1))
    writer.work()
    full = StoreError("database or disk is full")

    def fail(*_: object) -> list[int]:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(Store, "append", fail)
        writer.put(change(2, None))
        writer.work()
        (fault,) = writer.faults()
        assert "disk is full" in fault.what
        assert not fault.blocking
        assert names(writer) == ["prod/p1"]
    writer.put(change(3))
    writer.settle([2], NOW + 5)
    writer.work()
    assert names(writer) == ["prod/p1"], "not before the pause is over"
    clock.now += writing.RETRY_SECONDS
    writer.work()
    assert names(writer) == ["prod/p1", "prod/p2", "prod/p3"]
    assert writer.rows(Query(policy=Key("prod", "p2")))[0].kernel is not None
    assert writer.faults() == ()


def test_a_file_system_that_is_full_by_what_sqlite_says_of_it(tmp_path: Path) -> None:
    store = Store(tmp_path, BIG, YEAR)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    writer = Writer(tmp_path, BIG, YEAR, FakeClock())
    writer._store = store
    for number in range(200):
        writer.put(change(number))
    writer.work()
    (fault,) = writer.faults()
    assert "database or disk is full" in fault.what


def test_a_file_that_is_damaged_under_the_writer_is_set_aside_when_somebody_has_read_it(
    writer: Writer, tmp_path: Path
) -> None:
    writer.put(change(1))
    writer.work()
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / NAME).open("r+b") as file:
        file.write(b"damaged" * 4096)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"{NAME}{suffix}").unlink(missing_ok=True)
    with pytest.raises(DamagedError):
        writer.rows(Query())
    writer.put(change(2))
    writer.work()
    assert names(writer) == ["prod/p2"]
    assert "was damaged, and a new one was begun" in writer.faults()[0].what


def test_of_what_a_file_cannot_take_for_long_the_newest_is_kept_and_the_rest_counted(
    writer: Writer, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "UNWRITTEN", 10)
    (tmp_path / NAME).mkdir()
    for number in range(1, 26):
        writer.put(change(number))
        writer.work()
    assert "cannot be written" in writer.faults()[0].what
    (tmp_path / NAME).rmdir()
    clock.now += writing.RETRY_SECONDS
    writer.work()
    (lost,) = (row for row in writer.rows(Query()) if row.subject is Subject.HISTORY)
    assert lost.count == 15
    assert writer.missing() == {"too_many": 0, "not_written": 15, "defect": 0}
    assert set(names(writer)) - {""} == {f"prod/p{number}" for number in range(16, 26)}


def test_with_size_0_nothing_is_kept(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 0, YEAR, FakeClock())
    writer.put(change(1))
    writer.work()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="--history-size is 0"):
        writer.rows(Query())


@pytest.mark.parametrize("begins_after", [0.0, 0.2], ids=["at once", "late"])
def test_the_thread_writes_what_waits_before_it_ends(tmp_path: Path, begins_after: float) -> None:
    def start(name: str, target: Callable[[], None]) -> Thread:
        def run() -> None:
            time.sleep(begins_after)
            target()

        return start_thread(name, run)

    writer = Writer(tmp_path, BIG, YEAR, SYSTEM)
    now = SYSTEM.time()
    writer.start(start)
    for number in range(100):
        # As old as they are may be too old, by the system's clock.
        writer.put(change(number)._replace(seen=now, kernel=now))
    writer.stop(20.0)
    assert writer.faults() == ()
    assert not (tmp_path / (NAME + "-wal")).exists()
    assert len(names(writer)) == 100
    assert sqlite3.connect(tmp_path / NAME).execute("SELECT count(*) FROM rows").fetchone() == (100,)


def test_what_others_wrote_is_kept_in_lines_that_a_terminal_may_have(writer: Writer) -> None:
    writer.put(change(1)._replace(name="p\ud800", who="kubectl\x1b[2J", detail=("spec: '\x1b]0;t\x07\n'",)))
    writer.work()
    (row,) = writer.rows(Query())
    assert (row.object, row.who, row.detail) == ("prod/p", "kubectl [2J", ("spec: ' ]0;t '",))


def test_a_change_that_cannot_be_told_costs_no_other_its_row(writer: Writer) -> None:
    writer.put(change(1))
    writer.put(change(2)._replace(api=300_000_000_000.0))
    writer.put(change(3))
    writer.work()
    assert sorted(names(writer)) == ["", "prod/p1", "prod/p3"]
    (lost,) = (row for row in writer.rows(Query()) if row.subject is Subject.HISTORY)
    assert (lost.what, lost.count, lost.detail) == (What.LOST, 1, ("it cannot be told: ValueError",))
    assert writer.faults() == ()


def test_a_clock_that_jumps_and_is_set_right_again_takes_no_rows(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path, BIG, 30 * 86_400.0, clock)
    began = clock.time()
    jump = 0.0
    monkeypatch.setattr(clock, "time", lambda: began + clock.now + jump)
    clock.now = 0.0
    writer.put(change(1)._replace(seen=began))
    writer.work()
    assert names(writer) == ["prod/p1"]
    for jump in (YEAR, 0.0, YEAR):  # noqa: B007 - what the clock adds
        clock.now += 60
        writer.work()
        assert names(writer) == ["prod/p1"]
    # A clock that stays is right.
    clock.now += 3_601
    writer.work()
    assert names(writer) == []
