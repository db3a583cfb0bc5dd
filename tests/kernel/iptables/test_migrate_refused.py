"""When migration from kube-router's firewall is refused, what of it stays, and what a person is told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.migrated import Ended, OldNode, by_both, by_kube_router, by_us
from tests.lab.cluster import AgentProcess, http_get, wait_until
from tests.lab.node import Layout, Mode

MIGRATE = ("migrate", "--json", "--node-name", "worker", "--iptables-mode", "nft")

pytestmark = pytest.mark.xdist_group("migrate-refused")


@pytest.fixture(scope="module")
def old() -> Iterator[OldNode]:
    """A node on which kube-router's firewall is in force, and stopped; shared: each test leaves it so."""
    with OldNode(Layout.ROUTED, Mode.NFT) as node:
        node.kube_router_syncs()
        yield node


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[OldNode]:
    """The same, for one test that changes it: as kube-router writes it, or as k3s does."""
    with OldNode(Layout.ROUTED, Mode.NFT, k3s=getattr(request, "param", False)) as node:
        node.kube_router_syncs()
        yield node


@contextlib.contextmanager
def unfinished(old: OldNode) -> Iterator[None]:
    """Have the agent wait for a manifest that is still being written."""
    path = old.manifests / "more.yaml"
    with path.open("w") as file:
        file.write("# more\n")
        file.flush()
        yield
    path.unlink()


def assert_untouched(old: OldNode, ended: Ended, said: str) -> None:
    assert ended.code == 1, ended.log
    (fault,) = ended.json()["faults"]
    assert said in fault["what"]
    assert fault["remedy"]
    assert ended.json()["left"] is None or ended.json()["left"] == ended.json()["found"]
    assert "KUBE-ROUTER-FORWARD" in old.left()
    seen = old.allowed()
    assert {way for way in seen if seen[way]} <= {way for way, allowed in by_kube_router().items() if allowed}
    assert {way for way, allowed in by_both().items() if allowed} <= {way for way in seen if seen[way]}


def test_a_dry_run_shows_what_is_there_and_changes_nothing(old: OldNode) -> None:
    before = old.left()
    ended = old.command("--dry-run")
    assert ended.code == 0, ended.log
    assert "IPv4, iptables mode nft: 15 chains, reached from INPUT, FORWARD, OUTPUT\n" in ended.output
    assert "IPv6, iptables mode nft: 15 chains" in ended.output
    assert "  12 sets\n" in ended.output
    assert old.left() == before
    assert old.allowed() == by_kube_router()
    shown = old.command("--dry-run", "--json").json()
    assert shown["found"]["sets"] == 12
    assert shown["left"] == shown["found"]
    assert shown["faults"] == []


def test_a_name_that_no_pod_has_for_its_node_opens_nothing(old: OldNode) -> None:
    assert_untouched(old, old.command("--json", name="wroker"), "no pod names the node wroker")


def test_a_family_that_only_kube_router_enforces_stays(old: OldNode) -> None:
    assert_untouched(old, old.command("--json", "--families", "ipv4"), "enforces IPv6 here")
    assert old.allowed() == by_kube_router()


def test_rules_that_are_not_whole_in_time_replace_nothing(old: OldNode) -> None:
    with unfinished(old):
        ended = old.command("--json", "--timeout", "2")
    assert_untouched(old, ended, "within 2 s: cache/")


def test_a_signal_ends_it_and_replaces_nothing(old: OldNode) -> None:
    with unfinished(old):
        process = old.started("agent", *MIGRATE, "--manifests", str(old.manifests))
        wait_until(lambda: catches_sigterm(process.pid), 30)
        process.terminate()
        ended = old.ended(process)
    assert_untouched(old, ended, "before a signal stopped it")


def test_a_firewall_that_runs_is_seen_where_its_process_can_be(old: OldNode) -> None:
    program = old.node.directory / "kube-router"
    program.write_text("#!/bin/sh\nsleep 60 & wait\n")
    program.chmod(0o755)
    for arguments, code in (([], 1), (["--run-firewall=false"], 0)):
        with running(old, str(program), *arguments) as process:
            ended = old.command("--dry-run")
        assert ended.code == code, ended
        assert (f"its firewall on (process {process})" in ended.output) == bool(code)


def catches_sigterm(process: int) -> bool:
    """Whether a process has a handler for it, by proc_pid_status(5)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


@contextlib.contextmanager
def running(old: OldNode, *command: str) -> Iterator[int]:
    """Run a script in the node's network namespace, under its own name; yield its process."""
    process = subprocess.Popen(["nsenter", f"--net={old.node.netns.path}", *command], start_new_session=True)
    try:
        comm, name = Path(f"/proc/{process.pid}/comm"), Path(command[0]).name
        wait_until(lambda: comm.read_text().strip() == name, 10)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_beside_an_agent_that_runs_neither_this_nor_cleanup_does_anything(own: OldNode) -> None:
    agent = AgentProcess(own.node, "--manifests", str(own.manifests), forked=True)
    try:
        wait_until(lambda: "kube-router" in ready(own)[1], 30)
        assert ready(own)[0] == 503
        for arguments in (["--json"], ["--json", "--dry-run"]):
            assert_untouched(own, own.command(*arguments), "holds this node")
        cleanup = own.ended(own.started("agent", "cleanup", "--json"))
        assert cleanup.code == 1
        assert "holds this node" in cleanup.json()["left"][0]["what"]
        assert "DaemonSet" in cleanup.json()["left"][0]["remedy"]
    finally:
        agent.stop()
    assert own.command().code == 0
    assert own.allowed() == by_us()


def test_a_firewall_that_writes_meanwhile_keeps_its_place(own: OldNode) -> None:
    with unfinished(own):
        process = own.started("agent", *MIGRATE, "--manifests", str(own.manifests))
        wait_until(lambda: "starting" in own.log(), 30)
        own.kube_router_syncs("2")
    ended = own.ended(process)
    assert ended.code == 1
    assert "still writes" in ended.json()["faults"][0]["what"]
    assert "--run-firewall=false" in ended.json()["faults"][0]["remedy"]
    assert own.allowed() == by_both()
    assert own.command().code == 0
    assert own.allowed() == by_us()


@pytest.mark.parametrize("own", [False, True], ids=["kube-router", "k3s"], indirect=True)
def test_a_firewall_that_comes_back_is_told_and_opens_nothing(own: OldNode) -> None:
    assert own.command().code == 0
    agent = AgentProcess(own.node, "--manifests", str(own.manifests), forked=True)
    try:
        agent.wait_ready()
        own.kube_router_syncs("2")
        wait_until(lambda: ready(own)[0] == 503, 30)
        assert "netpol-agent migrate" in ready(own)[1]
        denied = {way for way, allowed in by_kube_router().items() if not allowed}
        assert not denied & {way for way, allowed in own.allowed().items() if allowed}
    finally:
        agent.stop()
    assert own.command().code == 0
    assert own.allowed() == by_us()
    assert own.left() == ""


def test_its_tables_in_nftables_go_as_well(own: OldNode) -> None:
    assert own.command().code == 0
    own.cleanup()
    for family, table in (("ip", "kube-router-filter-ipv4"), ("ip6", "kube-router-filter-ipv6")):
        own.node.run("nft", "-f", "-", stdin=NFT.format(family=family, table=table, web=own.web(family)))
    assert own.allowed()["client web"] is False
    ended = own.command("--json")
    assert ended.code == 0, ended.log
    assert ended.json()["found"] == {"chains": [], "sets": 0, "nft_tables": [4, 6]}
    assert "kube-router" not in own.node.run("nft", "list", "tables")
    assert own.allowed() == by_us()


NFT = """
table {family} {table} {{
    chain KUBE-POD-FW-ABCDEFGHIJKLMNOP {{
        meta mark and 0x10000 == 0x0 counter reject
    }}
    chain KUBE-ROUTER-FORWARD {{
        type filter hook forward priority 0; policy accept;
        {family} daddr {web} counter jump KUBE-POD-FW-ABCDEFGHIJKLMNOP
        meta mark and 0x20000 == 0x20000 accept
    }}
}}
"""


def ready(old: OldNode) -> tuple[int, str]:
    with contextlib.suppress(OSError):
        return http_get(old.node, "/readyz")
    return 0, ""
