"""The compiler against the evaluator, on random clusters, packet by packet.

2,000 clusters are tried; CLUSTERS=100000 tries that many, and SEED=7 others than SEED=0 does. The same
two numbers try the same clusters.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from agent.commands.cli import main
from agent.kube.model import Key, Object, Pod
from agent.net import Direction, address_text
from agent.policy.budget.census import over_budget_in
from agent.policy.budget.limits import DEFAULT, Budgets
from agent.policy.engine import Engine
from agent.policy.program import Verdict
from agent.spec import verdict as spec
from agent.spec.cluster import Cluster, closed_by_budget, cluster_of, enforcing, owner
from agent.spec.evaluator import judge
from agent.spec.unjudged import never_judged, not_only_judged
from agent.spec.verdict import Packet
from tests.build import upsert
from tests.lab.reading import read_manifests
from tests.property import meaning
from tests.property.choices import tried
from tests.property.clusters import RandomCluster, clusters, protocol_name
from tests.property.interpreter import program_allows, program_would_deny
from tests.property.oracle import World
from tests.property.strategies import budgets, member_budgets
from tests.property.words import HERE, THERE

CLUSTERS = int(os.environ.get("CLUSTERS", "2000"))
SEED = int(os.environ.get("SEED", "0"))
_BATCH = 500


def engine_of(cluster: RandomCluster, node: str, budgets: Budgets = DEFAULT) -> Engine:
    """Compile a cluster: for one node at once, for the other object by object, what is referred to last."""
    engine = Engine(node, budgets=budgets)
    events = upsert(*cluster.objects)
    for step in [events] if node == THERE else [[event] for event in reversed(events)]:
        engine.apply(step, 0.0)
    return engine


def world_of(cluster: RandomCluster) -> World:
    world = World()
    for event in upsert(*cluster.objects):
        world.take(event)
    return world


def node_of(cluster: Cluster, direction: Direction, packet: Packet) -> str:
    """Return the node that enforces one direction of a packet, "" for none."""
    pod = owner(cluster, packet.destination if direction is Direction.INGRESS else packet.source)
    return pod.node if pod is not None else ""


class Both(NamedTuple):
    """A cluster, and as it would be if all that is audited were enforced; the same where nothing is."""

    now: Cluster
    then: Cluster

    @classmethod
    def of(cls, cluster: Cluster) -> Both:
        then = enforcing(cluster)
        return cls(cluster, cluster if then == cluster else then)


def judged(
    random: RandomCluster, both: Both, world: World, engines: dict[str, Engine], packet: Packet
) -> spec.Verdict:
    """Hold each node's program, in both forms, against the specification; return what that says."""
    verdict = judge(both.now, packet)
    enforced = verdict if both.then is both.now else judge(both.then, packet)
    assert verdict.would_deny == (verdict.allowed and not enforced.allowed), random.disagreement(
        packet, f"audited: it would be denied says {verdict.would_deny}, enforcing {not enforced.allowed}"
    )
    for direction in Direction:
        enforcer = node_of(both.now, direction, packet)
        one = verdict.direction(direction)
        expected = one.allowed
        denied = enforced.direction(direction).allowed
        assert one.would_allow == (not expected and denied)
        for node, engine in engines.items():
            noted = program_would_deny(engine.lowered, direction, packet)
            assert noted == (one.would_deny and node == enforcer), random.disagreement(
                packet, f"{direction}: would be denied: {one.would_deny}, node {node} by its sets {noted}"
            )
            said_exactly = meaning.verdict(engine.program, world, direction, packet) is Verdict.ALLOW
            by_sets = program_allows(engine.lowered, direction, packet)
            # A node judges its own pods' packets, and no others.
            assert said_exactly == by_sets == (expected or node != enforcer), random.disagreement(
                packet,
                f"{direction}: the specification says {expected}, "
                f"node {node} {said_exactly}, by its sets {by_sets}",
            )
    return verdict


@pytest.mark.parametrize("batch", range(-(-CLUSTERS // _BATCH)))
def test_the_compiler_judges_every_packet_as_the_specification_does(batch: int) -> None:
    @tried(clusters(), max_examples=min(_BATCH, CLUSTERS - batch * _BATCH), seed=SEED * 1_000_003 + batch)
    def check(random: RandomCluster) -> None:
        cluster, world = cluster_of(random.objects), world_of(random)
        both = Both.of(cluster)
        engines = {node: engine_of(random, node) for node in (HERE, THERE)}
        for packet in random.probes():
            verdict = judged(random, both, world, engines, packet)
            for direction in Direction:
                one = verdict.direction(direction)
                expected, enforcer = one.allowed, node_of(cluster, direction, packet)
                # A second reading of the specification, by another hand.
                second = world.allows(direction, packet)
                assert world.would_deny(direction, packet) == (enforcer == HERE and one.would_deny)
                assert second == (expected or enforcer != HERE), random.disagreement(
                    packet, f"{direction}: one reading says {expected}, the other {second}"
                )

    check()


@tried(clusters(), budgets, max_examples=200)
def test_the_compiler_and_the_specification_agree_on_what_is_over_budget(
    random: RandomCluster, given_budgets: Budgets
) -> None:
    cluster = cluster_of(random.objects, partial(over_budget_in, given_budgets))
    engines = {node: engine_of(random, node, given_budgets) for node in (HERE, THERE)}
    both, world = Both.of(cluster), world_of(random)
    for packet in random.probes(40):
        judged(random, both, world, engines, packet)


@tried(clusters(), member_budgets, max_examples=200)
def test_the_compiler_and_the_specification_agree_on_who_has_too_many_members(
    random: RandomCluster, given_budgets: Budgets
) -> None:
    cluster = cluster_of(random.objects, partial(over_budget_in, given_budgets))
    for node in (HERE, THERE):
        # At once: what is closed stays so until there is some room to spare.
        engine = Engine(node, budgets=given_budgets)
        engine.apply(upsert(*random.objects), 0.0)
        found: dict[Key, object] = {}
        for namespace in {key.namespace for key in cluster.policies} | set(cluster.namespaces):
            found.update(closed_by_budget(cluster, namespace, node))
        assert engine.over_budget() == found


@tried(clusters(from_files=True), max_examples=60)
def test_manifests_of_a_cluster_say_the_same(random: RandomCluster) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "cluster.yaml").write_text(random.yaml)
        objects, refused = read_manifests(Path(directory))
    assert not refused
    assert sorted(objects, key=_identity) == sorted(random.objects, key=_identity)


@tried(clusters(from_files=True), max_examples=10)
def test_render_and_explain_accept_a_counter_example(random: RandomCluster) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "cluster.yaml").write_text(random.yaml)
        arguments = ["--manifests", directory]
        nodes = sorted({found.node for found in random.objects if isinstance(found, Pod)})
        chosen = ["--node-name", nodes[0]] if nodes else []
        rendered = CliRunner().invoke(main, ["render", *chosen, *arguments])
        assert rendered.exit_code == 0, rendered.output
        cluster = cluster_of(random.objects)
        for source, destination, protocol, port in random.probes(3):
            if protocol == 1 or port == 0:
                continue
            ends = [address_text(source), address_text(destination)]
            service = f"{port}/{protocol_name(protocol)}"
            explained = CliRunner().invoke(main, ["explain", *ends, service, *arguments])
            verdict = judge(cluster, Packet(source, destination, protocol, port))
            unowned = [end for end in (source, destination) if owner(cluster, end) is None]
            named = not any(never_judged(end) or not_only_judged(end) for end in unowned)
            expected = 2 if verdict.caveat or not named else 0 if verdict.allowed else 1
            assert explained.exit_code == expected, (ends, service, explained.output)


def _identity(found: Object) -> tuple[str, str, str]:
    return (type(found).__name__, *found.key)
