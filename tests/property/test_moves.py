"""Every state that packets meet while labels move pods from one side of a verdict to the other.

Where :mod:`tests.property.test_steps` looks everywhere, this looks where two directions, or two sets of one
direction, change at once: few pods, all on this node, and policies about the very labels that change.
"""

from __future__ import annotations

import operator
from itertools import permutations, product

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.kube.events import Delete, Event
from agent.kube.model import (
    Key,
    Kind,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction, Protocol
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import packed, upsert
from tests.property.interpreter import program_allows
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.oracle import World
from tests.property.test_compiler import snapshot
from tests.property.test_steps import Watch
from tests.property.words import HERE

_LABELS = ({"app": "a"}, {"app": "b"})
_A, _B = (Selector((Requirement("app", Operator.IN, (value,)),)) for value in "ab")
_PLACES = (Key("red", "1"), Key("red", "2"), Key("blue", "1"))
_ADDRESSES = tuple(map(packed, ("10.0.0.1", "10.0.0.2", "10.0.1.1")))

_peers = st.sampled_from((Peer(_A), Peer(_B), Peer(None, _A), Peer(None, _B), Peer(_A, _B)))
_ports = st.sampled_from(
    ((), (), (Port(Protocol.TCP, 80),), (Port(Protocol.TCP, "http"),), (Port(Protocol.TCP, 80, 81),))
)
_rules = st.builds(Rule, st.lists(_peers, min_size=1, max_size=2).map(tuple), _ports)
_sides = st.one_of(st.none(), st.lists(_rules, min_size=1, max_size=2).map(tuple))
_names = st.sampled_from(("red", "blue")), st.sampled_from(("p", "q"))
_targets = st.sampled_from((Selector(), Selector(), _A, _B))
# One peer each way: what moves from the one to the other is allowed by neither state.
_crossing = _peers.map(lambda peer: (Rule((peer,)),))
_named = st.just((Rule((), (Port(Protocol.TCP, "http"),)),))
_policies = st.one_of(
    st.builds(NetworkPolicy, *_names, _targets, _sides, _sides),
    st.builds(NetworkPolicy, *_names, st.just(Selector()), _crossing, _crossing),
    st.builds(NetworkPolicy, *_names, _targets, _named, st.none()),
)
_namespaces = st.builds(Namespace, st.sampled_from(("red", "blue")), st.sampled_from(_LABELS), st.just(False))


def _pod(place: int, labels: dict[str, str], number: int) -> Pod:
    key = _PLACES[place]
    ports = (NamedPort("http", Protocol.TCP, number),)
    return Pod(key.namespace, key.name, "uid", labels, HERE, (_ADDRESSES[place],), ports)


_pods = st.builds(_pod, st.integers(0, 2), st.sampled_from(_LABELS), st.sampled_from((80, 81)))
_events = st.one_of(
    st.one_of(_pods, _pods, _namespaces, _namespaces, _policies).map(lambda one: upsert(one)[0]),
    _policies.map(lambda one: Delete(Kind.POLICY, one.key)),
)
_PACKETS = [
    Packet(source, destination, *service)
    for (source, destination), service in product(
        permutations(_ADDRESSES, 2), ((Protocol.TCP, 80), (Protocol.TCP, 81), (Protocol.UDP, 53))
    )
]


@st.composite
def _beginnings(draw: st.DrawFn) -> list[Event]:
    found: list[Event] = []
    for place in range(len(_PLACES)):
        found += upsert(_pod(place, draw(st.sampled_from(_LABELS)), 80))
    for name in ("red", "blue"):
        found += upsert(Namespace(name, draw(st.sampled_from(_LABELS))))
    return found + upsert(*draw(st.lists(_policies, min_size=1, max_size=3)))


_told_of_namespaces = _namespaces.map(upsert)
_told = st.one_of(
    _events.map(lambda event: [event]),
    _events.map(lambda event: [event]),
    st.builds(operator.add, _told_of_namespaces, _told_of_namespaces),
    st.builds(operator.add, _told_of_namespaces, _policies.map(upsert)),
)
"""Not a pod with anything else: one that comes under a policy as its peers come too may wait for them."""
_steps = st.tuples(st.sampled_from((False, False, True)), _told)


# Each is quick, and what is looked for takes two or three things to come together.
@settings(max_examples=4 * settings().max_examples)
@given(_beginnings(), st.lists(_steps, min_size=4, max_size=10))
def test_no_packet_passes_that_neither_old_nor_new_labels_allow(
    beginning: list[Event], steps: list[tuple[bool, list[Event]]]
) -> None:
    follow(beginning, steps)


def follow(beginning: list[Event], steps: list[tuple[bool, list[Event]]]) -> None:
    """Go through steps, each with or without a restart, and look at every state on the way."""
    engine = Engine(HERE)
    engine.apply(beginning, 0.0)
    world = World()
    for event in beginning:
        world.take(event)
    kernel = Kernel()
    backend = make_backend(kernel)
    assert not backend.sync(engine.lowered).faults
    for number, (restarted, events) in enumerate(steps, start=1):
        before = snapshot(engine.lowered)
        delta = engine.apply(events, float(number))
        for event in events:
            world.take(event)
        for packet, direction in product(_PACKETS, Direction):
            allowed = program_allows(engine.lowered, direction, packet)
            assert allowed == world.allows(direction, packet), (direction, packet)
        # After a restart an address that leaves a set may have changed hands: it is denied first.
        released = set(_ADDRESSES) if restarted else delta.released
        watch = Watch(kernel, before, engine.lowered, _PACKETS, released)
        if restarted:
            backend = make_backend(kernel)
            report = backend.sync(engine.lowered)
            # None here did, so no connection need be forgotten.
            watch.log.clear()
        else:
            report = backend.apply(engine.lowered, delta)
        assert not report.faults
        watch.done()


_HTTP = NetworkPolicy("red", "p", ingress=(Rule((), (Port(Protocol.TCP, "http"),)),))


def test_a_pod_that_comes_into_reach_and_changes_its_port_is_reached_by_neither() -> None:
    to_a = NetworkPolicy("red", "q", egress=(Rule((Peer(_A),)),))
    beginning = upsert(_pod(0, _LABELS[1], 80), _pod(1, _LABELS[0], 80), Namespace("red"), _HTTP, to_a)
    follow(beginning, [(False, upsert(_pod(0, _LABELS[0], 81)))])
    follow(upsert(_pod(0, _LABELS[0], 81)) + beginning[1:], [(False, beginning[:1])])


def test_a_pod_that_changes_policies_and_is_renumbered_at_once_is_not_denied_on_its_way() -> None:
    from_a = NetworkPolicy("red", "q", _A, ingress=(Rule((Peer(_A),)),))
    beginning = upsert(_pod(0, _LABELS[0], 80), _pod(1, _LABELS[0], 80), _HTTP, from_a)
    follow(beginning, [(False, upsert(_pod(0, _LABELS[1], 81)))])


def test_pods_that_are_opened_together_are_not_denied_as_their_namespace_is_relabelled() -> None:
    to_b = (Rule((Peer(None, _B),)),)
    both = NetworkPolicy("red", "p", egress=to_b), NetworkPolicy("blue", "p", egress=to_b)
    pods = upsert(*(_pod(place, _LABELS[0], 80) for place in range(3)))
    beginning = pods + upsert(Namespace("red", _LABELS[1]), *both)
    opening = upsert(Namespace("red", _LABELS[0]), NetworkPolicy("red", "p"))
    follow(beginning, [(False, opening)])
    follow(pods + opening + upsert(both[1]), [(False, upsert(Namespace("red", _LABELS[1]), both[0]))])


def test_a_pod_that_is_opened_and_renumbered_at_once_is_not_denied_on_its_way() -> None:
    only_a = NetworkPolicy("red", "p", _A, ingress=_HTTP.ingress)
    beginning = upsert(_pod(0, _LABELS[0], 80), _pod(1, _LABELS[0], 80), only_a)
    follow(beginning, [(False, upsert(_pod(0, _LABELS[1], 81)))])
