"""Packets followed through the rules and sets of random clusters, as the agent does when it is asked."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given

from agent.dataplane.iptables.trace import IptablesTracer
from agent.dataplane.trace import CountedRule, Fate, Packet
from agent.net import Direction, Family, Member
from agent.policy.engine import Engine
from agent.spec.cluster import cluster_of
from agent.spec.evaluator import judge
from tests.build import upsert
from tests.property.clusters import RandomCluster, clusters
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.words import HERE

LISTED = dict[str, tuple[CountedRule, ...]]


class ModelTracer(IptablesTracer):
    """Reads the kernel to think with, in place of the real one."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__("nft")
        self._kernel = kernel

    def _list(self, family: Family, chains: Iterable[str]) -> LISTED | None:
        table = self._kernel.tables[family]
        chains = tuple(chains)
        if not all(chain in table for chain in chains):
            return None
        return {chain: tuple(CountedRule(chain, text, 0, 0) for text in table[chain]) for chain in chains}

    def _members(self, name: str) -> frozenset[Member]:
        found = self._kernel.sets.get(name)
        return frozenset(found[1]) if found is not None else frozenset()


@given(clusters())
def test_the_way_of_a_packet_is_what_the_specification_says(random: RandomCluster) -> None:
    cluster = cluster_of(random.objects)
    engine = Engine(HERE)
    engine.apply(upsert(*random.objects), 0.0)
    kernel = Kernel()
    assert not make_backend(kernel).sync(engine.lowered).faults
    tracer = ModelTracer(kernel)
    for packet in random.probes(48):
        verdict = judge(cluster, packet)
        for direction in Direction:
            half = verdict.direction(direction)
            if half.pod is None or cluster.pods[half.pod].node != HERE:
                continue
            trace = tracer.trace(direction, half.pod, Packet(*packet))
            itself = half.why == "what a pod sends to itself is never judged"
            expected = Fate.ALLOWED if half.allowed else Fate.DENIED
            if not half.isolated and not (itself and trace.fate is Fate.ALLOWED):
                expected = Fate.NOT_JUDGED
            assert trace.fate is expected, random.disagreement(
                packet, f"{direction}: the specification says {expected}, the trace {trace}"
            )
            if half.isolated and half.allowed:
                assert trace.rule is not None
                numbers = {number for found in half.policies for number in found.allowing}
                assert any(f'"rule {number} {direction} of ' in trace.rule.text for number in numbers) or (
                    "comment" not in trace.rule.text
                )
