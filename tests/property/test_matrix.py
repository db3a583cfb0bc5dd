"""The matrix against the specification: every pair, every protocol, every port where rules differ.

What rules say of a port changes only where a number or a range of some rule begins or ends, or at a port by
name. So these ports, and those beside them, stand for all. MATRIX_CLUSTERS=2000 tries that many clusters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from hypothesis import given, settings

from agent.kube.model import Key
from agent.net import family_of
from agent.reach import intervals
from agent.reach.addresses import number_of
from agent.reach.admits import Rules
from agent.reach.ends import By, End, Owners, Place, outside, pods_at
from agent.reach.known import know
from agent.reach.matrix import Matrix, matrix
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.property.clusters import RandomCluster, clusters

CLUSTERS = int(os.environ.get("MATRIX_CLUSTERS", "60"))


@settings(max_examples=CLUSTERS)
@given(clusters())
def test_the_matrix_agrees_on_every_pair_protocol_and_port(random: RandomCluster) -> None:
    cluster = cluster_of(random.objects)
    rules = Rules(know(cluster))
    pods = pods_at(rules, Owners({}), By.POD)
    (others,) = outside([rules])
    found = matrix(rules, {**pods, **others}, {**pods, **others})
    at = {**{end: _own(cluster, end) for end in pods}, **_strangers(random, rules, others)}
    for source, destination in ((a, b) for a in at for b in at if a in pods or b in pods):
        _hold(random, cluster, found, (source, destination), list(_pairs(at[source], at[destination])))


def _hold(
    random: RandomCluster,
    cluster: Cluster,
    found: Matrix,
    ends: tuple[End, End],
    pairs: list[tuple[bytes, bytes]],
) -> None:
    if ends not in found.cells:
        assert ends[0] == ends[1]
        return
    cell = found.cells[ends]
    assert {one.family for one in cell.families} - {None} >= {family_of(pair[0]) for pair in pairs}
    for one in cell.families:
        of_family = [pair for pair in pairs if family_of(pair[0]) is one.family]
        for protocol, port in random.services() if of_family else ():
            packets = [Packet(*pair, protocol, port) for pair in of_family]
            verdicts = [judge(cluster, packet).allowed for packet in packets]
            assert one.some.has(protocol, port) == any(verdicts), random.disagreement(packets[0], str(one))
            assert one.every.has(protocol, port) == all(verdicts), random.disagreement(packets[0], str(one))


def _own(cluster: Cluster, end: End) -> list[bytes]:
    pod = cluster.pods[Key(end.namespace, end.name)]
    return [address for address in dict.fromkeys(pod.addresses) if owner(cluster, address) is pod]


def _strangers(random: RandomCluster, rules: Rules, ends: dict[End, Place]) -> dict[End, list[bytes]]:
    """Return those addresses at the edges of blocks that each end has."""
    found: dict[End, list[bytes]] = {}
    for end, place in ends.items():
        held = intervals.canonical(pair for part in place.parts for pair in rules.known.addresses[part])
        found[end] = [one for one in random.addresses() if intervals.holds(held, number_of(one))]
    return found


def _pairs(sources: Iterable[bytes], destinations: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return ((a, b) for a in sources for b in destinations if len(a) == len(b))
