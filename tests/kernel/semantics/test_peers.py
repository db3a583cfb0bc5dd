"""Peers by selectors: pods, namespaces, both, every operator, and what no selector matches."""

from __future__ import annotations

import pytest

from agent.kube.events import Invalid, Problem
from agent.kube.model import Key, Kind, NetworkPolicy, Peer, Rule, Selector
from tests.kernel.semantics.stage import Stage, gone
from tests.kernel.semantics.written import Fields, expression, labels, namespaces, pods, policy, port

S = labels(pod="s")


def from_peers(*peers: Fields) -> NetworkPolicy:
    return policy("peers", S, ingress=[{"from": list(peers)}])


def to_peers(*peers: Fields) -> NetworkPolicy:
    return policy("peers", S, egress=[{"to": list(peers)}], types=["Egress"])


def test_a_pod_selector_alone_looks_in_the_policys_own_namespace(stage: Stage) -> None:
    stage.given(from_peers(pods()))
    stage.expect("a b t f -> s", denied="c g out -> s")
    stage.given(to_peers(pods()))
    stage.expect("s -> a b t f", denied="s -> c g out")


def test_a_namespace_selector_alone_takes_every_pod_there(stage: Stage) -> None:
    stage.given(from_peers(namespaces(team="y")))
    stage.expect("c g -> s", denied="a f out -> s")
    stage.given(to_peers(namespaces(team="y")))
    stage.expect("s -> c g", denied="s -> a f out")


def test_both_selectors_in_one_peer_mean_both(stage: Stage) -> None:
    stage.given(from_peers(pods(pod="c") | namespaces(team="y")))
    stage.expect("c -> s", denied="g a f out -> s")
    stage.given(to_peers(pods(pod="c") | namespaces(team="y")))
    stage.expect("s -> c", denied="s -> g a f out")


def test_selectors_in_two_peers_mean_either(stage: Stage) -> None:
    stage.given(from_peers(pods(pod="a"), namespaces(team="y")))
    stage.expect("a c g -> s", denied="b f out -> s")


def test_an_empty_namespace_selector_is_every_pod_of_the_cluster_and_nothing_else(stage: Stage) -> None:
    stage.given(from_peers(namespaces()))
    stage.expect("a b t f c g near -> s", denied="out far -> s")
    stage.given(to_peers(namespaces()))
    stage.expect("s -> a b t f c g", "s -> near: tcp/80", denied="s -> out far")


@pytest.mark.parametrize("absent", [None, []], ids=["absent", "empty"])
def test_absent_or_empty_from_and_to_are_any_peer(stage: Stage, absent: list[Fields] | None) -> None:
    tcp80 = {"ports": [port(80)]}
    stage.given(policy("any", S, ingress=[tcp80 if absent is None else tcp80 | {"from": absent}]))
    stage.expect("a c f out far -> s: tcp/80", denied="a c f out far -> s: tcp/81 udp/53")
    rule = tcp80 if absent is None else tcp80 | {"to": absent}
    stage.given(policy("any", S, egress=[rule], types=["Egress"]))
    stage.expect("s -> a c f out far: tcp/80", denied="s -> a c f out far: tcp/81 udp/53")


def test_no_rule_allows_nothing(stage: Stage) -> None:
    stage.given(policy("none", S, ingress=[], egress=[], types=["Ingress", "Egress"]))
    stage.expect(denied=["a c out -> s", "s -> a c out"])


def test_a_peer_of_fields_not_known_here_matches_nothing(stage: Stage) -> None:
    stage.given(
        NetworkPolicy("x", "unknown", Selector(), ingress=(Rule((Peer(),)),), egress=(Rule((Peer(),)),))
    )
    stage.expect(denied=["a c f out -> s", "s -> a c f out"])


OPERATORS = {
    "In": (expression("app", "In", "one", "two"), "a b", "t c"),
    "NotIn": (expression("app", "NotIn", "one", "two"), "t c", "a b"),
    "Exists": (expression("app", "Exists"), "a b t", "c"),
    "DoesNotExist": (expression("app", "DoesNotExist"), "c", "a b t"),
    "In and NotIn together": (
        {
            "matchExpressions": [
                *expression("app", "Exists")["matchExpressions"],
                *expression("app", "NotIn", "two")["matchExpressions"],
            ]
        },
        "a t",
        "b c",
    ),
    "matchLabels and an expression": (
        {**labels(pod="a"), **expression("app", "NotIn", "three")},
        "a",
        "b t c",
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_on_pods(stage: Stage, name: str) -> None:
    """Pods a, b and t have app=one, two and three; c has no such label, which the negative two match."""
    selector, allowed, denied = OPERATORS[name]
    cast = [
        stage.pod(pod, ns="x", labels={"pod": pod, "app": app})
        for pod, app in (("a", "one"), ("b", "two"), ("t", "three"))
    ]
    plain = stage.pod("c", ns="x")
    stage.given(*cast, plain, gone(stage.pod("c")), from_peers({"podSelector": selector}))
    stage.expect(f"{allowed} -> s", denied=f"{denied} -> s")
    stage.given(*cast, plain, gone(stage.pod("c")), to_peers({"podSelector": selector}))
    stage.expect(f"s -> {allowed}", denied=f"s -> {denied}")


@pytest.mark.parametrize("name", list(OPERATORS)[:4])
def test_operators_on_namespaces(stage: Stage, name: str) -> None:
    """The namespaces n1, n2 and n3 have app=one, two and three; n4 has no label."""
    selector, allowed, denied = OPERATORS[name]
    places = {"a": ("n1", "one"), "b": ("n2", "two"), "t": ("n3", "three"), "c": ("n4", "")}
    for written, flows in (
        (from_peers({"namespaceSelector": selector}), ("{} -> s", "{} -> s")),
        (to_peers({"namespaceSelector": selector}), ("s -> {}", "s -> {}")),
    ):
        stage.given(
            *(gone(stage.pod(pod)) for pod in places),
            *(stage.namespace(ns, labels={"app": app} if app else {}) for ns, app in places.values()),
            *(stage.pod(pod, ns=ns) for pod, (ns, _) in places.items()),
            written,
        )
        stage.expect(flows[0].format(allowed), denied=flows[1].format(denied))


@pytest.mark.parametrize("name", ["NotIn", "DoesNotExist", "Exists"])
def test_operators_on_the_selected_pods(stage: Stage, name: str) -> None:
    selector = expression("app", name, *(["one"] if name == "NotIn" else []))
    stage.given(stage.pod("s", labels={"app": "one"}), policy("deny", selector, types=["Ingress"]))
    selected, not_selected = ("s", "t a") if name == "Exists" else ("t a", "s")
    stage.expect(f"b -> {not_selected}", denied=f"b -> {selected}")


def test_a_namespace_not_yet_known_matches_no_namespace_selector(stage: Stage) -> None:
    """Not even an empty one, nor a negative; a podSelector alone needs no namespace."""
    unknown = gone(stage.namespace("y"))
    for selector in ({}, expression("team", "DoesNotExist"), expression("team", "NotIn", "z")):
        stage.given(unknown, from_peers({"namespaceSelector": selector}))
        stage.expect(*(["a f -> s"] if selector == {} else []), denied="c g -> s")
    stage.then(stage.namespace("y"))
    stage.expect("c g -> s")
    stage.given(unknown, policy("own", labels(pod="c"), ns="y", ingress=[{"from": [pods()]}]))
    stage.expect("g -> c", denied="a -> c")


def test_labels_that_change_change_who_is_allowed(stage: Stage) -> None:
    stage.given(from_peers(pods(pod="a"), namespaces(team="friends")))
    stage.expect("a -> s", denied="b c g -> s")
    stage.then(stage.pod("b", labels={"pod": "a"}), stage.pod("a", labels={}))
    stage.expect("b -> s", denied="a c g -> s")
    stage.then(stage.namespace("y", labels={"team": "friends"}))
    stage.expect("b c g -> s", denied="a -> s")
    stage.then(stage.namespace("y", labels={}), stage.namespace("x", labels={"team": "friends"}))
    stage.expect("a b t f -> s", denied="c g -> s")


def test_a_default_deny_annotation_isolates_its_namespace_for_ingress(stage: Stage) -> None:
    stage.given(stage.namespace("x", ingress_isolated=True))
    stage.expect("s -> c out", "a -> c", denied="a c out -> s t")
    stage.then(policy("open-s", S, ingress=[{"from": [pods(pod="a")]}]))
    stage.expect("a -> s", denied=["a -> t", "b c -> s t"])
    stage.then(stage.namespace("x"))
    stage.expect("a b c -> t", "a -> s", denied="b c -> s")


def test_an_invalid_policy_isolates_what_it_selects_unless_a_good_version_is_known(stage: Stage) -> None:
    key = Key("x", "broken")
    problem = (Problem("spec.ingress[0].ports[0].port", "not a port"),)
    closed = policy("broken", S, types=["Ingress"])
    stage.given(Invalid(Kind.POLICY, key, problem, closed))
    stage.expect("s -> a out", "a -> t", denied="a c out -> s")
    stage.then(policy("broken", S, ingress=[{"from": [pods(pod="a")]}]))
    stage.expect("a -> s", denied="b c out -> s")
    stage.then(Invalid(Kind.POLICY, key, problem, closed))
    stage.expect("a -> s", denied="b c out -> s")
    stage.then(gone(closed))
    stage.expect("a b c out -> s")


def test_an_invalid_policy_whose_selector_cannot_be_read_isolates_nobody(stage: Stage) -> None:
    stage.given(Invalid(Kind.POLICY, Key("x", "broken"), (Problem("spec.podSelector", "not a selector"),)))
    stage.expect("a c out -> s", "s -> a c out")
