"""Random clusters: small worlds where names, labels and addresses meet often, biased to the corners."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from agent.kube.events import Delete, Event, Invalid, Problem, Synced, Upsert
from agent.kube.model import (
    IPBlock,
    Key,
    Kind,
    NamedPort,
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
from agent.net import Protocol
from agent.policy.budget.limits import DEFAULT, Budgets, NamespaceBudget, PolicyBudget
from agent.policy.lower.cost import MANY_PEERS
from agent.spec.verdict import Packet
from tests.property.networks import network_of

HERE = "here"
"""The node that the tests compile for."""

NAMESPACES = ("red", "blue", "ghost")

ADDRESSES_4 = tuple(
    ipaddress.ip_address(a).packed
    for a in (
        "0.0.0.1",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.1",
        "127.255.255.255",
        "128.0.0.0",
        "255.255.255.255",
    )
)
ADDRESSES_6 = tuple(
    ipaddress.ip_address(a).packed
    for a in ("::1", "fd00::1", "fd00::2", "fd00:0:0:1::1", "7fff:" + ":".join(["ffff"] * 7), "8000::")
)
ADDRESSES = ADDRESSES_4 + ADDRESSES_6

LABEL_KEYS = ("app", "tier", "in")
LABEL_VALUES = ("a", "b", "")
PORT_NAMES = ("http", "dns")
NUMBERS = (53, 80, 81, 65535)

# Most labels and selectors are of a few, so that pods are selected, and sets shared, more often than not.
labels = st.one_of(
    st.sampled_from(({"app": "a"}, {"app": "b"})),
    st.dictionaries(st.sampled_from(LABEL_KEYS), st.sampled_from(LABEL_VALUES), max_size=2),
)


def requirement(key: str, operator: Operator, values: Iterable[str]) -> Requirement:
    """Return a requirement, with values where its operator takes them."""
    with_values = operator in (Operator.IN, Operator.NOT_IN)
    return Requirement(key, operator, tuple(sorted(values)) if with_values else ())


requirements = st.builds(
    requirement,
    st.sampled_from(LABEL_KEYS),
    st.sampled_from(list(Operator)),
    st.frozensets(st.sampled_from(LABEL_VALUES), min_size=1, max_size=2),
)

APP_A = Requirement("app", Operator.IN, ("a",))
selectors = st.one_of(
    st.sampled_from((Selector(), Selector((APP_A,)))),
    st.frozensets(requirements, max_size=2).map(lambda found: Selector(tuple(sorted(found)))),
)


@st.composite
def blocks(draw: st.DrawFn) -> IPBlock:
    pool = draw(st.sampled_from((ADDRESSES_4, ADDRESSES_6)))
    bits = 8 * len(pool[0])
    prefixes = (0, 0, 1, 2, 8, bits - 8, bits - 1, bits)
    cidr = network_of(draw(st.sampled_from(pool)), draw(st.sampled_from(prefixes)))
    inner = [p for p in {*prefixes, cidr.prefix + 1, cidr.prefix + 2} if cidr.prefix < p <= bits]
    inside = [a for a in pool if network_of(a, cidr.prefix) == cidr]
    if not inner:
        return IPBlock(cidr)
    excepts = st.builds(network_of, st.sampled_from(inside), st.sampled_from(sorted(inner)))
    return IPBlock(cidr, tuple(draw(st.lists(excepts, max_size=3))))


# Every field is given: what is left out would be guessed from its type, with values that are not valid.
_none = st.none()

peers = st.one_of(
    st.builds(Peer, selectors, _none, _none),
    st.builds(Peer, _none, selectors, _none),
    st.builds(Peer, selectors, selectors, _none),
    st.builds(Peer, _none, _none, blocks()),
    st.builds(Peer, _none, _none, blocks()),
    st.just(Peer()),
)

protocols = st.sampled_from((Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP))


def _range(protocol: Protocol, one: int, other: int) -> Port:
    return Port(protocol, min(one, other), max(one, other))


ports = st.one_of(
    st.builds(Port, protocols, st.sampled_from(PORT_NAMES), _none),
    st.builds(Port, protocols, st.sampled_from(NUMBERS), _none),
    st.builds(_range, protocols, st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)),
    st.builds(Port, protocols, _none, _none),
)

_COMMON_RULES = (
    Rule((Peer(Selector((APP_A,))),)),
    Rule((Peer(None, Selector()),)),
    Rule((Peer(Selector((APP_A,)), Selector()),), (Port(Protocol.TCP, "http"),)),
    Rule((Peer(Selector((APP_A,))),), (Port(Protocol.TCP, "http"), Port(Protocol.TCP, 80))),
)

_MANY = st.lists(
    st.builds(Peer, st.one_of(_none, selectors), selectors, _none),
    min_size=MANY_PEERS + 1,
    max_size=MANY_PEERS + 4,
    unique=True,
).map(tuple)
"""So many that they share a set."""

rules = st.one_of(
    st.sampled_from(_COMMON_RULES),
    st.builds(Rule, _MANY, st.lists(ports, max_size=2).map(tuple)),
    st.builds(Rule, st.lists(peers, max_size=3).map(tuple), st.lists(ports, max_size=3).map(tuple)),
    st.builds(Rule, st.lists(peers, max_size=3).map(tuple), st.lists(ports, max_size=3).map(tuple)),
)

directions = st.one_of(st.none(), st.lists(rules, max_size=2).map(tuple))

policy_keys = st.builds(Key, st.sampled_from(NAMESPACES), st.sampled_from(("p", "q", "r")))

policy_specs = st.tuples(selectors, directions, directions)


def _policy(
    key: Key, spec: tuple[Selector, tuple[Rule, ...] | None, tuple[Rule, ...] | None]
) -> NetworkPolicy:
    return NetworkPolicy(key.namespace, key.name, *spec)


def _named_ports(found: list[NamedPort]) -> tuple[NamedPort, ...]:
    return tuple({(p.name, p.protocol): p for p in reversed(found)}.values())


named_ports = st.lists(
    st.builds(NamedPort, st.sampled_from(PORT_NAMES), protocols, st.sampled_from(NUMBERS)), max_size=3
).map(_named_ports)

pod_keys = st.builds(Key, st.sampled_from(NAMESPACES), st.sampled_from(("a", "b", "c")))

_rarely = st.sampled_from((False,) * 7 + (True,))


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    key = draw(pod_keys)
    return Pod(
        key.namespace,
        key.name,
        uid=draw(st.sampled_from(("1", "2", ""))),
        labels=draw(labels),
        node=draw(st.sampled_from((HERE, HERE, "there", ""))),
        addresses=tuple(draw(st.lists(st.sampled_from(ADDRESSES), max_size=3))),
        ports=draw(named_ports),
        host_network=draw(_rarely),
        finished=draw(_rarely),
        started=draw(st.sampled_from(("", "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"))),
        created=draw(st.sampled_from(("", "2024-01-01T00:00:00Z"))),
    )


namespaces = st.builds(Namespace, st.sampled_from(NAMESPACES[:2]), labels, _rarely)

nodes = st.builds(
    Node,
    st.sampled_from((HERE, "there")),
    st.lists(st.sampled_from(ADDRESSES), max_size=2).map(tuple),
    st.lists(
        st.sampled_from(
            (network_of(ADDRESSES_4[1], 24), network_of(ADDRESSES_4[1], 32), network_of(ADDRESSES_6[1], 64))
        ),
        max_size=2,
    ).map(tuple),
)

policies = st.builds(_policy, policy_keys, policy_specs)


@st.composite
def invalids(draw: st.DrawFn) -> Invalid:
    key = draw(policy_keys)
    closed = None
    if draw(st.booleans()):
        closed = NetworkPolicy(
            key.namespace, key.name, draw(selectors), ingress=(), egress=draw(_closed_egress)
        )
    return Invalid(Kind.POLICY, key, (Problem("spec", "wrong"),), closed)


_closed_egress = st.sampled_from(((), None))

_namespace_keys = st.builds(Key, st.just(""), st.sampled_from(NAMESPACES))

upserts = st.one_of(
    st.builds(Upsert, st.just(Kind.POD), pods()),
    st.builds(Upsert, st.just(Kind.POD), pods()),
    st.builds(Upsert, st.just(Kind.POLICY), policies),
    st.builds(Upsert, st.just(Kind.POLICY), policies),
    st.builds(Upsert, st.just(Kind.NAMESPACE), namespaces),
    st.builds(Upsert, st.just(Kind.NODE), nodes),
)

deletes = st.one_of(
    st.builds(Delete, st.just(Kind.POD), pod_keys),
    st.builds(Delete, st.just(Kind.POLICY), policy_keys),
    st.builds(Delete, st.just(Kind.NAMESPACE), _namespace_keys),
    st.builds(Delete, st.just(Kind.NODE), st.builds(Key, st.just(""), st.sampled_from((HERE, "there")))),
)

events: st.SearchStrategy[Event] = st.one_of(
    upserts, upserts, deletes, invalids(), st.builds(Synced, st.sampled_from(list(Kind)))
)


member_budgets = st.builds(
    lambda own, whole: Budgets(PolicyBudget(members=own), NamespaceBudget(members=whole)),
    st.integers(0, 20),
    st.integers(0, 40),
)
"""How these close and open policies depends on what was, so not every test can take them."""

budgets = st.one_of(
    st.just(DEFAULT),
    st.builds(
        Budgets,
        st.builds(PolicyBudget, st.integers(0, 40), st.integers(0, 8), st.integers(0, 8), st.just(1_000_000)),
        st.builds(
            NamespaceBudget,
            st.integers(0, 3),
            st.integers(0, 100),
            st.integers(0, 12),
            st.integers(0, 12),
            st.just(1_000_000),
        ),
    ),
)
"""Mostly so small that some policies are over them."""


class Batch(NamedTuple):
    """Events that come together, and the seconds that passed since the batch before."""

    seconds: float
    events: tuple[Event, ...]


batches = st.builds(Batch, st.sampled_from((0.0, 1.0, 59.0, 61.0)), st.lists(events, max_size=6).map(tuple))

histories = st.tuples(
    st.lists(upserts, min_size=4, max_size=12).map(lambda found: Batch(0.0, tuple(found))),
    st.lists(batches, max_size=6),
).map(lambda parts: [parts[0], *parts[1]])


ICMP = 1

probes = st.one_of(
    *(
        st.builds(
            Packet,
            st.sampled_from(pool),
            st.sampled_from(pool),
            st.sampled_from((*map(int, Protocol), ICMP)),
            st.sampled_from((*NUMBERS, 0, 79)),
        )
        for pool in (ADDRESSES_4, ADDRESSES_6)
    )
)
