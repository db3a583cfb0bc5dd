"""Garbage is looked for when nothing waits; in the whole heap only when that has grown."""

from __future__ import annotations

import gc

import pytest

from agent.clock import NEVER
from agent.runtime.collecting import AT_MOST, EVERY, FEW, GROWTH, MANY, SILENT, Collecting
from agent.runtime.heap import MEMORY, Memory
from tests.clock import FakeClock


class _Noted(Memory):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.of_new = 0
        self.of_all = 10 * GROWTH

    def by_hand(self, wanted: bool) -> None:
        self.told.append("by hand" if wanted else "by itself")

    def new(self) -> int:
        return self.of_new

    def held(self) -> int:
        return self.of_all

    def keep(self) -> None:
        self.told.append("keep")

    def collect_new(self) -> None:
        self.told.append("new")

    def collect_all(self) -> None:
        self.told.append("all")

    def give_back(self) -> None:
        self.told.append("give back")


class _Stage:
    def __init__(self) -> None:
        self.memory, self.clock, self.is_quiet = _Noted(), FakeClock(), True
        self.task = Collecting(lambda: self.is_quiet, self.clock, self.memory)

    def begin(self) -> None:
        self.task.begin()
        self.memory.told.clear()

    def look(self) -> list[str]:
        """Return what is told the collector when the task is next due."""
        self.clock.now = self.task.due()
        self.task.run(self.clock.now)
        told = [*self.memory.told]
        self.memory.told.clear()
        return told


@pytest.fixture(autouse=True)
def _garbage() -> None:
    """It is looked for here."""


@pytest.fixture
def stage() -> _Stage:
    return _Stage()


def test_until_everything_is_enforced_python_looks_by_itself(stage: _Stage) -> None:
    assert stage.task.due() == NEVER
    assert not stage.memory.told


def test_it_begins_with_a_look_at_everything(stage: _Stage) -> None:
    stage.task.begin()
    assert stage.memory.told == ["by hand", "all", "give back"]
    assert stage.task.due() == stage.clock.now + EVERY


def test_what_is_new_is_looked_at_when_nothing_waits(stage: _Stage) -> None:
    stage.begin()
    assert not stage.look()
    stage.memory.of_new = FEW + 1
    assert stage.look() == ["new"]
    stage.is_quiet = False
    assert stage.look() == ["keep"]


def test_more_than_a_change_may_wait_for_is_not_looked_at(stage: _Stage) -> None:
    stage.begin()
    stage.memory.of_new = MANY + 1
    assert stage.look() == ["keep"]


def test_a_heap_that_has_grown_is_looked_at_when_little_goes_on(stage: _Stage) -> None:
    stage.begin()
    stage.memory.of_all = 15 * GROWTH + 1
    stage.memory.of_new = FEW + 1
    for _ in range(2 * SILENT):
        assert stage.look() == ["new"]
    stage.memory.of_new = 0
    for _ in range(SILENT - 1):
        assert not stage.look()
    assert stage.look() == ["all"]
    assert not stage.look()


def test_one_that_has_doubled_is_looked_at_whatever_goes_on(stage: _Stage) -> None:
    stage.memory.of_all = 2 * AT_MOST
    stage.begin()
    stage.is_quiet = False
    stage.memory.of_all = 4 * AT_MOST
    assert stage.look() == ["keep"]
    stage.memory.of_all = 4 * AT_MOST + 1
    assert stage.look() == ["all"]


def test_a_small_heap_may_grow_by_some_megabytes(stage: _Stage) -> None:
    stage.memory.of_all = 10
    stage.begin()
    stage.memory.of_all = GROWTH
    for _ in range(2 * SILENT):
        assert not stage.look()


def test_at_the_end_python_looks_by_itself_again(stage: _Stage) -> None:
    stage.begin()
    stage.task.end()
    assert stage.memory.told == ["by itself"]
    assert stage.task.due() == NEVER


class _Ring:
    def __init__(self) -> None:
        self.itself = self


def test_what_was_kept_is_found_by_a_look_at_everything() -> None:
    gc.collect()
    MEMORY.by_hand(True)
    try:
        before = MEMORY.held()
        rings = [_Ring() for _ in range(10_000)]
        assert MEMORY.new() > len(rings)
        assert MEMORY.held() > before + len(rings)
        MEMORY.keep()
        assert MEMORY.new() < len(rings)
        rings.clear()
        MEMORY.collect_new()
        assert MEMORY.held() > before + 10_000
        MEMORY.collect_all()
        assert MEMORY.held() < before + 10_000
    finally:
        MEMORY.by_hand(False)
        gc.unfreeze()


def test_what_is_new_is_found_without_the_rest() -> None:
    gc.collect()
    MEMORY.by_hand(True)
    try:
        kept = _Ring()
        MEMORY.keep()
        before = MEMORY.held()
        _ = [_Ring() for _ in range(10_000)]
        del _
        MEMORY.collect_new()
        assert MEMORY.held() < before + 10_000
        assert kept.itself is kept
    finally:
        MEMORY.by_hand(False)
        gc.unfreeze()
