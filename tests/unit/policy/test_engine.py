"""One step at a time: isolation, sets, ownership, lingering, invalid objects and nodes."""

from __future__ import annotations

import pytest

from agent.kube.events import Delete, Event, Invalid, Problem, Synced
from agent.kube.model import (
    Key,
    Kind,
    Namespace,
    NetworkPolicy,
    Node,
    Peer,
    Pod,
    Port,
    Rule,
    Selector,
)
from agent.net import AddressPort, Direction, Family, Member, Network, Protocol
from agent.policy.engine import Engine
from agent.policy.lower.cost import FEW_NETWORKS
from agent.policy.lower.lowered import LoweredProgram, SetId, SetKind
from agent.policy.program import PodId, PodProgram, PolicyId, network_policies
from tests.build import block, delete_pod, labelled, network, packed, pod, port, upsert

IN, OUT = Direction.INGRESS, Direction.EGRESS
WEB = packed("10.0.0.1")
DENY = NetworkPolicy("shop", "deny", ingress=(), egress=())
FROM_CLIENTS = NetworkPolicy(
    "shop", "p", labelled(app="web"), ingress=(Rule((Peer(labelled(app="client")),)),)
)


def only_set(engine: Engine, kind: SetKind, family: Family = Family.V4) -> tuple[SetId, set[Member]]:
    (found,) = [(i, m) for i, m in engine.lowered.sets.items() if i.kind is kind and i.family is family]
    return found


def test_a_pod_is_isolated_only_in_directions_that_a_policy_names(engine: Engine) -> None:
    ingress_only = NetworkPolicy("shop", "deny", ingress=())
    delta = engine.apply(upsert(pod("web", "10.0.0.1", "fd00::1"), ingress_only), 0)
    both = (WEB, packed("fd00::1"))
    assert engine.lowered.pods == {
        PodId(IN, Key("shop", "web")): PodProgram(both, network_policies((ingress_only.key,)))
    }
    assert delta.isolated == {IN: set(both), OUT: set()}
    assert engine.lowered.policies.keys() == {PolicyId(IN, ingress_only.key)}


def test_policies_of_other_namespaces_and_pods_of_other_nodes_are_not_compiled(engine: Engine) -> None:
    elsewhere = pod("far", "10.0.9.1", node="there")
    assert not engine.apply(
        upsert(pod("web", "10.0.0.1", namespace="other"), elsewhere, DENY, Namespace("shop")), 0
    )
    assert engine.lowered == LoweredProgram()


@pytest.mark.parametrize(
    "excluded",
    [
        pod("web", "10.0.0.1", host_network=True),
        pod("web", "10.0.0.1", finished=True),
        pod("web"),
    ],
)
def test_pods_on_the_host_network_finished_or_without_address_are_no_targets(
    engine: Engine, excluded: Pod
) -> None:
    engine.apply(upsert(DENY, excluded), 0)
    assert engine.lowered == LoweredProgram()


def test_equal_peers_of_several_policies_share_one_set(engine: Engine) -> None:
    rules = FROM_CLIENTS.ingress
    engine.apply(upsert(pod("web", "10.0.0.1"), FROM_CLIENTS, NetworkPolicy("shop", "q", ingress=rules)), 0)
    set_id, members = only_set(engine, SetKind.ADDRESSES)
    assert set_id.meaning == "pods[app=client] namespace[shop]"
    assert members == set()
    delta = engine.apply(upsert(pod("client", "10.0.5.1", node="there")), 0)
    assert delta.members == {set_id: (members, set())}
    assert members == {packed("10.0.5.1")}
    assert not delta.sets_added
    delta = engine.apply([Delete(Kind.POLICY, FROM_CLIENTS.key)], 0)
    assert not delta.sets_removed
    delta = engine.apply([Delete(Kind.POLICY, Key("shop", "q"))], 0)
    assert set_id in delta.sets_removed
    assert not engine.lowered.sets


def test_a_namespace_not_known_matches_no_namespace_selector(engine: Engine) -> None:
    policy = NetworkPolicy("shop", "p", ingress=(Rule((Peer(None, Selector()),)),))
    engine.apply(upsert(policy, pod("web", "10.0.0.1"), pod("far", "10.0.7.1", namespace="x")), 0)
    _, members = only_set(engine, SetKind.ADDRESSES)
    assert members == set()
    engine.apply(upsert(Namespace("x")), 0)
    assert members == {packed("10.0.7.1")}
    engine.apply([Delete(Kind.NAMESPACE, Key("", "x"))], 0)
    assert members == set()


def test_an_address_belongs_to_the_pod_that_started_last(engine: Engine) -> None:
    engine.apply(upsert(FROM_CLIENTS, pod("web", "10.0.0.1"), pod("client", "10.0.5.1", node="there")), 0)
    set_id, members = only_set(engine, SetKind.ADDRESSES)
    later = pod("other", "10.0.5.1", node="there", started="2024-01-02T00:00:00Z")
    delta = engine.apply(upsert(later), 0)
    assert members == set()
    assert delta.released == {packed("10.0.5.1")}
    delta = engine.apply([delete_pod("other")], 0)
    assert members == {packed("10.0.5.1")}
    assert delta.members[set_id].added == members


def test_an_address_that_was_in_a_set_that_goes_in_the_same_step_is_released(engine: Engine) -> None:
    client, late = (
        pod(name, address, node="there", app="client")
        for name, address in (("c", "10.0.5.1"), ("l", "10.0.5.2"))
    )
    engine.apply(upsert(FROM_CLIENTS, pod("web", "10.0.0.1"), client), 0)
    gone = [delete_pod("c"), *upsert(late), delete_pod("l"), Delete(Kind.POLICY, FROM_CLIENTS.key)]
    delta = engine.apply(gone, 0)
    assert delta.sets_removed
    assert delta.released == {packed("10.0.5.1")}


def test_an_address_that_leaves_and_comes_back_in_one_step_is_not_in_the_delta(engine: Engine) -> None:
    client = pod("client", "10.0.5.1", node="there")
    engine.apply(upsert(FROM_CLIENTS, pod("web", "10.0.0.1"), client), 0)
    assert not engine.apply([delete_pod("client"), *upsert(client)], 0)
    another = pod("client", "10.0.5.1", node="there", uid="another")
    delta = engine.apply([delete_pod("client"), *upsert(another)], 0)
    assert not delta.members
    assert delta.released == {packed("10.0.5.1")}


def test_local_addresses_are_told_among_the_members_that_changed(engine: Engine) -> None:
    far, near = pod("c1", "10.0.5.1", node="there", app="client"), pod("c2", "10.0.0.2", app="client")
    engine.apply(upsert(FROM_CLIENTS, pod("web", "10.0.0.1")), 0)
    assert engine.apply(upsert(far, near), 0).local == {packed("10.0.0.2")}
    assert engine.apply([delete_pod("c1"), delete_pod("c2")], 0).local == {packed("10.0.0.2")}


def test_the_namespace_annotation_isolates_every_pod_for_ingress(engine: Engine) -> None:
    engine.apply(upsert(pod("web", "10.0.0.1"), Namespace("shop", {}, ingress_isolated=True)), 0)
    assert engine.lowered.isolated(IN, Family.V4) == {WEB}
    assert engine.lowered.isolated(OUT, Family.V4) == set()
    engine.apply(upsert(Namespace("shop")), 0)
    assert engine.lowered == LoweredProgram()


@pytest.mark.parametrize("then", [Delete(Kind.NAMESPACE, Key("", "shop")), *upsert(Namespace("shop"))])
def test_an_invalid_namespace_that_asks_for_isolation_isolates_until_it_is_told_otherwise(
    engine: Engine, then: Event
) -> None:
    closed = NetworkPolicy("shop", "annotation", ingress=())
    invalid = Invalid(Kind.NAMESPACE, Key("", "shop"), (Problem("metadata", "wrong"),), closed)
    engine.apply([*upsert(pod("web", "10.0.0.1")), invalid], 0)
    assert engine.lowered.isolated(IN, Family.V4) == {WEB}
    engine.apply([then], 0)
    assert engine.lowered == LoweredProgram()
    # A last good version holds, whatever the invalid one asks for.
    engine.apply([*upsert(Namespace("shop")), invalid], 0)
    assert engine.lowered == LoweredProgram()


@pytest.mark.parametrize("peers", [(), (Peer(Selector()),)])
def test_a_port_name_is_that_of_one_protocol(engine: Engine, peers: tuple[Peer, ...]) -> None:
    asked = (Port(Protocol.TCP, "web"), Port(Protocol.UDP, "dns"))
    ports = {
        "10.0.0.1": (port("web", 80, Protocol.UDP),),
        "10.0.0.2": (port("dns", 53),),
        "10.0.0.3": (port("web", 80), port("web", 81, Protocol.UDP)),
        "10.0.0.4": (port("dns", 53, Protocol.UDP),),
    }
    servers = (pod(f"p{address[-1]}", address, ports=of) for address, of in ports.items())
    engine.apply(upsert(NetworkPolicy("shop", "p", egress=(Rule(peers, asked),)), *servers), 0)
    _, members = only_set(engine, SetKind.ADDRESS_PORTS)
    assert members == {
        AddressPort(packed("10.0.0.3"), Protocol.TCP, 80),
        AddressPort(packed("10.0.0.4"), Protocol.UDP, 53),
    }


def test_an_ingress_port_name_resolves_on_every_local_pod(engine: Engine) -> None:
    named = NetworkPolicy("shop", "p", ingress=(Rule((), (Port(Protocol.TCP, "http"),)),))
    engine.apply(
        upsert(
            named,
            pod("a", "10.0.0.1", ports=(port("http", 80),)),
            pod("b", "10.0.0.2", ports=(port("http", 8080), port("http", 53, Protocol.UDP))),
            pod("far", "10.0.9.1", node="there", ports=(port("http", 80),)),
        ),
        0,
    )
    set_id, members = only_set(engine, SetKind.ADDRESS_PORTS)
    assert members == {
        AddressPort(WEB, Protocol.TCP, 80),
        AddressPort(packed("10.0.0.2"), Protocol.TCP, 8080),
    }
    (rule,) = engine.lowered.policies[PolicyId(IN, named.key)].v4
    assert (rule.peers, rule.ports, rule.named) == (None, (), (set_id,))


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ((), {"10.0.5.1": 80, "10.0.6.1": 81}),
        ((Peer(labelled(app="db")),), {"10.0.5.1": 80}),
        ((Peer(None, None, block("10.0.0.0/16", "10.0.5.0/24")),), {"10.0.6.1": 81}),
        ((Peer(None, Selector()),), {}),
    ],
)
def test_an_egress_port_name_resolves_on_each_peer(
    engine: Engine, peers: tuple[Peer, ...], expected: dict[str, int]
) -> None:
    named = NetworkPolicy(
        "shop", "p", labelled(app="web"), egress=(Rule(peers, (Port(Protocol.TCP, "http"),)),)
    )
    engine.apply(
        upsert(
            named,
            pod("web", "10.0.0.1"),
            pod("db", "10.0.5.1", node="there", ports=(port("http", 80),)),
            pod("far", "10.0.6.1", node="there", namespace="unknown", ports=(port("http", 81),)),
        ),
        0,
    )
    _, members = only_set(engine, SetKind.ADDRESS_PORTS)
    assert members == {AddressPort(packed(a), Protocol.TCP, n) for a, n in expected.items()}
    (rule,) = engine.lowered.policies[PolicyId(OUT, named.key)].v4
    assert (rule.peers, rule.ports, rule.named) == ((), (), ())


def test_a_rule_is_left_out_of_a_family_in_which_it_can_match_nothing(engine: Engine) -> None:
    policy = NetworkPolicy("shop", "p", ingress=(Rule(), Rule((Peer(None, None, block("10.0.0.0/8")),))))
    engine.apply(upsert(policy, pod("web", "10.0.0.1", "fd00::1")), 0)
    program = engine.lowered.policies[PolicyId(IN, policy.key)]
    assert [rule.number for rule in program.v4] == [0, 1]
    assert [rule.number for rule in program.v6] == [0]


def test_in_a_family_of_no_pod_here_there_are_no_rules_and_no_sets(engine: Engine) -> None:
    policy = NetworkPolicy("shop", "p", ingress=(Rule((Peer(labelled(app="client")),)),))
    client = pod("client", "10.0.0.9", "fd00::9", node="there")
    engine.apply(upsert(policy, client, pod("web", "10.0.0.1")), 0)
    policy_id = PolicyId(IN, policy.key)
    assert engine.lowered.policies[policy_id].v6 == ()
    assert {set_id.family for set_id in engine.lowered.sets} == {Family.V4}
    delta = engine.apply(upsert(pod("db", "fd00::2")), 1)
    assert len(engine.lowered.policies[policy_id].v6) == 1
    assert {set_id.family for set_id in delta.sets_added} == {Family.V6}
    delta = engine.apply([delete_pod("db")], 2)
    assert {set_id.family for set_id in delta.sets_removed} == {Family.V6}
    assert engine.lowered.policies[policy_id].v6 == ()


def test_an_empty_peer_matches_nothing(engine: Engine) -> None:
    policy = NetworkPolicy("shop", "p", ingress=(Rule((Peer(),)),))
    engine.apply(upsert(policy, pod("web", "10.0.0.1")), 0)
    assert engine.lowered.policies[PolicyId(IN, policy.key)] == ((), ())


def test_an_invalid_policy_keeps_its_last_good_version(engine: Engine) -> None:
    engine.apply(upsert(FROM_CLIENTS, pod("web", "10.0.0.1")), 0)
    problems = (Problem("spec.ingress", "wrong"),)
    assert not engine.apply([Invalid(Kind.POLICY, FROM_CLIENTS.key, problems, DENY)], 0)
    assert [(held.key, held.problems) for held in engine.invalid()] == [(FROM_CLIENTS.key, problems)]
    assert not engine.apply(upsert(FROM_CLIENTS), 0)
    assert engine.invalid() == []


def test_an_invalid_policy_never_known_good_closes_what_it_selects(engine: Engine) -> None:
    closed = NetworkPolicy("shop", "p", labelled(app="web"), ingress=())
    invalid = Invalid(Kind.POLICY, closed.key, (Problem("spec", "wrong"),), closed)
    engine.apply([*upsert(pod("web", "10.0.0.1")), invalid], 0)
    assert engine.lowered.isolated(IN, Family.V4) == {WEB}
    assert engine.policies == 1
    engine.apply([Delete(Kind.POLICY, closed.key)], 0)
    assert engine.lowered == LoweredProgram()
    assert engine.invalid() == []


def test_other_nodes_may_reach_pods_only_when_the_setting_says_so() -> None:
    node = Node("there", (packed("192.168.0.2"),), (network("10.0.5.0/24"), network("10.0.6.1/32")))
    assert not Engine("here").apply(upsert(node), 0)
    engine = Engine("here", allow_nodes=True)
    assert engine.apply(upsert(node), 0).node_networks
    hosts = ("192.168.0.2", "10.0.5.0", "10.0.5.1", "10.0.6.1")
    assert engine.lowered.node_networks == {Network(packed(host), 32) for host in hosts}
    assert not engine.apply(upsert(node), 0).node_networks
    assert engine.apply([Delete(Kind.NODE, Key("", "there"))], 0).node_networks


def test_this_nodes_own_networks_are_none_of_other_nodes() -> None:
    """They lead to its pods, which would then count as coming from where other nodes are."""
    engine = Engine("here", allow_nodes=True)
    own = Node("here", (packed("192.168.0.1"),), (network("10.0.4.0/24"),))
    assert not engine.apply(upsert(own), 0)
    assert not engine.lowered.node_networks


def test_views_tell_counts_local_pods_and_sync(engine: Engine) -> None:
    engine.apply(upsert(FROM_CLIENTS, pod("web", "10.0.0.1"), pod("far", "10.0.9.1", node="there")), 0)
    assert (engine.pods, engine.policies, engine.namespaces) == (2, 1, 0)
    (local,) = engine.local_pods()
    assert (local.key, local.addresses) == (Key("shop", "web"), (WEB,))
    assert (local.ingress, local.egress) == ((FROM_CLIENTS.key,), ())
    assert not engine.synced(Kind.POD)
    engine.apply([Synced(Kind.POD)], 0)
    assert engine.synced(Kind.POD)


def test_deleting_what_was_never_known_does_nothing(engine: Engine) -> None:
    assert not engine.apply([Delete(kind, Key("x", "y")) for kind in Kind], 0)


def test_an_address_that_only_an_ip_block_named_is_not_released(engine: Engine) -> None:
    # So many that they are a set.
    blocks = Rule(tuple(Peer(None, None, block(f"10.0.{5 + n}.1/32")) for n in range(FEW_NETWORKS + 1)))
    policy = NetworkPolicy("shop", "p", ingress=(blocks,))
    engine.apply(
        upsert(policy, pod("web", "10.0.0.1"), pod("far", "10.0.5.1", node="there", namespace="x")), 0
    )
    delta = engine.apply([Delete(Kind.POLICY, policy.key), delete_pod("far", "x")], 0)
    assert delta.sets_removed
    assert not delta.released
