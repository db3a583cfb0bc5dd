"""The matrix against the specification: every pair, every protocol, every port where rules differ.

What rules say of a port changes only where a number or a range of some rule begins or ends, or at a port by
name. So these ports, and those beside them, stand for all. MATRIX_CLUSTERS=2000 tries that many clusters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from hypothesis import given, settings

from agent.commands.matrix import Asked, difference_of, exposure_of
from agent.kube.model import Key, Namespace, Pod
from agent.net import Direction, family_of
from agent.reach import intervals
from agent.reach.addresses import number_of
from agent.reach.admits import Rules
from agent.reach.difference import Change
from agent.reach.ends import By, End, Owners, Place, outside, pods_at
from agent.reach.exposure import ANY_POD, ANYBODY
from agent.reach.given import given as given_of
from agent.reach.known import know
from agent.reach.matrix import Matrix, matrix
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.property.clusters import RandomCluster, clusters

CLUSTERS = int(os.environ.get("MATRIX_CLUSTERS", "100"))


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


@settings(max_examples=60)
@given(clusters(), clusters())
def test_a_difference_is_its_mirror_backwards_and_nothing_to_itself(
    one: RandomCluster, other: RandomCluster
) -> None:
    before, after = (given_of(random.objects, (), ()) for random in (one, other))
    there, back = difference_of(before, after, Asked()), difference_of(after, before, Asked())
    mirrored = {
        Change(change.source, change.destination, change.after, change.before) for change in back.changes
    }
    assert set(there.changes) == mirrored
    assert (there.same, there.new, there.gone) == (back.same, back.gone, back.new)
    none = difference_of(before, before, Asked())
    assert (none.changes, none.new, none.gone) == ((), (), ())


_NEW = Pod("new", "new", labels={"of": "none"}, addresses=(bytes([203, 0, 113, 9]),), node="new")


@settings(max_examples=60)
@given(clusters())
def test_what_is_open_to_the_entire_cluster_is_open_to_a_new_pod(random: RandomCluster) -> None:
    before = given_of(random.objects, (), ())
    cluster = cluster_of((*random.objects, _NEW, Namespace("new", {"of": "none"})))
    for one in exposure_of(before, Asked(by=By.POD)):
        pod = cluster.pods[Key(one.end.namespace, one.end.name)]
        own = [a for a in pod.addresses if len(a) == 4 and owner(cluster, a) is pod]
        if one.who not in (ANYBODY, ANY_POD) or not own:
            continue
        ends = (
            (_NEW.addresses[0], own[0]) if one.direction is Direction.INGRESS else (own[0], _NEW.addresses[0])
        )
        for protocol, port in random.services():
            if one.ports.has(protocol, port):
                verdict = judge(cluster, Packet(*ends, protocol, port)).direction(one.direction)
                assert verdict.allowed, random.disagreement(Packet(*ends, protocol, port), str(one))
