"""The iptables backend when others write in the built-in chains, before its jumps and in their place."""

from __future__ import annotations

import itertools

import pytest

from agent.dataplane.iptables.cleanup import remove
from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.variant import MODES
from agent.net import Family
from agent.policy.engine import Engine
from tests.kernel.kernel_state import (
    HERE,
    TwoPods,
    iptables,
    make_backend,
    our_chains,
    our_sets,
)
from tests.lab.backends import FAMILIES
from tests.lab.netns import Netns

pytestmark = pytest.mark.usefixtures("netns", "lock_file")
EACH_MODE = pytest.mark.parametrize("mode", MODES)


# Hooks


@pytest.mark.parametrize("chain", list(hooks.HOOKS))
def test_a_hook_that_is_missing_or_displaced_is_put_in_front(node: TwoPods, netns: Netns, chain: str) -> None:
    if chain == "INPUT":  # only tunnels need it
        netns.ip("link add vx0 type vxlan external dstport 8472")
        assert node.backend.moved()
        assert node.backend.sync(node.program).writes > 0
        node.whole = our_chains(node.mode), our_sets()
    iptables(node.mode, Family.V4, "-F", chain)
    node.assert_repaired(f"{chain}: its rule is missing")
    iptables(node.mode, Family.V6, "-I", chain, "-s", "fd00::/8", "-j", "ACCEPT")
    node.assert_repaired("could let packets pass")
    first = iptables(node.mode, Family.V6, "-S", chain, "1")
    assert hooks.HOOKS[chain] in first


def test_a_hook_behind_what_can_only_drop_keeps_its_place(node: TwoPods) -> None:
    iptables(node.mode, Family.V4, "-I", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    assert node.backend.audit(node.program) == []
    assert node.backend.sync(node.program).writes == 0
    assert "INVALID" in iptables(node.mode, Family.V4, "-S", "FORWARD", "1")


def test_a_fight_for_the_first_place_is_told_and_fought_twice_a_second_at_most(node: TwoPods) -> None:
    put_back: list[float] = []
    for _ in range(60):
        node.clock += 0.125
        if hooks.HOOKS["FORWARD"] in iptables(node.mode, Family.V4, "-S", "FORWARD", "1"):
            iptables(node.mode, Family.V4, "-D", "FORWARD", "-j", "ACCEPT") if put_back else None
            iptables(node.mode, Family.V4, "-I", "FORWARD", "-j", "ACCEPT")
        due = node.backend.disturbed()
        if node.backend.audit(node.program):
            # In legacy mode it does not show that one rule went and another came.
            assert due or node.mode == "legacy"
            report = node.backend.sync(node.program)
            assert not report.pending
            put_back.append(node.clock)
    pauses = [b - a for a, b in itertools.pairwise(put_back)]
    assert pauses[0] == 0.125
    assert set(pauses[1:]) == {0.5}
    (fault,) = report.faults
    assert "keeps displacing" in fault.what
    assert not fault.blocking


def test_a_hook_that_is_missing_is_told_and_put_back_at_once_in_a_fight_too(node: TwoPods) -> None:
    for _ in range(3):
        node.clock += 1.0
        iptables(node.mode, Family.V4, "-I", "FORWARD", "-j", "ACCEPT")
        node.backend.sync(node.program)
    iptables(node.mode, Family.V4, "-I", "FORWARD", "-j", "ACCEPT")
    assert node.backend.audit(node.program) == []
    iptables(node.mode, Family.V4, "-F", "FORWARD")
    iptables(node.mode, Family.V6, "-I", "FORWARD", "-j", "ACCEPT")
    assert node.differences() == ["IPv4: FORWARD: its rule is missing"]
    node.backend.sync(node.program)
    assert hooks.HOOKS["FORWARD"] in iptables(node.mode, Family.V4, "-S", "FORWARD", "1")
    assert "ACCEPT" in iptables(node.mode, Family.V6, "-S", "FORWARD", "1")


def test_a_hook_that_keeps_being_removed_is_put_back_each_time_and_told(node: TwoPods) -> None:
    for _ in range(10):
        node.clock += 1.0
        iptables(node.mode, Family.V6, "-F", "OUTPUT")
        assert node.differences() == ["IPv6: OUTPUT: its rule is missing"]
        node.backend.authors.take()  # as after each look
        report = node.backend.sync(node.program)
        assert not report.pending
        assert node.backend.audit(node.program) == []
    (fault,) = report.faults
    assert "keeps removing" in fault.what
    assert ("the last to write rules: ip6tables-nft (pid " in fault.remedy) is (node.mode == "nft")
    assert "IPv6 OUTPUT" in fault.what
    assert not fault.blocking


# Tables that iptables cannot show


NATIVE = {
    "a rule": "add rule ip filter FORWARD ct state { new } accept",
    "a rule in a chain": "add chain ip filter mine; add rule ip filter mine ct state { new } accept",
}


@pytest.mark.parametrize("commands", NATIVE.values(), ids=NATIVE.keys())
def test_rules_of_nft_are_told_once_and_nothing_is_written_for_them(netns: Netns, commands: str) -> None:
    node = TwoPods("nft")
    netns.run(["nft", commands])
    (difference,) = node.differences()
    assert "another program's rules changed: IPv4: iptables cannot show all rules" in difference
    written = netns.run(["nft", "list", "table", "ip", "filter"])
    for _ in range(2):
        report = node.backend.sync(node.program)
        assert not report.pending
        assert report.writes == 0
        (fault,) = report.faults
        assert not fault.blocking
        assert "nft list chain ip filter" in fault.remedy
        assert netns.run(["nft", "list", "table", "ip", "filter"]) == written
        assert node.backend.audit(node.program) == []
    # What is ours can still be told from what is not as it was left.
    iptables("nft", Family.V4, "-F", node.chain("a"))
    assert node.differences() == [f"IPv4: chain {node.chain('a')} is not as it was left"]
    assert not node.backend.sync(node.program).pending
    assert netns.run(["nft", "list", "table", "ip", "filter"]) == written
    assert remove("nft", FAMILIES) == []
    assert "KUBE-" not in netns.run(["nft", "list", "table", "ip", "filter"])
    assert "ct state new accept" in netns.run(["nft", "list", "table", "ip", "filter"])


def test_a_built_in_chain_of_another_priority_is_hooked_all_the_same(netns: Netns) -> None:
    netns.run(
        ["nft", "add table ip6 filter; add chain ip6 filter mine { type filter hook input priority 5; }"]
    )
    backend = make_backend("nft")
    program = Engine(HERE).lowered
    assert backend.sync(program).faults == ()
    assert backend.audit(program) == []
    remove("nft", FAMILIES)
    netns.run(["nft", "flush ruleset"])
    netns.run(
        ["nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 5; }"]
    )
    for _ in range(2):
        assert backend.sync(program).faults == ()
        assert backend.audit(program) == []
        listed = netns.run(["nft", "list", "chain", "ip", "filter", "FORWARD"])
        assert listed.count("jump KUBE-NETPOL-FORWARD") == 1
