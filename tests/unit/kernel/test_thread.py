"""Threads where there may be no memory for one more."""

from __future__ import annotations

import mmap
import threading

import pytest

from agent.kernel.thread import require_room, start
from tests.patience import PATIENCE


def test_a_thread_is_started_where_there_is_room() -> None:
    done = threading.Event()
    start(threading.Thread(target=done.set, daemon=True))
    assert done.wait(PATIENCE)


def test_without_memory_none_is_started_that_would_be_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*_: object) -> mmap.mmap:
        raise OSError("none left")

    started: list[threading.Thread] = []
    monkeypatch.setattr(mmap, "mmap", none)
    monkeypatch.setattr(threading.Thread, "start", started.append)
    with pytest.raises(RuntimeError, match="no memory"):
        start(threading.Thread(target=print))
    with pytest.raises(RuntimeError, match="no memory"):
        require_room()
    assert started == []


def test_one_that_runs_out_of_it_on_the_way_is_one_that_the_system_does_not_give(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: threading.Thread) -> None:
        raise MemoryError

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        start(threading.Thread(target=print))
