"""``netpol-agent guard --hold``: the guard's tables belong to a process until the agent's first sync."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.dataplane.iptables import guard as guard_rules
from agent.dataplane.iptables import guard_table
from agent.kernel import nf_owned, nf_write
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_release import ASKING
from agent.kernel.nf_tables import FAMILIES
from agent.kernel.nf_write import add_table, transact
from agent.net import Family
from agent.runtime import guard as guarding
from agent.settings import resolve
from tests.build import network
from tests.kernel.closed import KINDS, Stage, agent, guard, networks, of_pods, of_the_node, serving, written
from tests.lab.cluster import AgentProcess, http_get, wait_until
from tests.lab.holder import Holder
from tests.lab.lab import Lab
from tests.lab.netns import CommandError
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.probe import Verdict
from tests.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("owning")

TABLE = guard_table.TABLE
ONE = pytest.mark.parametrize("stage", KINDS[:1], indirect=True, ids="-".join)
"""What does not depend on the kind of node."""


@pytest.fixture(params=KINDS, ids="-".join)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with serving(*request.param) as made:
        yield made


def held(node: Node) -> set[Family]:
    """Return the families whose table belongs to somebody."""
    with node.netns.entered():
        return {family for family in Family if guard_table.holder_of(family)}


def tables(node: Node) -> str:
    return node.run("nft", "list", "tables")


def await_no_tables(node: Node) -> None:
    """Wait until no table is left: by that which asks, an agent looks for the answer again and again."""
    wait_until(lambda: "netpol-agent" not in tables(node))


def closed(lab: Lab, node: Node, *pods: Pod) -> bool:
    """Whether pods reach nothing, and their own node all the same."""
    expected = {
        **dict.fromkeys(of_pods(lab, *pods), Verdict.DENIED),
        **dict.fromkeys(of_the_node(node, *pods), Verdict.ALLOWED),
    }
    return lab.check(expected) == {}


@ONE
@pytest.mark.guarantee("2.4")
def test_a_bridge_that_is_told_not_to_call_it_calls_it_again(stage: Stage) -> None:
    lab, node, one, two = stage
    sysctls = [f"net.bridge.bridge-nf-call-{name}" for name in ("iptables", "ip6tables")]
    with Holder(node):
        node.run("sysctl", "-w", *(f"{name}=0" for name in sysctls))
        wait_until(lambda: node.run("sysctl", "-n", *sysctls).split() == ["1", "1"])
        assert closed(lab, node, one, two)


@pytest.mark.guarantee("2.4")
def test_nobody_else_removes_it_and_it_ends_when_an_agent_has_taken_over(
    stage: Stage, tmp_path: Path
) -> None:
    lab, node, one, two = stage
    with Holder(node) as holder:
        assert closed(lab, node, one, two)
        tries = ("delete table ip NAME", "flush table ip6 NAME", "insert rule ip NAME closed accept")
        for tried in (*tries, "add table ip NAME { flags dormant; }", "delete chain ip6 NAME forward"):
            with pytest.raises(CommandError, match="Operation not permitted"):
                node.run("nft", "-f", "-", stdin=tried.replace("NAME", TABLE))
        node.run("nft", "flush", "ruleset")
        for family in Family:
            node.iptables(family, "-F")
            node.iptables(family, "-I", "FORWARD", "-j", "ACCEPT")
        assert closed(lab, node, one, two)
        found = json.loads(guard(node, "--status", "--json"))
        assert (found["closed"], found["heldBy"]) == (True, f"process {holder.process.pid}")
        assert f"process {holder.process.pid} holds these tables" in guard(node, "--status")
        written(tmp_path, one)
        running = agent(node, tmp_path, "--new-pods", "deny", *networks(node))
        try:
            running.wait_ready()
            assert holder.process.wait(PATIENCE) == 0
            assert "released" in holder.said()
            await_no_tables(node)
            lab.wait_for(dict.fromkeys(of_the_node(node, one), Verdict.ALLOWED), 20)
            unknown = [
                flow
                for flow in of_pods(lab, one, two)
                if two in (flow.source,) or flow.address in (two.v4, two.v6)
            ]
            assert lab.check(dict.fromkeys(unknown, Verdict.DENIED)) == {}
            # A guard that is not needed is ready, too, for what waits for it.
            with Holder(node) as again:
                assert again.process.wait(PATIENCE) == 0
                assert "not needed" in again.said()
        finally:
            running.stop()


@ONE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_its_holder_ends_it_stays_and_can_be_held_again(stage: Stage, number: signal.Signals) -> None:
    lab, node, one, two = stage
    with Holder(node) as holder:
        holder.process.send_signal(number)
        assert holder.process.wait(PATIENCE) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert held(node) == set()
    assert closed(lab, node, one, two)
    with Holder(node):
        node.run("nft", "flush", "ruleset")
        assert closed(lab, node, one, two)
    # Nobody's: as any other table.
    node.run("nft", "flush", "ruleset")
    lab.assert_open(of_pods(lab, one, two))


@ONE
def test_one_process_holds_it(stage: Stage) -> None:
    lab, node, one, two = stage
    with Holder(node) as holder:
        told = guard(node, "--hold", *networks(node), code=1)
        assert f"the guard is held already, by process {holder.process.pid}" in told
        guard(node, *networks(node))
        told = guard(node, "--pod-networks", "10.9.0.0/16", code=1)
        assert f"belongs to process {holder.process.pid}, and closes {node.cidr4}" in told
        assert f"belongs to process {holder.process.pid}, and closes {node.cidr6}" in told
        assert held(node) == {*Family}
        assert closed(lab, node, one, two)


@ONE
@pytest.mark.parametrize("command", [("guard", "--remove"), ("cleanup",)], ids=" ".join)
def test_it_is_let_go_of_on_request(stage: Stage, command: tuple[str, ...]) -> None:
    lab, node, one, two = stage
    with Holder(node) as holder:
        assert run(node, *command) == 0
        assert holder.process.wait(PATIENCE) == 0
    assert "netpol-agent" not in tables(node)
    lab.assert_open(of_pods(lab, one, two))


@ONE
def test_a_holder_that_does_not_answer_is_named_and_pods_stay_closed(stage: Stage, tmp_path: Path) -> None:
    lab, node, one, two = stage
    with Holder(node) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        why = f"process {holder.process.pid} holds it, and does not let go of it"
        assert why in guard(node, "--remove", code=1)
        written(tmp_path, one, two)
        running = agent(node, tmp_path)
        try:
            wait_until(lambda: why in _readyz(node), 20)
            assert closed(lab, node, one, two)
            assert held(node) == {*Family}
            holder.process.send_signal(signal.SIGCONT)
            running.wait_ready()
            assert holder.process.wait(PATIENCE) == 0
            lab.wait_for(dict.fromkeys(of_pods(lab, one, two), Verdict.ALLOWED), 20)
        finally:
            running.stop()
    assert "netpol-agent" not in tables(node)


def _readyz(node: Node) -> str:
    with contextlib.suppress(OSError):
        return http_get(node, "/readyz")[1]
    return ""


@ONE
def test_an_agent_that_is_killed_while_it_asks_leaves_nothing_that_asks(stage: Stage, tmp_path: Path) -> None:
    lab, node, one, two = stage
    with Holder(node) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        written(tmp_path, one, two)
        running = agent(node, tmp_path)
        try:
            wait_until(lambda: ASKING in tables(node), 20)
        finally:
            running.stop(signal.SIGKILL)
        assert ASKING not in tables(node)
        holder.process.send_signal(signal.SIGCONT)
        # What comes later is heard after what the agent has asked.
        node.run("nft", "add", "table", "ip", "of-others")
        assert closed(lab, node, one, two)
        assert held(node) == {*Family}
        assert holder.process.poll() is None


@ONE
def test_a_holder_that_is_killed_while_it_does_not_answer_leaves_it_to_the_agent(
    stage: Stage, tmp_path: Path
) -> None:
    lab, node, one, two = stage
    with Holder(node) as holder:
        holder.process.send_signal(signal.SIGSTOP)
        written(tmp_path, one, two)
        running = agent(node, tmp_path)
        try:
            wait_until(lambda: ASKING in tables(node), 20)
            holder.process.kill()
            running.wait_ready()
            lab.wait_for(dict.fromkeys(of_pods(lab, one, two), Verdict.ALLOWED), 20)
        finally:
            running.stop()
    assert "netpol-agent" not in tables(node)


@ONE
def test_what_asks_asks_for_one_family_and_only_for_what_stood_before(stage: Stage) -> None:
    """Whoever may write tables may ask; a table that asks and was there first asks for nothing."""
    lab, node, one, two = stage
    node.run("nft", "add", "table", "ip", ASKING)
    with Holder(node) as holder:
        node.run("nft", "add", "table", "ip", "of-others")
        assert closed(lab, node, one, two)
        assert held(node) == {*Family}
        node.run("nft", "add", "table", "ip6", ASKING)
        wait_until(lambda: held(node) == {Family.V4})
        assert holder.process.poll() is None
        node.run("nft", "delete", "table", "ip", ASKING)
        node.run("nft", "add", "table", "ip", ASKING)
        assert holder.process.wait(PATIENCE) == 0


@ONE
def test_a_program_that_keeps_the_table_that_asks_is_named(stage: Stage) -> None:
    _, node, _, _ = stage
    with node.netns.entered(), NetlinkSocket() as first:
        for number in FAMILIES.values():
            transact(first, [add_table(ASKING, number, nf_owned.OWNER)])
        with Holder(node) as holder:
            told = guard(node, "--remove", code=1)
            why = f"process {holder.process.pid} holds it, and does not let go of it; nobody else can ask"
            assert why in told
            assert f"keeps table {ASKING}" in told
            assert held(node) == {*Family}


@ONE
def test_a_holder_in_another_network_namespace_is_not_asked(stage: Stage) -> None:
    lab, node, _, _ = stage
    other = lab.node("other", Layout.BRIDGE, Mode.NFT)
    with Holder(node) as holder:
        guard(other, "--remove")
        assert held(node) == {*Family}
        assert holder.process.poll() is None


RACES = 6


@ONE
def test_an_agent_that_starts_while_it_starts_takes_over_all_the_same(stage: Stage, tmp_path: Path) -> None:
    """One of them may find the node locked, and end; an agent is started again then, as everywhere."""
    lab, node, one, two = stage
    written(tmp_path, one, two)
    for _ in range(RACES):
        holder = Holder(node)
        running = _begun(node, tmp_path)
        try:
            running.wait_ready()
            assert holder.process.wait(PATIENCE) in (0, 1)
            lab.wait_for(dict.fromkeys(of_pods(lab, one, two), Verdict.ALLOWED), 20)
            await_no_tables(node)
        finally:
            running.stop()
            holder.close()
        assert run(node, "cleanup") == 0


def _begun(node: Node, directory: Path) -> AgentProcess:
    """Return an agent that was started until it did not find the node locked."""
    while True:
        running = agent(node, directory)
        wait_until(functools.partial(_goes_on, node, running), 30)
        if running.process.poll() is None:
            return running


def _goes_on(node: Node, running: AgentProcess) -> bool:
    """Whether an agent serves, or has ended."""
    return running.process.poll() is not None or "[+]" in _readyz(node)


def run(node: Node, *command: str) -> int:
    """Run a command of the agent; return its exit code."""
    with (node.directory / "command.log").open("wb") as output:
        return node.fork("agent", *command, output=output).wait(PATIENCE)


Kernel = Callable[[pytest.MonkeyPatch], None]


def _older(patch: pytest.MonkeyPatch) -> None:
    """As Linux before 6.9 is."""
    patch.setattr(nf_owned, "flags", lambda *_: 0)


def _without_nftables(patch: pytest.MonkeyPatch) -> None:
    """As a kernel that takes no table of nftables is, whatever iptables stands on."""

    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    patch.setattr(guarding, "NetlinkSocket", refused)
    patch.setattr(nf_write, "transact", refused)


@ONE
@pytest.mark.parametrize("kernel", [_older, _without_nftables])
def test_where_the_kernel_cannot_it_stands_and_is_not_held(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kernel: Callable[[pytest.MonkeyPatch], None],
) -> None:
    lab, node, one, two = stage
    kernel(monkeypatch)
    monkeypatch.setattr(guarding, "lock_node", contextlib.nullcontext)
    flags = {"iptables_mode": node.mode.value, "pod_networks": networks(node)[1], "state_dir": str(tmp_path)}
    with node.netns.entered():
        put = guarding.put(resolve(flags, {}, hostname=lambda: "near"), hold=True)
    assert put.holder is None
    assert not any(fault.blocking for fault in put.faults)
    assert "nothing keeps other programs from removing it" in put.faults[-1].what
    assert held(node) == set()
    assert ("netpol-agent-guard" in tables(node)) is (kernel is _older)
    assert closed(lab, node, one, two)


@ONE
def test_a_family_without_networks_is_not_held(stage: Stage) -> None:
    _, node, _, _ = stage
    with node.netns.entered(), NetlinkSocket() as holder:
        assert guard_rules.put(node.mode.value, [network(node.cidr4)], holder) == []
        assert [one.family for one in guard_table.held_by(holder)] == [FAMILIES[Family.V4]]
        assert held(node) == {Family.V4}
