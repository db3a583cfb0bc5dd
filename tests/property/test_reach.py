"""Who reaches whom, by sets, against the specification, which judges one packet after another.

So many clusters are tried as take some seconds; REACH_CLUSTERS=20000 tries that many.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.net import Direction, Protocol
from agent.reach import intervals, ports
from agent.reach.addresses import EVERY, family_at, number_of
from agent.reach.admits import admits
from agent.reach.intervals import Intervals
from agent.reach.known import know
from agent.reach.ports import Ports
from agent.reach.region import Region, region
from agent.spec.cluster import cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.property.clusters import RandomCluster, clusters

CLUSTERS = int(os.environ.get("REACH_CLUSTERS", "200"))

_LIMIT = 24
_numbers = st.integers(0, _LIMIT)
_pairs = st.lists(st.tuples(_numbers, _numbers), max_size=6)


def members(given: Intervals) -> set[int]:
    return {number for first, end in given for number in range(first, end)}


def is_canonical(given: Iterable[tuple[int, int]]) -> bool:
    flat = [edge for pair in given for edge in pair]
    return flat == sorted(set(flat))


@settings(max_examples=200)
@given(_pairs, _pairs)
def test_intervals_are_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    a, b = intervals.canonical(one), intervals.canonical(other)
    assert members(a) == {n for first, end in one for n in range(first, end)}
    for found, expected in (
        (intervals.union(a, b), members(a) | members(b)),
        (intervals.intersection(a, b), members(a) & members(b)),
        (intervals.difference(a, b), members(a) - members(b)),
    ):
        assert members(found) == expected
        assert is_canonical(found)
    assert (a == b) == (members(a) == members(b))
    assert all(intervals.holds(a, n) == (n in members(a)) for n in range(_LIMIT + 1))


_few_ports = st.lists(
    st.one_of(
        st.just(ports.OTHER),
        st.builds(
            lambda protocol, first, length: ports.ports(protocol, first, min(first + length, 65535)),
            st.sampled_from(Protocol),
            st.sampled_from((0, 1, 2, 3, 65533, 65534, 65535)),
            st.integers(0, 3),
        ),
    ),
    max_size=4,
).map(ports.union)
_PACKETS = [(p, n) for p in (*map(int, Protocol), 1) for n in (*range(8), *range(65530, 65536))]


def packets(given: Ports) -> set[tuple[int, int]]:
    return {packet for packet in _PACKETS if given.has(*packet)}


_regions = st.lists(st.tuples(_numbers, _numbers, _few_ports), max_size=4).map(
    lambda pieces: _union(region([piece]) for piece in pieces)
)


def _union(given: Iterable[Region]) -> Region:
    found = Region()
    for one in given:
        found |= one
    return found


def points(given: Region) -> set[tuple[int, int, int]]:
    return {(number, *packet) for number in range(_LIMIT + 1) for packet in packets(given.at(number))}


@settings(max_examples=150)
@given(_regions, _regions)
def test_regions_are_sets_of_address_protocol_and_port(one: Region, other: Region) -> None:
    for found, expected in (
        (one | other, points(one) | points(other)),
        (one & other, points(one) & points(other)),
        (one - other, points(one) - points(other)),
    ):
        assert points(found) == expected
        assert found == _union(region([piece]) for piece in reversed(found.pieces))
        assert bool(found) == bool(expected)
    assert (one == other) == (points(one) == points(other))


@settings(max_examples=CLUSTERS)
@given(clusters())
def test_what_a_pod_admits_is_what_the_specification_says_of_each_packet(random: RandomCluster) -> None:
    cluster = cluster_of(random.objects)
    known = know(cluster)
    taken = {pod: {d: admits(known, pod, d) for d in Direction} for pod in known.standings}
    for packet in random.probes(48):
        verdict = judge(cluster, packet)
        for direction, own, peer in (
            (Direction.INGRESS, packet.destination, packet.source),
            (Direction.EGRESS, packet.source, packet.destination),
        ):
            pod = owner(cluster, own)
            if pod is not None:
                said = taken[pod.key][direction].has(peer, packet.protocol, packet.port)
                assert said == verdict.direction(direction).allowed, random.disagreement(
                    packet, f"{direction} of {pod.key}: the set says {said}"
                )


@settings(max_examples=100)
@given(clusters())
def test_every_address_is_in_one_part(random: RandomCluster) -> None:
    known = know(cluster_of(random.objects))
    pairs = sorted(pair for part in known.addresses for pair in part)
    assert all(one[1] <= other[0] for one, other in pairwise(pairs))
    covered = intervals.canonical(pair for pair in pairs if family_at(pair[0]) is not None)
    assert covered == intervals.canonical(EVERY.values())
    for packet in random.probes(10):
        assert _part(known.addresses, packet) is not None


def _part(addresses: Iterable[Intervals], packet: Packet) -> int | None:
    at = number_of(packet.source)
    return next((n for n, part in enumerate(addresses) if intervals.holds(part, at)), None)
