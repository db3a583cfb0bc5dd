"""Work that lets go of its thread."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator

import pytest

from agent.dataplane.turns import FOR_EVER, Patience, beside, whole
from tests.patience import PATIENCE


@pytest.fixture
def news() -> Iterator[tuple[int, int]]:
    """What can be read when something has come, and what makes it so."""
    reads, writes = os.pipe2(os.O_CLOEXEC)
    yield reads, writes
    os.close(reads)
    os.close(writes)


@pytest.mark.parametrize("patience", [math.inf, 0.0, 0.01])
def test_what_is_done_beside_is_done_when_the_work_has_ended(patience: float) -> None:
    done: list[str] = []
    whole(beside("x", lambda: done.append(threading.current_thread().name), Patience(patience)))
    assert done == [threading.current_thread().name if patience == math.inf else "x"]


def test_work_yields_while_something_goes_on_beside_it() -> None:
    may_end = threading.Event()

    def wait() -> None:
        may_end.wait(PATIENCE)

    work = beside("x", wait, Patience(0.0))
    waits = next(work)
    assert waits.soon <= time.monotonic()
    may_end.set()
    whole(work)


def test_what_is_done_beside_is_waited_for_until_something_comes(news: tuple[int, int]) -> None:
    may_end = threading.Event()
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        may_end.wait(PATIENCE)

    def come() -> None:
        begun.wait(PATIENCE)
        os.write(news[1], b".")

    coming = threading.Thread(target=come)
    coming.start()
    work = beside("x", wait, Patience(3600.0, news[:1]))
    waits = next(work)
    assert waits.soon > time.monotonic() + 3000
    may_end.set()
    whole(work)
    coming.join()


def test_work_that_is_given_up_lets_go_of_what_it_waits_by() -> None:
    may_end = threading.Event()
    before = set(os.listdir("/proc/self/fd"))
    work = beside("given up", lambda: assert_waited(may_end), Patience(0.0))
    next(work)
    work.close()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "given up")
    may_end.set()
    thread.join(PATIENCE)
    assert set(os.listdir("/proc/self/fd")) <= before


def assert_waited(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def test_where_the_system_has_no_more_threads_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[str] = []
    whole(beside("x", lambda: done.append(threading.current_thread().name), Patience(0.1)))
    assert done == [threading.current_thread().name]


@pytest.mark.parametrize("patience", [math.inf, 0.0, 1.0])
def test_what_fails_beside_it_fails_the_work(patience: float) -> None:
    def fail() -> None:
        raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"):
        whole(beside("x", fail, Patience(patience)))


def test_where_the_system_has_no_more_descriptors_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe(_: int) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(os, "pipe2", pipe)
    done: list[str] = []
    whole(beside("x", lambda: done.append(threading.current_thread().name), Patience(0.1)))
    assert done == [threading.current_thread().name]


def test_work_that_is_waited_for_whatever_comes_is_done_here() -> None:
    assert list(beside("x", lambda: None, FOR_EVER)) == []
