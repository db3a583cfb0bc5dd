"""Work that lets go of its thread."""

from __future__ import annotations

import math
import threading

import pytest

from agent.dataplane.turns import beside, whole


@pytest.mark.parametrize("patience", [math.inf, 0.0, 0.01])
def test_what_is_done_beside_is_done_when_the_work_has_ended(patience: float) -> None:
    done: list[str] = []
    whole(beside("x", lambda: done.append(threading.current_thread().name), patience))
    assert done == [threading.current_thread().name if patience == math.inf else "x"]


def test_work_yields_while_something_goes_on_beside_it() -> None:
    may_end = threading.Event()

    def wait() -> None:
        may_end.wait(20)

    work = beside("x", wait, 0.0)
    waits = next(work)
    assert waits.descriptors == ()
    may_end.set()
    whole(work)


def test_where_the_system_has_no_more_threads_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[str] = []
    whole(beside("x", lambda: done.append(threading.current_thread().name), 0.1))
    assert done == [threading.current_thread().name]


@pytest.mark.parametrize("patience", [math.inf, 0.0, 1.0])
def test_what_fails_beside_it_fails_the_work(patience: float) -> None:
    def fail() -> None:
        raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"):
        whole(beside("x", fail, patience))
