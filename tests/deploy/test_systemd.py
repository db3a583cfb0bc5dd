"""The systemd unit agrees with the agent, is strict, and lets it enforce.

Its analyzer reads the unit, and systemd itself, as the first process of a node made of namespaces, runs it.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.commands.cli import main
from agent.kernel import capability
from agent.kernel.node_lock import LOCK
from agent.net import Family
from agent.settings import SETTINGS, Settings, resolve
from tests.conftest import Measured
from tests.lab.cluster import ROOT, http_get, wait_until
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node
from tests.lab.probe import Verdict
from tests.lab.systemd import UnitAgent

UNIT = ROOT / "deploy/systemd/netpol-agent.service"
PROGRAM = "/opt/netpol-agent/bin/netpol-agent"
MANIFESTS_PLACE = "netpol-agent/manifests"
BITS = {"CAP_NET_BROADCAST": 11, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_LEASE": 28}  # of capability.h
EXPOSURE = 30
"""In tenths, as systemd-analyze has it: up to 3.0 of 10 is what it calls OK."""


UNREACHED = """
apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: a, user: {token: none}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
current-context: a
"""
"""A kubeconfig of a server at an address for documentation (RFC 5737), which nobody has."""


WAITED_MICROSECONDS = 30_000_000
"""How long the unit waits at most for an agent that is to be ready."""


class _Unit(configparser.RawConfigParser):
    optionxform = staticmethod(str)  # type: ignore[assignment]


@pytest.fixture
def unit() -> configparser.RawConfigParser:
    parser = _Unit(delimiters="=", comment_prefixes="#", strict=False)
    parser.read(UNIT)
    return parser


def installed() -> set[str]:
    """Return what the README's commands put where, beside the program."""
    lines = UNIT.with_name("README.md").read_text().splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("    install ")]
    for *_, source, _ in commands:
        assert (ROOT / source).is_file(), source
    return {target + Path(source).name if target.endswith("/") else target for *_, source, target in commands}


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


def test_what_it_refers_to_is_installed_with_it(unit: configparser.RawConfigParser) -> None:
    """Whoever reads the unit where it is installed has no checkout."""
    places = installed()
    assert f"/etc/systemd/system/{UNIT.name}" in places
    references = unit["Unit"]["Documentation"].split()
    assert references
    assert {reference.removeprefix("file:") for reference in references} <= places
    assert unit["Service"]["EnvironmentFile"].removeprefix("-") in places


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
    status = tmp_path / "status"
    status.write_text(f"CapEff:\t{sum(1 << BITS[name] for name in capabilities(unit)):016x}\n")
    assert capability.missing(status) == ()


@pytest.fixture(params=[pytest.param(mode, marks=pytest.mark.xdist_group("systemd")) for mode in Mode])
def node(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, Node]]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with Lab() as lab:
        yield lab, lab.node("worker-1", Layout.BRIDGE, request.param)


@pytest.fixture
def agent(node: tuple[Lab, Node]) -> Iterator[UnitAgent]:
    _, worker = node
    # So that the mode is found, and the bridge has to be told.
    worker.iptables(Family.V4, "-A", "INPUT", "-j", "ACCEPT")
    worker.netns.sysctl({"net.bridge.bridge-nf-call-iptables": 0, "net.bridge.bridge-nf-call-ip6tables": 0})
    defaults = UNIT.with_name("netpol-agent.default").read_text()
    defaults += f"NETPOL_AGENT_NODE_NAME={worker.name}\n"
    manifests = worker.directory / "etc" / MANIFESTS_PLACE
    manifests.mkdir(parents=True)
    write(manifests, [])
    started = UnitAgent(worker, UNIT, PROGRAM, defaults)
    yield started
    started.close()


def test_it_enforces_a_directory_of_manifests(node: tuple[Lab, Node], agent: UnitAgent) -> None:
    """From a boot on, with no lock of iptables there; what is denied stays so, whatever befalls the agent."""
    lab, worker = node
    agent.wait_ready()
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
    manifests = worker.directory / "etc" / MANIFESTS_PLACE
    write(manifests, [*items, {**kind, "metadata": {"name": "closed"}, "spec": policy}])
    denied = dict.fromkeys(ways, Verdict.DENIED)
    lab.wait_for(denied)

    agent.systemctl("stop", agent.unit)
    assert (agent.show("ActiveState"), agent.show("Result")) == ("inactive", "success")
    assert lab.check(denied) == {}, "stopping it opened something"
    agent.systemctl("start", agent.unit)
    agent.wait_ready()
    assert lab.check(denied) == {}

    agent.systemctl("kill", "--kill-whom=main", "--signal=KILL", agent.unit)
    wait_until(lambda: agent.show("NRestarts") == "1" and agent.show("ActiveState") == "active", 30)
    agent.wait_ready()
    assert lab.check(denied) == {}
    write(manifests, items)
    lab.wait_for(dict.fromkeys(ways, Verdict.ALLOWED))


def test_the_network_waits_for_the_rules(node: tuple[Lab, Node], agent: UnitAgent) -> None:
    """systemd.special(7): network-pre.target is reached before any network is configured."""
    del node
    agent.wait_ready()
    reached = "network-pre.target"
    wait_until(lambda: agent.show("ActiveState", reached) == "active")
    times = [int(agent.show("ActiveEnterTimestampMonotonic", unit)) for unit in (agent.unit, reached)]
    assert 0 < times[0] <= times[1]


def test_it_comes_after_what_loads_a_firewall(node: tuple[Lab, Node], agent: UnitAgent) -> None:
    """As Debian's nftables.service does, whose file of rules begins by flushing all there are."""
    _, worker = node
    agent.wait_ready()
    agent.systemctl("stop", agent.unit)
    service = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 0.5\n"
    firewall = worker.directory / "etc/systemd/system/nftables.service"
    firewall.write_text(f"[Unit]\nDefaultDependencies=no\nBefore=network-pre.target\n{service}")
    agent.systemctl("daemon-reload")
    agent.systemctl("start", firewall.name, agent.unit)
    loaded = int(agent.show("ActiveEnterTimestampMonotonic", firewall.name))
    assert 0 < loaded <= int(agent.show("ExecMainStartTimestampMonotonic"))


def test_one_that_cannot_start_is_tried_again_and_again(node: tuple[Lab, Node], agent: UnitAgent) -> None:
    """Nothing waits half a minute for the rules of an agent that has ended."""
    _, worker = node
    agent.wait_ready()
    defaults = worker.directory / "etc/default/netpol-agent"
    right = defaults.read_text()
    defaults.write_text(f"{right}NETPOL_AGENT_LINGER=long\n")
    agent.systemctl("restart", "--no-block", agent.unit)
    wait_until(lambda: int(agent.show("NRestarts")) >= 2, 60)
    assert "NETPOL_AGENT_LINGER is 'long'" in agent.tail()
    defaults.write_text(right)
    agent.wait_ready()


def test_nothing_waits_for_an_api_server(node: tuple[Lab, Node], agent: UnitAgent) -> None:
    """What waits at a boot is the network, by which the API server is reached."""
    _, worker = node
    agent.wait_ready()
    (worker.directory / "etc/kubeconfig").write_text(UNREACHED)
    with (worker.directory / "etc/default/netpol-agent").open("a") as defaults:
        defaults.write(f"{MANIFESTS}=\nKUBECONFIG=/etc/kubeconfig\n")
    old = agent.show("MainPID")
    agent.systemctl("restart", "--no-block", agent.unit)
    wait_until(lambda: agent.show("MainPID") not in ("0", old) and agent.show("ActiveState") == "active", 60)
    began, active = (
        int(agent.show(f"{what}TimestampMonotonic")) for what in ("ExecMainStart", "ActiveEnter")
    )
    assert 0 < active - began < WAITED_MICROSECONDS
    wait_until(lambda: answers_not_ready(worker), 30)


def answers_not_ready(node: Node) -> bool:
    """Whether an agent is there, and not ready."""
    with contextlib.suppress(OSError):
        return http_get(node, "/readyz")[0] == 503
    return False


def test_it_runs_with_what_the_unit_says(
    node: tuple[Lab, Node], agent: UnitAgent, unit: configparser.RawConfigParser
) -> None:
    del node
    agent.wait_ready()
    pid = agent.show("MainPID")
    status = dict(line.split(":\t", 1) for line in agent.read(f"/proc/{pid}/status").splitlines())
    wanted = sum(1 << BITS[name] for name in capabilities(unit))
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) == wanted, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = (line.split() for line in agent.read(f"/proc/{pid}/mountinfo").splitlines())
    places = {fields[4]: fields[5].split(",")[0] for fields in mounts}
    assert places["/"] == "ro"
    writable = {"/run/xtables.lock", "/run/netpol-agent", "/var/lib/netpol-agent"}
    assert {places[place] for place in writable} == {"rw"}


def write(directory: Path, items: list[object]) -> None:
    new = directory / ".new"
    new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    new.rename(directory / "all.json")
