"""The proof against packets: what it says of all of them at once is what becomes of each.

So many clusters are tried as take a few seconds; PROOF_CLUSTERS=2000 tries that many.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings

from agent.dataplane.iptables.rules import names
from agent.dataplane.trace import Fate
from agent.dataplane.trace import Packet as Traced
from agent.kernel.ipset_members import Flow
from agent.kernel.ipset_shapes import LIST, SetContent
from agent.kube.model import Namespace, NetworkPolicy, Object, Pod
from agent.net import Direction, Family, NetworkMember, family_of
from agent.policy.engine import Engine
from agent.proof.family import Proof, passing
from agent.proof.given import Given
from agent.proof.prove import prove
from agent.proof.reading import FLOWS, Reading
from agent.proof.ways import Way
from agent.reach.addresses import number_of
from agent.spec.cluster import cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.build import upsert
from tests.property.clusters import RandomCluster, clusters
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.test_trace import ModelTracer
from tests.property.words import HERE

CLUSTERS = int(os.environ.get("PROOF_CLUSTERS", "20"))


def given_of(objects: Iterable[Object]) -> Given:
    found = list(objects)
    return Given(
        HERE,
        "nft",
        tuple(map(int, Family)),
        tuple(one for one in found if isinstance(one, Pod)),
        tuple(one for one in found if isinstance(one, Namespace)),
        tuple(one for one in found if isinstance(one, NetworkPolicy)),
    )


def reading_of(kernel: Kernel) -> Reading:
    lists = {n: frozenset(map(str, members)) for n, (s, members) in kernel.sets.items() if s.type == LIST}
    flows = {
        n: frozenset(Flow(p.source, p.protocol, p.port, p.destination) for p in kernel.cached.get(n, ()))
        for n, (shape, _) in kernel.sets.items()
        if shape.type == FLOWS
    }
    others = {n: c for n, c in kernel.sets.items() if n not in lists and n not in flows}
    sets = {n: SetContent(shape, set(members)) for n, (shape, members) in others.items()}
    return Reading(kernel.tables, sets, lists, flows)


def programmed(random: RandomCluster) -> Kernel:
    engine = Engine(HERE)
    engine.apply(upsert(*random.objects), 0.0)
    kernel = Kernel()
    assert not make_backend(kernel).sync(engine.lowered).faults
    return kernel


@pytest.mark.guarantee("7.4")
@settings(max_examples=CLUSTERS)
@given(clusters())
def test_what_the_agent_writes_is_proved_and_is_so_of_each_packet(
    random: RandomCluster,
) -> None:
    kernel = programmed(random)
    packets = list(random.probes(24))
    for packet in packets:
        # Allowed connections are cached.
        kernel.judge(packet, 0)
    objects, reading = given_of(random.objects), reading_of(kernel)
    assert prove(objects, reading).differences == (), random.yaml
    cluster, tracer = cluster_of(random.objects), ModelTracer(kernel)
    proofs = {family: Proof.of(family, objects, reading) for family in Family}
    for packet in packets:
        proof = proofs[family_of(packet.source)]
        for direction, own, peer in (
            (Direction.INGRESS, packet.destination, packet.source),
            (Direction.EGRESS, packet.source, packet.destination),
        ):
            pod = owner(cluster, own)
            if pod is None or pod.node != HERE:
                continue
            fate = tracer.trace(direction, pod.key, Traced(*packet)).fate
            outcomes = proof.walkers[direction].walk(names.FORWARD, number_of(own), Way())
            passed, unread = passing(outcomes)
            atom = proof.atoms.at(number_of(peer))
            said = any(m >> atom & 1 and p.has(packet.protocol, packet.port) for p, m in passed.items())
            assert said == (fate in (Fate.ALLOWED, Fate.NOT_JUDGED)), random.disagreement(packet, str(fate))
            assert not unread


@settings(max_examples=CLUSTERS)
@given(clusters())
def test_whatever_is_broken_that_a_packet_shows_is_found(random: RandomCluster) -> None:
    cluster, objects = cluster_of(random.objects), given_of(random.objects)
    packets = [
        (packet, all(judge(cluster, packet).direction(d).allowed for d in _judged_here(random, packet)))
        for packet in random.probes(24)
    ]
    for seed in range(8):
        kernel = programmed(random)
        what = _broken(kernel, Random(seed))
        shown = next((p for p, allowed in packets if kernel.passes(p) != allowed), None)
        if shown is not None:
            assert prove(objects, reading_of(kernel)).differences, random.disagreement(shown, what)


def _judged_here(random: RandomCluster, packet: Packet) -> list[Direction]:
    cluster = cluster_of(random.objects)
    ends = {Direction.INGRESS: packet.destination, Direction.EGRESS: packet.source}
    owners = {direction: owner(cluster, address) for direction, address in ends.items()}
    return [direction for direction, pod in owners.items() if pod is not None and pod.node == HERE]


def _broken(kernel: Kernel, random: Random) -> str:
    """Break something, and say what."""
    family = random.choice(tuple(Family))
    table = kernel.tables[family]
    chains = sorted(chain for chain, rules in table.items() if names.is_ours(chain) and rules)
    sets = sorted(n for n, (s, members) in kernel.sets.items() if members and s.type not in (LIST, FLOWS))
    if sets and random.random() < 0.4:
        name = random.choice(sets)
        members = sorted(kernel.sets[name][1], key=str)
        gone = random.choice(members)
        kernel.sets[name][1].discard(gone)
        if isinstance(gone, NetworkMember) and random.random() < 0.5:
            kernel.sets[name][1].add(gone._replace(nomatch=not gone.nomatch))
        return f"{gone!r} of {name}"
    if not chains:
        return "nothing"
    chain = random.choice(chains)
    rules = list(table[chain])
    at = random.randrange(len(rules))
    how = random.choice(("delete", "double", "move", "return"))
    if how == "delete":
        del rules[at]
    elif how == "move":
        rules.insert(random.randrange(len(rules)), rules.pop(at))
    else:
        rules.insert(random.randrange(len(rules)), rules[at] if how == "double" else "-j RETURN")
    table[chain] = tuple(rules)
    return f"{how} rule {at + 1} of {chain}"
