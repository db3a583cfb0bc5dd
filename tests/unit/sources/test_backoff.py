"""Pauses before asking again, and what a server may ask for."""

from __future__ import annotations

import email.utils

import pytest

from agent.sources.apiserver.backoff import Backoff, retry_after

NOW = 1_900_000_000.0


def test_pauses_double_to_their_cap_and_begin_anew() -> None:
    backoff = Backoff(lambda _, most: most)
    assert [backoff.next() for _ in range(10)] == pytest.approx(
        [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    )
    backoff.reset()
    assert backoff.next() == pytest.approx(0.2)


def test_half_of_a_pause_is_chance() -> None:
    backoff = Backoff(lambda least, _: least)
    assert [backoff.next() for _ in range(3)] == pytest.approx([0.1, 0.2, 0.4])
    assert len({Backoff().next() for _ in range(20)}) > 1


def test_a_server_that_only_limits_is_never_left_alone_for_long() -> None:
    backoff = Backoff(lambda _, most: most)
    for _ in range(500):
        pause = backoff.next(1.0)
    assert pause == 1.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("86400", 60.0),
        ("9" * 5000, 60.0),
        ("-3", 0.0),
        ("1.5", 0.0),
        ("٣", 0.0),
        ("soon", 0.0),
        (email.utils.formatdate(NOW + 12, usegmt=True), 12.0),
        (email.utils.formatdate(NOW - 12, usegmt=True), 0.0),
        (email.utils.formatdate(NOW + 86400, usegmt=True), 60.0),
        ("Mon, 99 Foo 2026 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(header: str | None, seconds: float) -> None:
    assert retry_after(header, NOW) == seconds
