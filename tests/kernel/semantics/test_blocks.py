"""ipBlock: exactly its range without its own excepts, and nothing of the other family."""

from __future__ import annotations

import pytest

from agent.kube.model import NetworkPolicy
from agent.policy.lower import policy as lowering
from tests.kernel.semantics.stage import Stage
from tests.kernel.semantics.written import (
    Fields,
    block,
    isolated,
    labels,
    namespaces,
    pods,
    policy,
    port,
)

S = labels(pod="s")
NEAR4, NEAR6, FAR4, FAR6 = "10.244.1.0/24", "fd00:10:244:1::/64", "10.244.2.0/24", "fd00:10:244:2::/64"
OUT4, OUT6 = "172.18.100.0/24", "fd00:172:18::100:0/112"


@pytest.fixture(autouse=True, params=[0, lowering.FEW_NETWORKS], ids=["sets", "rules"])
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are sets, but for those of few networks: have them be sets all, too."""
    monkeypatch.setattr(lowering, "FEW_NETWORKS", request.param)


def from_blocks(*blocks: Fields) -> NetworkPolicy:
    return policy("blocks", S, ingress=[{"from": list(blocks)}])


def to_blocks(*blocks: Fields, **rule: object) -> NetworkPolicy:
    return policy("blocks", S, egress=[{"to": list(blocks), **rule}], types=["Egress"])


def test_a_block_matches_hosts_and_pods_by_address(stage: Stage) -> None:
    stage.given(from_blocks(block(FAR4), block(FAR6), block(OUT4), block(OUT6)))
    stage.expect("f g out -> s", denied="a c far -> s")
    stage.given(to_blocks(block(FAR4), block(FAR6), block(OUT4), block(OUT6)))
    stage.expect("s -> f g out", denied="s -> a c far")


def test_a_block_never_crosses_families(stage: Stage) -> None:
    stage.given(from_blocks(block(FAR4), block("0.0.0.0/0")))
    stage.expect("IPv4 a f out -> s", denied="IPv6 a f out -> s")
    stage.given(to_blocks(block("::/0")))
    stage.expect("IPv6 s -> a f out", denied="IPv4 s -> a f out")


@pytest.mark.both_modes
def test_everything_is_a_block_too(stage: Stage) -> None:
    stage.given(from_blocks(block("0.0.0.0/0"), block("::/0")))
    stage.expect("a c f g out far -> s")
    stage.given(to_blocks(block("0.0.0.0/0", FAR4), block("::/0", FAR6)))
    stage.expect("s -> a c out far", denied="s -> f g")


def test_excepts_are_taken_out(stage: Stage) -> None:
    stage.given(from_blocks(block("10.244.0.0/16", FAR4), block("fd00:10:244::/48", FAR6)))
    stage.expect("a c -> s", denied="f g out -> s")
    stage.given(to_blocks(block("10.244.0.0/16", NEAR4), block("fd00:10:244::/48", NEAR6)))
    stage.expect("s -> f g", denied="s -> a c out")


def test_a_block_of_one_address(stage: Stage) -> None:
    a = stage.pods["a"]
    stage.given(from_blocks(block(f"{a.v4}/32"), block(f"{a.v6}/128")))
    stage.expect("a -> s", denied="b c f out -> s")


def test_an_except_of_one_address(stage: Stage) -> None:
    a = stage.pods["a"]
    stage.given(from_blocks(block(NEAR4, f"{a.v4}/32"), block(NEAR6, f"{a.v6}/128")))
    stage.expect("b c t -> s", denied="a f out -> s")


@pytest.mark.parametrize("allowed", ["lower", "upper"])
def test_an_except_one_bit_longer_halves_the_block(stage: Stage, allowed: str) -> None:
    """Pods have 10.244.1.10 to .14: below 12 lie s and t, from 12 on a and b."""
    halves4, halves6 = ("10.244.1.8/30", "10.244.1.12/30"), ("fd00:10:244:1::8/126", "fd00:10:244:1::c/126")
    without = 1 if allowed == "lower" else 0
    stage.given(
        policy(
            "blocks",
            labels(pod="c"),
            ns="y",
            ingress=[
                {
                    "from": [
                        block("10.244.1.8/29", halves4[without]),
                        block("fd00:10:244:1::8/125", halves6[without]),
                    ]
                }
            ],
        )
    )
    lower, upper = "s t -> c", "a b -> c"
    stage.expect(*([lower] if without else [upper]), denied=upper if without else lower)


def test_what_one_block_excepts_and_another_covers_is_allowed(stage: Stage) -> None:
    f = stage.pods["f"]
    stage.given(
        from_blocks(
            block("10.244.0.0/16", FAR4),
            block(f"{f.v4}/32"),
            block("fd00:10:244::/48", FAR6),
            block(f"{f.v6}/128"),
        )
    )
    stage.expect("a c f -> s", denied="g out -> s")
    stage.given(
        to_blocks(
            block("0.0.0.0/0", "10.0.0.0/8"),
            block("10.244.0.0/16", NEAR4),
            block("::/0", "fd00:10::/32"),
            block("fd00:10:244::/48", NEAR6),
        )
    )
    stage.expect("s -> f g out far", denied="s -> a c")


def test_excepts_within_excepts(stage: Stage) -> None:
    a = stage.pods["a"]
    stage.given(
        from_blocks(
            block("10.244.0.0/16", NEAR4, f"{a.v4}/32"), block("fd00:10:244::/48", NEAR6, f"{a.v6}/128")
        )
    )
    stage.expect("f g -> s", denied="a b c out -> s")


def test_blocks_of_two_rules_and_policies_are_a_union(stage: Stage) -> None:
    stage.given(
        from_blocks(block(NEAR4), block(NEAR6)),
        policy("more", S, ingress=[{"from": [block(OUT4), block(OUT6)], "ports": [port(80)]}]),
    )
    stage.expect("a c -> s", "out -> s: tcp/80", denied=["out -> s: tcp/81 udp/53", "f -> s"])


def test_blocks_and_selectors_in_one_rule_are_a_union(stage: Stage) -> None:
    stage.given(from_blocks(block(OUT4), block(OUT6), pods(pod="a"), namespaces(team="y")))
    stage.expect("a c g out -> s", denied="b f far -> s")


def test_blocks_and_ports_must_both_hold(stage: Stage) -> None:
    ports = [port(80), port(53, "UDP"), port(9, "SCTP")]
    stage.given(to_blocks(block(FAR4), block(FAR6), block(OUT4), ports=ports))
    stage.expect(
        "s -> f g: tcp/80 udp/53 sctp/9",
        "IPv4 s -> out: tcp/80",
        denied=["s -> f out: tcp/81 udp/80", "s -> a: tcp/80", "IPv6 s -> out: tcp/80"],
    )


def test_a_block_matches_after_service_translation(stage: Stage) -> None:
    """The Service's own address opens nothing; the endpoint's, on the port behind it, does."""
    t = stage.pods["t"]
    virtual = [block("10.96.0.0/16"), block("fd00:10:96::/112")]
    stage.given(to_blocks(*virtual))
    stage.expect(denied=["s -> service-t: tcp/1000", "s -> t: tcp/80"])
    real = [block(f"{t.v4}/32"), block(f"{t.v6}/128")]
    stage.given(to_blocks(*real, ports=[port(80)]))
    stage.expect("s -> service-t: tcp/1000", "s -> t: tcp/80", denied="s -> t: tcp/81")
    stage.given(to_blocks(*real, ports=[port(1000)]))
    stage.expect(denied="s -> service-t: tcp/1000")
    stage.given(to_blocks(block("0.0.0.0/0", f"{t.v4}/32"), block("::/0", f"{t.v6}/128")))
    stage.expect("s -> out", denied="s -> service-t: tcp/1000")


def test_a_service_is_judged_by_its_endpoints_ingress(stage: Stage) -> None:
    stage.given(policy("in", labels(pod="t"), ingress=[{"from": [pods(pod="a")], "ports": [port(80)]}]))
    stage.expect("a -> service-t: tcp/1000", denied="s b c -> service-t: tcp/1000")
    stage.given(isolated("t"))
    stage.expect("near -> service-t: tcp/1000", denied="a s -> service-t: tcp/1000")
