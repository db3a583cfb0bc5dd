"""Many packets of one sort are few reports, and none is lost or counted twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.logged import Decided, Judged
from agent.net import Direction
from agent.observe.flows.fold import Folding, Repeats, Sort
from tests.build import packed

DENIED = Judged(Decided.DENIED, Direction.INGRESS)


def sort(port: int = 80) -> Sort:
    return Sort(DENIED, packed("10.0.0.1"), packed("10.0.0.2"), 6, port, opens=True, fragment=False)


def test_the_first_packet_is_new_and_the_rest_are_counted() -> None:
    folding = Folding(30)
    assert folding.take(sort(), 1000, 0) is True
    assert folding.take(sort(), 1001, 1) is False
    assert folding.take(sort(), 1004, 4) is False
    assert folding.take(sort(81), 1004, 4) is True
    assert folding.ended(29) == []
    assert folding.ended(30) == [Repeats(sort(), 2, 1001, 1004)]


def test_a_window_in_which_nothing_came_forgets_the_sort() -> None:
    folding = Folding(30)
    folding.take(sort(), 1000, 0)
    assert folding.due() == 30
    assert folding.ended(30) == []
    assert (len(folding), folding.due()) == (0, None)
    assert folding.take(sort(), 1040, 40) is True


def test_a_sort_that_goes_on_is_told_once_a_window() -> None:
    folding = Folding(10)
    told = 0
    for second in range(100):
        told += folding.take(sort(), second, second) is True
        told += sum(1 for _ in folding.ended(second))
    assert told <= 11


def test_there_is_an_end_to_how_many_are_known() -> None:
    folding = Folding(30, most=2)
    assert [folding.take(sort(n), 0, 0) for n in range(3)] == [True, True, None]
    folding.forget(sort(0))
    assert folding.take(sort(2), 0, 0) is True


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0, 7)), max_size=80))
def test_every_packet_is_told_once(steps: list[tuple[int, float]]) -> None:
    folding, now, told = Folding(10), 0.0, 0
    for port, pause in steps:
        now += pause
        told += sum(repeats.packets for repeats in folding.ended(now))
        told += folding.take(sort(port), now, now) is True
    told += sum(repeats.packets for repeats in folding.ended(now + 10))
    assert told == len(steps)
    folding.ended(now + 100)
    assert len(folding) == 0
