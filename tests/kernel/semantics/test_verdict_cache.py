"""An allowed connection is cached and not judged again, until something changes that could deny it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.dataplane.iptables import verdict_cache
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.kube.events import Delete, Event
from agent.kube.model import Key, Kind, Node, Object
from agent.net import Family
from tests.build import packed
from tests.kernel.kernel_state import await_opened
from tests.kernel.semantics.stage import Stage
from tests.kernel.semantics.written import isolated, labels, namespaces, pods, policy, port

S = labels(pod="s")


@pytest.fixture(autouse=True)
def _usual_options(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verdict_cache, "IDLE", 0.05)
    yield
    stage.given(options=Options())


def cached(stage: Stage, family: Family) -> set[str]:
    """Return the members of the verdict cache, as ipset(8) prints them, without the time they have."""
    printed = stage.near.run("ipset", "list", names.cache(stage.mode.value, family).entries)
    return {line.split(" ")[0] for line in printed.partition("Members:\n")[2].splitlines()}


def judged(stage: Stage, family: Family) -> int:
    """Return how many packets have been judged and allowed."""
    counters = stage.near.iptables(family, "-L", names.CACHE, "-v", "-n", "-x")
    return sum(int(line.split()[0]) for line in counters.splitlines()[2:])


def member(stage: Stage, family: Family, source: str, service: str, destination: str) -> str:
    return f"{stage.places[source].address(family)},{service},{stage.places[destination].address(family)}"


@pytest.mark.both_modes
def test_the_second_connection_is_not_judged_and_only_what_is_allowed_is_cached(
    stage: Stage, family: Family
) -> None:
    here = f"IPv{int(family)} "
    stage.given(
        policy("s", S, ingress=[{"from": [pods(pod="a")], "ports": [port(80), port(53, "UDP")]}]),
        policy("t", labels(pod="t"), egress=[{"to": [pods(pod="a")]}], types=["Egress"]),
    )
    denied = [f"{here}a -> s: tcp/81", f"{here}b -> s: tcp/80", f"{here}t -> b"]
    allowed = [f"{here}a -> s: tcp/80 udp/53", f"{here}t -> a: tcp/80", f"{here}b -> a: tcp/80"]
    await_opened()
    stage.expect(*allowed, denied=denied)
    held = {
        member(stage, family, "a", "tcp:80", "s"),
        member(stage, family, "a", "udp:53", "s"),
        member(stage, family, "t", "tcp:80", "a"),
    }
    assert cached(stage, family) == held
    once = judged(stage, family)
    stage.expect(*allowed, denied=denied)
    assert judged(stage, family) == once
    assert cached(stage, family) == held


_ISOLATED = isolated("a", types=["Egress"])
_CHANGES: dict[str, tuple[Object | Event, ...]] = {
    "another policy isolates the source": (_ISOLATED,),
    "the policy lets in others": (policy("s", S, ingress=[{"from": [pods(pod="b")]}]),),
    "the policy lets in other ports": (
        policy("s", S, ingress=[{"from": [pods(pod="a")], "ports": [port(81)]}]),
    ),
    "the policy that let it in goes, another stays": (Delete(Kind.POLICY, Key("x", "s")),),
}


@pytest.mark.both_modes
@pytest.mark.parametrize("change", _CHANGES)
def test_it_is_judged_again_when_policies_change(stage: Stage, change: str) -> None:
    stage.given(policy("s", S, ingress=[{"from": [pods(pod="a")]}]), policy("none", S))
    for _ in range(2):
        stage.expect("a -> s: tcp/80 udp/53")
    stage.then(*_CHANGES[change])
    stage.expect(denied="a -> s: tcp/80 udp/53")


@pytest.mark.both_modes
def test_it_is_judged_again_when_a_peer_is_none_any_more(stage: Stage) -> None:
    stage.given(policy("s", S, ingress=[{"from": [pods(pod="a"), namespaces(team="y")]}]))
    stage.expect("a c -> s: tcp/80")
    stage.then(stage.pod("a", labels={"pod": "another"}))
    stage.expect("c -> s: tcp/80", denied="a -> s: tcp/80")
    stage.then(stage.namespace("y", labels={"team": "another"}))
    stage.expect(denied="a c -> s: tcp/80")


def test_a_peer_more_is_no_reason_to_judge_again(stage: Stage, family: Family) -> None:
    here = f"IPv{int(family)} "
    stage.given(policy("s", S, ingress=[{"from": [pods(pod="a")]}]))
    await_opened()
    stage.expect(f"{here}a -> s: tcp/80", denied=f"{here}b -> s: tcp/80")
    stage.then(stage.pod("b", labels={"pod": "a"}))
    assert cached(stage, family) == {member(stage, family, "a", "tcp:80", "s")}
    stage.expect(f"{here}a b -> s: tcp/80")


@pytest.mark.both_modes
def test_what_another_node_may_is_not_cached(stage: Stage, family: Family) -> None:
    """It may for the interface that it comes in by, and its address can be forged on any."""
    here = f"IPv{int(family)} "
    far = Node("far", tuple(packed(stage.far.address(f)) for f in Family))
    stage.given(policy("s", S, ingress=[{"from": [pods(pod="a")]}]), far, allow_nodes=True)
    await_opened()
    stage.expect(f"{here}far a -> s: tcp/80", denied=f"{here}b -> s: tcp/80")
    assert cached(stage, family) == {member(stage, family, "a", "tcp:80", "s")}


@pytest.mark.both_modes
def test_nothing_is_cached_where_that_is_set(stage: Stage, family: Family) -> None:
    stage.given(policy("s", S, ingress=[{"from": [pods(pod="a")]}]), options=Options(cache=0))
    stage.expect("a -> s: tcp/80", denied="b -> s: tcp/80")
    assert "KUBE-CACHE" not in stage.near.run("ipset", "list", "-n")
    assert "KUBE-CACHE" not in stage.near.iptables(family, "-S")
    stage.given(policy("s", S, ingress=[{"from": [pods(pod="b")]}]))
    await_opened()
    stage.expect("b -> s: tcp/80", denied="a -> s: tcp/80")
    assert member(stage, family, "b", "tcp:80", "s") in cached(stage, family)
