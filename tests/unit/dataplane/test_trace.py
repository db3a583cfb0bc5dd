"""A packet followed through chains as iptables prints them; in the kernel: tests/cluster/test_explain.py."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.render import policy_chains
from agent.dataplane.iptables.trace import _numbered, _Walk, is_in, parse, read_rule
from agent.dataplane.trace import Fate, Packet, Trace
from agent.dataplane.traffic import NOTHING, Amount
from agent.kube.model import Key
from agent.net import AddressPort, Direction, Member, Network, NetworkMember, Protocol
from agent.policy.lower.lowered import LoweredRule
from agent.policy.program import PolicyId

ALLOW = "KUBE-NETPOL-ALLOW-INGRESS"
HERE, THERE, OTHER = b"\n\0\0\1", b"\n\0\0\2", b"\n\0\0\3"
LISTED = """\
-N KUBE-POD-FW-a
-A KUBE-POD-FW-a -s 10.0.0.2/32 -d 10.0.0.2/32 -m comment --comment "from pod a/b to itself" -c 0 0 -g KUBE-NETPOL-ALLOW-INGRESS
-A KUBE-POD-FW-a -c 9 540 -j KUBE-NWPLCY-a
-A KUBE-POD-FW-a -m mark --mark 0x20000/0x20000 -m comment --comment "allowed by ingress policy a/-c 7 7" -c 7 420 -j RETURN
-A KUBE-POD-FW-a -m limit --limit 1/sec -c 2 120 -j NFLOG --nflog-prefix "denied"
-A KUBE-POD-FW-a -m comment --comment "no ingress policy allows it: pod a/b" -c 2 120 -g KUBE-NETPOL-DENY
-N KUBE-NWPLCY-a
-A KUBE-NWPLCY-a -p tcp -m tcp ! --dport 80 -m multiport ! --dports 443,8000:8010 -c 1 60 -j RETURN
-A KUBE-NWPLCY-a -p udp -c 0 0 -j KUBE-NWRULE-a
-A KUBE-NWPLCY-a -m set --match-set S src -m comment --comment "rule 0 ingress of a/c" -c 3 180 -g KUBE-NETPOL-ALLOW-INGRESS
-N KUBE-NWRULE-a
-A KUBE-NWRULE-a -s 10.0.0.0/24 -m comment --comment "rule 1 ingress of a/c" -c 0 0 -j RETURN
-A KUBE-NWRULE-a -m set --match-set P dst,dst -c 4 240 -g KUBE-NETPOL-ALLOW-INGRESS
"""  # noqa: E501 - as it is printed
SETS: Mapping[str, frozenset[Member]] = {
    "S": frozenset({HERE}),
    "P": frozenset({AddressPort(THERE, Protocol.UDP, 53)}),
}


def walk(source: bytes, port: int, protocol: Protocol = Protocol.TCP, listed: str = LISTED) -> Trace:
    packet = Packet(source, THERE, protocol, port)
    return _Walk(parse(listed), packet, lambda name: SETS.get(name, frozenset()), ALLOW).walk("KUBE-POD-FW-a")


def test_counters_are_read_and_taken_out_wherever_they_stand() -> None:
    chains = parse(LISTED)
    jump, marked = chains["KUBE-POD-FW-a"][1:3]
    assert (jump.text, jump.packets, jump.bytes) == ("-j KUBE-NWPLCY-a", 9, 540)
    assert (marked.packets, marked.bytes) == (7, 420)
    assert '"allowed by ingress policy a/-c 7 7" -j RETURN' in marked.text


@pytest.mark.parametrize(
    ("source", "port", "fate"),
    [
        (HERE, 80, Fate.ALLOWED),
        (HERE, 443, Fate.ALLOWED),
        (HERE, 8005, Fate.ALLOWED),
        (HERE, 81, Fate.DENIED),
        (OTHER, 80, Fate.DENIED),
        (THERE, 1, Fate.ALLOWED),
    ],
)
def test_a_packet_takes_the_way_that_the_kernel_gives_it(source: bytes, port: int, fate: Fate) -> None:
    assert walk(source, port).fate is fate


def test_the_rule_that_decides_and_the_one_that_came_near_are_told() -> None:
    allowed = walk(HERE, 80)
    assert allowed.rule is not None
    assert (allowed.rule.chain, allowed.rule.packets) == ("KUBE-NWPLCY-a", 3)
    denied = walk(OTHER, 80)
    assert denied.why == "10.0.0.3 is not in the set S"
    assert [rule.packets for rule in denied.near] == [3]
    assert denied.rule is not None
    assert denied.rule.packets == 2


def test_a_chain_that_returns_is_left_and_the_next_rule_is_asked() -> None:
    # From 10.0.0.0/24 the rule's chain returns, and the set of the policy's last rule decides.
    assert walk(HERE, 53, Protocol.UDP).fate is Fate.ALLOWED
    assert walk(OTHER, 53, Protocol.UDP).fate is Fate.DENIED
    outside = walk(b"\x0b\0\0\1", 53, Protocol.UDP)
    assert (outside.fate, outside.rule and outside.rule.packets) == (Fate.ALLOWED, 4)


def test_what_cannot_be_read_is_not_guessed() -> None:
    strange = LISTED.replace("-m set --match-set S src", "-m time --timestart 10:00")
    assert walk(OTHER, 80, listed=strange).fate is Fate.UNKNOWN
    missing = LISTED.replace("-N KUBE-NWPLCY-a\n", "").replace("-A KUBE-NWPLCY-a", "-A KUBE-NWPLCY-b")
    assert walk(HERE, 80, listed=missing).fate is Fate.UNKNOWN
    assert walk(HERE, 80, listed="-N KUBE-POD-FW-a\n").fate is Fate.UNKNOWN
    assert not read_rule("-m time --timestart 10:00 -j RETURN").known


def test_of_networks_the_longest_prefix_decides() -> None:
    networks: frozenset[Member] = frozenset(
        {
            NetworkMember(Network(b"\n\0\0\0", 8)),
            NetworkMember(Network(b"\n\0\0\0", 24), nomatch=True),
            NetworkMember(Network(b"\n\0\0\3", 32)),
        }
    )
    packet = Packet(HERE, THERE, Protocol.TCP, 80)
    held = {a: is_in(networks, a, packet, with_port=False) for a in (HERE, OTHER, b"\n\1\0\0", b"\x0b\0\0\1")}
    assert list(held.values()) == [False, True, True, False]


TO_BANK = PolicyId(Direction.EGRESS, Key("shop", "to-bank"))


def counted(chains: Mapping[str, tuple[str, ...]], policy: PolicyId) -> dict[int, Amount]:
    """List chains, each rule with its own count: 1, 2, 3 …; return what each rule of a policy has counted."""
    rules = [(chain, rule) for chain, rules in chains.items() for rule in rules]
    lines = [f"-N {chain}" for chain in chains]
    lines += [f"-A {chain} {rule} -c {n} {60 * n}" for n, (chain, rule) in enumerate(rules, 1)]
    found: dict[int, Amount] = {}
    for number, rule in _numbered(parse("\n".join(lines)), names.policy_chain(policy)):
        if number >= 0:
            found[number] = found.get(number, NOTHING).plus(Amount(rule.packets, rule.bytes))
    return found


def test_the_rules_of_one_policy_are_told_apart_by_direction_and_number() -> None:
    other = PolicyId(Direction.EGRESS, Key("shop", "to-bank-2"))
    some = (NetworkMember(Network(b"\n\1\0\0", 16)), NetworkMember(Network(b"\n\2\0\0", 16)))
    rules = (LoweredRule(0, blocks=some, ports=None, peers=()), LoweredRule(1, peers=None, ports=None))
    chains = {**policy_chains(TO_BANK, rules, str), **policy_chains(other, rules, str)}
    assert counted(chains, TO_BANK) == {0: Amount(1 + 2, 60 * (1 + 2)), 1: Amount(3, 60 * 3)}
    assert counted(chains, TO_BANK._replace(direction=Direction.INGRESS)) == {}
    assert counted(chains, PolicyId(Direction.EGRESS, Key("shop", "none"))) == {}


def test_what_a_block_excepts_is_not_counted_as_allowed() -> None:
    block = NetworkMember(Network(b"\n\1\0\0", 16))
    excepted = NetworkMember(Network(b"\n\1\2\0", 24), nomatch=True)
    rule = LoweredRule(0, blocks=(block, excepted), ports=None, peers=())
    chains = policy_chains(TO_BANK, (rule,), str)
    (lines,) = chains.values()
    allowing = [n for n, line in enumerate(lines, 1) if line.goto]
    assert sum('"rule 0 egress of' in line for line in lines) > len(allowing)
    assert counted(chains, TO_BANK) == {0: Amount(sum(allowing), 60 * sum(allowing))}
