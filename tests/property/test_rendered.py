"""Chains and sets against the evaluator: a kernel to think with judges the packets of random clusters.

Here is what no program shows: the split of ports into matches, marks, the tree of pods.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.options import Options
from agent.kube.events import Delete
from agent.kube.model import (
    IPBlock,
    Kind,
    NamedPort,
    NetworkPolicy,
    Object,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction, Network, Protocol
from agent.policy.engine import Engine
from agent.policy.lower import policy as lowering
from agent.spec.cluster import cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.build import upsert
from tests.property.choices import tried
from tests.property.clusters import RandomCluster, clusters
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.words import HERE

STRANGERS_MARKS = 0x4000 | 0x1


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@tried(clusters(), st.booleans(), st.booleans(), st.sampled_from((0, lowering.FEW_NETWORKS)))
def test_chains_judge_every_packet_as_the_specification_does(
    patch: pytest.MonkeyPatch, random: RandomCluster, accept: bool, marked: bool, few: int
) -> None:
    # Blocks as sets, and as rules where they are few.
    patch.setattr(lowering, "FEW_NETWORKS", few)
    cluster = cluster_of(random.objects)
    engine = Engine(HERE)
    engine.apply(upsert(*random.objects), 0.0)
    kernel = Kernel()
    options = Options(accept=accept)
    assert not make_backend(kernel, options).sync(engine.lowered).faults
    # A pod can put marks on what it sends; those of others must stay, and ours must not count.
    before = STRANGERS_MARKS | (options.both_marks if marked else 0)
    for packet in random.probes(48):
        verdict = judge(cluster, packet)
        judged = [d for d in Direction if _judged_here(random.objects, d, packet)]
        expected = all(verdict.direction(direction).allowed for direction in judged)
        noted = expected and any(verdict.direction(direction).would_deny for direction in judged)
        # The second time its like may be cached.
        for _ in range(2):
            passed, after = kernel.judge(packet, before)
            assert passed == expected, random.disagreement(
                packet, f"the specification says {expected}, the chains {passed}"
            )
            assert kernel.noted == noted, random.disagreement(
                packet, f"the specification says that enforcing denies it: {noted}, the chains {kernel.noted}"
            )
            assert after | options.both_marks == before | options.both_marks
            if passed and any(verdict.direction(d).isolated for d in judged) and not accept:
                assert not after & options.both_marks, "a mark of ours stays on a packet that was judged"


def _judged_here(objects: tuple[Object, ...], direction: Direction, packet: Packet) -> bool:
    address = packet.destination if direction is Direction.INGRESS else packet.source
    pod = owner(cluster_of(objects), address)
    return pod is not None and pod.node == HERE


_rule_shapes = st.tuples(
    st.integers(1, 3),
    st.integers(0, 20),
    st.sampled_from((None, Protocol.TCP, Protocol.UDP)),
    st.booleans(),
)


@given(st.lists(_rule_shapes, min_size=1, max_size=3))
def test_rules_of_many_peers_and_ports_are_kept_apart(
    shapes: list[tuple[int, int, Protocol | None, bool]],
) -> None:
    """Rule number n allows addresses 10.n.0.x and ports 100n+2x, and whoever else has its named port.

    One port is in every rule: whom one rule's peers are not, another's may be. A block that is cut allows
    10.n.0.0/28 but for one address in it.
    """
    rules, peers, ports = [], [bytes((10, 9, 0, 1))], [9, 77]
    for number, (peer_count, port_count, named, cut) in enumerate(shapes):
        sources = [bytes((10, number, 0, last)) for last in range(peer_count)]
        blocks = [IPBlock(Network(s, 32)) for s in sources]
        if cut:
            blocks = [IPBlock(Network(sources[0], 28), (Network(bytes((10, number, 0, 5)), 32),))]
            sources = [bytes((10, number, 0, last)) for last in (0, 5, 6)]
        numbers = [77, *(100 * (number + 1) + 2 * n for n in range(port_count))] if port_count else []
        asked = [Port(Protocol.TCP, n) for n in numbers]
        if named is not None or not asked:
            asked.append(Port(named or Protocol.TCP, f"p-{number}"))
        rules.append(Rule(tuple(Peer(block=block) for block in blocks), tuple(asked)))
        peers += sources
        ports += [*numbers, number + 1]
    here, there = bytes((10, 8, 0, 1)), bytes((10, 8, 0, 2))
    own = tuple(
        NamedPort(f"p-{number}", named or Protocol.TCP, number + 1)
        for number, (_, _, named, _) in enumerate(shapes)
    )
    pod = Pod("red", "a", uid="1", node=HERE, addresses=(here,), ports=own)
    policy = NetworkPolicy("red", "p", ingress=tuple(rules), egress=())
    cluster = RandomCluster((pod, policy))
    engine = Engine(HERE)
    engine.apply(upsert(*cluster.objects), 0.0)
    kernel = Kernel()
    assert not make_backend(kernel).sync(engine.lowered).faults
    known = cluster_of(cluster.objects)
    for peer, port, protocol in product((*peers, there), set(ports), (Protocol.TCP, Protocol.UDP)):
        packet = Packet(peer, here, protocol, port)
        expected = judge(known, packet).allowed
        assert kernel.passes(packet) == expected, cluster.disagreement(
            packet, f"the specification says {expected}"
        )


def _neighbours(numbers: list[int]) -> list[bytes]:
    return [(0x0A000000 + number).to_bytes(4) for number in numbers]


# Few high bits and many low ones: long common prefixes, full nodes, and lonely addresses.
_numbers = st.one_of(st.integers(1, 60), st.integers(1, 60), st.integers(1 << 16, (1 << 16) + 9))
_crowds = st.lists(_numbers, min_size=1, max_size=45, unique=True).map(_neighbours)
_OUTSIDE = bytes((192, 0, 2, 1))


def _own_port(address: bytes) -> int:
    return address[3] + 1000 * address[1]


def _resident(address: bytes) -> list[Object]:
    """Return a pod and a policy of its own: its ports differ from everybody else's, both ways."""
    name = f"pod-{address.hex()}"
    mine = Selector((Requirement("name", Operator.IN, (name,)),))
    inwards = Rule(ports=(Port(Protocol.TCP, _own_port(address)),))
    outwards = Rule(ports=(Port(Protocol.UDP, _own_port(address)),))
    return [
        Pod("red", name, uid=name, labels={"name": name}, node=HERE, addresses=(address,)),
        NetworkPolicy("red", name, mine, (inwards,), (outwards,)),
    ]


@given(_crowds, _crowds, st.integers(0, 1 << 32))
def test_every_pod_of_a_crowded_node_is_judged_by_its_own_chain(
    first: list[bytes], second: list[bytes], seed: int
) -> None:
    engine = Engine(HERE, linger=0)
    engine.apply(upsert(*(one for address in first for one in _resident(address))), 0.0)
    kernel = Kernel()
    backend = make_backend(kernel)
    assert not backend.sync(engine.lowered).faults
    _ask_everybody(kernel, first, seed)
    come = [one for address in second for one in _resident(address)]
    left = [one for address in set(first) - set(second) for one in _resident(address)]
    gone = [Delete(Kind.POD, one.key) for one in left if isinstance(one, Pod)]
    delta = engine.apply([*upsert(*come), *gone], 1.0)
    assert not backend.apply(engine.lowered, delta).faults
    _ask_everybody(kernel, second, seed)
    assert not backend.tidy(engine.lowered).faults
    _ask_everybody(kernel, second, seed)
    fresh = Kernel()
    assert not make_backend(fresh).sync(engine.lowered).faults
    assert kernel.tables == fresh.tables


def _ask_everybody(kernel: Kernel, addresses: list[bytes], seed: int) -> None:
    random = Random(seed)
    for address in addresses:
        own, other = _own_port(address), _own_port(random.choice(addresses))
        for port in (own, other):
            inwards = Packet(_OUTSIDE, address, Protocol.TCP, port)
            outwards = Packet(address, _OUTSIDE, Protocol.UDP, port)
            assert kernel.passes(inwards) == kernel.passes(outwards) == (port == own)
