"""Chains as text: exact ports, one set in a rule, and the same text for the same program."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names, render, top
from agent.dataplane.iptables.rules.rule import Chains
from agent.dataplane.iptables.tables.chain_writer import _by_policy
from agent.dataplane.iptables.text import member_text, render_text
from agent.kube.model import Key
from agent.net import AddressPort, Direction, Family, Network, NetworkMember, Protocol
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredRule, SetId, SetKind
from agent.policy.program import PodId, PodProgram, PolicyId, PortRange, network_policies
from tests.property import strategies
from tests.property.histories import Batch
from tests.property.words import HERE

numbers = st.one_of(st.sampled_from((0, 1, 65534, 65535)), st.integers(0, 65535))
ranges = st.builds(
    lambda protocol, a, b: PortRange(protocol, min(a, b), max(a, b)),
    st.sampled_from(list(Protocol)),
    numbers,
    numbers,
)
port_lists = st.lists(
    st.one_of(ranges, st.builds(lambda p, n: PortRange(p, n, n), st.sampled_from(list(Protocol)), numbers)),
    max_size=40,
)


POLICY = PolicyId(Direction.INGRESS, Key("ns", "p"))


def set_ids(kind: SetKind, direction: Direction, count: int) -> tuple[SetId, ...]:
    return tuple(SetId(kind, direction, Family.V4, f"{kind} {n}") for n in range(count))


@st.composite
def rule_programs(draw: st.DrawFn, direction: Direction, number: int) -> LoweredRule:
    peers = draw(st.one_of(st.none(), st.integers(0, 3)))
    counts = st.integers(0, 2)
    any_port = draw(st.booleans())
    ports = None if any_port else tuple(draw(st.lists(ranges, max_size=20)))
    named = None if any_port else set_ids(SetKind.ADDRESS_PORTS, direction, draw(counts))
    folded = set_ids(SetKind.ADDRESS_PORTS, direction, draw(counts))
    found = None if peers is None else set_ids(SetKind.ADDRESSES, direction, peers)
    return LoweredRule(number, found, ports, named, folded)


@given(st.data(), st.sampled_from(list(Direction)))
def test_a_rule_matches_one_set_at_most_and_says_whom_it_serves(
    data: st.DataObject, direction: Direction
) -> None:
    policy = PolicyId(direction, Key("ns", "p"))
    rules = [data.draw(rule_programs(direction, n)) for n in range(data.draw(st.integers(0, 3)))]
    chains = render.policy_chains(policy, rules, names.peer_set)
    assert names.policy_chain(policy) in chains
    inner = chains.keys() - {names.policy_chain(policy)}
    targets = set()
    for chain in chains.values():
        for rule in chain:
            assert rule.count("--match-set") <= 1
            target = rule.split(" ")[-1]
            assert target in inner or target in ("RETURN", names.allow(direction))
            # What only leads to the rule's peers, or past them, says nothing: that would cost every packet.
            said = re.search(rf'--comment "rule [0-2] {direction} of ns/p"', rule)
            assert bool(said) is (target == names.allow(direction))
            targets.add(target)
    assert targets <= inner | {"RETURN", names.allow(direction)}
    assert inner <= targets


def test_a_rule_that_matches_nothing_writes_no_rule() -> None:
    nothing = [
        LoweredRule(0, ()),
        LoweredRule(1, None, (), ()),
        LoweredRule(2, (), (PortRange(Protocol.TCP, 80, 80),), ()),
        LoweredRule(3, set_ids(SetKind.ADDRESSES, Direction.INGRESS, 2), (), ()),
    ]
    assert render.policy_chains(POLICY, nothing, names.peer_set) == {names.policy_chain(POLICY): ()}


def test_ports_of_several_protocols_and_several_peers_meet_in_a_chain_of_the_rule() -> None:
    peers = set_ids(SetKind.ADDRESSES, Direction.INGRESS, 3)
    ports = (PortRange(Protocol.TCP, 80, 80), PortRange(Protocol.UDP, 53, 53))
    chains = render.policy_chains(POLICY, [LoweredRule(4, peers, ports, ())], names.peer_set)
    inner = names.rule_chain(POLICY, 4)
    assert len(chains[inner]) == 3
    # Nothing that comes after could let in whom the rule's peers do not.
    assert [rule.split(" ")[-2:] for rule in chains[names.policy_chain(POLICY)]] == [["-g", inner]] * 2
    twice = render.policy_chains(
        POLICY, [LoweredRule(4, peers, ports, ()), LoweredRule(5, peers, ports, ())], names.peer_set
    )
    first, last = names.rule_chain(POLICY, 4), names.rule_chain(POLICY, 5)
    found = [rule.split(" ")[-2:] for rule in twice[names.policy_chain(POLICY)]]
    assert found == [["-j", first]] * 2 + [["-g", last]] * 2


NAMED = set_ids(SetKind.ADDRESS_PORTS, Direction.INGRESS, 1)
IN_NAMED = f"-m set ! --match-set {names.peer_set(NAMED[0])} dst,dst"


@pytest.mark.parametrize(
    ("ports", "named", "guard", "only"),
    [
        ([(80, 80)], (), "-p tcp -m tcp ! --dport 80 -j RETURN", "-p tcp "),
        (
            [(80, 80), (90, 99), (443, 443)],
            (),
            "-p tcp -m tcp ! --dport 80 -m multiport ! --dports 90:99,443 -j RETURN",
            "-p tcp ",
        ),
        ([(80, 80)], NAMED, f"-p tcp -m tcp ! --dport 80 {IN_NAMED} -j RETURN", "-p tcp "),
        ([], NAMED, f"{IN_NAMED} -j RETURN", ""),
        ([(0, 65535)], (), None, "-p tcp "),
    ],
)
def test_peers_are_written_once_after_a_line_that_returns_for_other_ports(
    ports: list[tuple[int, int]], named: tuple[SetId, ...], guard: str | None, only: str
) -> None:
    """So that the kernel checks them once, and not once for each port."""
    peers = set_ids(SetKind.ADDRESSES, Direction.INGRESS, 2)
    ranges = tuple(PortRange(Protocol.TCP, first, last) for first, last in ports)
    rule = LoweredRule(0, peers, ranges, named, protocol=Protocol.TCP)
    about = names.about("rule 0 ingress of", POLICY.policy)
    allowing = [
        f"{only}-m set --match-set {names.peer_set(s)} src {about} -g {names.allow(POLICY.direction)}"
        for s in peers
    ]
    written = ([] if guard is None else [guard]) + allowing
    own, inner = names.policy_chain(POLICY), names.rule_chain(POLICY, 0)
    assert render.policy_chains(POLICY, [rule], names.peer_set) == {own: tuple(written)}
    # Before another rule, whose ports it may not keep the packet from.
    other = LoweredRule(1, None)
    chains = render.policy_chains(POLICY, [rule, other], names.peer_set)
    if guard is None:
        assert chains == {own: (*written, *render.policy_chains(POLICY, [other], names.peer_set)[own])}
    else:
        assert chains[own][0].endswith(f"-j {inner}")
        assert chains[inner] in (tuple(written), tuple(rule.removeprefix(only) for rule in allowing))


def test_ports_that_one_line_cannot_tell_lead_to_the_peers_each() -> None:
    peers = set_ids(SetKind.ADDRESSES, Direction.INGRESS, 2)
    several = set_ids(SetKind.ADDRESS_PORTS, Direction.INGRESS, 2)
    one, many = (
        (PortRange(Protocol.TCP, 80, 80),),
        tuple(PortRange(Protocol.TCP, n, n) for n in range(1, 33, 2)),
    )
    for rule, ways in (
        (LoweredRule(0, peers, one, several, protocol=Protocol.TCP), 3),
        (LoweredRule(0, peers, one, several[:1]), 2),
        (LoweredRule(0, peers, many, (), protocol=Protocol.TCP), 2),
    ):
        chains = render.policy_chains(POLICY, [rule], names.peer_set)
        assert len(chains[names.policy_chain(POLICY)]) == ways
        assert len(chains[names.rule_chain(POLICY, 0)]) == 2


def test_addresses_come_before_ports_as_iptables_prints_them() -> None:
    blocks = (NetworkMember(Network(bytes((10, 1, 0, 0)), 16)),)
    ports = tuple(PortRange(protocol, 53, 53) for protocol in (Protocol.TCP, Protocol.UDP))
    rule = LoweredRule(0, (), ports, (), (), blocks)
    about, allow = names.about("rule 0 ingress of", POLICY.policy), f"-g {names.allow(POLICY.direction)}"
    (written,) = render.policy_chains(POLICY, [rule], names.peer_set).values()
    assert written == tuple(
        f"-s 10.1.0.0/16 -p {p} -m {p} --dport 53 {about} {allow}" for p in ("tcp", "udp")
    )


def test_few_networks_are_compared_without_a_set_after_what_they_except() -> None:
    blocks = tuple(NetworkMember(Network(bytes((10, n, 0, 0)), 16), nomatch=n == 2) for n in (1, 2))
    rule = LoweredRule(0, (), None, None, (), blocks)
    about = names.about("rule 0 ingress of", POLICY.policy)
    allowing = f"-s 10.1.0.0/16 {about} -g {names.allow(POLICY.direction)}"
    both = ("! -s 10.1.0.0/16 -j RETURN", f"-s 10.2.0.0/16 {about} -j RETURN", allowing.split(" ", 2)[2])
    own, inner = names.policy_chain(POLICY), names.rule_chain(POLICY, 0)
    assert render.policy_chains(POLICY, [rule], names.peer_set) == {own: both}
    # What returns may not keep a packet from a later rule.
    chains = render.policy_chains(POLICY, [rule, LoweredRule(1, ())], names.peer_set)
    assert chains == {own: (f"-j {inner}",), inner: both}
    plain = render.policy_chains(POLICY, [LoweredRule(0, (), None, None, (), blocks[:1])], names.peer_set)
    assert plain == {own: (allowing,)}


def test_what_a_block_excepts_is_written_with_its_policy_or_not_at_all() -> None:
    """Else a policy could come to lead to what an earlier block of it excepted."""
    peers = set_ids(SetKind.ADDRESSES, Direction.INGRESS, 1)
    ports = (PortRange(Protocol.TCP, 80, 80),)
    blocks = (NetworkMember(Network(bytes(4), 1)), NetworkMember(Network(bytes(4), 8), nomatch=True))
    rules = [LoweredRule(n, peers, ports, (), (), blocks) for n in range(2)]
    chains = render.policy_chains(POLICY, rules, names.peer_set)
    assert len(chains) == 2
    alone = render.policy_chains(PolicyId(Direction.EGRESS, Key("ns", "p")), [], names.peer_set)
    groups = _by_policy({**chains, **alone}, {})
    assert sorted(map(sorted, groups)) == sorted([sorted(chains), sorted(alone)])


def test_what_leads_to_trees_is_written_after_them() -> None:
    """Without a set of isolated addresses it leads everybody there, and who is in no tree passes."""
    judge, tree = names.judge(Direction.INGRESS), names.tree_chain(Direction.INGRESS, Family.V4, "")
    chains: Chains = {names.FORWARD: (), judge: (), tree: (), names.policy_chain(POLICY): ()}
    first, last = _by_policy(chains, {})[:2], _by_policy(chains, {})[2:]
    assert sorted(last) == sorted([[names.FORWARD], [judge]])
    assert [tree] in first


def test_a_pod_without_an_address_of_a_family_has_no_chain_there() -> None:
    pod = PodId(Direction.EGRESS, Key("ns", "a"))
    program = PodProgram((b"\x0a\0\0\1",), network_policies((Key("ns", "p"),)))
    assert render.pod_chain(pod, program, Family.V6, Options()) == {}
    (rules,) = render.pod_chain(pod, program, Family.V4, Options()).values()
    assert rules[0].startswith("-s 10.0.0.1/32 -d 10.0.0.1/32 ")
    assert rules[-1].endswith(f"-g {names.DENY}")


def tops(
    options: Options,
    family: Family = Family.V4,
    guarded: bool = True,
    uplinks: tuple[str, ...] = (),
    cache: names.Cache | None = None,
) -> Chains:
    return top.top_chains(family, options, names.isolated_set, guarded=guarded, uplinks=uplinks, cache=cache)


_CACHE = names.Cache("L", "E")

COMBINATIONS = [
    (Options(accept=accept, reject=reject, mark_egress=0x1, mark_ingress=0x80), family, guarded, cache)
    for accept, reject, guarded in itertools.product((False, True), repeat=3)
    for family in Family
    for cache in (None, _CACHE)
]


@pytest.mark.parametrize(("options", "family", "guarded", "cache"), COMBINATIONS)
def test_the_top_chains_hold_for_every_combination_of_options(
    options: Options, family: Family, guarded: bool, cache: names.Cache | None
) -> None:
    chains = tops(options, family, guarded, cache=cache)
    assert all(rule.count("--match-set") <= 1 for rules in chains.values() for rule in rules)
    assert all(len(chain) <= 28 and names.is_ours(chain) for chain in chains)
    # Replies leave first, but for what on a bridge names no pod.
    leave = "ACCEPT" if options.accept else "RETURN"
    established = f"-m conntrack --ctstate RELATED,ESTABLISHED -j {leave}"
    caches = guarded and cache is not None
    assert chains[names.FORWARD].index(established) == (3 if guarded else 0) + caches
    if guarded:
        own = "169.254.0.0/16" if family is Family.V4 else "fe80::/10"
        ordinary = f"! -s {own} ! -d {own} -p tcp -m conntrack --ctstate ESTABLISHED -j {leave}"
        assert chains[names.FORWARD][0] == ordinary
    assert chains[names.OUTPUT][0] == established
    assert established not in chains[names.BRIDGED][:1] or not guarded
    assert bool(chains[names.BRIDGED]) is guarded
    # Egress is judged before ingress, each behind its own set.
    judging = [r for r in chains[names.FORWARD] if "-j KUBE-NETPOL-" in r and names.BRIDGED not in r]
    judges = [r.split(" ")[-1] for r in judging]
    assert judges == [names.judge(Direction.EGRESS), names.judge(Direction.INGRESS)]
    # Who comes back from the guard is judged after it, who does not, by it.
    comes_back = any(rule.endswith(f"-j {names.BRIDGED}") for rule in chains[names.FORWARD])
    assert set(judging).isdisjoint(chains[names.BRIDGED]) is (comes_back or not guarded)
    for rule in chains[names.OUTPUT][3 if caches else 1 :]:
        assert "addrtype ! --src-type LOCAL" in rule
    # Both marks are clear on entry and on leaving.
    for direction in Direction:
        judge = chains[names.judge(direction)]
        assert judge[0] == f"-m mark ! --mark 0x0/0x81 {judge[-1]}"
        assert judge[-1] == "-j MARK --set-xmark 0x0/0x81"
        assert f"! --mark {options.mark(direction):#x}/{options.mark(direction):#x}" in judge[-2]
    assert (chains[names.DENY] == ("-j DROP",)) is not options.reject
    if options.reject:
        assert chains[names.DENY][-1].startswith("-j REJECT")
    accepts = [r for r in chains[names.FORWARD] if r.endswith("-j ACCEPT")]
    assert bool(accepts) is options.accept


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("leave", ["RETURN", "ACCEPT"])
def test_what_is_cached_is_looked_up_unmarked_and_added_after_both_directions(
    family: Family, leave: str
) -> None:
    options = Options(accept=leave == "ACCEPT", mark_egress=0x1, mark_ingress=0x80, cache=7)
    chains = tops(options, family, cache=_CACHE)
    for way in (names.FORWARD, names.OUTPUT):
        # On a bridge in IPv6 some rules stand behind the guard alone.
        rules = [*chains[way], *(chains[names.BRIDGED] if way == names.FORWARD else ())]
        for protocol in ("tcp", "udp"):
            cached = f"-p {protocol} -m mark --mark 0x0/0x81 -m set --match-set L src,dst,dst -j {leave}"
            assert cached in rules
    last = [rule.split(" ")[-2:] for rule in chains[names.FORWARD]][-2:]
    assert last == [["-g", names.CACHE]] * 2
    own = "169.254.0.0/16" if family is Family.V4 else "fe80::/10"
    adding = [
        f"! -s {own} ! -d {own} -p {protocol} -j SET --add-set E src,dst,dst --timeout 7"
        for protocol in ("tcp", "udp")
    ]
    assert list(chains[names.CACHE]) == adding + (["-j ACCEPT"] if options.accept else [])
    assert tops(options, family, guarded=False, cache=_CACHE)[names.CACHE] == ()


def test_what_other_nodes_may_is_not_cached() -> None:
    first, *_ = tops(Options(), uplinks=("eth0",), cache=_CACHE)[names.CACHE]
    assert first == f"-m set --match-set {names.nodes_set(Family.V4)} src -j RETURN"


def test_other_nodes_are_let_in_by_the_interfaces_that_lead_to_them_only() -> None:
    chains = tops(Options(), uplinks=("eth1", "eth0"))
    found = [r for rules in chains.values() for r in rules if names.nodes_set(Family.V4) in r]
    assert [r.split(" ")[:2] for r in found] == [["-i", "eth0"], ["-i", "eth1"]]
    assert all(r in chains[names.judge(Direction.INGRESS)] and r.endswith("-j RETURN") for r in found)


def test_discovery_passes_a_bridge_before_anything_is_dropped() -> None:
    rules = tops(Options(), Family.V6)[names.BRIDGED]
    kinds = [re.search(r"--icmpv6-type (\d+)", rule) for rule in rules[:8]]
    assert [int(k[1]) for k in kinds if k] == [133, 135, 136, 130, 131, 132, 143, 134]
    assert all("--hl-eq 255" in rule for rule in rules[:3])
    assert all(rule.endswith("-j DROP") for rule in rules[7:12])


def test_what_stands_in_for_a_refused_top_chain_lets_nothing_unjudged_pass() -> None:
    chains = tops(Options())
    forward = chains[names.FORWARD]
    for chain in (names.FORWARD, names.BRIDGED):
        assert top.stand_in(chain, forward) == tuple(r for r in forward if names.BRIDGED not in r)
    for chain in (names.DENY, *map(names.judge, Direction)):
        assert top.stand_in(chain, forward) == ("-j DROP",)
    assert top.stand_in(names.allow(Direction.INGRESS), forward) is None
    assert top.stand_in(names.policy_chain(POLICY), forward) is None


def test_members_are_written_as_ipset_does() -> None:
    address = b"\x0a\0\0\1"
    assert member_text(address) == "10.0.0.1"
    assert member_text(AddressPort(address, Protocol.SCTP, 80)) == "10.0.0.1,sctp:80"
    assert member_text(NetworkMember(Network(address, 32), nomatch=True)) == "10.0.0.1/32 nomatch"


@given(strategies.histories)
def test_the_text_depends_on_the_objects_alone(history: list[Batch]) -> None:
    one, other = Engine(HERE, linger=0), Engine(HERE, linger=0)
    for batch in history:
        one.apply(batch.events, 0.0)
    for batch in history:
        for event in batch.events:
            other.apply([event], 0.0)
    assert render_text(one.lowered, Options()) == render_text(other.lowered, Options())
    assert render_text(one.lowered, Options()) == render_text(one.lowered, Options())


def test_named_ports_of_peers_are_each_a_rule_of_the_policy() -> None:
    policy = PolicyId(Direction.EGRESS, Key("ns", "p"))
    folded = set_ids(SetKind.ADDRESS_PORTS, Direction.EGRESS, 2)
    rules = render.policy_chains(policy, [LoweredRule(0, (), (), (), folded)], names.peer_set)
    written = rules[names.policy_chain(policy)]
    assert len(written) == len(folded)
    for set_id, rule in zip(folded, written, strict=True):
        assert f"--match-set {names.peer_set(set_id)} dst,dst" in rule
        assert rule.endswith(f"-g {names.allow(Direction.EGRESS)}")
