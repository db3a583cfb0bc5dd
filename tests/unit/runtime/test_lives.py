"""Agents that begin anew where there was no memory to go on."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from agent.runtime import lives
from agent.runtime.heap import MEMORY
from agent.runtime.lives import FIRST_PAUSE, LASTING, LONGEST_PAUSE, lead
from tests.clock import FakeClock
from tests.unit.runtime.rig import Rig


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave this process' signals, threads and heap as they are."""
    for name in ("collect_all", "give_back"):
        monkeypatch.setattr(MEMORY, name, lambda: None)
    before = {number: signal.getsignal(number) for number in lives.SIGNALS}
    woken = signal.set_wakeup_fd(-1)
    yield
    signal.set_wakeup_fd(woken)
    for number, handler in before.items():
        signal.signal(number, handler)


def failing(*errors: BaseException | float, clock: FakeClock, began: list[float]) -> Callable[[], None]:
    """Return lives that end with these errors, one after another, and then as they should.

    A number is how long the next of them lasts.
    """
    left = list(errors)

    def life() -> None:
        began.append(clock.now)
        while left:
            error = left.pop(0)
            if isinstance(error, BaseException):
                raise error
            clock.now += error

    return life


def test_a_life_that_ends_as_it_should_is_the_last() -> None:
    began: list[float] = []
    clock = FakeClock()
    lead(failing(clock=clock, began=began), clock)
    assert len(began) == 1


def test_without_memory_another_begins_after_pauses_that_grow() -> None:
    began: list[float] = []
    clock = FakeClock()
    lead(failing(*(MemoryError() for _ in range(6)), clock=clock, began=began), clock)
    pauses = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert pauses == [FIRST_PAUSE, 2.0, 4.0, 8.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_after_one_that_lasted_the_pause_is_the_shortest_again() -> None:
    began: list[float] = []
    clock = FakeClock()
    life = failing(MemoryError(), MemoryError(), LASTING + 1, MemoryError(), clock=clock, began=began)
    lead(life, clock)
    assert began[-1] - began[-2] == LASTING + 1 + FIRST_PAUSE


def test_what_the_first_one_fails_by_besides_is_not_hidden() -> None:
    clock = FakeClock()
    with pytest.raises(RuntimeError, match="a defect"):
        lead(failing(RuntimeError("a defect"), clock=clock, began=[]), clock)


def test_what_a_later_one_fails_by_when_it_has_lasted_is_not_hidden() -> None:
    clock = FakeClock()
    life = failing(MemoryError(), LASTING + 1, RuntimeError("a defect"), clock=clock, began=[])
    with pytest.raises(RuntimeError, match="a defect"):
        lead(life, clock)


def test_the_next_begins_when_the_threads_of_the_last_have_ended_and_nothing_of_it_is_left() -> None:
    """Garbage is looked for after that, or what a thread still knows is kept."""
    clock, goes_on, seen = FakeClock(), threading.Event(), []
    threads = [threading.Thread(target=goes_on.wait, args=(20,), daemon=True)]

    def life() -> None:
        if threads[0].ident is None:
            threads[0].start()
            raise MemoryError
        seen.append(threads[0].is_alive())

    def look() -> None:
        seen.append(threads[0].is_alive())
        if len(seen) == 1:
            # What is next is the wait for it.
            threading.Timer(0.2, goes_on.set).start()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MEMORY, "collect_all", look)
        lead(life, clock)
    assert seen == [True, False, False]


def test_a_thread_that_lasts_knows_nothing_of_its_agent_by_what_it_is_to_call_if_it_fails(rig: Rig) -> None:
    hooks = []
    real = rig.agent.turn

    def turn() -> None:
        hooks.append(threading.excepthook)
        rig.agent.inbox.stop()
        real()

    rig.agent.turn = turn  # type: ignore[method-assign]
    lives.run(rig.agent)
    assert rig.agent not in [cell.cell_contents for cell in hooks[0].__closure__ or ()]
    assert hooks[0] is not threading.__excepthook__


def test_a_later_one_may_fail_at_its_start_by_what_the_kernel_has_no_memory_for() -> None:
    began: list[float] = []
    clock = FakeClock()
    lead(failing(MemoryError(), OSError(12, "no memory"), clock=clock, began=began), clock)
    assert len(began) == 3


def test_a_thread_that_ends_for_want_of_memory_ends_the_agent(rig: Rig) -> None:
    def starve() -> None:
        raise MemoryError

    real = rig.agent.turn

    def turn() -> None:
        thread = threading.Thread(target=starve, name="one", daemon=True)
        thread.start()
        thread.join()
        real()
        pytest.fail("nobody has noticed")

    rig.agent.turn = turn  # type: ignore[method-assign]
    with pytest.raises(MemoryError, match="the thread one has ended"):
        lives.run(rig.agent)
    assert threading.excepthook is threading.__excepthook__
    assert rig.source.stopped


def test_one_that_was_told_to_end_has_ended_however_that_went(rig: Rig) -> None:
    def turn() -> None:
        rig.agent.inbox.stop()
        raise MemoryError

    rig.agent.turn = turn  # type: ignore[method-assign]
    lives.run(rig.agent)


def test_signals_stop_an_agent_and_end_the_process_where_there_is_none(rig: Rig) -> None:
    lives.stop_on_signals(rig.agent)
    signal.raise_signal(signal.SIGTERM)
    assert rig.agent.inbox.stopped
    lives.run(rig.agent)
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 0
