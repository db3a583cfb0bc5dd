"""``replay`` against packets: on random clusters it names exactly what a random change then cuts and opens.

What was seen are the connections that the policed node's kernel tracks after real packets have passed, and
reports of those that were denied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from random import Random

import msgspec

from agent.clock import moment
from agent.commands.replay import Asked, from_agents
from agent.dataplane.logged import Decided
from agent.kernel import conntrack
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import read_own_addresses
from agent.kube.model import NetworkPolicy, Object, Operator, Pod, Requirement, Rule, Selector
from agent.net import Direction, Protocol, address_text
from agent.observe.flows.flow import End, Flow
from agent.observe.replay.change import Change
from agent.observe.replay.here import Here, Surroundings, Witness, decode
from agent.observe.replay.replayed import Moved
from agent.observe.replay.seen import protocol_number
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.build import packed
from tests.conftest import Measured
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.enforcer import Enforcer
from tests.kernel.exact.plan import is_local, plan
from tests.kernel.exact.samples import samples
from tests.lab.backends import USUAL
from tests.lab.node import Layout
from tests.lab.probe import Verdict
from tests.property.words import HERE

CLUSTERS = 8
"""Of each layout."""


def change_of(random: Random, objects: Iterable[Object], others: Iterable[Object]) -> Change:
    """Return a change: policies without one of their rules, or removed, new ones, and those of others."""
    policies = {one.key: one for one in others if isinstance(one, NetworkPolicy) and random.random() < 0.5}
    removed = set()
    for one in objects:
        if isinstance(one, NetworkPolicy) and one.key not in policies:
            fate = random.random()
            if fate < 0.25:
                removed.add(one.key)
            elif fate < 0.6:
                kept = (_without_one(random, one.ingress), _without_one(random, one.egress))
                policies[one.key] = msgspec.structs.replace(one, ingress=kept[0], egress=kept[1])
        elif isinstance(one, Pod) and one.judged and random.random() < 0.3:
            labels = tuple(Requirement(k, Operator.IN, (v,)) for k, v in sorted(one.labels.items()))
            closed = random.choice([((), None), (None, ()), ((), ())])
            made = NetworkPolicy(one.namespace, f"new-{one.name}", Selector(labels), *closed)
            policies[made.key] = made
    return Change(policies, frozenset(removed))


def _without_one(random: Random, rules: tuple[Rule, ...] | None) -> tuple[Rule, ...] | None:
    if not rules:
        return rules
    out = random.randrange(len(rules))
    return rules[:out] + rules[out + 1 :]


def report(cluster: Cluster, packet: Packet) -> Flow:
    """Return what a log would have of a denied packet, as far as a replay reads it."""
    ends = []
    for address in packet[:2]:
        pod = owner(cluster, address)
        ends.append(End(address_text(address), None, str(pod.key) if pod is not None else ""))
    return Flow(
        number=1,
        first=moment(0.0),
        last=moment(0.0),
        verdict=Decided.DENIED,
        direction=Direction.INGRESS,
        pod="",
        protocol=Protocol(packet.protocol).name,
        source=ends[0],
        destination=msgspec.structs.replace(ends[1], port=packet.port),
        why="",
    )


def witness_of(enforcer: Enforcer) -> Witness:
    """Return what tells on the policed node what it has seen."""
    engine = enforcer.engine

    def around() -> Surroundings:
        with NetlinkSocket(ROUTE) as netlink:
            return Surroundings(frozenset(read_own_addresses(netlink)))

    return Witness(
        node=HERE,
        extract=engine.extract,
        pods=engine.all_pods,
        local=lambda: frozenset(a for pod in engine.local_pods() for a in pod.addresses),
        tracked=conntrack.tracked,
        around=around,
        reports=list,
    )


def told(arena: Arena, witness: Witness, query: Mapping[str, str]) -> Here:
    """Return what the agent of the policed node would tell, as it comes over the wire."""
    with arena.kernel():
        ends = query.get("ends")
        return decode(msgspec.json.encode(witness.about(ends.split(",")) if ends else witness.tell()))


def packets_of(some: Iterable[Moved]) -> set[Packet]:
    found = set()
    for moved in some:
        protocol, _, port = moved.port.partition("/")
        number = protocol_number(protocol.upper())
        assert number is not None
        found.add(_packet(moved.source, moved.destination, number, int(port)))
    return found


def _packet(source: str, destination: str, protocol: int, port: int) -> Packet:
    return Packet(packed(source), packed(destination), protocol, port)


def passing(arena: Arena, packets: list[Packet]) -> set[Packet]:
    """Return which packets pass. One that does not is sent again, since packets can be lost."""
    found = {p for p, v in zip(packets, arena.probe(packets), strict=True) if v is Verdict.ALLOWED}
    missing = [packet for packet in packets if packet not in found]
    again = arena.probe(missing) if missing else []
    return found | {p for p, v in zip(missing, again, strict=True) if v is Verdict.ALLOWED}


def test_replay_names_exactly_what_the_change_then_cuts_and_opens(arena: Arena, measured: Measured) -> None:
    start = list(Layout).index(arena.layout) + 1900
    worlds, random = samples(start), Random(start)
    enforcer = Enforcer(arena, USUAL[0])
    # Probes end with a reset, and are asked about again when the change has been thought of.
    remembered = "net.netfilter.nf_conntrack_tcp_timeout_close"
    arena.here.netns.sysctl({remembered: 600})
    tally: Counter[str] = Counter()
    try:
        for _ in range(CLUSTERS):
            objects, others = next(worlds), next(worlds)
            enforcer.move(objects, random)
            cluster = cluster_of(objects)
            packets = [one.packet for one in plan(arena, objects, random)]
            arena.here.run("conntrack", "-F")
            passed = passing(arena, packets)
            witness = witness_of(enforcer)
            here = told(arena, witness, {})
            seen = {_packet(*one.sort[:4]) for one in here.connections}
            local = {p for p in passed if any(is_local(cluster, judge(cluster, p), d) for d in Direction)}
            assert local <= seen, "what has passed is seen"

            change = change_of(random, objects, others)
            after = change.applied(cluster)
            # The policies of pods on the other node are enforced there, and that node has no agent.
            comparable = [
                packet
                for packet in packets
                if all(
                    is_local(cluster, verdict, direction) or verdict.direction(direction).allowed
                    for verdict in (judge(cluster, packet), judge(after, packet))
                    for direction in Direction
                )
            ]
            denied = [report(cluster, packet) for packet in comparable if packet not in passed]

            def ask(_: str, query: Mapping[str, str], here: Here = here, witness: Witness = witness) -> Asked:
                return Asked([told(arena, witness, query) if query else here])

            found = from_agents(ask, denied, change, lambda _: True)
            enforcer.move(
                (*after.pods.values(), *after.namespaces.values(), *after.policies.values()), random
            )
            passes_now, were = passing(arena, comparable), passed.intersection(comparable)
            for said, done in ((found.cut, were - passes_now), (found.opened, passes_now - were)):
                wrong = packets_of(said).intersection(comparable) ^ done
                assert not wrong, f"{change}: {wrong}"
            tally += Counter(seen=len(comparable), cut=len(were - passes_now), opened=len(passes_now - were))
        enforcer.empty()
    finally:
        enforcer.close()
        arena.here.netns.sysctl({remembered: 10})
        arena.here.run("conntrack", "-F")
    numbers = ", ".join(f"{number} {what}" for what, number in tally.items())
    measured(f"{arena.layout}: {CLUSTERS} changes, held against connections: {numbers}")
    assert tally["seen"] >= 20 * CLUSTERS
    assert tally["cut"] + tally["opened"] > CLUSTERS
