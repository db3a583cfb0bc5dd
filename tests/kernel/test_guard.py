"""``netpol-agent guard``: a node's pods are closed from boot until the agent's first sync."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.dataplane.iptables import guard as guard_rules
from agent.kernel import nf_write
from agent.net import Family
from agent.runtime.guard import NoNetworksError, choose_networks, keep
from agent.settings import resolve
from tests.build import network
from tests.kernel.closed import (
    KINDS,
    Stage,
    agent,
    guard,
    networks,
    of_pods,
    of_the_node,
    put,
    serving,
    written,
)
from tests.lab.cluster import wait_until
from tests.lab.lab import flows
from tests.lab.node import Mode
from tests.lab.probe import Verdict
from tests.patience import PATIENCE

ONE = pytest.mark.parametrize("stage", KINDS[:1], indirect=True, ids="-".join)
"""What does not depend on the kind of node."""


@pytest.fixture(params=KINDS, ids="-".join)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with serving(*request.param) as made:
        yield made


@ONE
def test_pods_that_are_connected_go_on_finding_each_other(stage: Stage) -> None:
    """Neighbour discovery crosses a bridge by FORWARD; without it what is established soon ends."""
    lab, node, one, two = stage
    guard(node, *networks(node))
    one.netns.run(["ip", "-6", "neigh", "flush", "dev", "eth0"])
    assert lab.check(dict.fromkeys(flows(one, two, tcp=[80]), Verdict.DENIED)) == {}
    wait_until(lambda: "lladdr" in one.netns.run(["ip", "-6", "neigh", "show", two.v6]))


def test_a_boot_with_a_guard_and_an_agent_that_comes_late(stage: Stage, tmp_path: Path) -> None:
    lab, node, one, two = stage
    lab.assert_open([*of_pods(lab, one, two), *of_the_node(node, one, two)])
    closed = dict.fromkeys(of_pods(lab, one, two), Verdict.DENIED)
    told = dict.fromkeys(of_the_node(node, one, two), Verdict.ALLOWED)
    guard(node, *networks(node))
    assert lab.check({**closed, **told}) == {}
    before = [node.iptables(family, "-S") for family in Family]
    guard(node, *networks(node))
    assert [node.iptables(family, "-S") for family in Family] == before
    found = json.loads(guard(node, "--status", "--json"))
    assert found == {
        "closed": True,
        "families": [4, 6],
        "networks": sorted([node.cidr4, node.cidr6]),
        "mode": node.mode.value,
        "byAgent": False,
        "passed": "",
        "ownTable": [4, 6],
        "heldBy": "",
        "bridged": "",
    }
    # An agent that has not been told everything leaves it as it is; one that has, closes by itself.
    written(tmp_path, one)
    running = agent(node, tmp_path, "--new-pods", "deny", *networks(node))
    try:
        running.wait_ready()
        wait_until(lambda: "KUBE-NETPOL-GUARD" not in node.iptables(Family.V4, "-S"), 20)
        known = dict.fromkeys(flows(one, lab.hosts["out"], tcp=[80]), Verdict.ALLOWED)
        unknown = {f: v for f, v in closed.items() if f.source is two or f.address in (two.v4, two.v6)}
        lab.wait_for({**known, **unknown, **told}, 20)
        assert "netpol-agent-guard" not in node.run("nft", "list", "tables")
        assert "not needed" in guard(node, *networks(node))
        assert json.loads(guard(node, "--status", "--json"))["byAgent"]
        kept = (node.directory / "state/pod-networks").read_text().split()
        assert kept == sorted([node.cidr4, node.cidr6], key=lambda n: (":" in n, n))
        written(tmp_path, one, two)
        lab.wait_for(dict.fromkeys(closed, Verdict.ALLOWED), 20)
    finally:
        running.stop()


@ONE
def test_an_agent_that_lets_new_pods_in_removes_it_too(stage: Stage, tmp_path: Path) -> None:
    lab, node, one, two = stage
    guard(node, *networks(node))
    written(tmp_path, one)
    running = agent(node, tmp_path)
    try:
        running.wait_ready()
        lab.wait_for(dict.fromkeys(of_pods(lab, one, two), Verdict.ALLOWED), 20)
        assert not json.loads(guard(node, "--status", "--json", code=1))["closed"]
    finally:
        running.stop()
    assert node.iptables(Family.V4, "-S").count("KUBE-NETPOL-GUARD") == 0
    assert "netpol-agent-guard" not in node.run("nft", "list", "tables")


@pytest.mark.guarantee("2.1")
def test_what_other_programs_write_before_it_or_flush_opens_nothing(
    stage: Stage,
) -> None:
    lab, node, one, two = stage
    assert put(node) == []
    expected = {
        **dict.fromkeys(of_pods(lab, one, two), Verdict.DENIED),
        **dict.fromkeys(of_the_node(node, one, two), Verdict.ALLOWED),
    }
    before_it = [(table, chain) for table in ("raw", "mangle") for chain in ("PREROUTING", "OUTPUT")]
    before_it += [("mangle", "FORWARD"), ("filter", "FORWARD"), ("filter", "OUTPUT")]
    for family in Family:
        for table, chain in before_it:
            node.iptables(family, "-t", table, "-I", chain, "-j", "ACCEPT")
    assert lab.check(expected) == {}
    for family in Family:
        node.iptables(family, "-F")
    assert lab.check(expected) == {}
    found = json.loads(guard(node, "--status", "--json"))
    assert (found["closed"], found["families"], found["ownTable"]) == (True, [4, 6], [4, 6])
    assert found["networks"] == sorted([node.cidr4, node.cidr6])
    if node.mode is Mode.LEGACY:
        # The other way round: what closes in iptables stands without nftables.
        assert put(node) == []
        node.run("nft", "flush", "ruleset")
        assert lab.check(expected) == {}


@ONE
def test_a_table_of_its_own_that_is_changed_or_refused_counts_as_none(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, node, one, two = stage
    assert put(node) == []
    with node.netns.entered():
        assert guard_rules.own_tables() == {Family.V4: (node.cidr4,), Family.V6: (node.cidr6,)}
        node.run("nft", "insert", "rule", "ip", "netpol-agent-guard", "closed", "accept")
        node.run("nft", "add", "table", "ip6", "netpol-agent-guard", "{ flags dormant; }")
        assert guard_rules.own_tables() == {}
    assert put(node) == []
    with node.netns.entered():
        assert guard_rules.own_tables().keys() == set(Family)
    node.run("nft", "flush", "ruleset")

    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(nf_write, "transact", refused)
    faults = put(node)
    assert [fault.blocking for fault in faults] == [False, False]
    assert "stands in iptables alone" in faults[0].what
    assert lab.check(dict.fromkeys(of_pods(lab, one, two), Verdict.DENIED)) == {}


@ONE
def test_without_its_table_a_rule_before_it_is_named_and_it_is_removed_on_request(
    stage: Stage,
) -> None:
    lab, node, one, two = stage
    guard(node, *networks(node))
    for kind in ("ip", "ip6"):
        node.run("nft", "delete", "table", kind, "netpol-agent-guard")
    # As kube-proxy does, for connections to a Service.
    node.iptables(Family.V4, "-I", "FORWARD", "-m", "mark", "--mark", "0x4000/0x4000", "-j", "ACCEPT")
    found = json.loads(guard(node, "--status", "--json", code=1))
    assert (found["closed"], found["passed"]) == (False, "FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT")
    guard(node, *networks(node))
    assert json.loads(guard(node, "--status", "--json"))["closed"]
    node.iptables(Family.V4, "-D", "FORWARD", "-m", "mark", "--mark", "0x4000/0x4000", "-j", "ACCEPT")
    guard(node, "--remove")
    for family in Family:
        assert "GUARD" not in node.iptables(family, "-S")
    assert "netpol-agent-guard" not in node.run("nft", "list", "tables")
    lab.assert_open(of_pods(lab, one, two))


@ONE
def test_a_status_that_cannot_be_written_says_neither_open_nor_closed(
    stage: Stage,
) -> None:
    node = stage[1]
    with Path("/dev/full").open("w") as full, (node.directory / "errors").open("wb") as errors:
        assert node.fork("agent", "guard", "--status", output=full, errors=errors).wait(PATIENCE) == 2
    assert "cannot be written" in (node.directory / "errors").read_text()


@ONE
def test_a_bridge_that_does_not_call_it_is_named(stage: Stage) -> None:
    lab, node, one, two = stage
    guard(node, *networks(node))
    assert not lab.check(dict.fromkeys(flows(one, two, tcp=[80]), Verdict.DENIED))
    node.run("sysctl", "-w", "net.bridge.bridge-nf-call-iptables=0")
    assert "forward IPv4 without iptables" in guard(node, "--status", code=1)
    guard(node, *networks(node))
    guard(node, "--status")
    assert not lab.check(dict.fromkeys(flows(one, two, tcp=[80]), Verdict.DENIED))


@ONE
def test_who_does_not_hold_it_says_nothing_of_holding(stage: Stage) -> None:
    assert "held" not in guard(stage[1], *networks(stage[1]))


@ONE
@pytest.mark.guarantee("2.3")
def test_without_a_network_it_refuses_and_says_what_to_do(stage: Stage) -> None:
    lab, node, one, two = stage
    said = guard(node, code=2)
    assert "--pod-networks" in said
    lab.assert_open(of_pods(lab, one, two))


def test_what_the_agent_kept_and_what_cni_is_configured_for_are_taken(tmp_path: Path) -> None:
    settings = resolve({"state_dir": str(tmp_path / "state")}, {}, hostname=lambda: "near")
    cni = tmp_path / "cni"
    cni.mkdir()
    ranges = {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}]]}
    plugins = [{"type": "bridge", "ipam": ranges}, {"type": "portmap"}]
    (cni / "10-a.conflist").write_text(json.dumps({"plugins": plugins}))
    (cni / "20-b.conf").write_text(json.dumps({"ipam": {"type": "host-local", "subnet": "fd00:1::/64"}}))
    (cni / "30-c.conf").write_text("{")
    (cni / "40-d.conf").write_text(json.dumps({"ipam": {"type": "dhcp", "subnet": "10.9.0.0/16"}}))
    assert choose_networks(settings, cni).networks == {network("10.1.2.0/24"), network("fd00:1::/64")}
    keep(frozenset({network("10.7.0.0/16")}), settings.state_dir)
    assert choose_networks(settings, cni).networks == {network("10.7.0.0/16")}
    (settings.state_dir / "pod-networks").write_text("spoiled\n")
    with pytest.raises(NoNetworksError, match="pod-networks names none"):
        choose_networks(settings, tmp_path / "no-cni")
