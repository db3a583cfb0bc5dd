"""The smallest policies that allow what a flow log has seen, by workload and direction.

::

    reports ─► packets between pods as they are now ─► by workload and direction: peers and their ports
            ─► one policy each ─► judged by the specification: every connection that was seen is allowed
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from netaddr import IPNetwork, cidr_merge

from agent.convert.statement import of_namespace
from agent.dataplane.logged import Decided
from agent.kube.mode import NO_MODE
from agent.kube.model import IPBlock, Key, NetworkPolicy, Peer, Pod, Port, Rule
from agent.net import Direction, Network, Protocol, address_text
from agent.observe.flows.flow import Flow
from agent.observe.propose.workloads import Workload, Workloads
from agent.observe.replay.judging import Judge
from agent.observe.replay.replayed import GONE, packet_of
from agent.observe.replay.seen import Sort, logged
from agent.spec.cluster import Cluster
from agent.spec.verdict import Packet
from agent.words import count

_TRANSPORTS = frozenset(int(protocol) for protocol in Protocol)
_LONGEST = 63

SEEN_TO_PASS = frozenset(Decided) - {Decided.DENIED}

Service = tuple[int, int]
"""A protocol's number and a port."""
Way = tuple[Workload, Direction]
Ways = dict[Way, dict[Workload | bytes, set[Service]]]
"""Of each workload's direction the peers, workloads or addresses, each with what is asked for."""


class Proposal(NamedTuple):
    """Policies, sorted, and what is to be said. ``connections``: how many kinds of connection they allow."""

    policies: tuple[NetworkPolicy, ...]
    connections: int
    notes: tuple[str, ...]


class ProposalError(Exception):
    """Policies that would not allow what was seen: they are not proposed. The message names a connection."""


class _Kept(NamedTuple):
    packet: Packet
    direction: Direction


def propose(cluster: Cluster, flows: Iterable[Flow], verdicts: Container[Decided] = SEEN_TO_PASS) -> Proposal:
    """Propose policies for what was logged with one of these verdicts.

    A direction of a workload gets a policy if the log has anything of that direction of its pods. It then
    allows all that was seen of it, in the log of either end. Raises ProposalError.
    """
    judge, workloads = Judge(cluster), Workloads(cluster.pods.values())
    left_out: Counter[str] = Counter()
    kept: dict[_Kept, None] = {}
    for flow in flows:
        if flow.verdict not in verdicts:
            continue
        found = _kept(judge, workloads, flow)
        if isinstance(found, str):
            left_out[found] += flow.count
        else:
            kept[found] = None
    ways: Ways = defaultdict(lambda: defaultdict(set))
    for packet in dict.fromkeys(one.packet for one in kept):
        for way, peer in _ways(judge, workloads, packet):
            ways[way][peer].add((packet.protocol, packet.port))
    wanted = _wanted(judge, workloads, kept, ways)
    names = _names(wanted)
    policies = tuple(
        _policy(way, names[way], ways[way]) for way in sorted(wanted, key=lambda way: (*way[0].sort, way[1]))
    )
    notes = [f"left out: {count(number, 'packet')}, since {why}" for why, number in sorted(left_out.items())]
    broad = sorted({way[0].namespace for way in wanted if not way[0].selector.requirements})
    notes += [
        f"namespace {name}: some pods have no label of their own, so a policy for them is for all its pods"
        for name in broad
    ]
    packets = list(dict.fromkeys(one.packet for one in kept))
    _check(cluster, policies, packets)
    return Proposal(policies, len(packets), tuple(notes))


def _kept(judge: Judge, workloads: Workloads, flow: Flow) -> _Kept | str:
    """Return the packet of a report, or why there is none."""
    seen = logged(flow)
    if seen is None:
        return "they are not the first of a connection"
    if seen.sort.protocol not in _TRANSPORTS:
        return "no policy can allow ICMP and the like but with every port"
    packet = packet_of(judge, seen.sort)
    if packet == GONE:
        packet = packet_of(judge, _with_standins(judge, workloads, seen.sort))
    if isinstance(packet, str):
        return packet
    return _Kept(packet, flow.direction)


def _with_standins(judge: Judge, workloads: Workloads, sort: Sort) -> Sort:
    """Put another pod of its workload in the place of each that is gone."""

    def present(name: str) -> str:
        if not name or judge.pod(Key.of(name)) is not None:
            return name
        return str(workloads.standin(Key.of(name)) or name)

    return sort._replace(source_pod=present(sort.source_pod), destination_pod=present(sort.destination_pod))


def _ways(judge: Judge, workloads: Workloads, packet: Packet) -> Iterator[tuple[Way, Workload | bytes]]:
    """Give both directions of a packet, as far as a pod is judged, each with the peer."""
    source, destination = judge.owner(packet.source), judge.owner(packet.destination)
    if source is not None and source is destination:
        return
    if source is not None:
        yield (workloads.of(source.key), Direction.EGRESS), _peer(workloads, destination, packet.destination)
    if destination is not None:
        yield (workloads.of(destination.key), Direction.INGRESS), _peer(workloads, source, packet.source)


def _peer(workloads: Workloads, pod: Pod | None, address: bytes) -> Workload | bytes:
    return address if pod is None else workloads.of(pod.key)


def _wanted(judge: Judge, workloads: Workloads, kept: Iterable[_Kept], ways: Ways) -> set[Way]:
    """Return which directions get a policy: those that the log tells of, and what these would isolate."""
    wanted: set[Way] = set()
    for one in kept:
        own = one.packet.destination if one.direction is Direction.INGRESS else one.packet.source
        pod = judge.owner(own)
        if pod is not None and (workloads.of(pod.key), one.direction) in ways:
            wanted.add((workloads.of(pod.key), one.direction))
    waiting = list(wanted)
    while waiting:
        workload, direction = waiting.pop()
        for key in workloads.selected(workload):
            way = workloads.of(key), direction
            if way in ways and way not in wanted:
                wanted.add(way)
                waiting.append(way)
    return wanted


def _names(wanted: Iterable[Way]) -> dict[Way, str]:
    """Name each policy by its workload and direction; of several alike the second has a number, too."""
    found: dict[Way, str] = {}
    taken: set[tuple[str, str]] = set()
    for way in sorted(wanted, key=lambda way: (*way[0].sort, way[1])):
        workload, direction = way
        base = "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in workload.name.lower())
        base = base[: _LONGEST - 12].strip("-") or "pods"
        name, number = f"{base}-{direction}", 1
        while (workload.namespace, name) in taken:
            number += 1
            name = f"{base}-{number}-{direction}"
        taken.add((workload.namespace, name))
        found[way] = name
    return found


def _policy(
    way: Way,
    name: str,
    peers: Mapping[Workload | bytes, set[Service]],
) -> NetworkPolicy:
    workload, direction = way
    together: dict[tuple[Port, ...], list[Workload | bytes]] = defaultdict(list)
    for peer, services in peers.items():
        together[_ports(services)].append(peer)
    rules = sorted(
        (Rule(tuple(_peers(workload.namespace, some)), ports) for ports, some in together.items()),
        key=repr,
    )
    return NetworkPolicy(
        workload.namespace,
        name,
        workload.selector,
        tuple(rules) if direction is Direction.INGRESS else None,
        tuple(rules) if direction is Direction.EGRESS else None,
    )


def _peers(namespace: str, some: Iterable[Workload | bytes]) -> Iterator[Peer]:
    """Give workloads first, then addresses as the fewest blocks that hold exactly them."""
    peers, addresses = set[Peer](), []
    for peer in some:
        if isinstance(peer, bytes):
            addresses.append(IPNetwork(address_text(peer)))
        elif peer.namespace == namespace:
            peers.add(Peer(peer.selector))
        else:
            pods = peer.selector if peer.selector.requirements else None
            peers.add(Peer(pods, of_namespace(peer.namespace)))
    yield from sorted(peers, key=repr)
    for block in cidr_merge(addresses):
        yield Peer(block=IPBlock(Network(block.network.packed, block.prefixlen)))


def _ports(services: Iterable[Service]) -> tuple[Port, ...]:
    """Return the ports of some services, those in a row as one range."""
    found: list[Port] = []
    for protocol, number in sorted(services):
        last = found[-1] if found else None
        if last is not None and last.protocol == protocol and _end(last) + 1 == number:
            found[-1] = last._replace(end=number)
        else:
            found.append(Port(Protocol(protocol), number))
    return tuple(found)


def _end(port: Port) -> int:
    assert isinstance(port.port, int)  # noqa: S101 - made so above
    return port.end or port.port


def _check(cluster: Cluster, policies: Iterable[NetworkPolicy], packets: Iterable[Packet]) -> None:
    """Judge what was seen by the proposed policies alone, enforced: beside others they allow as much."""
    namespaces = {
        name: msgspec.structs.replace(one, ingress_isolated=False, staging=NO_MODE)
        for name, one in cluster.namespaces.items()
    }
    alone = Cluster(cluster.pods, namespaces, {one.key: one for one in policies}, cluster.nodes)
    judge = Judge(alone)
    for packet in packets:
        verdict = judge.judge(packet)
        if not verdict.allowed:
            ends = f"{address_text(packet.source)} to {address_text(packet.destination)}"
            service = f"{packet.protocol}/{packet.port}"
            raise ProposalError(
                f"no policies are proposed: they would not allow {ends}, {service}, which was seen: has each "
                "namespace its label kubernetes.io/metadata.name?"
            )
