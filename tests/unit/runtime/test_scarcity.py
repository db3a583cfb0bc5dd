"""No step is begun without memory for it, and none is gone on from that had none."""

from __future__ import annotations

import pytest

from agent.observe.health import State, healthz, readyz
from agent.runtime.scarcity import FAULT, LARGEST, LEAST, Scarcity
from tests.build import pod, upsert
from tests.unit.runtime.rig import Rig


class Memory:
    """So many bytes are free; what is taken of them is given back when it is closed."""

    def __init__(self, free: int) -> None:
        self.free = free

    def take(self, size: int) -> Held:
        if size > self.free:
            raise OSError("none left")
        self.free -= size
        return Held(self, size)


class Held:
    """Some bytes that were taken."""

    def __init__(self, memory: Memory, size: int) -> None:
        self._memory = memory
        self._size = size

    def close(self) -> None:
        self._memory.free += self._size


def test_what_is_kept_is_there_for_the_step_that_begins() -> None:
    memory = Memory(2 * LARGEST)
    scarcity = Scarcity(memory.take)
    assert scarcity.begins()
    assert memory.free == LARGEST
    scarcity.spend()
    assert memory.free == 2 * LARGEST
    assert scarcity.begins()
    assert memory.free == LARGEST


def test_where_there_is_less_less_is_kept_and_steps_go_on() -> None:
    memory = Memory(LEAST)
    scarcity = Scarcity(memory.take)
    assert scarcity.begins()
    assert memory.free == 0
    assert scarcity.faults() == ()


def test_without_memory_no_step_begins_and_that_is_told_until_there_is_some() -> None:
    memory = Memory(LEAST - 1)
    scarcity = Scarcity(memory.take)
    assert not scarcity.begins()
    assert scarcity.faults() == (FAULT,)
    memory.free = LEAST
    assert scarcity.begins()
    assert scarcity.faults() == ()


def test_events_wait_while_there_is_no_memory(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    memory = Memory(0)
    rig.spare = memory.take
    rig.turn()
    before = len(rig.backend.calls)
    rig.source.sink(upsert(pod("a", "10.0.0.1")))
    for _ in range(10):
        rig.turn()
    assert not rig.agent.inbox.empty
    assert len(rig.backend.calls) == before
    told = [check for check in readyz(rig.agent.health()).checks if check.state is State.FAILED]
    assert [FAULT.what in check.detail for check in told] == [True]
    # A probe that restarts it would not give it more.
    assert healthz(rig.agent.health()).ok
    memory.free = LARGEST
    rig.until(lambda: rig.agent.inbox.empty)
    assert rig.ready


def test_an_agent_ends_its_turns_when_a_thread_has_ended_for_want_of_memory(rig: Rig) -> None:
    rig.synced()
    rig.agent.scarcity.starved("links")
    with pytest.raises(MemoryError, match="links"):
        rig.turn()


def test_the_backend_is_not_called_again_after_it_had_no_memory(rig: Rig) -> None:
    rig.synced()

    def sync(*_: object) -> None:
        raise MemoryError

    rig.backend.sync = sync  # type: ignore[method-assign, assignment]
    with pytest.raises(MemoryError):
        rig.agent._reconcile.sync()
