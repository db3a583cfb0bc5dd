"""What other programs put into the tables of iptables that iptables itself cannot read, judged by packets."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from agent.net import Family
from tests.kernel.guarded import ALLOW_PORT, DENY_ALL, OTHER_PORT, Guarded
from tests.lab.cluster import wait_until
from tests.lab.probe import Verdict
from tests.workers import grouped

THINGS = {
    "a rule in INPUT": ("original", "add rule {0} filter INPUT ct original {0} saddr {1} counter drop"),
    "a rule before ours": (
        "original",
        "insert rule {0} filter FORWARD ct original {0} saddr {1} counter accept",
    ),
    "a rule after ours": ("original", "add rule {0} filter FORWARD ct original {0} saddr {1} counter drop"),
    "a rule that accepts before ours": ("state", "insert rule {0} filter FORWARD ct state new accept"),
    "an expression that iptables lacks": (
        "numgen",
        "insert rule {0} filter OUTPUT numgen inc mod 2 0 accept",
    ),
    "a rule in a chain of theirs": (
        "state",
        "add chain {0} filter theirs",
        "add rule {0} filter theirs ct state new accept",
        "insert rule {0} filter FORWARD jump theirs",
    ),
    "a base chain at the same hook": (
        "state",
        "add chain {0} filter theirs {{ type filter hook forward priority 0; policy accept; }}",
        "add rule {0} filter theirs ct state established accept",
    ),
    "a base chain of another hook": (
        "state",
        "add chain {0} filter theirs {{ type filter hook prerouting priority -300; policy accept; }}",
        "add rule {0} filter theirs ct state new accept",
    ),
    "a map that accepts before ours": (
        "vmap",
        "insert rule {0} filter FORWARD meta l4proto vmap {{ tcp : accept, udp : accept }}",
    ),
    "a rule with an anonymous set": (
        "saddr {",
        "insert rule {0} filter FORWARD {0} saddr {{ {1}, {2} }} accept",
    ),
    "a set": ("theirs", "add set {0} filter theirs {{ type mark; }}"),
    "a map": ("theirs", "add map {0} filter theirs {{ type mark : verdict; }}"),
    "an object": ("theirs", "add quota {0} filter theirs {{ over 25 mbytes; }}"),
}
"""A word by which it is known in what nft(8) lists, and commands of that; they are given the name of a family
there, and two addresses that nobody has."""
UNTOLD = {"a rule with an anonymous set", "a set", "a map", "an object"}
"""Of these iptables shows enough."""
FAMILIES = {Family.V4: ("ip", "192.0.2.1", "192.0.2.2"), Family.V6: ("ip6", "2001:db8::1", "2001:db8::2")}


def put(guarded: Guarded, thing: str, families: Iterable[Family] = tuple(Family)) -> None:
    """Have another program write something, beside a rule by iptables that makes the built-in chains."""
    for family in families:
        for command in THINGS[thing][1:]:
            guarded.node.run("nft", command.format(*FAMILIES[family]))


def no_sets(guarded: Guarded) -> bool:
    return guarded.node.run("ipset", "list", "-n") == ""


def clean(guarded: Guarded, policy: str) -> None:
    """Have a fresh node, on which another program has written by iptables; nothing is enforced there."""
    guarded.stop()
    guarded.node.run("nft", "flush", "ruleset")
    # Sets that list others hold these, and rules that are gone hold sets for some moments.
    guarded.node.run("ipset", "flush")
    wait_until(lambda: not guarded.node.run("ipset", "destroy", check=False) and no_sets(guarded))
    for family in Family:
        for chain in ("INPUT", "FORWARD", "OUTPUT"):
            guarded.node.iptables(family, "-A", chain, "-s", FAMILIES[family][1], "-j", "ACCEPT")
    guarded.say("policy", policy)
    assert guarded.verdicts() == {Verdict.ALLOWED}


@pytest.fixture(scope="module", params=grouped("foreign", ["bridge", "routed"]))
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    with Guarded(request.param, "nft") as found:
        yield found


@pytest.mark.parametrize("thing", THINGS)
def test_policy_is_enforced_beside_it(guarded: Guarded, thing: str) -> None:
    clean(guarded, DENY_ALL)
    put(guarded, thing)
    # A fresh start.
    guarded.start()
    assert guarded.verdicts() == {Verdict.DENIED}
    # A change of policy, in both families.
    guarded.say("policy", ALLOW_PORT)
    guarded.wait_for(Verdict.ALLOWED)
    assert guarded.verdicts(OTHER_PORT) == {Verdict.DENIED}
    for family in Family:
        told = (
            f"[!]fault warning: IPv{int(family)}: iptables cannot show all rules in chain" in guarded.readyz()
        )
        assert told is (thing not in UNTOLD)
    # A change while the agent is away, and a restart.
    guarded.stop()
    guarded.say("policy", DENY_ALL)
    assert guarded.verdicts() == {Verdict.ALLOWED}
    guarded.start()
    assert guarded.verdicts() == {Verdict.DENIED}
    # In the end it is still there, and nothing of ours.
    guarded.stop()
    ended = guarded.command("cleanup", "--json")
    assert ended.returncode == 0, ended.stdout
    for name, *_ in FAMILIES.values():
        assert THINGS[thing][0] in guarded.node.run("nft", "list", "table", name, "filter")
    assert "KUBE-" not in guarded.node.run("nft", "list", "ruleset")
    assert no_sets(guarded)
    assert guarded.verdicts() == {Verdict.ALLOWED}


@pytest.mark.parametrize("thing", [thing for thing in THINGS if "ours" in thing])
def test_what_comes_while_the_agent_runs_does_not_stay_in_front(guarded: Guarded, thing: str) -> None:
    clean(guarded, DENY_ALL)
    guarded.start()
    assert guarded.verdicts() == {Verdict.DENIED}
    put(guarded, thing)
    wait_until(lambda: "iptables cannot show all rules in chain FORWARD" in guarded.readyz())
    # It may be told of one family while the other's is not put back yet.
    wait_until(lambda: all(_in_front(guarded, name) for name, *_ in FAMILIES.values()))
    assert guarded.verdicts() == {Verdict.DENIED}
    for name, *_ in FAMILIES.values():
        guarded.node.run("nft", "flush", "chain", name, "filter", "FORWARD")
    wait_until(lambda: "iptables cannot show" not in guarded.readyz())
    guarded.wait_for(Verdict.DENIED)


def _in_front(guarded: Guarded, family: str) -> bool:
    """Whether the jump of ours is FORWARD's first rule, and there once."""
    listed = guarded.node.run("nft", "list", "chain", family, "filter", "FORWARD")
    rules = [line for line in listed.splitlines() if line.startswith("\t\t") and " hook " not in line]
    return rules[0].endswith("jump KUBE-NETPOL-FORWARD") and listed.count("KUBE-NETPOL-FORWARD") == 1


def test_a_rule_by_nft_in_a_chain_of_ours_is_taken_out(guarded: Guarded) -> None:
    clean(guarded, DENY_ALL)
    guarded.start()
    for name, *_ in FAMILIES.values():
        guarded.node.run(
            "nft", "insert", "rule", name, "filter", "KUBE-NETPOL-INGRESS", "ct state new accept"
        )
    wait_until(lambda: "ct state new accept" not in guarded.node.run("nft", "list", "ruleset"))
    guarded.wait_for(Verdict.DENIED)
    guarded.stop()
    for name, *_ in FAMILIES.values():
        guarded.node.run(
            "nft", "insert", "rule", name, "filter", "KUBE-NETPOL-INGRESS", "ct state new accept"
        )
    assert guarded.verdicts() == {Verdict.ALLOWED}
    guarded.start()
    assert guarded.verdicts() == {Verdict.DENIED}
    assert "ct state new accept" not in guarded.node.run("nft", "list", "ruleset")


def test_which_mode_is_used_is_decided_beside_it(guarded: Guarded) -> None:
    clean(guarded, DENY_ALL)
    put(guarded, "a rule in INPUT")
    guarded.start("--iptables-mode", "auto")
    assert guarded.agent.status()["iptables_mode"] == "nft"
    assert guarded.verdicts() == {Verdict.DENIED}


@pytest.mark.parametrize("family", list(Family))
def test_a_base_chain_under_the_name_of_ours_at_another_priority(guarded: Guarded, family: Family) -> None:
    clean(guarded, DENY_ALL)
    name, *_ = FAMILIES[family]
    guarded.node.run("nft", "delete", "table", name, "filter")
    guarded.node.run(
        "nft",
        f"add table {name} filter; add chain {name} filter FORWARD "
        "{ type filter hook forward priority 10; policy accept; }",
    )
    guarded.start()
    assert guarded.verdicts() == {Verdict.DENIED}
    guarded.say("policy", ALLOW_PORT)
    guarded.wait_for(Verdict.ALLOWED)
    assert guarded.verdicts(OTHER_PORT) == {Verdict.DENIED}
    guarded.stop()
    ended = guarded.command("cleanup", "--json")
    assert ended.returncode == 0, ended.stdout
    assert "KUBE-" not in guarded.node.run("nft", "list", "ruleset")


def test_a_table_that_sees_no_packets_is_told_and_the_other_family_enforced(guarded: Guarded) -> None:
    clean(guarded, DENY_ALL)
    guarded.node.run("nft", "delete table ip6 filter; add table ip6 filter { flags dormant; }")
    guarded.start(ready=False)
    wait_until(lambda: guarded.verdicts(families=[Family.V4]) == {Verdict.DENIED}, 30)
    wait_until(lambda: "[-]fault failed: IPv6: no packets come to the table filter" in guarded.readyz())
    guarded.node.run("nft", "add table ip6 filter")
    guarded.wait_for(Verdict.DENIED)
    guarded.agent.wait_ready()


def test_a_chain_that_is_hooked_elsewhere_is_told_and_the_other_family_enforced(guarded: Guarded) -> None:
    clean(guarded, DENY_ALL)
    guarded.node.run("nft", "delete table ip filter; add table ip filter; add chain ip filter FORWARD")
    guarded.start(ready=False)
    wait_until(lambda: guarded.verdicts(families=[Family.V6]) == {Verdict.DENIED}, 30)
    wait_until(lambda: "[-]fault failed: IPv4: no packets come to chain FORWARD" in guarded.readyz())
    guarded.node.run("nft", "flush chain ip filter FORWARD; delete chain ip filter FORWARD")
    guarded.agent.wait_ready()
    assert guarded.verdicts() == {Verdict.DENIED}


# Extensions of the node's iptables that the agent's does not have


def is_in_front(guarded: Guarded, family: Family) -> bool:
    return "KUBE-NETPOL-FORWARD" in guarded.node.iptables(family, "-S", "FORWARD", "1")


@pytest.mark.parametrize("layout", ["bridge", "routed"])
@pytest.mark.parametrize("mode", ["nft", "legacy"])
def test_extensions_that_are_not_installed_stop_nothing(layout: str, mode: str, tmp_path: Path) -> None:
    known = next(Path("/usr/lib").glob("*/xtables"), Path("/usr/lib/xtables"))
    fewer = tmp_path / "xtables"
    shutil.copytree(known, fewer, ignore=shutil.ignore_patterns("libxt_statistic.so"))
    with Guarded(layout, mode) as guarded:
        rule = ["-m", "statistic", "--mode", "nth", "--every", "2", "--packet", "0", "-j", "ACCEPT"]
        for family in Family:
            for chain in ("INPUT", "FORWARD"):
                guarded.node.iptables(family, "-I", chain, *rule)
        guarded.node.netns.environment["XTABLES_LIBDIR"] = str(fewer)
        guarded.say("policy", DENY_ALL)
        guarded.start()
        for _ in range(3):
            assert guarded.verdicts() == {Verdict.DENIED}
        assert "iptables cannot show all rules in chain FORWARD" in guarded.readyz()
        guarded.say("policy", ALLOW_PORT)
        guarded.wait_for(Verdict.ALLOWED)
        # One that comes to be in front is noticed, and what is left is told from what is not.
        del guarded.node.netns.environment["XTABLES_LIBDIR"]
        guarded.say("policy", DENY_ALL)
        guarded.wait_for(Verdict.DENIED)
        for family in Family:
            guarded.node.iptables(family, "-I", "FORWARD", *rule)
        wait_until(lambda: all(is_in_front(guarded, family) for family in Family))
        for family in Family:
            assert guarded.node.iptables(family, "-S", "FORWARD").count("statistic") == 2
        for _ in range(3):
            assert guarded.verdicts() == {Verdict.DENIED}
        guarded.stop()
        guarded.node.netns.environment["XTABLES_LIBDIR"] = str(fewer)
        guarded.start()
        assert guarded.verdicts() == {Verdict.DENIED}
        guarded.stop()
        ended = guarded.command("cleanup", "--json")
        assert ended.returncode == 0, ended.stdout
        del guarded.node.netns.environment["XTABLES_LIBDIR"]
        for family in Family:
            assert "KUBE-" not in guarded.node.iptables(family, "-S")
            assert guarded.node.iptables(family, "-S").count("statistic") == 3
