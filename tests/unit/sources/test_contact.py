"""What all kinds know of the server: the first that hears it wakes the others, in fact and in the log."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from agent.sources.apiserver.contact import Contact
from tests.patience import PATIENCE

AWAY = "connection refused"


class Waiting:
    """A thread in a pause that lasts longer than any test."""

    def __init__(self, contact: Contact, returns: int | None = None) -> None:
        self.woken: list[bool] = []
        began = contact.returns if returns is None else returns
        self.thread = threading.Thread(
            target=lambda: self.woken.append(contact.pause(1e6, began)), daemon=True
        )
        self.thread.start()

    def ends(self) -> bool:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.woken[0]


@pytest.fixture
def contact() -> Contact:
    return Contact(clock=lambda: 100.0, uniform=lambda least, _: least)


def test_the_first_that_is_answered_wakes_all_others(contact: Contact) -> None:
    contact.trouble()
    contact.lost(AWAY)
    assert contact.away
    waiting = [Waiting(contact) for _ in range(3)]
    contact.served()
    assert [each.ends() for each in waiting] == [True] * 3
    assert not contact.away


def test_a_return_between_a_request_and_its_pause_is_not_missed(contact: Contact) -> None:
    before = contact.returns
    contact.lost(AWAY)
    contact.served()
    assert Waiting(contact, before).ends()


def test_a_request_that_fails_while_the_server_serves_others_waits_for_itself(contact: Contact) -> None:
    """A list that fails again and again is not to be asked for each time that something small is answered."""
    contact.trouble()
    assert contact.wait_for_trouble(0.0)
    waiting = Waiting(contact)
    contact.served()
    assert not contact.wait_for_trouble(0.0)
    assert waiting.thread.is_alive()
    contact.stop()
    assert waiting.ends() is False


def test_a_fleet_does_not_return_as_one() -> None:
    moment = 100.0
    asked: list[tuple[float, float]] = []

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return least

    contact = Contact(clock=lambda: moment, uniform=uniform)
    contact.lost(AWAY)
    waiting = Waiting(contact)
    contact.served()
    assert waiting.ends()
    assert asked == [(0.0, 1.0)]


def test_a_stop_ends_every_wait_and_there_is_none_after_it(contact: Contact) -> None:
    contact.lost(AWAY)
    waiting = Waiting(contact)
    contact.stop()
    assert waiting.ends() is False
    assert contact.pause(1e6, contact.returns) is False
    contact.rest(1e6)
    assert contact.wait_for_trouble(1e6)


def test_it_is_said_that_it_answers_again_only_when_it_was_away(
    contact: Contact, capsys: pytest.CaptureFixture[str]
) -> None:
    contact.served()
    contact.trouble()
    contact.served()
    assert "answers again" not in capsys.readouterr().out
    contact.lost(AWAY)
    contact.lost(AWAY)
    contact.served()
    contact.served()
    said = capsys.readouterr().out
    assert said.count("API server away") == 1
    assert said.count("answers again") == 1


def test_how_long_it_was_away_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    moments = iter([100.0, 166.0])
    now: Callable[[], float] = lambda: next(moments)  # noqa: E731
    contact = Contact(clock=now)
    contact.lost(AWAY)
    contact.served()
    assert "away_seconds=66.0" in capsys.readouterr().out
