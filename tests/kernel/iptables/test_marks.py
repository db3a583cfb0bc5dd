"""Bits of packets' marks that belong to others: read from the kernel, and kept by packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.dataplane.iptables.tables import markuse
from agent.net import Family
from tests.kernel.guarded import ALLOW_PORT, OTHER_PORT, Guarded
from tests.lab.cluster import wait_until
from tests.lab.netns import Netns
from tests.lab.probe import Verdict

PROGRAMS = {Family.V4: "iptables", Family.V6: "ip6tables"}
RULES = [
    ("-t mangle -A PREROUTING -i eth0 -j MARK --set-mark 0x1bd10", 0x1BD10, 0),
    ("-t mangle -A PREROUTING -m mark --mark 0x100/0x300 -j ACCEPT", 0x300, 0),
    ("-t mangle -A PREROUTING -j MARK --set-xmark 0x40/0xff", 0xFF, 0),
    ("-t mangle -A PREROUTING -j MARK --or-mark 0x8", 0x8, 0),
    ("-t mangle -A POSTROUTING -j MARK --and-mark 0xffff00ff", 0, 0xFF00),
    ("-t mangle -A POSTROUTING -j CONNMARK --save-mark --mask 0x80", 0x80, 0),
    ("-t mangle -A POSTROUTING -j CONNMARK --set-mark 0x1/0x1", 0x1, 0),
    ("-t mangle -A PREROUTING -m connmark --mark 0x7 -j CONNMARK --restore-mark", 0x7, 0),
    ("-t filter -A INPUT -m mark ! --mark 0x5 -j ACCEPT", 0x5, 0),
    ("-t raw -A OUTPUT -m mark --mark 0x539 -j ACCEPT", 0x539, 0),
    ("-t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE", 0x4000, 0),
]


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("mode", ["nft", "legacy"])
@pytest.mark.parametrize(("rule", "bits", "cleared"), RULES)
def test_rules_of_iptables(
    netns: Netns, family: Family, mode: str, rule: str, bits: int, cleared: int
) -> None:
    netns.run([f"{PROGRAMS[family]}-{mode}", *rule.split()])
    read = markuse.of_nft if mode == "nft" else markuse.of_legacy
    (use,) = read(lambda *_: False)
    assert (use.bits, use.cleared) == (bits, cleared)
    table, chain = rule.split()[1], rule.split()[3]
    assert table in use.where
    assert chain in use.where
    assert read(lambda *where: where == (table, chain)) == []


OVERWRITING = [
    ("CONNMARK --set-mark 0x5", 0xFFFFFFFF),
    ("CONNMARK --set-xmark 0x40/0xff", 0xFF),
    ("CONNMARK --or-mark 0x8", 0x8),
    ("CONNMARK --save-mark", 0xFFFFFFFF),
    ("CONNMARK --save-mark --mask 0xff", 0xFF),
    ("CONNMARK --restore-mark", 0),
    ("MARK --set-mark 0x5", 0),
]


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("mode", ["nft", "legacy"])
@pytest.mark.parametrize(("target", "bits"), OVERWRITING)
def test_rules_of_iptables_that_overwrite_marks_of_connections(
    netns: Netns, family: Family, mode: str, target: str, bits: int
) -> None:
    """Who asks for a mark first is thought to write that of connections of its own."""
    read = markuse.of_nft if mode == "nft" else markuse.of_legacy
    command = f"{PROGRAMS[family]}-{mode}", "-t", "mangle", "-A", "POSTROUTING"
    netns.run([*command, "-m", "mark", "--mark", "0xca6c", "-j", *target.split()])
    assert markuse.union(use.overwritten for use in read(lambda *_: False)) == 0
    netns.run([*command, "-m", "mark", "!", "--mark", "0", "-j", *target.split()])
    assert markuse.union(use.overwritten for use in read(lambda *_: False)) == bits


OVERWRITING_OF_NFT = {
    "ct mark set 0x9": 0xFFFFFFFF,
    "ct mark set meta mark": 0xFFFFFFFF,
    "ct mark set meta mark and 0xff": 0xFFFFFFFF,
    "ct mark set ct mark or 0x10": 0x10,
    "ct mark set ct mark and 0xffffff00 or 0x1": 0xFF,
    "meta mark set ct mark": 0,
    "meta mark set 0x9": 0,
    "meta mark 0x9 ct mark set meta mark": 0,
}


@pytest.mark.parametrize("rule", OVERWRITING_OF_NFT)
def test_rules_of_nft_that_overwrite_marks_of_connections(netns: Netns, rule: str) -> None:
    netns.run(["nft", f"add table inet t; add chain inet t c; add rule inet t c {rule}"])
    found = markuse.union(use.overwritten for use in markuse.of_nft(lambda *_: False))
    assert found == OVERWRITING_OF_NFT[rule]


NATIVE = {
    "meta mark 0x77 accept": (0x77, 0),
    "meta mark and 0xff == 0x3 accept": (0xFF, 0),
    "meta mark set meta mark or 0x10": (0x10, 0),
    "meta mark set mark and 0xffffff00": (0, 0xFF),
    "meta mark set 0x22": (0x22, 0),
    "ct mark set 0x9": (0x9, 0),
    "ct mark 0x11 accept": (0x11, 0),
    "meta mark set ct mark": (0, 0),
    "meta mark @s accept": (0x3000, 0),
    "meta mark { 0x100, 0x200 } accept": (0x300, 0),
    "meta mark vmap { 0x400 : accept }": (0x400, 0),
    "meta mark 0x100-0x2ff accept": (0x3FF, 0),
    "tcp dport 22 counter drop": (0, 0),
}


@pytest.mark.parametrize("rule", NATIVE)
@pytest.mark.parametrize("family", ["inet", "ip", "ip6"])
def test_rules_of_nft(netns: Netns, family: str, rule: str) -> None:
    table = f"add table {family} t; add chain {family} t c; "
    elements = "{ type mark; elements = { 0x1000, 0x2000 }; }"
    netns.run(["nft", f"{table}; add set {family} t s {elements}; add rule {family} t c {rule}"])
    assert markuse.union(use.bits for use in markuse.of_nft(lambda *_: False)) == NATIVE[rule][0]
    assert markuse.union(use.cleared for use in markuse.of_nft(lambda *_: False)) == NATIVE[rule][1]


EBTABLES = {
    "-j mark --mark-set 0x22": (0x22, 0),
    "-j mark --mark-or 0x10000": (0x10000, 0),
    "-j mark --mark-xor 0x10000": (0x10000, 0),
    "-j mark --mark-and 0xffffff00": (0, 0xFF),
    "--mark 0x3/0xff -j DROP": (0xFF, 0),
    "--mark /0x40000 -j DROP": (0x40000, 0),
}


@pytest.mark.parametrize("rule", EBTABLES)
def test_rules_of_ebtables(netns: Netns, rule: str) -> None:
    netns.run(["ebtables-nft", "-A", "FORWARD", *rule.split()])
    (use,) = markuse.of_nft(lambda *_: False)
    assert (use.bits, use.cleared) == EBTABLES[rule]


def test_routing_rules(netns: Netns) -> None:
    assert markuse.of_routing() == []
    netns.run(["ip", "rule", "add", "fwmark", "0x539", "table", "133", "priority", "90"])
    netns.run(["ip", "-6", "rule", "add", "fwmark", "0x80000/0xff0000", "table", "52", "priority", "91"])
    assert markuse.of_routing() == [
        markuse.Use("ip rule 90", 0x539),
        markuse.Use("ip -6 rule 91", 0xFF0000),
    ]


# Packets


@pytest.fixture(params=["bridge", "routed"])
def layout(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=["nft", "legacy"])
def guarded(request: pytest.FixtureRequest, layout: str) -> Iterator[Guarded]:
    with Guarded(layout, request.param) as found:
        found.say("policy", ALLOW_PORT)
        yield found


def mark_and_let_in(guarded: Guarded) -> None:
    """Have a program of the node mark what comes from outside, let that in, and nothing else."""
    for family in Family:
        guarded.node.iptables(
            family, "-t", "mangle", "-A", "PREROUTING", "-i", "eth0", "-j", "MARK", "--set-mark", "0x1bd10"
        )
        new = ("FORWARD", "-i", "eth0", "-m", "conntrack", "--ctstate", "NEW")
        guarded.node.iptables(family, "-A", *new, "-m", "mark", "--mark", "0x1bd10", "-j", "ACCEPT")
        guarded.node.iptables(family, "-A", *new, "-j", "DROP")


def expect_all_as_it_should_be(guarded: Guarded) -> None:
    assert guarded.verdicts(sources=[guarded.out]) == {Verdict.ALLOWED}
    assert guarded.verdicts(OTHER_PORT, sources=[guarded.out]) == {Verdict.DENIED}
    assert guarded.verdicts() == {Verdict.ALLOWED}
    assert guarded.verdicts(OTHER_PORT) == {Verdict.DENIED}


def bits(guarded: Guarded) -> set[str]:
    rules = [
        line
        for family in Family
        for direction in ("INGRESS", "EGRESS")
        for line in guarded.node.iptables(family, "-S", f"KUBE-NETPOL-ALLOW-{direction}").splitlines()
    ]
    return {line.rsplit(" ", 1)[1].split("/")[0] for line in rules if "MARK" in line}


def test_a_packet_leaves_with_the_bits_of_others_as_they_came(guarded: Guarded) -> None:
    mark_and_let_in(guarded)
    guarded.start()
    expect_all_as_it_should_be(guarded)
    chosen = bits(guarded)
    assert len(chosen) == 2
    assert not any(int(bit, 16) & (0x1BD10 | 0xC000) for bit in chosen)
    assert "marks" not in guarded.readyz()
    # The same after a restart, and when the reason has gone.
    guarded.stop()
    guarded.start()
    assert bits(guarded) == chosen
    for family in Family:
        guarded.node.iptables(family, "-t", "mangle", "-F")
        guarded.node.iptables(family, "-F", "FORWARD")
    wait_until(lambda: all("KUBE" in guarded.node.iptables(f, "-S", "FORWARD") for f in Family), 30)
    guarded.stop()
    guarded.start()
    assert bits(guarded) == chosen


def test_bits_that_others_come_to_use_are_left_to_them(guarded: Guarded) -> None:
    guarded.start()
    assert bits(guarded) == {"0x10000", "0x20000"}
    mark_and_let_in(guarded)
    wait_until(lambda: "0x10000" not in bits(guarded), 30)
    expect_all_as_it_should_be(guarded)
    # A routing rule, too; it is seen at the next look for what changed.
    guarded.node.run("ip", "rule", "add", "fwmark", "0x20000/0x20000", "table", "main")
    wait_until(lambda: "0x20000" not in bits(guarded), 30)
    expect_all_as_it_should_be(guarded)


def test_bits_that_are_set_by_a_person_are_reported_as_in_use(guarded: Guarded) -> None:
    guarded.start("--mark-egress", "0x10000", "--mark-ingress", "0x20000")
    assert "marks" not in guarded.readyz()
    mark_and_let_in(guarded)
    wait_until(lambda: "[!]fault warning: bit 0x10000 of packets' marks" in guarded.readyz(), 30)
    assert "mangle" in guarded.readyz()
    assert "give --mark-egress another bit, or auto" in guarded.readyz()
    assert bits(guarded) == {"0x10000", "0x20000"}
    # What it says is so.
    assert guarded.verdicts(sources=[guarded.out]) == {Verdict.DENIED}
    guarded.stop()
    guarded.start("--mark-egress", "0x40000000", "--mark-ingress", "0x20000")
    assert "marks" not in guarded.readyz()
    expect_all_as_it_should_be(guarded)
