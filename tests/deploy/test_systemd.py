"""The systemd unit agrees with the agent, is strict, and lets it enforce.

systemd does not run here: its analyzer reads the unit, and bubblewrap gives the unit's command what the unit
says of capabilities, privileges and files.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import capability
from agent.cli import main
from agent.dataplane.lock import LOCK
from agent.kube.model import Family
from agent.settings import SETTINGS, Settings, resolve
from tests.conftest import Measured
from tests.lab.cluster import ROOT, AgentProcess
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node
from tests.lab.probe import Verdict

UNIT = ROOT / "deploy/systemd/netpol-agent.service"
PROGRAM = "/opt/netpol-agent/bin/netpol-agent"
EXPOSURE = 30
"""In tenths, as systemd-analyze has it: up to 3.0 of 10 is what it calls OK."""


class _Unit(configparser.RawConfigParser):
    optionxform = staticmethod(str)  # type: ignore[assignment]


@pytest.fixture
def unit() -> configparser.RawConfigParser:
    parser = _Unit(delimiters="=", comment_prefixes="#", strict=False)
    parser.read(UNIT)
    return parser


def environment(unit: configparser.RawConfigParser) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in shlex.split(unit["Service"]["Environment"]))


MANIFESTS = "NETPOL_AGENT_MANIFESTS"


def settings(unit: configparser.RawConfigParser) -> Settings:
    """Return the unit's settings but for the directory of manifests, which must be there to be one."""
    there = {name: value for name, value in environment(unit).items() if name != MANIFESTS}
    return resolve({}, there, hostname=lambda: "worker-1")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_systemd_understands_it(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace(PROGRAM, sys.executable))
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(here))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_as_strict_as_systemd_calls_ok(measured: Measured) -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr
    measured("systemd-analyze security: " + done.stdout.splitlines()[-1].strip("→ \n"))


def test_its_commands_are_the_agents(unit: configparser.RawConfigParser) -> None:
    command, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert (command, arguments) == (PROGRAM, ["run"])
    called = re.findall(rf"{PROGRAM} (\w+)", UNIT.read_text())
    assert called == ["run", "status"]
    assert set(called) <= main.commands.keys()


def test_its_settings_are_known_and_valid(unit: configparser.RawConfigParser) -> None:
    known = {variable for setting in SETTINGS for variable in setting.environment}
    examples = re.findall(r"^#(\w+)=(.*)$", UNIT.with_name("netpol-agent.default").read_text(), re.MULTILINE)
    assert len(examples) > 3
    assert {name for name, _ in examples} | environment(unit).keys() <= known
    told = {name: value for name, value in examples if name != MANIFESTS}
    resolve({}, told, hostname=lambda: "worker-1")


def test_its_directories_are_the_agents(unit: configparser.RawConfigParser) -> None:
    service, used = unit["Service"], settings(unit)
    assert Path("/var/lib", service["StateDirectory"]) == used.state_dir
    assert str(Path("/etc", service["ConfigurationDirectory"])) == environment(unit)[MANIFESTS]
    assert Path("/run", service["RuntimeDirectory"]) == LOCK.parent
    # Were the lock's file removed, the next agent's lock would be another file.
    assert service["RuntimeDirectoryPreserve"] == "yes"


def test_it_is_always_started_again(unit: configparser.RawConfigParser) -> None:
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def capabilities(unit: configparser.RawConfigParser) -> list[str]:
    return unit["Service"]["CapabilityBoundingSet"].split()


def test_it_keeps_what_the_agent_asks_for(unit: configparser.RawConfigParser, tmp_path: Path) -> None:
    bits = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_LEASE": 28}  # of capability.h
    status = tmp_path / "status"
    status.write_text(f"CapEff:\t{sum(1 << bits[name] for name in capabilities(unit)):016x}\n")
    assert capability.missing(status) == ()


class UnitAgent(AgentProcess):
    """The unit's command on a node, with what the unit allows."""

    def __init__(self, node: Node, unit: configparser.RawConfigParser) -> None:
        self.node = node
        self.log = node.directory / "agent.log"
        used = settings(unit)
        lock = node.netns.environment["XTABLES_LOCKFILE"]
        Path(lock).touch()
        command = ["bwrap", "--die-with-parent", "--as-pid-1", "--unshare-pid", "--ro-bind", "/", "/"]
        command += ["--dev", "/dev", "--proc", "/proc"]
        for place, mine in ((used.state_dir, "state"), (LOCK.parent, "run/netpol-agent")):
            (node.directory / mine).mkdir(parents=True, exist_ok=True)
            if place == used.state_dir:
                command += ["--tmpfs", str(place.parent)]
            command += ["--bind", str(node.directory / mine), str(place)]
        (node.directory / "manifests").mkdir(exist_ok=True)
        command += [
            "--tmpfs",
            "/etc",
            "--ro-bind",
            str(node.directory / "manifests"),
            environment(unit)[MANIFESTS],
        ]
        command += ["--bind", lock, lock, "--cap-drop", "ALL"]
        for name in capabilities(unit):
            command += ["--cap-add", name]
        program, *arguments = shlex.split(unit["Service"]["ExecStart"])
        assert program == PROGRAM
        command += [sys.executable, "-m", "agent", *arguments]
        with self.log.open("ab") as log:
            told = {**environment(unit), "NETPOL_AGENT_NODE_NAME": node.name, "PYTHONPATH": str(ROOT)}
            self.process = node.popen(command, output=log, environment=told)

    def stop(self, number: int = signal.SIGTERM) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if self.process.poll() is None:
            os.kill(int(children.read_text().split()[0]), number)
        self.process.wait(20)


@pytest.fixture(params=[pytest.param(mode, marks=pytest.mark.xdist_group("systemd")) for mode in Mode])
def node(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Node]]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with Lab() as lab:
        yield lab, lab.node("worker-1", Layout.BRIDGE, request.param)


def test_it_enforces_a_directory_of_manifests(
    node: tuple[Lab, Node], unit: configparser.RawConfigParser
) -> None:
    lab, worker = node
    # So that the mode is found, and the bridge has to be told.
    worker.iptables(Family.V4, "-A", "INPUT", "-j", "ACCEPT")
    worker.netns.sysctl({"net.bridge.bridge-nf-call-iptables": 0, "net.bridge.bridge-nf-call-ip6tables": 0})
    server, client = (lab.pod(worker, name) for name in ("server", "client"))
    lab.serve(server, tcp=[80])
    ways = flows(client, server, tcp=[80])
    lab.assert_open(ways)
    items: list[object] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "labels": {"app": pod.name}},
            "spec": {"nodeName": worker.name, "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": pod.v4}, {"ip": pod.v6}]},
        }
        for pod in (server, client)
    ]
    policy = {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]}
    kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    manifests = worker.directory / "manifests"
    manifests.mkdir()
    write(manifests, [*items, {**kind, "metadata": {"name": "closed"}, "spec": policy}])
    agent = UnitAgent(worker, unit)
    try:
        agent.wait_ready()
        denied = dict.fromkeys(ways, Verdict.DENIED)
        assert lab.check(denied) == {}
        agent.stop()
        assert agent.process.returncode == 0
        assert lab.check(denied) == {}, "stopping it opened something"
        agent = UnitAgent(worker, unit)
        agent.wait_ready()
        assert lab.check(denied) == {}
        write(manifests, items)
        lab.wait_for(dict.fromkeys(ways, Verdict.ALLOWED))
    finally:
        agent.stop(signal.SIGKILL)


def write(directory: Path, items: list[object]) -> None:
    new = directory / ".new"
    new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    new.rename(directory / "all.json")
