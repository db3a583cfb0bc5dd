"""The pod may do what the agent needs and no more: each privilege and mount that is taken away is missed.

On a node of iptables-legacy with a bridge that does not call iptables yet, which is where most is needed.
"""

from __future__ import annotations

import copy
import fcntl
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from agent.net import Family
from tests.deploy.stage import (
    DEPLOY,
    DeployedCluster,
    PodAgent,
    reach_api_server,
    run_to_the_end,
)
from tests.lab.client import Json
from tests.lab.cluster import http_get, wait_until
from tests.lab.container import of_host
from tests.lab.node import Layout, Mode, Node
from tests.lab.service import install_kube_proxy

BRIDGE_CALLS = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
BITS = {"NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13}
"""Of capability.h."""

POD: Json = yaml.safe_load((DEPLOY / "base/daemonset.yaml").read_text())["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
# Its settings are the defaults: it is the kustomization that gives their ConfigMap its name.
CONTAINER["envFrom"] = []
CAPABILITIES: list[str] = CONTAINER["securityContext"]["capabilities"]["add"]
LISTENING = "NET_BROADCAST"
"""Without it the agent enforces all the same, and hears later of what changes inside pods."""
NEEDED = [name for name in CAPABILITIES if name != LISTENING]
MOUNTS: list[str] = [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]
READ_ONLY = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if mount.get("readOnly")}
STATE = "/var/lib/netpol-agent"
RESULTS = "/var/lib/cni"
MISSED = {
    "NET_ADMIN": '"missing": "CAP_NET_ADMIN"',
    "NET_RAW": '"missing": "CAP_NET_RAW"',
    "/run/netpol-agent": "lock cannot be opened: Read-only file system",
    "/run/xtables.lock": r"xtables\.lock",
    "/host/proc/sys/net": r"forward IPv4 without iptables: net\.bridge\.bridge-nf-call-iptables is 0",
    "token": "no usable API server configuration",
}
"""What is heard of it, in the log or from /readyz, when one is not there."""


class Alone(NamedTuple):
    """A node without an agent, and a way to start one there whose pod has been changed."""

    node: Node
    start: Callable[[Json], PodAgent]


@pytest.fixture(params=[pytest.param(None, marks=pytest.mark.xdist_group("deploy"), id="deployed")])
def alone(deployed: DeployedCluster) -> Iterator[Alone]:
    node = deployed.lab.node("alone", Layout.BRIDGE, Mode.LEGACY)
    install_kube_proxy(node)
    reach_api_server(node, deployed.api.address)
    # A bridge that carries a pod is one that matters.
    deployed.lab.pod(node, "pod")
    node.netns.sysctl(dict.fromkeys(BRIDGE_CALLS, 0))
    started: list[PodAgent] = []

    def start_agent(pod: Json) -> PodAgent:
        started.append(PodAgent(node, pod, deployed.kubelet))
        return started[-1]

    yield Alone(node, start_agent)
    for agent in started:
        agent.stop(signal.SIGKILL)
    deployed.lab.remove_node(node)


def heard(agent: PodAgent) -> str:
    """Return everything the agent has said: its log, and /readyz if it answers 503."""
    try:
        status, body = http_get(agent.node, "/readyz")
    except OSError:
        status, body = 0, ""
    assert status != 200, f"it is ready without:\n{agent.tail()}"
    return agent.tail() + body


def test_it_starts_with_what_the_manifest_gives_and_has_that_only(alone: Alone) -> None:
    agent = alone.start(POD)
    agent.wait_ready()
    assert 'iptables_mode": "legacy' in agent.tail()
    for name in BRIDGE_CALLS:
        assert alone.node.run("cat", "/proc/sys/" + name.replace(".", "/")).strip() == "1"
    status = Path(f"/proc/{agent.pid}/status").read_text()
    effective = int(re.findall(r"CapEff:\t(\w+)", status)[0], 16)
    assert effective == sum(1 << BITS[name] for name in CAPABILITIES)
    assert "NoNewPrivs:\t1" in status
    writable = set()
    for line in Path(f"/proc/{agent.pid}/mountinfo").read_text().splitlines():
        _, _, _, _, place, options, *_ = line.split()
        if "rw" in options.split(",") and not place.startswith(("/dev", "/proc")):
            writable.add(place)
    assert writable == set(MOUNTS) - READ_ONLY
    assert {RESULTS} == READ_ONLY
    # The process that proves the kernel has what the agent has.
    status_code, body = http_get(agent.node, "/verify")
    assert status_code == 200, body
    assert json.loads(body)["differences"] == []


def test_every_privilege_has_a_test() -> None:
    assert {*MISSED.keys(), STATE, RESULTS} == {*NEEDED, *MOUNTS, "token"}
    assert LISTENING in CAPABILITIES


def lacking(name: str) -> Json:
    """Return the pod without a capability."""
    pod = copy.deepcopy(POD)
    pod["containers"][0]["securityContext"]["capabilities"]["add"].remove(name)
    return pod


@pytest.mark.parametrize("command", ["iptables-legacy", "iptables-nft"])
@pytest.mark.parametrize("name", NEEDED)
def test_without_a_capability_no_iptables_writes_the_agents_rules(
    deployed: DeployedCluster, alone: Alone, name: str, command: str
) -> None:
    """Not the agent alone wants them, which looks for them when it starts."""
    alone.node.run("ipset", "create", "KUBE-TEST", "hash:ip")
    arguments = ["-I", "FORWARD", "-m", "set", "--match-set", "KUBE-TEST", "src", "-j", "RETURN"]
    ended = []
    for pod in (POD, lacking(name)):
        (container,) = pod["containers"]
        changed = {**container, "command": [command, *arguments], "args": []}
        ended.append(run_to_the_end(alone.node, pod, changed, deployed.kubelet))
    assert ended[0][0] == 0, ended[0][1]
    assert ended[1][0] != 0


@pytest.mark.parametrize("name", NEEDED)
def test_without_a_capability_it_does_not_become_ready(alone: Alone, name: str) -> None:
    agent = alone.start(lacking(name))
    wait_until(lambda: bool(re.search(MISSED[name], heard(agent))), 30)


def test_without_one_capability_it_looks_for_what_it_would_be_told(alone: Alone) -> None:
    for pod, said in ((POD, False), (lacking(LISTENING), True)):
        agent = alone.start(pod)
        agent.wait_ready()
        # What it looks for is a thread's own to say.
        wait_until(lambda a=agent, s=said: ("CAP_NET_BROADCAST" in a.log.read_text()) is s, 30)  # type: ignore[misc]
        agent.stop()


def without(path: str) -> Json:
    """Return the pod without what is mounted at a path."""
    pod = copy.deepcopy(POD)
    mounts = pod["containers"][0]["volumeMounts"]
    mounts[:] = [mount for mount in mounts if mount["mountPath"] != path]
    return pod


def test_without_the_mount_of_its_history_it_enforces_and_names_what_is_missing(alone: Alone) -> None:
    agent = alone.start(without(STATE))
    agent.wait_ready()
    said = f"the history cannot be written to {STATE}/history.db: Read-only file system"
    wait_until(lambda: said in http_get(alone.node, "/readyz")[1], 30)


def test_without_the_mount_of_results_it_does_not_know_early_addresses(alone: Alone) -> None:
    of_host(alone.node, f"{RESULTS}/results").mkdir(parents=True)
    for pod, said in ((POD, True), (without(RESULTS), False)):
        agent = alone.start(pod)
        agent.wait_ready()
        wait_until(lambda s=said: ("[+]early-addresses ok" in http_get(alone.node, "/readyz")[1]) is s, 30)  # type: ignore[misc]
        agent.stop()


@pytest.mark.parametrize("path", [path for path in MOUNTS if path not in (STATE, RESULTS)])
def test_without_a_mount_it_does_not_become_ready(alone: Alone, path: str) -> None:
    agent = alone.start(without(path))
    wait_until(lambda: bool(re.search(MISSED[path], heard(agent))), 30)


def test_without_a_token_it_does_not_become_ready(alone: Alone) -> None:
    agent = alone.start({**POD, "automountServiceAccountToken": False})
    wait_until(lambda: bool(re.search(MISSED["token"], heard(agent))), 30)


def test_it_takes_turns_with_the_nodes_own_iptables(alone: Alone) -> None:
    with of_host(alone.node, "/run/xtables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        agent = alone.start(POD)
        wait_until(lambda: "xtables lock" in heard(agent), 30)
    agent.wait_ready()


def test_when_its_pod_is_deleted_it_ends_in_time_and_its_rules_stay(alone: Alone) -> None:
    agent = alone.start(POD)
    agent.wait_ready()
    rules = alone.node.iptables(Family.V4, "-S")
    assert "KUBE-NETPOL" in rules
    begin = time.monotonic()
    agent.stop()
    assert agent.process.returncode == 0
    assert time.monotonic() - begin < POD["terminationGracePeriodSeconds"]
    assert alone.node.iptables(Family.V4, "-S") == rules
