"""Which addresses of this node pods are known to have, where all others are closed."""

from __future__ import annotations

import msgspec
import pytest

from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import Kind, Node, Pod, kind_of
from agent.policy.engine import Engine
from agent.policy.program import NO_NETWORKS, PodNetworks
from tests.build import network, packed

A, B, SIX = packed("10.0.0.1"), packed("10.0.0.2"), packed("fd00::1")
HERE = Node("here", pod_cidrs=(network("10.0.0.0/24"), network("fd00::/64")))


def pod(name: str = "a", *addresses: bytes, node: str = "here", **fields: object) -> Pod:
    made = Pod("x", name, uid=f"uid-{name}", node=node, addresses=addresses or (A, SIX))
    return msgspec.structs.replace(made, **fields)


def told(engine: Engine, *found: Pod | Node | Event) -> tuple[set[bytes], set[bytes]]:
    """Have the engine take objects in one step; return which addresses came in and went out."""
    events = [Upsert(kind_of(f), f) if isinstance(f, Pod | Node) else f for f in found]
    delta = engine.apply(events, 0.0)
    return delta.admitted, delta.expelled


def closing(*found: Pod | Node) -> Engine:
    engine = Engine("here", deny_new=True)
    told(engine, *found)
    return engine


def test_nothing_is_known_where_new_pods_are_open() -> None:
    engine = Engine("here")
    assert told(engine, pod(), HERE) == (set(), set())
    assert engine.lowered.known is None
    assert engine.lowered.pod_networks == NO_NETWORKS


def test_every_address_of_a_live_pod_here_is_known_whatever_its_policies() -> None:
    engine = Engine("here", deny_new=True)
    assert told(engine, pod(), pod("b", B, node="there")) == ({A, SIX}, set())
    assert engine.lowered.known == {A, SIX} == engine.program.known
    assert told(engine, pod()) == (set(), set())
    assert told(engine, Delete(Kind.POD, pod().key)) == (set(), {A, SIX})
    assert engine.lowered.known == set()
    assert engine.sizes()["known addresses"] == 0


@pytest.mark.parametrize(
    "gone", [{"finished": True}, {"node": "there"}, {"addresses": ()}, {"host_network": True}], ids=str
)
def test_a_pod_that_has_no_address_of_its_own_here_is_not_known(gone: dict[str, object]) -> None:
    engine = closing(pod())
    assert told(engine, msgspec.structs.replace(pod(), **gone)) == (set(), {A, SIX})


def test_an_address_gained_or_lost_is_known_by_itself() -> None:
    engine = closing(pod("a", A))
    assert told(engine, pod("a", A, SIX)) == ({SIX}, set())
    assert told(engine, pod("a", B)) == ({B}, {A, SIX})


def test_another_version_of_a_pod_changes_nothing() -> None:
    engine = closing(pod())
    assert told(engine, pod("a", labels={"app": "other"})) == (set(), set())


def test_an_address_that_passes_to_another_pod_leaves_and_enters() -> None:
    engine = closing(pod("a", A))
    assert told(engine, pod("b", A, started="2024-01-01T00:00:00Z")) == ({A}, {A})
    assert engine.lowered.known == {A}
    assert told(engine, Delete(Kind.POD, pod("a").key)) == (set(), set())


def test_a_pod_made_anew_under_its_name_in_one_step_is_another() -> None:
    engine = closing(pod("a", A))
    assert told(engine, Delete(Kind.POD, pod().key), pod("a", A, uid="uid-other")) == ({A}, {A})


def test_the_networks_are_those_of_this_node() -> None:
    engine = closing(Node("there", pod_cidrs=(network("10.0.1.0/24"),)))
    assert engine.lowered.pod_networks == NO_NETWORKS
    delta = engine.apply([Upsert(Kind.NODE, HERE)], 0.0)
    assert delta.pod_networks
    assert engine.lowered.pod_networks == PodNetworks(frozenset(HERE.pod_cidrs), exclusive=True)


def test_they_stay_when_the_node_tells_none_any_more() -> None:
    engine = closing(HERE)
    for event in (Upsert(Kind.NODE, Node("here")), Delete(Kind.NODE, HERE.key)):
        assert not engine.apply([event], 0.0)
        assert engine.lowered.pod_networks.networks == frozenset(HERE.pod_cidrs)


def test_networks_that_are_given_come_before_those_of_the_node_and_may_be_shared() -> None:
    given = frozenset({network("10.0.0.0/8")})
    engine = Engine("here", deny_new=True, pod_networks=given)
    told(engine, HERE)
    assert engine.lowered.pod_networks == PodNetworks(given, exclusive=False)
