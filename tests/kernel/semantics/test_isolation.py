"""Who is isolated, in which direction, and what two policies or two directions mean together."""

from __future__ import annotations

import pytest

from tests.kernel.semantics.stage import Stage
from tests.kernel.semantics.written import (
    expression,
    isolated,
    labels,
    namespaces,
    pods,
    policy,
    port,
)

pytestmark = pytest.mark.both_modes

BOTH = ("Ingress", "Egress")


def test_without_policy_everything_is_open(stage: Stage) -> None:
    stage.given()
    stage.expect("a c f g out near far -> s t", "s -> t c g out far", "s -> near: tcp/80")


def test_default_deny_of_ingress_leaves_egress_open(stage: Stage) -> None:
    stage.given(isolated("s"))
    stage.expect("s -> t c g out", "a -> t", denied="a c f g out far -> s")


def test_default_deny_of_egress_leaves_ingress_open(stage: Stage) -> None:
    stage.given(isolated("s", types=["Egress"]))
    stage.expect("a c f out far -> s", denied="s -> t c f g out far")


def test_default_deny_of_both(stage: Stage) -> None:
    stage.given(isolated("s", types=BOTH))
    stage.expect("a -> t", denied=["a c f out -> s", "s -> t c f out"])


def test_an_empty_pod_selector_selects_every_pod_of_its_namespace_only(stage: Stage) -> None:
    stage.given(isolated())
    stage.expect("a f -> c", denied="a c g -> s t b")


def test_policies_add_up(stage: Stage) -> None:
    stage.given(
        isolated("s"),
        policy("one", labels(pod="s"), ingress=[{"from": [pods(pod="a")], "ports": [port(80)]}]),
        policy("two", labels(pod="s"), ingress=[{"from": [pods(pod="b")], "ports": [port(81)]}]),
        policy("three", labels(pod="s"), ingress=[{"ports": [port(53, "UDP")]}]),
    )
    stage.expect(
        "a -> s: tcp/80",
        "b -> s: tcp/81",
        "a b c out -> s: udp/53",
        denied=["a -> s: tcp/81 sctp/9", "b -> s: tcp/80 udp/80", "c f out -> s: tcp/80 tcp/81"],
    )


def test_an_allow_all_outweighs_a_default_deny(stage: Stage) -> None:
    stage.given(
        isolated("s", types=BOTH), policy("open", labels(pod="s"), ingress=[{}], egress=[{}], types=BOTH)
    )
    stage.expect("a c f out -> s", "s -> t c f out")


def test_a_policy_of_one_direction_does_not_isolate_the_other(stage: Stage) -> None:
    stage.given(policy("in", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}], types=["Ingress"]))
    stage.expect("a -> s", "s -> b c f out", denied="b c f out -> s")


def test_rules_of_a_direction_not_named_are_ignored(stage: Stage) -> None:
    stage.given(
        policy(
            "egress-only",
            labels(pod="s"),
            ingress=[{"from": [pods(pod="nobody")]}],
            egress=[{"to": [pods(pod="t")]}],
            types=["Egress"],
        ),
        isolated("t"),
        policy("says-nothing", labels(pod="t"), ingress=[{}], egress=[{}], types=["Egress"]),
    )
    stage.expect("a c out -> s", denied=["s -> a c out", "s a -> t"])


def test_policy_types_unset_mean_ingress(stage: Stage) -> None:
    stage.given(policy("unset", labels(pod="s")), policy("empty", labels(pod="t"), types=[]))
    stage.expect("s t -> a c out", denied="a c out -> s t")


def test_policy_types_unset_mean_egress_too_when_there_is_an_egress_rule(stage: Stage) -> None:
    stage.given(
        policy("unset", labels(pod="s"), egress=[{"to": [pods(pod="a")]}]),
        policy("no-rule", labels(pod="t"), egress=[]),
    )
    stage.expect("s -> a", "t -> a c out", denied=["s -> b c out", "a c out -> s t"])


def test_a_connection_needs_both_directions(stage: Stage) -> None:
    stage.given(
        policy("in", labels(pod="s"), ingress=[{"from": [pods(pod="a"), pods(pod="b")]}]),
        policy(
            "out", labels(pod="a"), egress=[{"to": [pods(pod="s")], "ports": [port(80)]}], types=["Egress"]
        ),
        isolated("b", types=["Egress"]),
    )
    stage.expect("a -> s: tcp/80", denied=["a -> s: tcp/81", "b -> s: tcp/80", "a -> t: tcp/80"])


def test_allowed_egress_never_answers_for_ingress(stage: Stage) -> None:
    stage.given(
        isolated("s"),
        policy("out", labels(pod="a"), egress=[{}], types=["Egress"]),
        policy("out-too", egress=[{"to": [pods()]}], types=["Egress"], ns="y"),
    )
    stage.expect("a -> t c out", denied=["a -> s", "c -> s"])


def test_allowed_ingress_never_answers_for_egress(stage: Stage) -> None:
    stage.given(
        isolated("a", types=["Egress"]), policy("in", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}])
    )
    stage.expect(denied=["a -> s t c f", "b -> s"])


def test_policies_of_both_directions_select_one_pod_each_on_its_own(stage: Stage) -> None:
    """The same policy allows egress to and ingress from different peers, of pods that meet each other."""
    stage.given(
        policy(
            "both",
            expression("pod", "In", "a", "s"),
            ingress=[{"from": [pods(pod="a")]}],
            egress=[{"to": [pods(pod="s")]}],
            types=BOTH,
        )
    )
    stage.expect("a -> s", denied=["s -> a", "b -> s", "a -> t"])


def test_replies_pass_though_the_other_direction_is_isolated(stage: Stage) -> None:
    stage.given(
        isolated("s", types=["Egress"]),
        policy("in", labels(pod="s"), ingress=[{"from": [pods(), namespaces()]}]),
        isolated("a"),
        policy("out", labels(pod="a"), egress=[{"to": [pods(pod="s")]}], types=["Egress"]),
    )
    stage.expect("a b c f -> s", denied=["s -> a b c f", "b -> a", "out -> s"])


def test_related_icmp_errors_pass(stage: Stage) -> None:
    """An answer 'port unreachable' comes back through two isolations that would let nothing else through."""
    stage.given(
        isolated("a"),
        isolated("s", types=["Egress"]),
        policy("in", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}]),
    )
    stage.expect(refused="a -> s: udp/999", denied=["s -> a", "b -> s"])


def test_a_pod_always_reaches_itself_also_through_its_own_service(stage: Stage) -> None:
    stage.given(isolated("s", "t", types=BOTH))
    stage.expect(
        "s -> s",
        "s -> service-s: tcp/1000",
        "t -> service-t: tcp/1000",
        denied=["s a -> service-t: tcp/1000", "t -> service-s: tcp/1000", "s -> t"],
    )
