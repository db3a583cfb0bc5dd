"""The file of the history: what is written is found, within bounds, and what is broken is told."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from agent.clock import moment
from agent.history import store as storing
from agent.history.change import Effect, Row, Subject, What, object_text
from agent.history.query import Query
from agent.history.store import DAMAGED, NAME, DamagedError, Entry, Store, StoreError, read, set_aside
from agent.kube.model import Key

NOW = 1_767_225_600.0
BIG = 16 << 20
YEAR = 365 * 86_400.0


def entry(
    seen: float,
    subject: Subject = Subject.POLICY,
    namespace: str = "prod",
    name: str = "p",
    *,
    kernel: float | None = None,
    **more: object,
) -> Entry:
    row = Row(
        subject,
        What.CHANGED,
        moment(seen),
        object_text(namespace, name),
        kernel=None if kernel is None else moment(kernel),
        **more,  # type: ignore[arg-type]
    )
    return Entry(row, namespace, name, seen, None, kernel)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, BIG, YEAR)


def seen(rows: list[Row]) -> list[float]:
    return [row.seen.timestamp() - NOW for row in rows]


def test_rows_are_read_as_they_were_written(store: Store, tmp_path: Path) -> None:
    written = entry(
        NOW,
        kernel=NOW + 1,
        who="kubectl (Update)",
        diff=("+ingress[0] from any port any",),
        effect=Effect(isolated_ingress=("prod/db",), members_added=3),
        count=2,
    )
    store.append([written])
    assert read(tmp_path, Query()) == [written.row]


def test_the_newest_are_read_oldest_first(store: Store, tmp_path: Path) -> None:
    store.append([entry(NOW + n) for n in (3, 1, 2, 0)])
    assert seen(read(tmp_path, Query(limit=3))) == [1, 2, 3]


def test_rows_are_found_by_what_they_are_about(store: Store, tmp_path: Path) -> None:
    store.append(
        [
            entry(NOW, name="p", effect=Effect(isolated_ingress=("prod/db",))),
            entry(NOW + 1, name="q", effect=Effect(selected=("prod/web",))),
            entry(NOW + 2, Subject.POD, name="db"),
            entry(NOW + 3, Subject.NAMESPACE, name=""),
            entry(NOW + 4, Subject.BUDGET, name="p"),
            entry(NOW + 5, Subject.POD, "test", "db"),
            entry(NOW + 6, Subject.REPAIR, "", ""),
        ]
    )
    assert seen(read(tmp_path, Query(pod=Key("prod", "db")))) == [0, 2, 6], "a repair may be any pod's"
    assert seen(read(tmp_path, Query(pod=Key("prod", "web")))) == [1, 6]
    assert seen(read(tmp_path, Query(policy=Key("prod", "p")))) == [0, 4]
    assert seen(read(tmp_path, Query(namespace="prod"))) == [0, 1, 2, 3, 4]
    assert seen(read(tmp_path, Query(since=NOW + 2, until=NOW + 4))) == [2, 3, 4]
    assert seen(read(tmp_path, Query(pod=Key("prod", "db"), since=NOW + 1))) == [2, 6]


def test_a_row_whose_time_in_the_kernel_comes_later_gets_it(store: Store, tmp_path: Path) -> None:
    (number,) = store.append([entry(NOW)])
    store.settle(number, NOW + 7)
    (row,) = read(tmp_path, Query())
    assert row.kernel == moment(NOW + 7)


def test_it_outlives_its_writer(store: Store, tmp_path: Path) -> None:
    store.append([entry(NOW)])
    store.close()
    again = Store(tmp_path, BIG, YEAR)
    again.append([entry(NOW + 1)])
    assert seen(read(tmp_path, Query())) == [0, 1]


def test_only_its_owner_reads_it(store: Store, tmp_path: Path) -> None:
    store.append([entry(NOW)])
    files = list(tmp_path.iterdir())
    assert {file.name for file in files} >= {NAME, NAME + "-wal"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    store = Store(tmp_path, BIG, 100.0)
    store.append([entry(NOW + n, effect=Effect(selected=("a/b",))) for n in (0, 50, 150)])
    assert store.trim(NOW + 151) == 2
    assert seen(read(tmp_path, Query(pod=Key("a", "b")))) == [150]


def test_the_file_stays_within_its_size_and_keeps_the_newest(tmp_path: Path) -> None:
    size = 256 << 10
    store = Store(tmp_path, size, YEAR)
    for batch in range(100):
        store.append([entry(NOW + batch * 20 + n, detail=("x" * 200,)) for n in range(20)])
        store.trim(NOW)
    assert (tmp_path / NAME).stat().st_size <= size + (64 << 10)
    assert (tmp_path / (NAME + "-wal")).stat().st_size <= 1 << 20
    kept = seen(read(tmp_path, Query(limit=10_000)))
    assert kept == list(map(float, range(2_000 - len(kept), 2_000)))
    assert len(kept) > 300


def test_rows_of_other_nodes_pods_go_before_all_else(tmp_path: Path) -> None:
    store = Store(tmp_path, 256 << 10, YEAR)
    store.append([entry(NOW)])
    for _ in range(100):
        store.append([entry(NOW + 1, Subject.REMOTE_PODS, name="", detail=("x" * 200,)) for _ in range(20)])
        store.trim(NOW)
    assert seen(read(tmp_path, Query(policy=Key("prod", "p")))) == [0]


@pytest.mark.parametrize(
    "content",
    [b"no database at all, but long enough to be looked at" * 99, b"SQLite format 3\0" + b"\xff" * 8000],
)
def test_a_file_that_is_damaged_is_told_and_can_be_set_aside(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DamagedError):
        Store(tmp_path, BIG, YEAR)
    with pytest.raises(DamagedError):
        read(tmp_path, Query())
    assert set_aside(tmp_path) == tmp_path / DAMAGED
    assert (tmp_path / DAMAGED).read_bytes() == content
    Store(tmp_path, BIG, YEAR).append([entry(NOW)])
    assert seen(read(tmp_path, Query())) == [0]


def test_pages_that_are_damaged_within_are_found_when_it_is_opened(store: Store, tmp_path: Path) -> None:
    store.append([entry(NOW + n, detail=("x" * 300,)) for n in range(200)])
    store.close()
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096 * 8))
    with pytest.raises(DamagedError):
        Store(tmp_path, BIG, YEAR)


def test_a_database_of_another_program_is_left_to_be_set_aside(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / NAME)
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(DamagedError, match="another kind"):
        Store(tmp_path, BIG, YEAR)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        Store(tmp_path / "file", BIG, YEAR)


def test_where_nothing_was_written_there_are_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, Query()) == []


def test_a_namespace_that_changes_all_the_time_takes_no_rows_of_others(tmp_path: Path) -> None:
    store = Store(tmp_path, 256 << 10, YEAR)
    store.append([entry(NOW + number, namespace="quiet", name=f"q{number}") for number in range(20)])
    store.append([entry(NOW, Subject.AGENT, "", "")])
    for start in range(0, 6_000, 200):
        store.append([entry(NOW + 100 + start + n, namespace="loud", name=f"p{n}") for n in range(200)])
        store.trim(NOW)
    assert len(read(tmp_path, Query(namespace="quiet", limit=1000))) == 20
    assert [row.subject for row in read(tmp_path, Query(until=NOW, limit=1000))] == [
        Subject.POLICY,
        Subject.AGENT,
    ]
    assert read(tmp_path, Query(namespace="loud"))[-1].seen == moment(NOW + 100 + 5_999)


def test_an_answer_holds_no_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, BIG, YEAR)
    store.append([entry(NOW + number, detail=("x" * 900,)) for number in range(10)])
    monkeypatch.setattr(storing, "ANSWER_BYTES", 3_000)
    assert seen(read(tmp_path, Query())) == [7, 8, 9]
    monkeypatch.setattr(storing, "ANSWER_BYTES", 100)
    assert seen(read(tmp_path, Query())) == [9]
