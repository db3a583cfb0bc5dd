"""Policies over budget and policies that wait: what becomes of the packets of their pods, and of others'."""

from __future__ import annotations

import msgspec
import pytest

from agent.kube.model import Key, NetworkPolicy
from agent.policy.budget.limits import Budgets, NamespaceBudget, PolicyBudget
from tests.kernel.semantics.stage import Stage, gone
from tests.kernel.semantics.written import block, labels, namespaces, pods, policy, port

pytestmark = pytest.mark.both_modes

FEW_SETS = Budgets(policy=PolicyBudget(sets=4))
BOTH = ("Ingress", "Egress")


def admitting(name: str, *peers: str, to: str = "s", ns: str = "x", created: str = "") -> NetworkPolicy:
    """Return a policy with a rule, and a set in each family, for each of its peers."""
    rules = [{"from": [pods(pod=peer)]} for peer in peers]
    made = policy(name, labels(pod=to), ns=ns, ingress=rules)
    return msgspec.structs.replace(made, created=created)


def test_a_policy_over_budget_denies_and_its_neighbours_are_as_ever(stage: Stage) -> None:
    stage.given(
        admitting("big", "a", "b", "t"),
        admitting("beside", "a", "b", to="t"),
        policy("elsewhere", labels(pod="c"), ns="y", ingress=[{"from": [namespaces(team="x")]}]),
        budgets=FEW_SETS,
    )
    stage.expect(
        "a b f -> c", "a b -> t", "s -> c out", denied=["a b t c f out -> s", "f out -> t", "out -> c"]
    )
    assert list(stage.engine.over_budget()) == [Key("x", "big")]


def test_only_the_directions_that_a_policy_over_budget_names_are_closed(stage: Stage) -> None:
    rules = [{"to": [pods(pod=peer)]} for peer in ("a", "b", "t")]
    stage.given(policy("big", labels(pod="s"), egress=rules, types=["Egress"]), budgets=FEW_SETS)
    stage.expect("a c f out -> s", denied="s -> a b t out")
    stage.then(policy("big", labels(pod="s"), egress=rules[:1], types=["Egress"]))
    stage.expect("a c f out -> s", "s -> a", denied="s -> b t out")


def test_another_policy_of_the_pod_still_allows(stage: Stage) -> None:
    stage.given(admitting("big", "a", "b", "t"), admitting("small", "a"), budgets=FEW_SETS)
    stage.expect("a -> s", denied="b t out -> s")


def test_an_edit_over_budget_takes_what_was_allowed_and_one_back_gives_it(stage: Stage) -> None:
    stage.given(admitting("p", "a", "b"), budgets=FEW_SETS)
    stage.expect("a b -> s", denied="t out -> s")
    stage.then(admitting("p", "a", "b", "t"), most=0)
    stage.expect("a b t -> c", denied="a b t out -> s")
    stage.then(admitting("p", "a", "t"))
    stage.expect("a t -> s", denied="b out -> s")


def test_the_newest_policies_of_a_namespace_give_way(stage: Stage) -> None:
    budgets = Budgets(namespace=NamespaceBudget(policies=2))
    stage.given(
        admitting("first", "a", created="2026-01-01T00:00:00Z"),
        admitting("third", "t", created="2026-01-03T00:00:00Z"),
        budgets=budgets,
    )
    stage.expect("a t -> s", denied="b -> s")
    stage.then(admitting("fourth", "f", created="2026-01-04T00:00:00Z"))
    stage.expect("a t -> s", denied="b f -> s")
    second = admitting("second", "b", created="2026-01-02T00:00:00Z")
    stage.then(second)
    stage.expect("a b -> s", denied="t f -> s")
    stage.then(gone(second))
    stage.expect("a t -> s", denied="b f -> s")


def test_pods_of_policies_that_wait_are_closed_until_their_turn(stage: Stage) -> None:
    stage.given()
    stage.expect("a b c out -> s t")
    stage.then(admitting("one", "a"), admitting("two", "b", to="t"), most=0)
    stage.expect("s t -> c", denied="a b c out -> s t")
    stage.then(most=1)
    stage.then(most=1)
    stage.expect("a -> s", "b -> t", denied=["b c out -> s", "a c out -> t"])


def test_an_edit_that_waits_holds_as_it_was_and_a_deletion_does_not_wait(stage: Stage) -> None:
    stage.given(admitting("p", "a"), admitting("q", "t"))
    stage.expect("a t -> s", denied="b -> s")
    stage.then(admitting("p", "b"), gone(admitting("q", "t")), most=0)
    stage.expect("a -> s", denied="b t -> s")
    stage.then(most=1)
    stage.expect("b -> s", denied="a t -> s")


def test_many_excepts_and_named_ports_mean_what_few_do(stage: Stage) -> None:
    """In one set: each pod whose address is left, with each of the names that it has."""
    t, a = stage.pods["t"], stage.pods["a"]
    far = [f"203.0.{n}.1/32" for n in range(200)]
    stage.given(
        stage.pod("t", ports={"web": 80, "more": 81}),
        stage.pod("a", ports={"web": 8000}),
        stage.pod("b", ports={"web": 80}),
        policy(
            "many",
            labels(pod="s"),
            egress=[
                {
                    "to": [
                        block("0.0.0.0/0", *far, f"{stage.pods['b'].v4}/32"),
                        block("::/0", f"{stage.pods['b'].v6}/128"),
                    ],
                    "ports": [port("web"), port("more"), *(port(f"other-{n}") for n in range(50))],
                }
            ],
            types=["Egress"],
        ),
    )
    assert t.v4 != a.v4
    stage.expect(
        "s -> t: tcp/80 tcp/81",
        "s -> a: tcp/8000",
        denied=["s -> t: tcp/8000 udp/80", "s -> a: tcp/80 tcp/81", "s -> b: tcp/80 tcp/8000"],
    )


def test_what_one_of_many_blocks_excepts_and_another_holds_is_open(stage: Stage) -> None:
    a, b, c = (stage.pods[name] for name in "abc")
    wide = [f"203.0.{n}.0/24" for n in range(100)]
    stage.given(
        policy(
            "blocks",
            labels(pod="s"),
            ingress=[
                {
                    "from": [
                        block("0.0.0.0/0", *wide, f"{a.v4}/32", f"{b.v4}/32"),
                        block("::/0", f"{a.v6}/128", f"{b.v6}/128"),
                        block(f"{a.v4}/32"),
                        block(f"{a.v6}/128"),
                    ]
                }
            ],
        )
    )
    assert c.v4 != a.v4
    stage.expect("a c t out -> s", denied="b -> s")


def test_more_peers_than_have_sets_of_their_own_mean_what_each_does(stage: Stage) -> None:
    peers = [pods(pod="a"), namespaces(team="y"), *(pods(pod=f"nobody-{n}") for n in range(20))]
    stage.given(
        policy("many", labels(pod="s"), ingress=[{"from": peers, "ports": [port(80), port(53, "UDP")]}])
    )
    stage.expect("a c g -> s: tcp/80 udp/53", denied=["b t f out -> s: tcp/80", "a c -> s: tcp/81"])
    stage.then(stage.namespace("y", labels={"team": "z"}))
    stage.expect("a -> s: tcp/80", denied="c g b -> s: tcp/80")
