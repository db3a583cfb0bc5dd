"""Policies from flow logs of random clusters: every connection that was seen is allowed by them alone."""

from __future__ import annotations

import itertools
from random import Random

from agent.clock import moment
from agent.dataplane.logged import Decided
from agent.kube.model import NetworkPolicy
from agent.kube.validate import METADATA_NAME
from agent.net import Direction, Protocol, address_text
from agent.observe.flows.flow import End, Flow
from agent.observe.propose.propose import propose
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import Packet
from tests.property.choices import Seeded
from tests.property.clusters import cluster

CLUSTERS = 600
_PORTS = (1, 53, 80, 81, 82, 443, 65535)


def test_what_was_seen_is_allowed_by_what_is_proposed() -> None:
    random = Random(15)
    choices = Seeded(random)
    allowed = denied = 0
    for _ in range(CLUSTERS):
        objects = tuple(one for one in cluster(choices).objects if not isinstance(one, NetworkPolicy))
        bare = cluster_of(objects)
        names = {pod.namespace for pod in bare.pods.values()}
        labels = {one.name: one.labels.get(METADATA_NAME) for one in bare.namespaces.values()}
        if any(labels.get(name) != name for name in names) or any(
            one.ingress_isolated for one in bare.namespaces.values()
        ):
            # An API server gives each namespace the label of its name.
            continue
        packets = _packets(random, bare)
        flows = [_flow(random, bare, packet) for packet in packets]
        found = propose(bare, flows)
        assert len({policy.key for policy in found.policies}) == len(found.policies)
        proposed = cluster_of((*objects, *found.policies))
        for packet in packets:
            assert judge(proposed, packet).allowed, packet
            allowed += 1
            other = packet._replace(port=packet.port % 65535 + 7 if packet.port < 65000 else 9)
            denied += not judge(proposed, other).allowed
    assert allowed > 3 * CLUSTERS
    assert denied > allowed / 4, "what was not seen is mostly not allowed"


def _packets(random: Random, found: Cluster) -> list[Packet]:
    addresses = sorted({a for pod in found.pods.values() for a in pod.addresses})
    pairs = [(a, b) for a, b in itertools.permutations(addresses, 2) if len(a) == len(b)]
    some = random.sample(pairs, min(len(pairs), 12))
    return [Packet(a, b, random.choice(list(Protocol)), random.choice(_PORTS)) for a, b in some]


def _flow(random: Random, found: Cluster, packet: Packet) -> Flow:
    def end(address: bytes, port: int | None = None) -> End:
        pod = owner(found, address)
        return End(address_text(address), port, str(pod.key) if pod is not None else "")

    return Flow(
        number=1,
        first=moment(0.0),
        last=moment(0.0),
        verdict=Decided.ALLOWED,
        direction=random.choice(list(Direction)),
        pod="",
        protocol=Protocol(packet.protocol).name,
        source=end(packet.source),
        destination=end(packet.destination, packet.port),
        why="",
    )
