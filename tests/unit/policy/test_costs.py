"""What a policy costs, and what honest ones do."""

from __future__ import annotations

import pytest
from hypothesis import given

from agent.dataplane.iptables.rules.render import policy_chains
from agent.kube.model import (
    IPBlock,
    Key,
    NetworkPolicy,
    Operator,
    Peer,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction, Family, Protocol
from agent.policy.budget.account import over_budget
from agent.policy.budget.excess import Excess
from agent.policy.budget.limits import (
    DEFAULT,
)
from agent.policy.engine import Engine
from agent.policy.lower.cost import cost_of
from agent.policy.lower.lowered import SetKind
from agent.policy.program import PodId, PolicyId
from tests.build import labelled, lowered, network, pod, upsert
from tests.property import strategies
from tests.unit.policy.lower.test_size import excepts, names

IN, OUT = Direction.INGRESS, Direction.EGRESS


# --- What a policy costs ------------------------------------------------------------------------------------


@given(strategies.policies)
def test_a_cost_is_never_less_than_what_is_made(policy: NetworkPolicy) -> None:
    cost = cost_of(policy)
    rules, sets, networks = 0, 0, 0
    for direction in Direction:
        compiled = lowered(policy, direction)
        if compiled is None:
            continue
        sets += len(compiled.sets)
        policy_id = PolicyId(direction, policy.key)
        for family in Family:
            for rule in compiled.policy.rules(family):
                networks += len(rule.blocks)
            chains = policy_chains(
                policy_id, compiled.policy.rules(family), lambda set_id: set_id.meaning[:9]
            )
            rules += sum(map(len, chains.values()))
        for set_id, definition in compiled.sets.items():
            if set_id.kind is SetKind.NETWORKS:
                networks += len(definition[0])
    assert rules <= cost.rules
    assert sets <= len(cost.sets)
    assert networks <= cost.networks


def test_a_cost_does_not_multiply() -> None:
    big = IPBlock(network("::/0"), excepts(1000))
    policy = NetworkPolicy("shop", "big", egress=(Rule((Peer(block=big),), names(1000)),))
    cost = cost_of(policy)
    assert cost.rules < 40
    assert len(cost.sets) < 4
    assert cost.networks == 1002


def strangers(number: int, name: str = "p") -> NetworkPolicy:
    """Return a policy with so many peers in one rule, of which none is any pod."""
    peers = tuple(Peer(labelled(app=f"{name}-{n}")) for n in range(number))
    return NetworkPolicy("shop", name, ingress=(Rule(peers),))


def test_labels_of_selectors_and_named_ports_count_though_no_pod_has_them() -> None:
    three = Requirement("app", Operator.IN, ("a", "b", "c"))
    either = Selector((three, Requirement("team", Operator.EXISTS)))
    rule = Rule((Peer(either), Peer(None, Selector()), Peer(block=IPBlock(network("::/0")))), names(2))
    assert cost_of(NetworkPolicy("shop", "p", ingress=(rule,))).selectors == 4 + 1 + 2
    assert cost_of(NetworkPolicy("shop", "p", either, ingress=(rule,), egress=(rule,))).selectors == 14


VALUES = Requirement("app", Operator.NOT_IN, tuple(sorted(str(number) for number in range(5001))))


@pytest.mark.parametrize(
    "rule",
    [
        Rule(tuple(Peer(labelled(app=f"app-{number}")) for number in range(5001))),
        Rule((), names(5001)),
        Rule((Peer(Selector((VALUES,))),)),
    ],
    ids=["peers", "named ports", "values"],
)
def test_a_policy_of_more_labels_than_the_budget_is_closed_and_nothing_made_of_it(rule: Rule) -> None:
    engine = Engine("here")
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    policy = NetworkPolicy("shop", "p", ingress=(rule,))
    engine.apply(upsert(policy), 0)
    assert engine.over_budget() == {policy.key: Excess("selectors", 5001, 5000, whole=False)}
    assert engine.lowered.pods[PodId(IN, Key("shop", "web"))].policies == ()
    assert engine.sizes()["terms"] == engine.sizes()["sets by port"] == 0


def test_the_labels_of_a_namespace_are_bounded() -> None:
    engine = Engine("here")
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    engine.apply(upsert(*(strangers(4000, f"p{number:02}") for number in range(6))), 0)
    excess = Excess("selectors", 24_000, 20_000, whole=True)
    assert engine.over_budget() == {Key("shop", "p05"): excess}


def test_policies_whose_peers_are_nobody_are_compiled_in_turns() -> None:
    engine = Engine("here")
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    engine.apply(upsert(*(strangers(1000, f"p{number}") for number in range(10))), 0, 400)
    assert engine.waiting == 9


# Taken from real clusters and enlarged: each must fit many times over into what a namespace may have.
CLOUD = tuple(Peer(block=IPBlock(network(f"{n >> 8}.{n & 255}.0.0/24"))) for n in range(256, 11_256))
HONEST = {
    "the ranges of a cloud": NetworkPolicy("shop", "p", egress=(Rule(CLOUD),)),
    "1,000 ports in one rule": NetworkPolicy(
        "shop", "p", egress=(Rule(CLOUD[:200], tuple(Port(Protocol.TCP, 2 * n + 1) for n in range(1000))),)
    ),
    "1,000 rules with a port and a network each": NetworkPolicy(
        "shop", "p", egress=tuple(Rule((peer,), (Port(Protocol.TCP, 443),)) for peer in CLOUD[:1000])
    ),
    "500 rules with a peer and a port each": NetworkPolicy(
        "shop",
        "p",
        ingress=tuple(
            Rule((Peer(labelled(app=f"app-{n}")),), (Port(Protocol.TCP, n + 1),)) for n in range(500)
        ),
    ),
    "2,000 peers in one rule": NetworkPolicy(
        "shop", "p", ingress=(Rule(tuple(Peer(labelled(app=f"app-{n}")) for n in range(2000))),)
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_the_largest_honest_policies_are_within_the_budget(name: str) -> None:
    assert over_budget([(HONEST[name], 3)], DEFAULT) == {}


def honest_namespace() -> list[NetworkPolicy]:
    everyone = Peer(None, Selector())
    return [
        NetworkPolicy(
            "shop",
            f"p-{n}",
            labelled(app=f"app-{n}"),
            ingress=(
                Rule(
                    (Peer(labelled(app=f"app-{n + 1}")), Peer(None, labelled(team=f"team-{n % 20}"))),
                    names(1),
                ),
                Rule((everyone,), (Port(Protocol.TCP, 9090),)),
            ),
            egress=(Rule((everyone,), (Port(Protocol.UDP, 53),)), Rule(CLOUD[n : n + 100])),
        )
        for n in range(600)
    ]


def test_a_namespace_of_hundreds_of_policies_is_within_the_budget() -> None:
    assert over_budget([(policy, 2) for policy in honest_namespace()], DEFAULT) == {}
