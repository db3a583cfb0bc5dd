"""Whether a change of rules takes something away, and whom a change that is not written concerns."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.dataplane.iptables.ipset.closed import concerned, narrows
from agent.dataplane.iptables.ipset.unmade import narrowed
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.parse import ours
from agent.dataplane.iptables.rules.rule import Chains, Rules
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.program import PodId, PolicyId

ALLOW = f"-g {names.allow(Direction.INGRESS)}"
ONE, TWO = f"-s 10.0.0.1/32 {ALLOW}", f"-s 10.0.0.2/32 {ALLOW}"
INNER = f"{names.RULE_PREFIX}aaaaaaaaaaaaaaaa"
OTHERS = "-p tcp -m tcp ! --dport 80 -j RETURN"


def rules(*texts: str) -> Rules:
    return tuple(map(ours, texts))


def chains(texts: Mapping[str, tuple[str, ...]]) -> Chains:
    return {chain: rules(*found) for chain, found in texts.items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((), (ONE,)),
        ((ONE,), (ONE, TWO)),
        ((ONE,), (TWO, ONE)),
        ((ONE,), (f"-p tcp -j {INNER}", ONE)),
        ((ONE,), (ONE, OTHERS, TWO)),
        ((ONE,), (ONE, f"-p tcp -g {INNER}")),
        ((f"-j {INNER}", ONE), (f"-j {INNER}", "-m mark --mark 0x1/0x1 -j RETURN", ONE)),
    ],
)
def test_what_is_only_added_takes_nothing_away(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    assert not narrows(rules(*old), rules(*new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((ONE,), ()),
        ((ONE, TWO), (TWO,)),
        ((ONE, TWO), (TWO, ONE)),
        ((ONE,), (OTHERS, ONE)),
        ((ONE,), (f"-p tcp -g {INNER}", ONE)),
        ((ONE,), (f"-g {names.DENY}", ONE)),
        ((ONE,), ("-j DROP", ONE)),
    ],
)
def test_in_doubt_a_change_takes_something_away(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    assert narrows(rules(*old), rules(*new))


POLICY = names.policy_chain(PolicyId(Direction.INGRESS, Key("x", "p")))
PODS = {n: names.pod_chain(PodId(Direction.INGRESS, Key("x", n))) for n in "ab"}
ROOT = names.tree_chain(Direction.INGRESS, Family.V4, "")
CHILD = names.tree_chain(Direction.INGRESS, Family.V4, "10.0.0.0/30")
A, B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def leaf(number: int, pod: str) -> str:
    return f"-d 10.0.0.{number}/32 {names.about('pod', Key('x', pod))} -g {PODS[pod]}"


TABLE = chains(
    {
        ROOT: (leaf(1, "a"), f"-d 10.0.0.0/30 -g {CHILD}"),
        CHILD: (leaf(2, "b"),),
        PODS["a"]: (f"-j {POLICY}",),
        PODS["b"]: (f"-j {names.POLICY_PREFIX}another",),
        POLICY: (f"-p tcp -j {INNER}",),
        INNER: (ONE,),
    }
)


def test_a_chain_of_a_rule_concerns_the_pods_of_its_policy() -> None:
    found = concerned(Family.V4, [TABLE], {INNER: rules(TWO)})
    assert found == {Direction.INGRESS: {A: "x/a"}, Direction.EGRESS: {}}
    assert concerned(Family.V4, [TABLE], {INNER: rules(ONE, TWO)})[Direction.INGRESS] == {}


def test_an_address_that_is_to_be_led_to_another_pod_is_concerned_and_one_that_finds_no_pod_too() -> None:
    moved = {CHILD: rules(leaf(2, "a"))}
    assert concerned(Family.V4, [TABLE], moved)[Direction.INGRESS] == {B: "x/b"}
    assert concerned(Family.V4, [TABLE], {ROOT: TABLE[ROOT][:1]})[Direction.INGRESS] == {B: "x/b"}
    # A tree that only takes another shape leads everybody where it did.
    assert concerned(Family.V4, [TABLE], {ROOT: rules(leaf(1, "a"), leaf(2, "b"))})[Direction.INGRESS] == {}


def test_every_table_that_the_kernel_may_hold_counts() -> None:
    wider = {**TABLE, INNER: rules(ONE, TWO)}
    assert concerned(Family.V4, [TABLE, wider], {INNER: rules(ONE)})[Direction.INGRESS] == {A: "x/a"}


def test_without_a_set_that_rules_are_switched_to_they_look_at_the_one_they_had() -> None:
    rule = "-m set --match-set {} dst -j KUBE-NETPOL-INGRESS"
    usual = names.isolated_set(Direction.INGRESS, Family.V4)
    other = names.alternate(usual)
    held = {names.FORWARD: rules(rule.format(usual))}
    assert narrowed(Family.V4, {names.FORWARD: rules(rule.format(other), "-j X")}, held, {other}) == {
        names.FORWARD: (rule.format(usual), "-j X")
    }
    assert narrowed(Family.V4, {names.FORWARD: rules(rule.format(usual))}, {}, {usual}) == {
        names.FORWARD: ("-j KUBE-NETPOL-INGRESS",)
    }


def test_without_a_set_of_named_ports_no_port_is_one_of_them() -> None:
    ports = "KUBE-NETPOL-ports"
    others = f"-m set ! --match-set {ports} dst,dst -j RETURN"
    found = narrowed(Family.V4, {INNER: rules(others, ONE)}, {}, {ports})
    assert found == {INNER: ("-j RETURN", ONE)}


def test_who_is_closed_stays_so_without_a_set_of_isolated_addresses() -> None:
    isolated = names.isolated_set(Direction.INGRESS, Family.V4)
    shut = f"-m set --match-set {names.closed_set(Direction.INGRESS, Family.V4)} dst -g {names.DENY}"
    judging = rules(shut, f"-j {ROOT}", f"-m mark ! --mark 0x1/0x1 -g {names.DENY}")
    found = narrowed(Family.V4, {names.judge(Direction.INGRESS): judging}, {}, {isolated})
    assert found == {names.judge(Direction.INGRESS): (shut, f"-j {ROOT}")}
    # The other family's set is there: an address that no pod has is denied as ever.
    wanted = {names.judge(Direction.INGRESS): judging}
    assert narrowed(Family.V6, wanted, {}, {isolated}) == wanted
