"""Untracked packets: replies are judged like the rest, and people are told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from agent.dataplane.iptables.rules import names
from agent.net import Family
from tests.kernel.semantics.stage import UNTRACKED, Stage
from tests.kernel.semantics.written import isolated, labels, pods, policy, port


def forget(stage: Stage) -> None:
    """Empty the sets that remember such packets, as ten minutes do; the next sync knows."""
    for family in Family:
        stage.near.run("ipset", "flush", names.untracked_set(stage.mode.value, family))


@contextlib.contextmanager
def untracked(stage: Stage) -> Iterator[None]:
    """Have the policed node track no DNS, neither questions nor answers, as some do for a local cache."""
    rules = [("-p", "udp", f"--{side}", "53", "-j", "NOTRACK") for side in ("sport", "dport")]
    for family in Family:
        for rule in rules:
            stage.near.iptables(family, "-t", "raw", "-A", "PREROUTING", *rule)
    try:
        yield
    finally:
        for family in Family:
            stage.near.iptables(family, "-t", "raw", "-F", "PREROUTING")
        forget(stage)
        stage.given()


def told(stage: Stage) -> bool:
    """Whether the backend, asked as each second, has news of such packets; at rest it has none at all."""
    assert stage.backend is not None
    with stage.kernel():
        found = stage.backend.audit(stage.engine.lowered)
        assert stage.backend.disturbed() is bool(found)
    assert not found or "not tracked" in str(found[0])
    return bool(found)


@pytest.mark.both_modes
def test_answers_to_an_isolated_pod_are_dropped_and_told(stage: Stage) -> None:
    stage.given()
    forget(stage)  # what tests before this one sent
    stage.given(isolated("s"))
    stage.expect("s -> f a: udp/53", denied="a -> s: udp/53")
    with untracked(stage):
        assert not told(stage)
        stage.expect("b -> f a: udp/53", denied="s -> f a: udp/53")
        assert told(stage)
        stage.given(isolated("s"), warned=f"in the last 10 minutes, {UNTRACKED} (x/s) were denied")
        assert not told(stage)
        # After that time it is forgotten.
        forget(stage)
        assert told(stage)
        stage.given(isolated("s"))


@pytest.mark.both_modes
def test_answers_of_a_pod_isolated_for_egress_too(stage: Stage) -> None:
    stage.given(isolated("t", types=["Egress"]))
    with untracked(stage):
        stage.expect(denied="a f -> t: udp/53")
        stage.given(isolated("t", types=["Egress"]), warned=UNTRACKED)


@pytest.mark.both_modes
def test_a_policy_can_allow_them(stage: Stage) -> None:
    """By whom they come from: the answer's port is its sender's to choose, so that it says nothing."""
    allowed = policy("dns", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}])
    stage.given(allowed)
    with untracked(stage):
        stage.expect("s -> a: udp/53", denied="s -> f: udp/53")


@pytest.mark.both_modes
def test_what_is_denied_and_tracked_gives_nothing_to_tell(stage: Stage) -> None:
    stage.given(isolated("s", "t", types=("Ingress", "Egress")), policy("u", ingress=[{"ports": [port(80)]}]))
    stage.expect(denied=["a f -> s: udp/53", "t -> a: udp/53"])
    assert not told(stage)
