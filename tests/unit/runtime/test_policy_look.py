"""One policy, looked at while the agent runs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.clock import NEVER
from agent.dataplane.trace import CountedRule
from agent.kube.events import Invalid, Problem, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy, Operator, Peer, Port, Requirement, Rule, Selector
from agent.net import Direction, Family, Protocol
from agent.observe.routes import Request
from agent.observe.status.policy import Look, PolicyView, decode, rules_route
from agent.runtime import backends
from agent.runtime.policy_look import make_look
from tests.unit.runtime.events import far, pod
from tests.unit.runtime.rig import Rig

KEY = Key("default", "db")
NOBODY = Selector((Requirement("app", Operator.IN, ("nobody",)),))
HTTP = Port(Protocol.TCP, 80)


class Kernel:
    """Holds the policy's first rule, in IPv4, which has counted, and a line that allows nothing."""

    def __init__(self, packets: int) -> None:
        self.packets = packets

    def rules_of(
        self, direction: Direction, policy: Key, family: Family
    ) -> tuple[tuple[int, CountedRule], ...]:
        if (direction, policy, family) != (Direction.INGRESS, KEY, Family.V4):
            return ()
        counted = CountedRule(
            "KUBE-NWPLCY-x", "-g KUBE-NETPOL-ALLOW-INGRESS", self.packets, 60 * self.packets
        )
        return ((-1, CountedRule("KUBE-NWPLCY-x", "-j RETURN", 5, 300)), (0, counted))


def look(rig: Rig, key: Key = KEY, ask: Look | None = None) -> PolicyView | None:
    """Ask as another thread does; no time passes."""
    rig.clock.limit = rig.clock.now
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask or make_look(rig.agent), key)
        while not asked.done():
            rig.turn()
    rig.clock.limit = NEVER
    return asked.result()


@pytest.fixture
def enforcing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A rig with two pods here, one elsewhere, and a policy of two rules of which one has counted."""
    monkeypatch.setattr(backends, "tracer", lambda _: Kernel(7))
    rig.synced()
    rules = (Rule((Peer(Selector()),), (HTTP,)), Rule((Peer(NOBODY),)))
    rig.source.sink([pod(1), pod(2), far(3), Upsert(Kind.POLICY, NetworkPolicy(*KEY, ingress=rules))])
    rig.rest(1.0)
    return rig


def test_a_policy_is_shown_with_its_pods_and_what_its_rules_counted(enforcing: Rig) -> None:
    found = look(enforcing)
    assert found is not None
    assert (found.policy, found.selects, found.problems) == ("default/db", "all pods", ())
    assert (found.ingress, found.egress) == (("default/p1", "default/p2"), None)
    used, unused = found.rules
    assert (used.text, used.packets, used.bytes, used.nobody) == ("from all pods port 80/TCP", 7, 420, False)
    assert [peers.members for peers in used.peers] == [3]
    assert (unused.text, unused.packets, unused.nobody) == ("from pods[app=nobody] port any", 0, True)


def test_a_rule_that_grew_between_two_looks_says_when(
    enforcing: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = make_look(enforcing.agent)
    first = look(enforcing, ask=ask)
    before = time.time()
    monkeypatch.setattr(backends, "tracer", lambda _: Kernel(8))
    second = look(enforcing, ask=ask)
    assert first is not None
    assert second is not None
    assert [rule.last_hit for rule in (*first.rules, second.rules[1])] == [None, None, None]
    grown = second.rules[0].last_hit
    assert grown is not None
    assert before <= grown <= time.time()


def test_a_policy_nobody_knows_is_none(enforcing: Rig) -> None:
    assert look(enforcing, Key("default", "other")) is None


def test_one_that_is_refused_says_what_is_wrong(enforcing: Rig) -> None:
    enforcing.source.sink([Invalid(Kind.POLICY, KEY, (Problem("spec.x", "unknown"),))])
    enforcing.rest(1.0)
    found = look(enforcing)
    assert found is not None
    assert found.problems == ("refused: spec.x: unknown",)


def test_counters_that_cannot_be_read_are_a_problem_of_the_answer(
    enforcing: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("iptables-nft-save failed with code 1")

    monkeypatch.setattr(Kernel, "rules_of", fail)
    found = look(enforcing)
    assert found is not None
    assert "iptables-nft-save failed with code 1" in found.problems[0]
    assert [rule.packets for rule in found.rules] == [None, None]


def test_the_route_answers_with_the_policy_or_says_what_is_wrong() -> None:
    view = PolicyView("a/b", "all pods", (), None, ())

    def answer(policy: str, found: PolicyView | None = view) -> tuple[int, bytes]:
        response = rules_route(lambda _: found).answer(Request("/rules", {"policy": [policy]}))
        return response.code, response.body

    code, body = answer("a/b")
    assert (code, decode(body)) == (200, view)
    assert answer("a")[0] == 400
    assert answer("a/b", None) == (404, b"no policy a/b is known\n")


def test_rules_of_a_direction_that_it_does_not_name_are_a_problem(enforcing: Rig) -> None:
    policy = NetworkPolicy(*KEY, ingress=(), ignored=(Direction.EGRESS,))
    enforcing.source.sink([Upsert(Kind.POLICY, policy)])
    enforcing.rest(1.0)
    found = look(enforcing)
    assert found is not None
    assert found.problems == (
        "its rules for egress have no effect: its policyTypes do not name Egress; add Egress there",
    )
