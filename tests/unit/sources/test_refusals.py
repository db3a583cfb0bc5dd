"""One kind that the server refuses while it serves others: how soon it is asked for again, and for what."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.sources.apiserver.answers import ExpiredError
from agent.sources.apiserver.contact import Contact
from agent.sources.apiserver.refusals import (
    FIRST_LIST,
    FORBIDDEN,
    LAST_LIST,
    Recovery,
    Refusals,
    longest_pause,
)
from tests.clock import FakeClock


@pytest.mark.parametrize(
    ("verb", "code", "longest"),
    [
        ("list", 500, None),
        ("list", 504, None),
        ("watch", 500, 2.5),
        ("list", 403, 2.5),
        ("list", 400, 2.5),
        ("watch", 401, 2.5),
        ("list", 429, 1.0),
    ],
)
def test_only_a_list_that_a_server_failed_to_give_waits_ever_longer(
    verb: str, code: int, longest: float | None
) -> None:
    assert longest_pause(verb, code, FORBIDDEN - 1) == longest
    assert longest_pause(verb, code, FORBIDDEN) == (5.0 if code == 403 else longest)


class Waiting(Contact):
    """A server whose pauses pass at once, by a clock of their own; ``back_at`` is when it comes back."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(self.clock.monotonic)
        self.back_at = float("inf")

    def pause(self, seconds: float, returns: int) -> bool:
        del returns
        self.clock.now += seconds
        return self.clock.now >= self.back_at


class Desk:
    """A wait for a list, and a server that refuses what is small at some times."""

    def __init__(self) -> None:
        self.contact = Waiting()
        self.refused: Callable[[float], bool] = lambda _: True
        self.asked = 0
        self.recovery = Recovery(self._ask, self.contact, self.contact.clock.monotonic, lambda _, most: most)

    def _ask(self) -> None:
        self.asked += 1
        if self.refused(self.contact.clock.now):
            raise ExpiredError

    def pause(self, seconds: float = 30.0) -> tuple[bool, float]:
        """Return whether the server came back, and how long the pause was."""
        began = self.contact.clock.now
        return self.recovery.pause(seconds, 0), self.contact.clock.now - began


def test_a_pause_ends_soon_after_what_is_small_is_answered_again() -> None:
    desk = Desk()
    back = desk.contact.clock.now + 9.0
    desk.refused = lambda now: now < back
    came_back, seconds = desk.pause()
    assert (came_back, seconds) == (False, 10.0)
    assert desk.asked == 5


def test_a_pause_that_is_short_or_of_what_is_small_too_asks_nothing_more() -> None:
    desk = Desk()
    assert desk.pause(2.0) == (False, 2.0)
    assert desk.asked == 0
    desk.refused = lambda _: False
    assert desk.pause() == (False, 30.0)
    assert desk.asked == 1
    desk.contact.lost("it is away")
    assert desk.pause() == (False, 30.0)
    assert desk.asked == 1


def test_whatever_is_wrong_with_what_is_small_does_not_end_the_wait() -> None:
    """Nor the thread that waits, which keeps its kind in step."""

    def refused(_: float) -> bool:
        raise ValueError

    desk = Desk()
    desk.refused = refused
    assert desk.pause() == (False, 30.0)


def test_a_pause_is_no_longer_than_it_was_to_be() -> None:
    desk = Desk()
    assert desk.pause() == (False, 30.0)
    desk.contact.back_at = desk.contact.clock.now + 4.0
    came_back, seconds = desk.pause()
    assert (came_back, seconds) == (True, 5.0)


def test_a_list_that_fails_after_pauses_that_were_cut_short_waits_for_ever_more_answers() -> None:
    """Else one that a server cannot give would be asked for all the time."""
    desk = Desk()

    def pause() -> float:
        count = desk.asked
        desk.refused = lambda _: desk.asked == count + 1
        return desk.pause()[1]

    assert [pause() for _ in range(6)] == [2.5, 5.0, 10.0, 20.0, 30.0, 2.5]
    # One that was given is no such list: the next outage is another one.
    desk.recovery.listed()
    assert [pause() for _ in range(2)] == [2.5, 5.0]


def test_where_every_other_request_fails_a_pause_is_cut_short_once() -> None:
    desk = Desk()
    desk.refused = lambda _: desk.asked % 2 == 1
    assert [desk.pause()[1] for _ in range(4)] == [2.5, 30.0, 2.5, 30.0]


def test_a_list_follows_ever_more_refused_watches_until_one_tells_something() -> None:
    refusals = Refusals()

    def until_list() -> int:
        return next(number for number in range(1, 100) if refusals.another())

    assert [until_list() for _ in range(5)] == [FIRST_LIST, 6, 12, LAST_LIST, LAST_LIST]
    refusals.another()
    refusals.end()
    assert until_list() == FIRST_LIST
