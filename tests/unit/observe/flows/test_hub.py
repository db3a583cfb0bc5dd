"""The last reports, and readers that are too slow."""

from __future__ import annotations

import datetime
import threading

import pytest

from agent.dataplane.logged import Decided
from agent.net import Direction
from agent.observe.flows.flow import End, Flow, Report, Unlogged
from agent.observe.flows.hub import WAITING, Flows, Wanted
from tests.patience import PATIENCE

NOW = datetime.datetime(2026, 1, 1, 12, 0, tzinfo=datetime.UTC)


def flow(number: int = 1, verdict: Decided = Decided.DENIED, pod: str = "shop/db", count: int = 1) -> Flow:
    source = End("10.0.0.1", None, "shop/web", "shop", "here")
    return Flow(
        number=number,
        first=NOW,
        last=NOW,
        verdict=verdict,
        direction=Direction.INGRESS,
        pod=pod,
        protocol="TCP",
        source=source,
        destination=End("10.0.0.2", 80, pod),
        why="because",
        count=count,
        policies=("shop/deny",),
    )


UNLOGGED = Unlogged(NOW, 7, "too many")


def test_the_last_reports_are_kept_the_oldest_first() -> None:
    flows = Flows(kept=3)
    for number in range(5):
        flows.put(flow(number))
    assert [report.number for report in flows.recent() if isinstance(report, Flow)] == [2, 3, 4]
    assert flows.recent(1) == [flow(4)]
    assert flows.recent(0) == []
    assert list(flows) == flows.recent()


def test_packets_are_counted() -> None:
    flows = Flows()
    for report in (flow(count=3), flow(verdict=Decided.ALLOWED), UNLOGGED):
        flows.put(report)
    assert (flows.denied, flows.allowed, flows.unlogged) == (3, 1, 7)


def test_what_is_asked_for_is_told_and_what_was_not_logged_always() -> None:
    flows = Flows()
    denied, allowed, other = flow(1), flow(2, Decided.ALLOWED), flow(3, pod="shop/other")
    for report in (denied, allowed, other, UNLOGGED):
        flows.put(report)
    assert flows.recent(9, Wanted(Decided.DENIED)) == [denied, other, UNLOGGED]
    assert flows.recent(9, Wanted(pod="shop/db")) == [denied, allowed, UNLOGGED]
    assert flows.recent(9, Wanted(pod="shop/web")) == [denied, allowed, other, UNLOGGED]
    assert flows.recent(9, Wanted(policy="shop/allow")) == [UNLOGGED]


def test_a_follower_gets_what_comes_from_then_on() -> None:
    flows = Flows()
    flows.put(flow(1))
    with flows.follow(Wanted(Decided.DENIED)) as follower:
        flows.put(flow(2))
        flows.put(flow(3, Decided.ALLOWED))
        assert follower.take(1) == [flow(2)]
        assert follower.take(0) == []
    flows.put(flow(4))
    assert follower.take(0) == []


def test_a_follower_that_is_too_slow_loses_and_is_told_how_much() -> None:
    flows = Flows()
    with flows.follow() as follower:
        for number in range(WAITING + 5):
            flows.put(flow(number))
        assert len(follower.take(0)) == WAITING
        assert follower.lost == 5


@pytest.mark.parametrize("ended", [False, True], ids=["report", "end"])
def test_a_follower_that_waits_is_woken(ended: bool) -> None:
    flows = Flows()
    found: list[list[Report]] = []
    with flows.follow() as follower:
        thread = threading.Thread(target=lambda: found.append(follower.take(60)))
        thread.start()
        if ended:
            flows.close()
        else:
            flows.put(flow(1))
        thread.join(PATIENCE)
    assert found == [[] if ended else [flow(1)]]
    assert follower.closed
