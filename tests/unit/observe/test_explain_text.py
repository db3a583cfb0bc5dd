"""What a running agent answers, for people."""

from __future__ import annotations

import pytest

from agent.observe.explain.answer import Answer, ConnectionAnswer, DirectionAnswer, FamilyAnswer, Outcome
from agent.observe.explain.text import connection_line, live_lines

ALLOWED = DirectionAnswer("shop/web", allowed=True, isolated=False, why="no policy isolates it", policies=())


@pytest.mark.parametrize(
    ("number", "more"), [(0, ""), (3, ""), (4, "1 more connection"), (9, "6 more connections")]
)
def test_of_many_connections_a_few_are_shown_and_the_rest_counted(number: int, more: str) -> None:
    found = tuple(ConnectionAnswer(f"from 10.0.0.1 port {n}", established=True) for n in range(number))
    family = FamilyAnswer(4, "10.0.0.1", "10.0.0.2", 80, True, ALLOWED, ALLOWED, found)
    answer = Answer("shop/web", "shop/db", "TCP", 80, Outcome.ALLOWED, (), (), (), (family,))
    lines = [line for line in live_lines(answer, "here") if line.startswith("IPv4: ")]

    assert len(lines) == min(number, 3) + bool(more)
    assert not more or lines[-1] == f"IPv4: and {more} between them (--json has all)"


def test_a_connection_that_was_cut_is_said_to_be() -> None:
    one = ConnectionAnswer("from 10.0.0.1 port 4", established=False, cut=True)
    family = FamilyAnswer(4, "10.0.0.1", "10.0.0.2", 80, False, ALLOWED, ALLOWED, (one,))
    told = "IPv4: a connection from 10.0.0.1 port 4 was cut (--cut-denied): its packets are dropped"
    assert connection_line(family, one) == told


def test_an_end_that_is_no_known_pod_is_not_called_none() -> None:
    closed = DirectionAnswer(None, allowed=False, isolated=False, why="closed", policies=(), here=True)
    family = FamilyAnswer(4, "10.0.0.1", "10.0.0.2", 80, False, closed, closed)
    answer = Answer("10.0.0.1", "10.0.0.2", "TCP", 80, Outcome.DENIED, (), (), (), (family,))
    assert list(live_lines(answer, "worker-1")) == [
        "ingress of the destination is enforced on this node, worker-1",
        "egress of the source is enforced on this node, worker-1",
    ]
