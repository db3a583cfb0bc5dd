"""What the engine takes out about two addresses gives the answer that the whole cluster gives."""

from __future__ import annotations

from functools import partial

from agent.kube.model import Object
from agent.net import Direction
from agent.policy.budget.census import over_budget_in
from agent.policy.budget.limits import Budgets
from agent.policy.engine import Engine
from agent.policy.extract import Extract
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import judge
from agent.spec.verdict import DirectionVerdict
from tests.build import pod, upsert
from tests.property.choices import tried
from tests.property.clusters import RandomCluster, clusters
from tests.property.strategies import budgets
from tests.property.words import HERE

Findings = tuple[object, ...]


def cluster_in(found: Extract) -> Cluster:
    objects: tuple[Object, ...] = (*found.pods, *found.namespaces, *found.policies)
    return cluster_of(objects, lambda *_: found.over_budget)


def findings(verdict: DirectionVerdict) -> Findings:
    """Return all that a verdict says but its words."""
    return (
        verdict.allowed,
        verdict.pod,
        [
            (policy.policy, bool(policy.not_enforced), [(r.peer.yes, r.port.yes) for r in policy.rules])
            for policy in (*verdict.policies, *verdict.audited)
        ],
        verdict.would_deny,
        verdict.would_allow,
    )


@tried(clusters(), budgets, max_examples=200)
def test_the_specification_says_the_same_of_an_extract(random: RandomCluster, given_budgets: Budgets) -> None:
    whole = cluster_of(random.objects, partial(over_budget_in, given_budgets))
    engine = Engine(HERE, budgets=given_budgets)
    engine.apply(upsert(*random.objects), 0.0)
    for packet in random.probes(40):
        part = cluster_in(engine.extract(packet[:2]))
        for direction in Direction:
            own = packet.destination if direction is Direction.INGRESS else packet.source
            judged = owner(whole, own)
            if judged is not None and judged.node == HERE:
                expected = judge(whole, packet).direction(direction)
                assert findings(judge(part, packet).direction(direction)) == findings(expected)


def test_pods_are_found_by_key_too() -> None:
    engine = Engine(HERE)
    one, other = pod("one", "10.0.0.1"), pod("other", "10.0.0.2")
    engine.apply(upsert(one, other), 0.0)
    assert engine.extract([one.key, pod("none").key]).pods == (one,)
    assert engine.extract([*other.addresses, one.key]).pods == (other, one)
    assert engine.all_pods() == [one, other]
