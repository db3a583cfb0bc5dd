"""The iptables mode, decided on the real tables of both modes."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.variant import decide_mode, find_command
from agent.kernel import x_tables
from agent.net import Family
from tests.lab.netns import Netns

FAMILIES = {Family.V4: "iptables", Family.V6: "ip6tables"}


def tables(netns: Netns) -> str:
    """Return what tables there are, in both modes, without making any."""
    names = [str(x_tables.table_names(family)) for family in Family]
    return netns.run(["nft", "list", "tables"]) + " ".join(names)


def test_looking_makes_nothing(netns: Netns) -> None:
    before = tables(netns)
    assert before == "() ()"
    choice = decide_mode("auto")
    assert choice.mode == "nft"
    assert choice.faults == ()
    assert tables(netns) == before


def test_looking_at_one_legacy_table_makes_no_other(netns: Netns) -> None:
    netns.run(["ip6tables-legacy", "-t", "mangle", "-N", "X"])
    before = tables(netns)
    assert (
        decide_mode("auto").reason
        == "nft: legacy has no more rules (0 rules in nft, 0 in legacy), and neither has a chain of kubelet's"
    )
    assert tables(netns) == before == "() ('mangle',)"


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
def test_kubelets_hint_outweighs_rules(netns: Netns, program: str, chain: str) -> None:
    netns.run([f"{program}-legacy", "-t", "mangle", "-N", chain])
    netns.run(["iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"])
    choice = decide_mode("auto")
    assert choice.mode == "legacy"
    assert chain in choice.reason
    netns.run([f"{program}-nft", "-t", "mangle", "-N", chain])
    assert decide_mode("auto").mode == "nft"


def test_more_rules_outweigh_fewer(netns: Netns) -> None:
    netns.run(["iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"])
    netns.run(["iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-j", "ACCEPT"])
    netns.run(["iptables-nft", "-t", "nat", "-A", "PREROUTING", "-j", "ACCEPT"])
    netns.run(["ip6tables-legacy", "-A", "FORWARD", "-m", "comment", "--comment", "x", "-j", "ACCEPT"])
    choice = decide_mode("auto")
    assert (
        choice.reason
        == "legacy: it has more rules (1 rule in nft, 2 in legacy), and neither has a chain of kubelet's"
    )


def test_what_this_agent_left_outweighs_rules(netns: Netns) -> None:
    netns.run(["iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"])
    netns.run(["ip6tables-legacy", "-N", "KUBE-NETPOL-FORWARD"])
    choice = decide_mode("auto")
    assert choice.mode == "legacy"


def test_rules_by_nft_in_tables_of_iptables_are_rules(netns: Netns) -> None:
    netns.run(["nft", "add table ip filter { chain FORWARD { type filter hook forward priority 0; }; }"])
    netns.run(["nft", "add rule ip filter FORWARD numgen random mod 2 vmap { 0 : accept, 1 : drop }"])
    netns.run(["nft", "add table ip filter2 { chain X { type filter hook forward priority 0; accept; }; }"])
    netns.run(["iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT"])
    choice = decide_mode("auto")
    assert (
        choice.reason
        == "nft: legacy has no more rules (1 rule in nft, 1 in legacy), and neither has a chain of kubelet's"
    )
    assert choice.faults == ()


@pytest.mark.parametrize("family", Family)
def test_library_and_command_read_the_same(netns: Netns, family: Family) -> None:
    lines = [f"-A KUBE-X -m comment --comment r{number} -j ACCEPT" for number in range(300)]
    script = "\n".join(["*filter", ":KUBE-X - [0:0]", "-A FORWARD -j KUBE-X", *lines, "COMMIT", ""])
    netns.run([f"{FAMILIES[family]}-legacy-restore"], stdin=script)
    expected = {"INPUT": 0, "FORWARD": 1, "OUTPUT": 0, "KUBE-X": 300}
    assert x_tables.read_by_library(family, "filter") == expected
    assert x_tables.read_by_command(family, "filter") == expected


def test_the_library_sees_the_namespace_it_is_called_in(netns: Netns) -> None:
    netns.run(["iptables-legacy", "-N", "HERE"])
    assert "HERE" in x_tables.read_by_library(Family.V4, "filter")
    other = Netns("other")
    try:
        with other.entered():
            other.run(["iptables-legacy", "-N", "THERE"])
            assert set(x_tables.read(Family.V4, ("filter",))["filter"]) == {
                "INPUT",
                "FORWARD",
                "OUTPUT",
                "THERE",
            }
    finally:
        other.close()
    netns.run(["iptables-legacy", "-N", "LATER"])
    assert set(x_tables.read(Family.V4, ("filter",))["filter"]) == {
        "INPUT",
        "FORWARD",
        "OUTPUT",
        "HERE",
        "LATER",
    }


def test_reading_by_library_changes_nothing(netns: Netns) -> None:
    netns.run(["iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"])
    x_tables.read_by_library(Family.V4, "filter")
    netns.run(["iptables-legacy", "-D", "FORWARD", "1"])
    assert x_tables.read_by_library(Family.V4, "filter")["FORWARD"] == 0
    assert "192.0.2.1" not in netns.run(["iptables-legacy-save"])


def test_without_the_library_the_command_reads(netns: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(family: Family, table: str) -> x_tables.ChainSizes:
        raise x_tables.LegacyError(f"{family} {table}")

    netns.run(["iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT"])
    monkeypatch.setattr(x_tables, "read_by_library", broken)
    assert decide_mode("auto").mode == "legacy"


def test_a_table_that_is_not_one_is_an_error(netns: Netns) -> None:  # noqa: ARG001
    with pytest.raises(x_tables.LegacyError):
        x_tables.read_by_library(Family.V4, "nonesuch")
    with pytest.raises(x_tables.LegacyError):
        x_tables.read_by_command(Family.V4, "nonesuch")


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("action", ["save", "restore"])
def test_commands_are_found_by_their_explicit_names(family: Family, action: str) -> None:
    for mode in ("nft", "legacy"):
        path = find_command(family, mode, action)
        assert path is not None
        assert path.endswith(f"{FAMILIES[family]}-{mode}-{action}")
