"""The evaluator, rule by rule of the specification: each test is named for the rule it holds it to."""

from __future__ import annotations

import pytest

from agent.kube.model import (
    ISOLATION_ANNOTATION,
    Key,
    Namespace,
    NetworkPolicy,
    Node,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction, Family, Protocol
from agent.spec.cluster import cluster_of, owner
from agent.spec.evaluator import CannotSayError, Endpoint, evaluate, judge
from agent.spec.verdict import DirectionVerdict, Packet
from tests.build import block, labelled, network, packed, pod, port
from tests.unit.spec.scene import (
    CLIENT,
    OUTSIDE,
    PODS,
    SCTP,
    SHOP,
    STRANGER,
    TCP,
    UDP,
    WEB,
    ask,
    egress,
    ingress,
)


def of_peer(peer: Peer) -> NetworkPolicy:
    return ingress(Rule((peer,)))


def reasons(verdict: DirectionVerdict) -> list[str]:
    return [
        answer.why
        for found in verdict.policies
        for rule in found.rules
        for answer in (rule.peer, rule.port)
        if not answer.yes
    ]


# --- Which pods, which packets


def test_without_a_policy_everything_is_allowed() -> None:
    verdict = ask()
    assert verdict.allowed
    assert not verdict.ingress.isolated
    assert verdict.ingress.why == "no policy isolates shop/web on ingress"


def test_a_policy_isolates_what_it_selects_in_the_directions_it_names() -> None:
    deny = ingress()
    assert not ask(deny).allowed
    assert ask(deny).egress.allowed
    assert ask(deny, source=WEB, destination=CLIENT).allowed
    assert [found.policy for found in ask(deny).ingress.policies] == [deny.key]


def test_policies_act_in_their_own_namespace() -> None:
    assert ask(NetworkPolicy("other", "p", ingress=())).allowed
    assert not ask(NetworkPolicy("other", "p", ingress=()), destination=STRANGER).allowed


def test_policies_are_additive() -> None:
    allow = ingress(Rule(), name="allow")
    verdict = ask(ingress(name="deny"), allow)
    assert verdict.allowed
    assert [found.policy.name for found in verdict.ingress.policies] == ["allow", "deny"]
    assert verdict.ingress.allowing == ((allow.key, 0),)


def test_every_rule_that_allows_is_named() -> None:
    rules = (Rule(ports=(Port(UDP, 80),)), Rule(), Rule(ports=(Port(TCP, 80),)))
    assert ask(ingress(*rules)).ingress.allowing == ((Key("shop", "p"), 1), (Key("shop", "p"), 2))


def test_a_connection_needs_the_sources_egress_and_the_destinations_ingress() -> None:
    no_egress = ask(egress())
    assert (no_egress.egress.allowed, no_egress.ingress.allowed, no_egress.allowed) == (False, True, False)
    both = ask(egress(Rule(), name="out"), ingress(name="in"))
    assert (both.egress.allowed, both.ingress.allowed, both.allowed) == (True, False, False)


def test_a_pod_to_itself_is_never_judged() -> None:
    everything = NetworkPolicy("shop", "deny", ingress=(), egress=())
    verdict = ask(everything, source=WEB, destination=WEB)
    assert verdict.allowed
    assert verdict.egress.why == "what a pod sends to itself is never judged"


def test_addresses_outside_are_not_judged_themselves() -> None:
    verdict = ask(ingress(), source=OUTSIDE)
    assert verdict.egress.allowed
    assert verdict.egress.pod is None
    assert not verdict.ingress.allowed
    assert ask(egress(), source=WEB, destination=OUTSIDE).allowed


def test_icmp_is_policed_and_matched_by_rules_without_ports_only() -> None:
    cluster = cluster_of((*PODS, ingress(Rule(ports=(Port(TCP),)))))
    echo = Packet(CLIENT.addresses[0], WEB.addresses[0], 1, 0)
    assert reasons(judge(cluster, echo).ingress) == ["ICMP is not TCP"]
    assert judge(cluster_of((*PODS, ingress(Rule()))), echo).allowed


@pytest.mark.parametrize("what", ["host_network", "finished"])
def test_host_network_and_finished_pods_are_no_targets_and_no_peers(what: str) -> None:
    ghost = pod(
        "ghost", "10.0.0.9", app="client", host_network=what != "finished", finished=what == "finished"
    )
    at = ghost.addresses[0]
    assert ask(NetworkPolicy("shop", "deny", ingress=()), ghost, destination=at).allowed
    assert not ask(of_peer(Peer(labelled(app="client"))), ghost, source=at).allowed
    assert ask(of_peer(Peer(block=block("10.0.0.9/32"))), ghost, source=at).allowed


def test_a_pod_on_the_hosts_network_is_judged_as_the_address_it_has() -> None:
    ghost = pod("ghost", "10.0.0.9", node="there", host_network=True)
    assert not ask(of_peer(Peer(labelled(app="ghost"))), ghost, source=ghost).allowed
    assert ask(of_peer(Peer(block=block("10.0.0.9/32"))), ghost, source=ghost).allowed


def test_an_address_belongs_to_the_pod_that_started_last_then_created_then_uid() -> None:
    claims = [
        pod("a", "10.0.0.9", started="2026-01-02T00:00:00Z", created="2026-01-01T00:00:00Z", uid="1"),
        pod("b", "10.0.0.9", started="2026-01-01T00:00:00Z", created="2026-01-09T00:00:00Z", uid="9"),
        pod("c", "10.0.0.9", started="2026-01-02T00:00:00Z", created="2026-01-01T00:00:00Z", uid="2"),
        pod("d", "10.0.0.9", uid="9"),
    ]
    for count, name in ((4, "c"), (2, "a")):
        found = owner(cluster_of(claims[:count]), packed("10.0.0.9"))
        assert found is not None
        assert found.name == name


def test_only_the_owner_of_an_address_is_judged_and_a_peer() -> None:
    old = pod("old", "10.0.0.9", app="client", started="2026-01-01T00:00:00Z")
    new = pod("new", "10.0.0.9", app="new", started="2026-01-02T00:00:00Z")
    from_client = of_peer(Peer(labelled(app="client")))
    assert not ask(from_client, old, new, source=old.addresses[0]).allowed
    assert ask(from_client, old, source=old.addresses[0]).allowed
    with pytest.raises(CannotSayError, match=r"of shop/old, 10.0.0.9, is now that of shop/new"):
        ask(from_client, old, new, source=old)


# --- Peers


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (Peer(Selector()), {"client"}),
        (Peer(labelled(app="stranger")), set()),
        (Peer(None, Selector()), {"client", "stranger"}),
        (Peer(None, labelled(team="other")), {"stranger"}),
        (Peer(labelled(app="stranger"), labelled(team="other")), {"stranger"}),
        (Peer(labelled(app="client"), labelled(team="other")), set()),
        (Peer(labelled(app="client"), Selector()), {"client"}),
        (Peer(), set()),
        (Peer(block=block("10.0.0.2/31")), {"client", "stranger"}),
        (Peer(block=block("10.0.0.0/30", "10.0.0.3/32")), {"client"}),
        (Peer(block=block("0.0.0.0/0")), {"client", "stranger", "outside"}),
        (Peer(block=block("0.0.0.0/0", "0.0.0.0/1")), {"outside"}),
        (Peer(block=block("::/0")), set()),
    ],
)
def test_a_peer_matches_pods_by_selectors_or_anything_by_its_block(peer: Peer, allowed: set[str]) -> None:
    ends: dict[str, Endpoint | Pod] = {"client": CLIENT, "stranger": STRANGER, "outside": OUTSIDE}
    assert {name for name, end in ends.items() if ask(of_peer(peer), source=end).allowed} == allowed


@pytest.mark.parametrize(
    ("operator", "values", "matches"),
    [
        (Operator.IN, ("x", "y"), {"x"}),
        (Operator.NOT_IN, ("x",), {"z", "none"}),
        (Operator.EXISTS, (), {"x", "z"}),
        (Operator.DOES_NOT_EXIST, (), {"none"}),
    ],
)
def test_negative_operators_match_an_absent_key(
    operator: Operator, values: tuple[str, ...], matches: set[str]
) -> None:
    pods = [pod("x", "10.0.1.1", k="x"), pod("z", "10.0.1.2", k="z"), pod("none", "10.0.1.3")]
    policy = of_peer(Peer(Selector((Requirement("k", operator, values),))))
    assert {one.name for one in pods if ask(policy, *pods, source=one).allowed} == matches


def test_a_namespace_not_known_matches_no_namespace_selector() -> None:
    ghost = pod("ghost", "10.0.0.9", namespace="ghost")
    verdict = ask(of_peer(Peer(None, Selector())), ghost, source=ghost)
    assert reasons(verdict.ingress) == ["namespace ghost is not known"]
    assert ask(of_peer(Peer(None, Selector())), ghost, Namespace("ghost"), source=ghost).allowed


def test_a_namespace_not_known_does_not_hide_its_own_policies() -> None:
    here, there = (pod(n, f"10.0.1.{i}", namespace="ghost") for i, n in enumerate(("here", "there")))
    policy = NetworkPolicy("ghost", "p", ingress=(Rule((Peer(labelled(app="there")),)),))
    assert ask(policy, here, there, source=there, destination=here).allowed
    assert not ask(policy, here, there, source=CLIENT, destination=here).allowed


def test_what_one_block_excepts_and_another_covers_is_allowed() -> None:
    wide, hole = Peer(block=block("10.0.0.0/8", "10.0.0.0/24")), Peer(block=block("10.0.0.2/32"))
    assert not ask(ingress(Rule((wide,)))).allowed
    assert ask(ingress(Rule((wide, hole)))).allowed
    assert ask(ingress(Rule((wide,)), Rule((hole,)))).allowed


def test_the_ends_of_a_block_and_of_its_except_are_exact() -> None:
    policy = of_peer(Peer(block=block("10.1.0.0/30", "10.1.0.2/31")))
    allowed = [n for n in range(5) if ask(policy, source=packed(f"10.1.0.{n}")).allowed]
    assert allowed == [0, 1]


# --- Ports


@pytest.mark.parametrize(
    ("ports", "service", "allowed"),
    [
        ((), (SCTP, 9), True),
        ((Port(TCP),), (TCP, 9), True),
        ((Port(TCP),), (UDP, 9), False),
        ((Port(TCP, 80),), (TCP, 80), True),
        ((Port(TCP, 80),), (TCP, 81), False),
        ((Port(TCP, 80),), (UDP, 80), False),
        ((Port(TCP, 80, 82),), (TCP, 79), False),
        ((Port(TCP, 80, 82),), (TCP, 80), True),
        ((Port(TCP, 80, 82),), (TCP, 82), True),
        ((Port(TCP, 80, 82),), (TCP, 83), False),
        ((Port(TCP, 1, 65535),), (TCP, 65535), True),
        ((Port(TCP, 80), Port(UDP, 53)), (UDP, 53), True),
    ],
)
def test_ports(ports: tuple[Port, ...], service: tuple[Protocol, int], allowed: bool) -> None:
    assert ask(ingress(Rule(ports=ports)), service=service).allowed is allowed


def test_a_rule_needs_its_peer_and_its_port() -> None:
    rule = Rule((Peer(labelled(app="client")),), (Port(TCP, 81),))
    assert not ask(ingress(rule)).allowed
    assert ask(ingress(rule), service=(TCP, 81)).allowed
    assert not ask(ingress(rule), source=STRANGER, service=(TCP, 81)).allowed


def test_a_named_port_on_ingress_is_the_selected_pods_own() -> None:
    policy = NetworkPolicy("shop", "p", ingress=(Rule(ports=(Port(TCP, "http"),)),))
    assert ask(policy, service=(TCP, 8080)).allowed
    assert not ask(policy, service=(TCP, 80)).allowed
    assert ask(policy, source=WEB, destination=CLIENT, service=(TCP, 80)).allowed


def test_a_named_port_on_egress_is_each_peers() -> None:
    policy = egress(Rule((Peer(Selector()),), (Port(TCP, "http"),)))
    assert ask(policy, service=(TCP, 8080)).allowed
    assert not ask(policy, service=(TCP, 80)).allowed
    assert not ask(policy, destination=STRANGER, service=(TCP, 80)).allowed


def test_a_named_port_on_egress_without_peers_is_that_of_every_pod() -> None:
    far = pod("far", "10.0.5.1", namespace="other", ports=(port("http", 81),))
    policy = egress(Rule(ports=(Port(TCP, "http"),)))
    assert ask(policy, far, destination=far, service=(TCP, 81)).allowed
    assert not ask(policy, far, destination=OUTSIDE, service=(TCP, 81)).allowed


def test_a_named_port_on_egress_to_a_block_is_that_of_the_pods_in_it() -> None:
    policy = egress(Rule((Peer(block=block("10.0.0.1/32")),), (Port(TCP, "http"),)))
    assert ask(policy, service=(TCP, 8080)).allowed
    assert not ask(policy, destination=STRANGER, service=(TCP, 8080)).allowed


def test_a_name_must_agree_in_protocol_too_and_matches_nothing_otherwise() -> None:
    for name, service in (("dns", (TCP, 53)), ("nothing", (TCP, 8080))):
        assert not ask(ingress(Rule(ports=(Port(TCP, name),))), service=service).allowed
    assert ask(ingress(Rule(ports=(Port(UDP, "dns"),))), service=(UDP, 53)).allowed


def test_where_a_name_is_not_there_the_names_that_are_stand_beside_it() -> None:
    (answer,) = reasons(ask(ingress(Rule(ports=(Port(TCP, "htpp"),))), service=(TCP, 8080)).ingress)
    assert "has no port named htpp for TCP: it has http/tcp" in answer


# --- Namespaces of old


def test_the_annotation_of_kubernetes_1_6_isolates_a_namespaces_pods_on_ingress() -> None:
    shop = Namespace("shop", {}, ingress_isolated=True)
    verdict = ask(shop)
    assert not verdict.ingress.allowed
    assert [found.policy for found in verdict.ingress.policies] == [Key("shop", ISOLATION_ANNOTATION)]
    assert ask(shop, source=WEB, destination=STRANGER).allowed
    assert ask(shop, ingress(Rule())).allowed


# --- Families and endpoints


def test_there_is_a_verdict_for_each_family_that_both_ends_have() -> None:
    cluster = cluster_of((*PODS, of_peer(Peer(block=block("0.0.0.0/0")))))
    four, six = evaluate(cluster, CLIENT.key, WEB.key, TCP, 80)
    assert (four.family, four.allowed) == (Family.V4, True)
    assert (six.family, six.allowed) == (Family.V6, False)
    assert len(evaluate(cluster, CLIENT.addresses[1], WEB.key, TCP, 80)) == 1


def test_a_name_is_looked_up_on_the_destination() -> None:
    assert ask(service=(UDP, "dns")).packet.port == 53
    with pytest.raises(
        CannotSayError, match=r"no port named dns for TCP; its named ports: http/tcp, dns/udp"
    ):
        ask(service=(TCP, "dns"))
    with pytest.raises(CannotSayError, match=r"192.0.2.1 is no pod's address"):
        ask(destination=OUTSIDE, service=(TCP, "dns"))


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (Key("shop", "nobody"), "no pod shop/nobody"),
        (pod("done", "10.0.0.8", finished=True), "has finished"),
        (pod("new"), "has no address yet"),
        (pod("six", "fd00::6"), "shop/six has no address of the family that 192.0.2.1 has"),
    ],
)
def test_what_cannot_be_said_is_explained(end: Key | Pod, why: str) -> None:
    with pytest.raises(CannotSayError, match=why):
        ask(*([end] if isinstance(end, Pod) else []), source=end, destination=OUTSIDE)


@pytest.mark.parametrize("text", ["172.16.0.1", "10.0.0.0", "10.0.0.1", "172.16.0.9"])
def test_traffic_with_the_pods_own_node_has_a_caveat(text: str) -> None:
    node = Node("here", (packed("172.16.0.1"),), (network("10.0.0.0/24"),))
    agent = pod("agent", "172.16.0.9", host_network=True)
    far = pod("far", "10.0.9.9", node="there")
    web = pod("web", "10.0.0.7")
    cluster = cluster_of((SHOP, node, agent, far, web, ingress()))
    verdict = evaluate(cluster, packed(text), web.key, TCP, 80)[0]
    assert f"{text} is an address of node here, on which shop/web runs" in verdict.caveat
    assert not verdict.allowed
    assert evaluate(cluster, web.key, packed(text), TCP, 80)[0].caveat
    assert not evaluate(cluster, far.key, packed(text), TCP, 80)[0].caveat
    assert not evaluate(cluster, packed("172.16.0.2"), web.key, TCP, 80)[0].caveat


def test_reasons_say_of_each_rule_what_did_not_match() -> None:
    rule = Rule((Peer(labelled(app="x")), Peer(block=block("10.0.0.0/8", "10.0.0.2/32"))), (Port(UDP, 80),))
    assert reasons(ask(ingress(rule)).ingress) == [
        "shop/client does not match app=x: it has app=client; "
        "10.0.0.2 is in 10.0.0.2/32, an except of 10.0.0.0/8",
        "TCP is not UDP",
    ]


def test_a_label_that_is_written_wrongly_stands_beside_the_right_one() -> None:
    both = Peer(labelled(app="clent", tier="front"), labelled(team="shop"))
    assert reasons(ask(ingress(Rule((both,)))).ingress)[0] == (
        "shop/client does not match app=clent,tier=front: it has app=client, no label tier"
    )
    elsewhere = Peer(namespace_selector=labelled(name="shop"))
    assert reasons(ask(ingress(Rule((elsewhere,)))).ingress)[0] == (
        "namespace shop does not match name=shop: it has no label name"
    )


def test_reasons_beyond_a_few_are_counted() -> None:
    rule = Rule(ports=tuple(Port(TCP, number) for number in range(1, 10)))
    assert reasons(ask(ingress(rule)).ingress)[0].endswith("TCP 80 is not 4 (and 5 more)")


def test_directions_by_name() -> None:
    verdict = ask(egress())
    assert verdict.direction(Direction.EGRESS) is verdict.egress
    assert verdict.direction(Direction.INGRESS) is verdict.ingress
