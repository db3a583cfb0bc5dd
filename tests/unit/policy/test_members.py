"""Members of sets: what a policy's selectors may match is bounded, and is known before any of it is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.events import Delete, Invalid, Synced, Upsert
from agent.kube.model import (
    Key,
    Kind,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Object,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction, Family, Protocol, member_address
from agent.policy.budget.account import over_budget
from agent.policy.budget.census import Census, census_of, over_budget_in
from agent.policy.budget.excess import Excess
from agent.policy.budget.limits import DEFAULT, Budgets, NamespaceBudget, PolicyBudget
from agent.policy.engine import Engine
from agent.policy.lower.cost import Asked, cost_of
from agent.policy.lower.lowered import SetKind
from agent.policy.program import PolicyId
from agent.runtime.overbudget import fault
from agent.spec.cluster import closed_by_budget, cluster_of
from tests.build import labelled, lowered, pod, upsert
from tests.property import strategies
from tests.property.histories import Batch
from tests.property.words import HERE
from tests.unit.policy.test_costs import honest_namespace

IN = Direction.INGRESS


def broad(name: str, peers: int = 1, created: str = "") -> NetworkPolicy:
    """Return a policy of some peers that match every pod, each by a selector of its own."""
    lacking = (Requirement(f"{name}{number}", Operator.NOT_IN, ("x",)) for number in range(peers))
    rules = tuple(Rule((Peer(Selector((one,)), Selector()),)) for one in lacking)
    return NetworkPolicy("shop", name, ingress=rules, created=created)


def away(number: int) -> Pod:
    return pod(f"p{number}", f"10.1.{number >> 8}.{number & 255}", namespace="bank", node="there")


WEB = pod("web", "10.0.0.1")


def crowd(budgets: Budgets, pods: int) -> Engine:
    """Return an engine of so many pods, of which one is local."""
    engine = Engine("here", budgets=budgets)
    engine.apply(upsert(Namespace("shop"), Namespace("bank"), WEB, *map(away, range(pods - 1))), 0)
    return engine


def closed(engine: Engine) -> list[str]:
    return sorted(key.name for key in engine.over_budget())


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count how often a selector is matched, and a set's members are counted."""
    found = {"matches": 0, "counts": 0}

    def counted(what: str, inner: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            found[what] += 1
            return inner(*arguments)

        return call

    monkeypatch.setattr(Selector, "matches", counted("matches", Selector.matches))
    monkeypatch.setattr(Census, "_count", counted("counts", Census._count))
    return found


# --- What is closed, and what it costs ----------------------------------------------------------------------


def test_a_policy_of_more_members_than_it_may_have_is_closed_before_any_is_made(
    counts: dict[str, int],
) -> None:
    engine = crowd(Budgets(PolicyBudget(members=1000)), 100)
    engine.apply(upsert(broad("old", 10)), 0)
    assert closed(engine) == []
    counts.update(matches=0)
    engine.apply(upsert(broad("big", 500)), 0)
    assert engine.over_budget() == {Key("shop", "big"): Excess("members", 1001, 1000, whole=False)}
    assert len(engine.lowered.sets) == 10
    assert engine.sizes()["terms"] == 10
    assert counts["matches"] < 20
    assert counts["counts"] <= 10 + 11
    told = fault(Key("shop", "big"), engine.over_budget()[Key("shop", "big")])
    assert "needs 1,001 members of sets or more, of 1,000 at most (--policy-budget)" in told.what
    assert told.remedy == "write it with fewer selectors, or ones that match fewer pods, or raise the budget"


def test_many_selectors_of_one_set_count_each() -> None:
    engine = crowd(Budgets(PolicyBudget(members=1000)), 100)
    peers = tuple(peer for rule in broad("big", 11).ingress or () for peer in rule.peers)
    engine.apply(upsert(NetworkPolicy("shop", "big", ingress=(Rule(peers),))), 0)
    assert closed(engine) == ["big"]


def test_of_a_namespace_the_oldest_are_kept_and_a_set_that_they_share_counts_once() -> None:
    engine = crowd(Budgets(namespace=NamespaceBudget(members=1000)), 100)
    old, new = broad("old", 6, "2026-01-01"), broad("new", 6, "2026-01-02")
    engine.apply(
        upsert(new, old, NetworkPolicy("shop", "same", ingress=old.ingress, created="2026-01-03")), 0
    )
    assert engine.over_budget() == {new.key: Excess("members", 1200, 1000, whole=True)}
    assert "would need 1,200 members of sets or more" in str(engine.over_budget()[new.key])
    # A smaller one may still fit.
    engine.apply(upsert(broad("less", 4, "2026-01-04")), 0)
    assert closed(engine) == ["new"]


def test_a_family_that_no_pod_here_has_does_not_count() -> None:
    engine = crowd(Budgets(PolicyBudget(members=1000)), 100)
    engine.apply(upsert(broad("big", 10)), 0)
    assert closed(engine) == []
    engine.apply(upsert(pod("both", "10.0.0.2", "fd00::2")), 0)
    # What is enforced stays so until its namespace has too many.
    assert closed(engine) == []
    engine.apply(upsert(broad("big2", 10)), 0)
    assert closed(engine) == ["big2"]


def test_selectors_that_name_labels_count_the_pods_that_have_these() -> None:
    engine = Engine("here", budgets=Budgets(PolicyBudget(members=30)))
    engine.apply(upsert(Namespace("shop"), WEB), 0)
    engine.apply(
        upsert(*(pod(f"p{n}", f"10.1.0.{n}", node="there", app=f"a{n % 10}") for n in range(100))), 0
    )
    rules = tuple(Rule((Peer(labelled(app=f"a{n}")),)) for n in range(3))
    engine.apply(upsert(NetworkPolicy("shop", "p", ingress=rules)), 0)
    assert closed(engine) == []
    engine.apply(upsert(NetworkPolicy("shop", "q", ingress=(*rules, Rule((Peer(labelled(app="a4")),))))), 0)
    assert closed(engine) == ["q"]


# --- Pods come and go ---------------------------------------------------------------------------------------


def test_a_policy_does_not_close_and_open_as_pods_come_and_go() -> None:
    engine = crowd(Budgets(namespace=NamespaceBudget(members=1000)), 90)
    engine.apply(upsert(broad("old", 5, "2026-01-01"), broad("new", 5, "2026-01-02")), 0)
    turned = 0
    before: list[str] = []
    # 100 pods are the limit; 99 to 110 come and go.
    for number in [*range(90, 110), *[99, 100, 101] * 20]:
        for event in ([Upsert(Kind.POD, away(number))], [Delete(Kind.POD, away(number).key)]):
            engine.apply(event, 0)
            turned += closed(engine) != before
            before = closed(engine)
        engine.apply([Upsert(Kind.POD, away(number))], 0)
    for number in range(95, 110):
        engine.apply([Delete(Kind.POD, away(number).key)], 0)
        turned += closed(engine) != before
        before = closed(engine)
    assert closed(engine) == ["new"]
    assert turned == 1
    (excess,) = engine.over_budget().values()
    assert excess == Excess("members", 950, 900, whole=True, stays=True)
    assert "of 900 before it opens again (--namespace-budget)" in str(excess)
    for number in range(80, 95):
        engine.apply([Delete(Kind.POD, away(number).key)], 0)
    assert closed(engine) == []
    assert PolicyId(IN, Key("shop", "new")) in engine.lowered.policies


def test_policies_that_came_before_the_pods_are_closed_when_these_are_too_many(
    counts: dict[str, int],
) -> None:
    engine = Engine("here", budgets=Budgets(namespace=NamespaceBudget(members=1000)))
    engine.apply(upsert(Namespace("shop"), Namespace("bank"), WEB), 0)
    engine.apply(upsert(broad("old", 5, "2026-01-01"), broad("new", 50, "2026-01-02")), 0)
    assert closed(engine) == []
    counts.update(counts=0)
    most = 0
    for number in range(150):
        engine.apply([Upsert(Kind.POD, away(number))], 0)
        most = max(most, sum(map(len, engine.lowered.sets.values())))
    assert closed(engine) == ["new"]
    assert len(engine.lowered.sets) == 5
    assert most <= 1000 + 1000 // 20 + 55
    assert counts["counts"] < 150 * 15


def test_no_event_counts_members_while_a_namespace_has_room(counts: dict[str, int]) -> None:
    engine = crowd(DEFAULT, 10)
    engine.apply(upsert(broad("p", 20)), 0)
    counts.update(counts=0)
    for number in range(1000):
        engine.apply([Upsert(Kind.POD, away(number))], 0)
    assert counts["counts"] == 0


def test_what_is_closed_for_its_members_is_forgotten_with_it() -> None:
    engine = crowd(Budgets(PolicyBudget(members=100)), 100)
    engine.apply(upsert(broad("a", 2), broad("b", 1)), 0)
    assert closed(engine) == ["a"]
    # Edited, it is held against the whole of its budget.
    engine.apply(upsert(broad("a", 1)), 0)
    assert closed(engine) == []
    engine.apply(upsert(broad("a", 2)), 0)
    gone = [Delete(Kind.POLICY, Key("shop", name)) for name in "ab"]
    gone += [Delete(Kind.POD, one.key) for one in (WEB, *map(away, range(99)))]
    engine.apply([*gone, *(Delete(Kind.NAMESPACE, Key("", name)) for name in ("shop", "bank"))], 0)
    engine.apply([Synced(Kind.POD)], 1e6)
    assert not any(engine.sizes().values())


@given(strategies.histories, strategies.member_budgets, st.sampled_from((None, 0, 5)))
def test_in_any_history_what_is_counted_is_what_is_enforced(
    history: list[Batch], budgets: Budgets, most: int | None
) -> None:
    engine = Engine(HERE, budgets=budgets)
    present: dict[tuple[Kind, Key], None] = {}
    for batch in history:
        engine.apply(batch.events, 0, most)
        for event in batch.events:
            if isinstance(event, Upsert):
                present[event.kind, event.object.key] = None
            elif isinstance(event, Delete | Invalid):
                present[event.kind, event.key] = None
        ledger = engine._enforcement.ledger
        for account in ledger._accounts.values():
            admitted = {key: entry for key, entry in account.entries.items() if entry.admitted}
            sets = {found for entry in admitted.values() for found in entry.spent.cost.sets}
            assert account.total.sets == sets
            assert account.total.members == sum(found.members for found in sets)
            assert account.entries.keys() - admitted.keys() <= engine.over_budget().keys()
        enforced = {policy_id.policy for policy_id in engine.lowered.policies}
        assert not enforced & engine.over_budget().keys()
    engine.apply([Delete(kind, key) for kind, key in present], 0)
    engine.apply([], 1e6)
    engine.apply([], 2e6)
    assert not {name: size for name, size in engine.sizes().items() if size}


# --- What is counted ----------------------------------------------------------------------------------------


@given(strategies.histories)
def test_no_set_has_pods_that_were_not_counted(history: list[Batch]) -> None:
    engine = Engine(HERE)
    for batch in history:
        engine.apply(batch.events, 0)
    enforcement = engine._enforcement
    for key in enforcement._selection.all_enforced():
        policy = enforcement._selection.policy(key)
        assert policy is not None
        counted = sum(map(enforcement._census.most, cost_of(policy).sets))
        pods = 0
        for direction in Direction:
            compiled = lowered(policy, direction, enforcement._families)
            for set_id in compiled.sets if compiled is not None else ():
                members = engine.lowered.sets.get(set_id, set())
                if set_id.kind is SetKind.NETWORKS or (
                    direction is IN and set_id.kind is SetKind.ADDRESS_PORTS
                ):
                    continue
                owners = {
                    (engine._ownership.owners[address].pod.key, getattr(member, "port", None))
                    for member in members
                    if (address := member_address(member)) is not None
                }
                pods += len(owners)
        assert pods <= counted


def test_named_ports_count_the_pods_that_have_them() -> None:
    pods = [pod(f"p{n}", f"10.1.0.{n}", ports=(NamedPort("web", Protocol.TCP, 80),)) for n in range(9)]
    census = census_of([*pods, WEB], [Namespace("shop")], (Family.V4,))
    ports = (Port(Protocol.TCP, "web"),)

    def most(policy: NetworkPolicy) -> dict[bool, int]:
        return {asked.v6: census.most(asked) for asked in cost_of(policy).sets}

    assert most(NetworkPolicy("shop", "p", egress=(Rule((), ports),))) == {False: 9, True: 0}
    everyone = (Peer(Selector()),)
    assert most(NetworkPolicy("shop", "p", egress=(Rule(everyone, ports),))) == {False: 10, True: 0}
    # Of the node's own pods, which are few.
    assert set(most(NetworkPolicy("shop", "p", ingress=(Rule((), ports),))).values()) == {0}


def test_a_namespace_of_hundreds_of_policies_is_within_the_budget_among_thousands_of_pods() -> None:
    namespaces = [Namespace(f"ns-{n}", {"team": f"team-{n % 20}"}) for n in range(100)]
    namespaces.append(Namespace("shop", {"team": "team-0"}))
    port = (NamedPort("web", Protocol.TCP, 80),)
    pods = (
        pod(
            f"p{n}",
            f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
            f"fd00::{n:x}",
            namespace="shop" if n % 10 == 0 else f"ns-{n % 100}",
            ports=port,
            app=f"app-{n // 10 % 600}",
            pod=f"p{n}",
        )
        for n in range(10_000)
    )
    census = census_of(pods, namespaces, (Family.V4, Family.V6))
    policies = [(policy, 2) for policy in honest_namespace()]
    assert over_budget(policies, DEFAULT, census.most) == {}
    tenth = DEFAULT.namespace.members // 10
    budgets = DEFAULT._replace(namespace=DEFAULT.namespace._replace(members=tenth))
    assert over_budget(policies, budgets, census.most) == {}


def test_explain_counts_the_same() -> None:
    budgets = Budgets(namespace=NamespaceBudget(members=1000))
    policies = broad("old", 5, "2026-01-01"), broad("new", 6, "2026-01-02")
    engine = crowd(budgets, 100)
    engine.apply(upsert(*policies), 0)
    objects: tuple[Object, ...] = (
        Namespace("shop"),
        Namespace("bank"),
        WEB,
        *map(away, range(99)),
        *policies,
    )
    assert closed(engine) == ["new"]
    cluster = cluster_of(objects, partial(over_budget_in, budgets))
    assert closed_by_budget(cluster, "shop", "here") == engine.over_budget()


def test_asked_sets_are_told_apart() -> None:
    first, second = (next(iter(cost_of(broad("p", 1, created)).sets)).content for created in "ab")
    assert first == second
    assert first is not second
    assert Asked(True, False, first) != Asked(False, False, first)
