"""Random clusters by the thousand, from the strategies of the property tests, on addresses of the arena."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

import msgspec
from hypothesis import HealthCheck, Phase, given, seed, settings

from agent.kube.model import NamedPort, NetworkPolicy, Object, Pod
from agent.net import Protocol
from tests.kernel.exact.relabel import relabelled
from tests.property.clusters import RandomCluster, clusters
from tests.property.strategies import NUMBERS

_BATCH = 100


def samples(start: int) -> Iterator[tuple[Object, ...]]:
    """Give clusters without end; the same start gives the same."""
    for batch in itertools.count():
        number = start * 1_000_003 + batch
        random = Random(number)
        for objects in _batch(number):
            yield relabelled(_with_names(objects, random))


def _batch(number: int) -> list[tuple[Object, ...]]:
    found: list[tuple[Object, ...]] = []

    @seed(number)
    @settings(
        max_examples=_BATCH,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(clusters())
    def collect(cluster: RandomCluster) -> None:
        found.append(cluster.objects)

    collect()
    return found


def _with_names(objects: tuple[Object, ...], random: Random) -> tuple[Object, ...]:
    """Give some pods the ports that policies name: left to chance, few names mean anything."""
    wanted = sorted(
        {
            (port.port, port.protocol)
            for policy in objects
            if isinstance(policy, NetworkPolicy)
            for rule in (*(policy.ingress or ()), *(policy.egress or ()))
            for port in rule.ports
            if isinstance(port.port, str)
        }
    )
    if not wanted:
        return objects
    return tuple(_with_name(o, random, wanted) if isinstance(o, Pod) else o for o in objects)


def _with_name(pod: Pod, random: Random, wanted: Sequence[tuple[str, Protocol]]) -> Pod:
    if random.random() < 0.3:
        return pod
    named = NamedPort(*random.choice(wanted), random.choice(NUMBERS))
    others = tuple(p for p in pod.ports if (p.name, p.protocol) != (named.name, named.protocol))
    return msgspec.structs.replace(pod, ports=(named, *others))
