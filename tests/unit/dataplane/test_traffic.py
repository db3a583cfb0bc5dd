"""Readings of counters, added up over the agent's life."""

from __future__ import annotations

from collections.abc import Iterable

from agent.dataplane.traffic import (
    CACHED_SECONDS,
    GONE_SECONDS,
    Amount,
    Meter,
    RuleCount,
    Subject,
    Told,
)
from tests.clock import FakeClock

SHOP = Subject(Told.DENIED, "ingress", "shop")
BANK = Subject(Told.DENIED, "ingress", "bank")


class Kernel:
    """Shows what a test gives it, once each second."""

    def __init__(self) -> None:
        self.shown: list[RuleCount] | OSError = []
        self.clock = FakeClock()
        self.reads = 0
        self.meter = Meter(self._read, self.clock)

    def _read(self) -> Iterable[RuleCount]:
        self.reads += 1
        if isinstance(self.shown, OSError):
            raise self.shown
        return iter(self.shown)

    def shows(self, *counts: tuple[int, Subject, int]) -> dict[Subject, int]:
        self.shown = [
            RuleCount(rule, subject, Amount(packets, 100 * packets)) for rule, subject, packets in counts
        ]
        self.clock.now += CACHED_SECONDS
        return {subject: amount.packets for subject, amount in self.meter.take().totals.items()}


def test_what_rules_count_is_added_up_by_subject() -> None:
    kernel = Kernel()
    assert kernel.shows((1, SHOP, 0)) == {SHOP: 0}
    assert kernel.shows((1, SHOP, 3), (2, SHOP, 4), (3, BANK, 5)) == {SHOP: 7, BANK: 5}
    assert kernel.meter.take().totals[SHOP] == Amount(7, 700)


def test_a_rule_that_is_written_anew_begins_anew_and_its_total_stays() -> None:
    kernel = Kernel()
    kernel.shows((1, SHOP, 10))
    assert kernel.shows((1, SHOP, 2)) == {SHOP: 12}
    assert kernel.shows((1, SHOP, 5)) == {SHOP: 15}


def test_a_rule_that_goes_and_comes_back_loses_nothing_and_counts_nothing_twice() -> None:
    kernel = Kernel()
    kernel.shows((1, SHOP, 10), (2, SHOP, 1))
    assert kernel.shows((2, SHOP, 1)) == {SHOP: 11}
    assert kernel.shows((1, SHOP, 4), (2, SHOP, 1)) == {SHOP: 15}


def test_a_rule_that_is_there_twice_counts_twice() -> None:
    kernel = Kernel()
    assert kernel.shows((1, SHOP, 2), (1, SHOP, 3)) == {SHOP: 5}
    assert kernel.shows((1, SHOP, 2), (1, SHOP, 4)) == {SHOP: 6}


def test_two_scrapes_within_a_second_are_one_reading() -> None:
    kernel = Kernel()
    kernel.shows((1, SHOP, 1))
    kernel.meter.take()
    assert kernel.reads == 1
    kernel.clock.now += CACHED_SECONDS
    kernel.meter.take()
    assert kernel.reads == 2


def test_a_reading_that_fails_is_counted_and_takes_nothing_away() -> None:
    kernel = Kernel()
    kernel.shows((1, SHOP, 8))
    kernel.shown = OSError("no answer")
    kernel.clock.now += CACHED_SECONDS
    failed = kernel.meter.take()
    assert (failed.failures, failed.fault, failed.totals[SHOP].packets) == (1, "no answer", 8)
    assert kernel.shows((1, SHOP, 9)) == {SHOP: 9}
    assert kernel.meter.take().fault == ""


def test_a_namespace_whose_rules_have_gone_is_forgotten_after_a_while() -> None:
    kernel = Kernel()
    kernel.shows((1, SHOP, 8), (2, BANK, 1))
    kernel.clock.now += GONE_SECONDS - 5
    assert kernel.shows((2, BANK, 1)) == {SHOP: 8, BANK: 1}
    kernel.clock.now += 10
    assert kernel.shows((2, BANK, 1)) == {BANK: 1}
