"""Budgets: what a policy costs is known before it is spent, and one over budget allows nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.events import Delete, Invalid, Problem
from agent.kube.model import (
    Key,
    Kind,
    Namespace,
    NetworkPolicy,
    Peer,
    Rule,
    Selector,
)
from agent.net import Direction, Family
from agent.policy.budget.account import over_budget
from agent.policy.budget.excess import Excess
from agent.policy.budget.ledger import Ledger
from agent.policy.budget.limits import (
    DEFAULT,
    Budgets,
    NamespaceBudget,
    PolicyBudget,
    budget_text,
    changed,
)
from agent.policy.engine import Engine
from agent.policy.lower.cost import Cost
from agent.policy.lower.lowering import EMPTY_SETS
from agent.policy.program import PodId, PolicyId
from tests.build import labelled, pod, upsert

IN, OUT = Direction.INGRESS, Direction.EGRESS


def admitting(name: str, peers: int = 1, created: str = "", **labels: str) -> NetworkPolicy:
    """Return a policy with a rule, and a set, for each of some peers of its own."""
    rules = tuple(Rule((Peer(labelled(**{f"{name}{n}": "yes"})),)) for n in range(peers))
    return NetworkPolicy("shop", name, labelled(**labels), ingress=rules, created=created)


def closed(engine: Engine) -> list[str]:
    return sorted(key.name for key in engine.over_budget())


# --- Which policies there is room for -----------------------------------------------------------------------


_costly = st.builds(
    admitting,
    st.sampled_from("abcdef"),
    st.integers(0, 4),
    st.sampled_from(("", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")),
)
_budgets = st.builds(
    Budgets,
    st.builds(
        PolicyBudget, st.just(1000), st.integers(2, 8), st.just(1000), st.just(1000), st.integers(1, 4)
    ),
    st.builds(
        NamespaceBudget,
        st.integers(0, 4),
        st.integers(0, 80),
        st.integers(0, 16),
        st.just(1000),
        st.just(1000),
        st.integers(0, 12),
    ),
)


@given(_budgets, st.lists(st.tuples(_costly, st.integers(0, 3), st.booleans()), max_size=25))
def test_the_ledger_keeps_what_a_look_at_all_policies_finds(
    budgets: Budgets, history: list[tuple[NetworkPolicy, int, bool]]
) -> None:
    ledger = Ledger(budgets)
    known: dict[Key, tuple[NetworkPolicy, int]] = {}
    before: set[Key] = set()
    for policy, reach, settles in history:
        if reach:
            known[policy.key] = policy, reach
            ledger.put(policy.key, policy, reach)
        else:
            known.pop(policy.key, None)
            ledger.remove(policy.key)
        if settles:
            changed_keys = ledger.decide()
            assert dict(ledger.excess) == over_budget(known.values(), budgets)
            # Whose answer is another is told.
            assert before ^ ledger.excess.keys() <= changed_keys | (before - known.keys())
            before = set(ledger.excess)
    ledger.decide()
    assert dict(ledger.excess) == over_budget(known.values(), budgets)
    for key in known:
        ledger.remove(key)
    ledger.decide()
    assert not any(ledger.sizes().values())


class Hashed:
    """Stands for what a set is of, and counts how often that is hashed."""

    hashed = 0

    def __hash__(self) -> int:
        Hashed.hashed += 1
        return id(self)


def test_an_edit_looks_at_the_sets_of_no_policy_that_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {f"{n:03}": Cost(1, frozenset(Hashed() for _ in range(100)), 0, 1) for n in range(100)}
    costs["other"] = Cost(1, frozenset(Hashed() for _ in range(99)), 0, 1)
    monkeypatch.setattr(
        "agent.policy.budget.ledger.cost_of", lambda policy, _: costs[policy.ingress[0].peers[0]]
    )
    ledger = Ledger(Budgets(namespace=NamespaceBudget(sets=101)))

    def put(name: str, costs_as: str) -> None:
        rule: Any = Rule((costs_as,))  # type: ignore[arg-type]
        ledger.put(Key("shop", name), NetworkPolicy("shop", name, ingress=(rule,)), 1)

    for name in sorted(costs)[:-1]:
        put(name, name)
    ledger.decide()
    assert len(ledger.excess) == 99
    Hashed.hashed = 0
    put("000", "other")
    ledger.decide()
    assert len(ledger.excess) == 99
    assert Hashed.hashed <= 1000


def test_the_oldest_are_kept_and_a_new_one_takes_nothing_from_them() -> None:
    budgets = Budgets(namespace=NamespaceBudget(policies=2))
    engine = Engine("here", budgets=budgets)
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    engine.apply(upsert(admitting("new", created="2026-01-03", app="web")), 0)
    engine.apply(upsert(admitting("old", created="2026-01-01", app="web")), 0)
    assert closed(engine) == []
    delta = engine.apply(upsert(admitting("newest", created="2026-01-04", app="web")), 0)
    assert closed(engine) == ["newest"]
    assert not delta
    engine.apply(upsert(admitting("between", created="2026-01-02", app="web")), 0)
    assert closed(engine) == ["new", "newest"]
    engine.apply([Delete(Kind.POLICY, Key("shop", "old"))], 0)
    assert closed(engine) == ["newest"]


def test_of_one_time_the_name_decides() -> None:
    engine = Engine("here", budgets=Budgets(namespace=NamespaceBudget(policies=1)))
    engine.apply(upsert(pod("web", "10.0.0.1", app="web"), *(admitting(n, app="web") for n in "bca")), 0)
    assert closed(engine) == ["b", "c"]


def test_policies_that_select_no_pod_here_cost_nothing() -> None:
    engine = Engine("here", budgets=Budgets(namespace=NamespaceBudget(policies=1)))
    engine.apply(upsert(*(admitting(n, app="elsewhere") for n in "abc"), admitting("d", app="web")), 0)
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    assert closed(engine) == []
    assert len(engine.lowered.policies) == 1


def test_a_set_that_several_policies_use_is_counted_once() -> None:
    budgets = Budgets(namespace=NamespaceBudget(sets=2))
    engine = Engine("here", budgets=budgets)
    shared = (Rule((Peer(labelled(app="client")),)),)
    same = [NetworkPolicy("shop", name, ingress=shared) for name in "abc"]
    engine.apply(upsert(pod("web", "10.0.0.1", app="web"), *same), 0)
    assert closed(engine) == []
    engine.apply(upsert(admitting("d", app="web")), 0)
    assert closed(engine) == ["d"]


# --- What a policy over budget does -------------------------------------------------------------------------


SMALL = Budgets(policy=PolicyBudget(sets=4))


def test_a_policy_over_budget_isolates_in_the_directions_it_names_and_makes_nothing() -> None:
    engine = Engine("here", budgets=SMALL)
    web = pod("web", "10.0.0.1", "fd00::1", app="web")
    delta = engine.apply(upsert(web, admitting("big", 3, app="web")), 0)
    assert engine.over_budget() == {Key("shop", "big"): Excess("sets", 6, 4, whole=False)}
    assert engine.lowered.isolated(IN, Family.V4) == {web.addresses[0]}
    assert engine.lowered.isolated(OUT, Family.V4) == set()
    assert engine.lowered.pods[PodId(IN, web.key)].policies == ()
    assert not engine.lowered.policies
    assert not engine.lowered.sets
    assert delta.isolated[IN] == set(web.addresses)


def test_an_edit_that_goes_over_budget_keeps_no_opening_and_one_back_is_enforced_at_once() -> None:
    engine = Engine("here", budgets=SMALL)
    engine.apply(upsert(pod("web", "10.0.0.1", app="web"), admitting("p", 1, app="web")), 0)
    policy_id = PolicyId(IN, Key("shop", "p"))
    assert policy_id in engine.lowered.policies
    # Even with no time to compile anything.
    delta = engine.apply(upsert(admitting("p", 3, app="web")), 0, 0)
    assert delta.policies == {policy_id}
    assert policy_id not in engine.lowered.policies
    assert not engine.lowered.sets
    engine.apply(upsert(admitting("p", 2, app="web")), 0)
    assert policy_id in engine.lowered.policies
    assert engine.over_budget() == {}


def test_other_policies_of_the_pod_are_enforced_beside_one_over_budget() -> None:
    engine = Engine("here", budgets=SMALL)
    web = pod("web", "10.0.0.1", app="web")
    engine.apply(upsert(web, admitting("big", 3, app="web"), admitting("small", 1, app="web")), 0)
    assert engine.lowered.pods[PodId(IN, web.key)].policies == (Key("shop", "small"),)


def test_a_pod_is_told_with_the_policies_over_budget_that_isolate_it() -> None:
    engine = Engine("here", budgets=SMALL)
    web, db = pod("web", "10.0.0.1", app="web"), pod("db", "10.0.0.2", app="db")
    both = NetworkPolicy("shop", "both", ingress=admitting("both", 3).ingress, egress=())
    engine.apply(upsert(web, db, admitting("big", 3, app="web"), admitting("small", 1, app="web"), both), 0)
    of_both, of_web = [both.key], [Key("shop", "big"), both.key]
    assert engine.closed_by_budget() == {
        PodId(IN, web.key): of_web,
        PodId(IN, db.key): of_both,
        PodId(OUT, web.key): of_both,
        PodId(OUT, db.key): of_both,
    }
    assert engine.closed_by_budget(1) == {PodId(IN, web.key): of_web[:1]}


def test_another_namespace_has_a_budget_of_its_own() -> None:
    engine = Engine("here", budgets=Budgets(namespace=NamespaceBudget(policies=1)))
    other = pod("web", "10.0.0.2", namespace="bank")
    allow = NetworkPolicy("bank", "p", ingress=(Rule(),))
    engine.apply(upsert(pod("web", "10.0.0.1", app="web"), other, allow), 0)
    engine.apply(upsert(*(admitting(n, app="web") for n in "abc")), 0)
    assert engine.lowered.pods[PodId(IN, other.key)].policies == (allow.key,)


def test_a_policy_that_is_not_valid_still_isolates_when_it_is_over_budget() -> None:
    engine = Engine("here", budgets=Budgets(namespace=NamespaceBudget(policies=0)))
    web = pod("web", "10.0.0.1", app="web")
    stand_in = NetworkPolicy("shop", "p", ingress=(), egress=())
    engine.apply(upsert(web), 0)
    engine.apply([Invalid(Kind.POLICY, stand_in.key, (Problem("spec", "wrong"),), stand_in)], 0)
    assert (
        engine.lowered.isolated(IN, Family.V4)
        == engine.lowered.isolated(OUT, Family.V4)
        == {web.addresses[0]}
    )


def test_ten_thousand_policies_on_one_pod_make_no_more_than_the_budget() -> None:
    engine = Engine("here")
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    changes = 0
    for number in range(3000):
        created = f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z"
        changes += bool(engine.apply(upsert(admitting(f"p{number}", created=created, app="web")), 0))
    assert changes == DEFAULT.namespace.policies
    assert len(engine.lowered.policies) == DEFAULT.namespace.policies
    assert len(engine.lowered.sets) <= DEFAULT.namespace.sets
    assert len(engine.over_budget()) == 2000


def test_three_thousand_peers_make_no_more_sets_than_the_budget_and_none_for_nobody() -> None:
    engine = Engine("here", budgets=Budgets(namespace=NamespaceBudget(policies=10_000)))
    engine.apply(upsert(pod("web", "10.0.0.1", "fd00::1", app="web")), 0)
    engine.apply(upsert(*(admitting(f"p{number:04}", app="web") for number in range(3000))), 0)
    assert len(engine.lowered.policies) == DEFAULT.namespace.sets // 2
    assert len(engine.lowered.sets) <= EMPTY_SETS
    (excess, *_) = engine.over_budget().values()
    assert (excess.what, excess.limit) == ("sets", DEFAULT.namespace.sets)


def test_a_set_is_made_when_its_peer_first_matches_a_pod_and_stays() -> None:
    engine = Engine("here")
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    for number in range(300):
        engine.apply(upsert(admitting(f"p{number:03}", created=f"{number:03}", app="web")), 0)
    early, late = (PolicyId(IN, Key("shop", f"p{number}")) for number in ("000", "299"))
    # In one family alone, as the pods here.
    assert len(engine.lowered.policies[early].v4) == 1
    assert engine.lowered.policies[late] == ((), ())
    sets = len(engine.lowered.sets)
    assert sets <= EMPTY_SETS
    client = pod("client", "10.0.0.9", node="there", p2990="yes")
    delta = engine.apply(upsert(client), 0)
    (made,) = delta.sets_added
    assert engine.lowered.sets[made] == set(client.addresses)
    assert delta.policies == {late}
    assert not delta.members
    # From then on a label is a member, and no rule.
    delta = engine.apply(upsert(pod("client", "10.0.0.9", node="there", app="client")), 0)
    assert (delta.policies, delta.sets_removed) == (set(), set())
    assert delta.members[made].removed == set(client.addresses)
    delta = engine.apply(upsert(client), 0)
    assert delta.members[made].added == set(client.addresses)
    engine.apply([Delete(Kind.POLICY, late.policy)], 0)
    assert len(engine.lowered.sets) == sets


def test_a_set_that_others_show_wakes_those_who_do_not() -> None:
    engine = Engine("here")
    engine.apply(upsert(pod("web", "10.0.0.1", app="web")), 0)
    engine.apply(upsert(*(admitting(f"p{n:03}", created=f"{n:03}", app="web") for n in range(300))), 0)
    bank = pod("till", "10.0.0.2", namespace="bank", app="till")
    everywhere = Peer(labelled(p2990="yes"), Selector())
    late = NetworkPolicy("shop", "late", ingress=(Rule((everywhere,)),), created="999")
    engine.apply(upsert(Namespace("shop"), bank, late), 0)
    assert engine.lowered.policies[PolicyId(IN, late.key)].v4 == ()
    engine.apply(upsert(NetworkPolicy("bank", "p", ingress=(Rule((everywhere,)),))), 0)
    engine.apply(upsert(pod("client", "10.0.0.9", node="there", p2990="yes")), 0)
    assert len(engine.lowered.policies[PolicyId(IN, late.key)].v4) == 1


# --- Texts --------------------------------------------------------------------------------------------------


def test_a_budget_is_read_as_it_is_written() -> None:
    assert changed(PolicyBudget(), budget_text(PolicyBudget(1, 2, 3))) == PolicyBudget(1, 2, 3)
    assert changed(NamespaceBudget(), "sets=7, rules=9") == NamespaceBudget(sets=7, rules=9)


@pytest.mark.parametrize(
    "text", ["", "rules", "rules=", "rules=-1", "rules=1e3", "packets=1", "rules=1234567890"]
)
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^,]*$"):
        changed(PolicyBudget(), text)


def test_an_excess_says_what_is_needed_and_what_there_may_be() -> None:
    assert (
        str(Excess("sets", 6000, 4000, whole=False))
        == "it needs 6,000 sets, of 4,000 at most (--policy-budget)"
    )
    assert "of 1,000 at most (--namespace-budget)" in str(Excess("policies", 1001, 1000, whole=True))


def test_what_goes_over_budget_and_back_between_two_looks_is_no_news() -> None:
    ledger = Ledger(Budgets(namespace=NamespaceBudget(policies=1)))
    first, second = admitting("a"), admitting("b")
    ledger.put(second.key, second, 1)
    ledger.decide()
    assert ledger.take_news() == {}
    ledger.put(first.key, first, 1)
    ledger.decide()
    ledger.remove(first.key)
    ledger.decide()
    assert ledger.take_news() == {}
    ledger.put(first.key, first, 1)
    ledger.decide()
    assert list(ledger.take_news()) == [second.key]
