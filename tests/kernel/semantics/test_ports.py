"""Ports: numbers, ranges and names, of every protocol and in both directions."""

from __future__ import annotations

import pytest

from agent.kube.model import NamedPort, NetworkPolicy
from agent.net import Protocol
from tests.kernel.semantics.stage import SCTP, TCP, UDP, Stage
from tests.kernel.semantics.written import Fields, block, labels, namespaces, pods, policy, port

S = labels(pod="s")
EVERY_PORT = " ".join([f"tcp/{n}" for n in TCP] + [f"udp/{n}" for n in UDP] + [f"sctp/{n}" for n in SCTP])


def ingress(*ports: Fields, **rule: object) -> NetworkPolicy:
    return policy("ports", S, ingress=[{"ports": list(ports), **rule}])


def egress(*ports: Fields, **rule: object) -> NetworkPolicy:
    return policy("ports", S, egress=[{"ports": list(ports), **rule}], types=["Egress"])


def others(*allowed: str) -> str:
    """Return every port answered but these."""
    return " ".join(entry for entry in EVERY_PORT.split() if entry not in allowed)


@pytest.mark.parametrize("absent", [None, []], ids=["absent", "empty"])
def test_absent_or_empty_ports_are_any_port_of_any_protocol(
    stage: Stage, absent: list[Fields] | None
) -> None:
    rule = {"from": [pods(pod="a")]} | ({} if absent is None else {"ports": absent})
    stage.given(policy("any", S, ingress=[rule]))
    stage.expect(f"a -> s: {EVERY_PORT}", denied=f"b -> s: {EVERY_PORT}")


def test_a_port_allows_its_number_and_protocol_only(stage: Stage) -> None:
    stage.given(ingress(port(80)))
    stage.expect("a -> s: tcp/80", denied=f"a -> s: {others('tcp/80')}")
    stage.given(ingress(port(80, "UDP"), port(9, "SCTP")))
    stage.expect("a -> s: udp/80 sctp/9", denied=f"a -> s: {others('udp/80', 'sctp/9')}")
    stage.given(egress(port(80, "SCTP")))
    stage.expect("s -> a out: sctp/80", denied=f"s -> a out: {others('sctp/80')}")


def test_the_default_protocol_is_tcp(stage: Stage) -> None:
    stage.given(ingress({"port": 80}))
    stage.expect("a -> s: tcp/80", denied="a -> s: udp/80 sctp/80")


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_a_protocol_without_a_port_is_every_port_of_it(stage: Stage, protocol: str) -> None:
    ours = [entry for entry in EVERY_PORT.split() if entry.startswith(protocol.lower())]
    stage.given(ingress({"protocol": protocol}))
    stage.expect(f"a -> s: {' '.join(ours)}", denied=f"a -> s: {others(*ours)}")


@pytest.mark.parametrize("number", [1, 65535])
def test_the_lowest_and_the_highest_port(stage: Stage, number: int) -> None:
    stage.given(ingress(port(number)))
    stage.expect(f"a -> s: tcp/{number}", denied=f"a -> s: {others(f'tcp/{number}')}")


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_an_end_port_includes_both_ends(stage: Stage, direction: str) -> None:
    stage.given((ingress if direction == "ingress" else egress)(port(8000, end=8010)))
    route = "a -> s" if direction == "ingress" else "s -> a"
    stage.expect(
        f"{route}: tcp/8000 tcp/8001 tcp/8009 tcp/8010", denied=f"{route}: tcp/7999 tcp/8011 tcp/80 udp/80"
    )


def test_a_range_of_one_port_and_a_range_to_the_end(stage: Stage) -> None:
    stage.given(ingress(port(8000, end=8000), port(8011, end=65535)))
    stage.expect(
        "a -> s: tcp/8000 tcp/8011 tcp/65535", denied="a -> s: tcp/7999 tcp/8001 tcp/8010 tcp/80 udp/80"
    )


def test_a_range_over_every_port_is_of_its_protocol_only(stage: Stage) -> None:
    stage.given(ingress(port(1, end=65535)))
    stage.expect("a -> s: tcp/1 tcp/80 tcp/65535", denied="a -> s: udp/80 sctp/80")


def test_more_ports_than_one_match_holds(stage: Stage) -> None:
    many = [port(number) for number in range(2000, 2040, 2)]
    stage.given(
        ingress(port(1), *many, port(8000), port(8009, end=8010), *(port(80, p) for p in ("UDP", "SCTP")))
    )
    allowed = ("tcp/1", "tcp/8000", "tcp/8009", "tcp/8010", "udp/80", "sctp/80")
    stage.expect(f"a -> s: {' '.join(allowed)}", denied=f"a -> s: {others(*allowed)}")
    stage.expect(
        refused="a -> s: tcp/2000 tcp/2014 tcp/2028 tcp/2030 tcp/2038",
        denied=[],
    )


def test_ports_and_peers_of_one_rule_must_both_hold(stage: Stage) -> None:
    ports = [port(80), port(8000, end=8010), port(53, "UDP")]
    stage.given(ingress(*ports, **{"from": [pods(pod="a"), namespaces(team="y")]}))
    stage.expect(
        "a c g -> s: tcp/80 tcp/8010 udp/53",
        denied=["a c -> s: tcp/81 sctp/9", "b f out -> s: tcp/80 tcp/8010 udp/53"],
    )


def test_ports_of_one_rule_and_peers_of_another_do_not_mix(stage: Stage) -> None:
    stage.given(
        policy(
            "two-rules",
            S,
            ingress=[
                {"from": [pods(pod="a")], "ports": [port(80)]},
                {"from": [pods(pod="b")], "ports": [port(81)]},
            ],
        )
    )
    stage.expect("a -> s: tcp/80", "b -> s: tcp/81", denied=["a -> s: tcp/81", "b -> s: tcp/80"])


# Named ports


def test_an_ingress_name_is_resolved_on_each_selected_pod(stage: Stage) -> None:
    stage.given(
        stage.pod("s", ports={"http": 80}),
        stage.pod("t", ports={"http": 8000, "other": 80}),
        policy("named", ingress=[{"ports": [port("http")]}]),
    )
    stage.expect(
        "a c out -> s: tcp/80",
        "a c out -> t: tcp/8000",
        denied=["a -> s: tcp/8000 udp/80", "a -> t: tcp/80", "a -> b: tcp/80 tcp/8000"],
    )


def test_an_ingress_name_and_a_peer_must_both_hold(stage: Stage) -> None:
    stage.given(
        stage.pod("s", ports={"http": 80}),
        stage.pod("t", ports={"http": 8000}),
        policy("named", ingress=[{"from": [pods(pod="a"), namespaces(team="y")], "ports": [port("http")]}]),
    )
    stage.expect(
        "a c g -> s: tcp/80",
        "a c g -> t: tcp/8000",
        denied=["a c -> s: tcp/8000", "a c -> t: tcp/80", "b out -> s: tcp/80", "b out -> t: tcp/8000"],
    )


def test_an_egress_name_is_resolved_on_each_peer_pod(stage: Stage) -> None:
    stage.given(
        stage.pod("a", ports={"http": 80}),
        stage.pod("g", ports={"http": 8000}),
        egress(port("http"), to=[pods(), namespaces(team="y")]),
    )
    stage.expect(
        "s -> a: tcp/80",
        "s -> g: tcp/8000",
        denied=["s -> a: tcp/8000 udp/80", "s -> g: tcp/80", "s -> b c f out: tcp/80 tcp/8000"],
    )


def test_an_egress_name_is_not_resolved_on_pods_that_are_no_peers(stage: Stage) -> None:
    stage.given(
        stage.pod("a", ports={"http": 80}),
        stage.pod("b", ports={"http": 80}),
        egress(port("http"), to=[pods(pod="a")]),
    )
    stage.expect("s -> a: tcp/80", denied="s -> b: tcp/80")


def test_an_egress_name_without_to_is_resolved_on_every_pod_of_the_cluster(stage: Stage) -> None:
    stage.given(
        stage.pod("a", ports={"http": 80}),
        stage.pod("g", ports={"http": 8000}),
        stage.pod("s", ports={"http": 81}),
        egress(port("http")),
    )
    stage.expect(
        "s -> a: tcp/80",
        "s -> g: tcp/8000",
        denied=["s -> a: tcp/8000 tcp/81", "s -> g: tcp/80", "s -> b f out far: tcp/80 tcp/8000"],
    )


def test_an_egress_name_to_a_block_is_resolved_on_the_pods_within_it(stage: Stage) -> None:
    a, f = stage.pods["a"], stage.pods["f"]
    names = [
        stage.pod("a", ports={"http": 80}),
        stage.pod("b", ports={"http": 80}),
        stage.pod("f", ports={"http": 81}),
    ]
    stage.given(
        *names,
        egress(
            port("http"),
            to=[
                block(f"{a.v4}/32"),
                block(f"{a.v6}/128"),
                block(stage.far.cidr4, f"{stage.pods['g'].v4}/32"),
                block(f"{f.v6}/128"),
                block("172.18.0.0/16"),
            ],
        ),
    )
    stage.expect(
        "s -> a: tcp/80",
        "s -> f: tcp/81",
        denied=["s -> a: tcp/81", "s -> f: tcp/80", "s -> b c g out: tcp/80 tcp/81"],
    )


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_name_and_protocol_must_match(stage: Stage, direction: str) -> None:
    dns = [
        NamedPort("dns", Protocol.UDP, 53),
        NamedPort("dns", Protocol.TCP, 81),
        NamedPort("web", Protocol.SCTP, 80),
    ]
    route = "a -> s" if direction == "ingress" else "s -> a"
    make = ingress if direction == "ingress" else egress
    named = stage.pod("s" if direction == "ingress" else "a", ports=dns)
    stage.given(named, make(port("dns", "UDP")))
    stage.expect(f"{route}: udp/53", denied=f"{route}: {others('udp/53')}")
    stage.given(named, make(port("dns"), port("web", "SCTP")))
    stage.expect(f"{route}: tcp/81 sctp/80", denied=f"{route}: {others('tcp/81', 'sctp/80')}")
    stage.given(named, make(port("web", "UDP"), port("web")))
    stage.expect(denied=f"{route}: {EVERY_PORT}")


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_name_that_no_pod_has_opens_nothing(stage: Stage, direction: str) -> None:
    make = ingress if direction == "ingress" else egress
    stage.given(make(port("nobody"), port("nobody", "UDP")))
    stage.expect(denied=f"{'a out -> s' if direction == 'ingress' else 's -> a out'}: {EVERY_PORT}")


def test_names_and_numbers_together(stage: Stage) -> None:
    stage.given(
        stage.pod("s", ports={"http": 8000}),
        ingress(port("http"), port(81), port("nobody"), **{"from": [pods(pod="a")]}),
    )
    stage.expect(
        "a -> s: tcp/8000 tcp/81", denied=[f"a -> s: {others('tcp/8000', 'tcp/81')}", "b -> s: tcp/81"]
    )


def test_a_name_follows_its_pod(stage: Stage) -> None:
    stage.given(stage.pod("s", ports={"http": 80}), ingress(port("http")))
    stage.expect("a -> s: tcp/80", denied="a -> s: tcp/81")
    stage.then(stage.pod("s", ports={"http": 81}))
    stage.expect("a -> s: tcp/81", denied="a -> s: tcp/80")
    stage.then(stage.pod("s"))
    stage.expect(denied="a -> s: tcp/80 tcp/81")
