"""The systemd unit that closes a node's pods at boot: systemd itself runs it, before kubelet."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel import capability
from tests.conftest import Measured
from tests.deploy.test_systemd import BITS, EXPOSURE, PROGRAM, analyze
from tests.kernel.closed import guard
from tests.lab.cluster import ROOT, wait_until
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node
from tests.lab.owned import held
from tests.lab.place import LabError
from tests.lab.probe import Verdict
from tests.lab.systemd import UnitAgent

UNIT = ROOT / "deploy/systemd/netpol-agent-guard.service"
_MOST_KILOBYTES = 20_000
"""Python itself takes 10,000; with the rest of the agent it would be above 30,000."""
KUBELET = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 600\n"


def test_systemd_understands_it_and_calls_it_ok(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(here))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_keeps_what_the_command_asks_for(tmp_path: Path) -> None:
    (line,) = (one for one in UNIT.read_text().splitlines() if one.startswith("CapabilityBoundingSet="))
    kept = line.partition("=")[2].split()
    status = tmp_path / "status"
    status.write_text(f"CapEff:\t{sum(1 << BITS[name] for name in kept):016x}\n")
    assert capability.missing(status) == ()


@pytest.fixture
def booted() -> Iterator[tuple[Lab, Node, UnitAgent]]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with Lab() as lab:
        node = lab.node("worker-1", Layout.BRIDGE, Mode.NFT)
        etc = node.directory / "etc"
        for made in ("default", "systemd/system"):
            (etc / made).mkdir(parents=True)
        networks = f"NETPOL_AGENT_POD_NETWORKS={node.cidr4},{node.cidr6}\n"
        (etc / "default/netpol-agent").write_text(networks)
        (etc / "systemd/system/kubelet.service").write_text(KUBELET)
        machine = UnitAgent(node, UNIT, PROGRAM, "")
        yield lab, node, machine
        machine.close()


@pytest.mark.xdist_group("systemd")
@pytest.mark.guarantee("2.1")
def test_pods_are_closed_before_kubelet_starts_and_stopping_it_opens_nothing(
    booted: tuple[Lab, Node, UnitAgent],
) -> None:
    lab, node, machine = booted
    wait_until(lambda: _is_active(machine), 60)
    one, two = (lab.pod(node, name) for name in ("one", "two"))
    for place in (one, two, node):
        lab.serve(place, tcp=[80])
    between = dict.fromkeys(flows(one, two, tcp=[80]), Verdict.DENIED)
    own = dict.fromkeys([*flows(node, one, tcp=[80]), *flows(one, node, tcp=[80])], Verdict.ALLOWED)
    assert lab.check({**between, **own}) == {}
    machine.systemctl("stop", machine.unit)
    assert lab.check(between) == {}
    machine.systemctl("start", machine.unit, "kubelet.service")
    done = int(machine.show("ActiveEnterTimestampMonotonic"))
    assert 0 < done <= int(machine.show("ExecMainStartTimestampMonotonic", "kubelet.service"))
    assert lab.check(between) == {}


@pytest.mark.xdist_group("systemd")
@pytest.mark.guarantee("2.4")
def test_it_holds_the_guard_and_is_started_again_when_it_is_killed(
    booted: tuple[Lab, Node, UnitAgent], measured: Measured
) -> None:
    lab, node, machine = booted
    wait_until(lambda: _is_active(machine), 60)
    if not held(node):
        pytest.skip("needs Linux 6.9: tables of nftables that belong to a program, and stay without it")
    one, two = (lab.pod(node, name) for name in ("one", "two"))
    lab.serve(two, tcp=[80])
    between = dict.fromkeys(flows(one, two, tcp=[80]), Verdict.DENIED)
    node.run("nft", "flush", "ruleset")
    assert lab.check(between) == {}
    rollup = machine.read(f"/proc/{machine.show('MainPID')}/smaps_rollup")
    kilobytes = int(re.findall(r"^Rss: +(\d+) kB$", rollup, re.MULTILINE)[0])
    measured(f"what holds the guard takes {kilobytes} kB")
    assert kilobytes < _MOST_KILOBYTES
    machine.systemctl("kill", "--signal=KILL", machine.unit)
    assert lab.check(between) == {}
    wait_until(lambda: machine.show("NRestarts") == "1" and _is_active(machine), 60)
    node.run("nft", "flush", "ruleset")
    assert lab.check(between) == {}
    guard(node, "--remove")
    wait_until(lambda: machine.show("SubState") == "exited", 20)
    assert machine.show("Result") == "success"
    lab.assert_open([*between])


def _is_active(machine: UnitAgent) -> bool:
    """Whether systemd runs there already, and the unit has done its work."""
    try:
        return machine.show("ActiveState") == "active"
    except LabError:
        return False
