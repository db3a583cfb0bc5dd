"""Migration from kube-router's firewall: at no moment does a packet pass that is denied."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from agent.net import Family
from tests.kernel.migrated import OldNode, by_both, by_kube_router, by_us
from tests.kernel.stream import Stream
from tests.lab.node import Layout, Mode

RATE = 3300
"""Packets a second of a denied stream: one each 0.3 ms."""

KINDS = [
    (Layout.BRIDGE, Mode.NFT, False),
    (Layout.ROUTED, Mode.LEGACY, False),
    (Layout.ROUTED, Mode.NFT, True),
]


@pytest.fixture(params=KINDS, ids=["bridge-nft", "routed-legacy", "routed-nft-k3s"])
def old(request: pytest.FixtureRequest) -> Iterator[OldNode]:
    """A node on which kube-router's firewall is in force, and stopped."""
    layout, mode, k3s = request.param
    with OldNode(layout, mode, k3s=k3s) as node:
        node.kube_router_syncs()
        yield node


@contextlib.contextmanager
def denied_throughout(old: OldNode, *ways: tuple[str, Family]) -> Iterator[None]:
    """Send packets that are denied all the while; none may arrive."""
    streams = [
        Stream(old.pods[source], old.pods[destination], 7000 + number, RATE, burst=1, family=family)
        for number, (way, family) in enumerate(ways)
        for source, destination in [way.split()]
    ]
    with contextlib.ExitStack() as stack:
        for stream in streams:
            stack.enter_context(stream)
        yield
    assert all(stream.sent > 100 for stream in streams)
    assert [stream.arrived for stream in streams] == [0] * len(streams)


def test_the_old_node_is_as_it_is_said_to_be(old: OldNode) -> None:
    assert old.allowed() == by_kube_router()


def test_what_is_denied_passes_at_no_moment_and_what_is_allowed_at_each(old: OldNode) -> None:
    others = old.others()
    allowed = Stream(old.pods["client"], old.pods["web"], 7100, 300, burst=1)
    with denied_throughout(old, *itertools.product(("stranger web", "caged client"), Family)), allowed:
        ended = old.command("--json")
    assert ended.code == 0, ended.log
    assert ended.json()["left"] == {"chains": [], "sets": 0, "nft_tables": []}
    assert {found["family"] for found in ended.json()["found"]["chains"]} == {4, 6}
    assert allowed.arrived == allowed.sent
    assert old.left() == ""
    assert old.others() == others
    assert old.allowed() == by_us()
    again = old.command("--json")
    assert again.code == 0
    assert again.json()["found"] == {"chains": [], "sets": 0, "nft_tables": []}
    assert "nothing of kube-router's firewall is here" in again.log


def test_killed_at_any_write_nothing_passes_and_a_second_run_ends_it(old: OldNode) -> None:
    """``kill -9`` before and after each restore, and among sets that are destroyed."""
    others = old.others()
    with denied_throughout(old, ("stranger web", Family.V4), ("caged client", Family.V6)):
        steps = 0
        while (ended := old.command(killed=str(steps + 1))).code != 0:
            assert ended.code == -9, ended.log
            steps += 1
            ended = old.command("--json")
            assert ended.code == 0, (steps, ended.log)
            assert old.left() == ""
            assert old.others() == others
            # Back to where it began, kube-router's first.
            old.kube_router_syncs(f"again {steps}")
            old.cleanup()
    assert steps > 8


def test_marks_of_the_one_never_allow_what_the_other_denies(old: OldNode) -> None:
    """Both use the same bits. While both judge, a packet needs both, whichever comes first.

    kube-router accepts in its own chain, so that nobody judges after it; k3s at the end of the built-in ones.
    """
    assert old.command(killed="removal").code == -9
    assert "KUBE-ROUTER-FORWARD" in old.left()
    assert old.allowed() == by_both()
    old.kube_router_goes_first()
    assert old.allowed() == (by_both() if old.k3s else by_kube_router())


def test_the_way_back_lets_nothing_pass_that_both_deny(old: OldNode) -> None:
    with denied_throughout(old, ("stranger web", Family.V4), ("caged client", Family.V6)):
        assert old.command().code == 0
        old.kube_router_syncs("back")
        old.cleanup()
    assert old.allowed() == by_kube_router()


@pytest.mark.parametrize("old", [kind for kind in KINDS if kind[1] is Mode.NFT], indirect=True, ids=str)
def test_rules_by_nft_in_the_same_chains_are_no_obstacle_and_stay(old: OldNode) -> None:
    for name in ("ip", "ip6"):
        for chain in ("INPUT", "FORWARD", "OUTPUT"):
            old.node.run("nft", "insert", "rule", name, "filter", chain, "ct", "state", "invalid", "counter")
    with denied_throughout(old, *itertools.product(("stranger web", "caged client"), Family)):
        ended = old.command("--json")
    assert ended.code == 0, ended.log
    assert old.allowed() == by_us()
    ruleset = "".join(old.node.run("nft", "list", "table", name, "filter") for name in ("ip", "ip6"))
    assert ended.json()["left"] == {"chains": [], "sets": 0, "nft_tables": []}
    assert "rule to explicitly ACCEPT" not in ruleset
    assert ruleset.count("ct state invalid") == 6
