"""A node whose pods a guard closes, and what ends that: for tests of ``netpol-agent guard``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from agent.dataplane.iptables import guard as guard_rules
from agent.fault import Fault
from tests.build import network
from tests.lab.cluster import AgentProcess
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.probe import Flow
from tests.patience import PATIENCE

Stage = tuple[Lab, Node, Pod, Pod]
KINDS = ((Layout.BRIDGE, Mode.NFT), (Layout.ROUTED, Mode.LEGACY))

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {pod.name}, namespace: default, uid: uid-{pod.name}}}
spec: {{nodeName: near, containers: [{{name: c, image: i}}]}}
status: {{phase: Running, podIPs: [{{ip: {pod.v4}}}, {{ip: "{pod.v6}"}}]}}
"""


@contextlib.contextmanager
def serving(layout: Layout, mode: Mode) -> Iterator[Stage]:
    """Make a node with two pods, and a host outside, all of which serve TCP port 80."""
    with Lab() as lab:
        node = lab.node("near", layout, mode)
        pods = lab.pod(node, "one"), lab.pod(node, "two")
        lab.host("out")
        for place in (*pods, node, lab.hosts["out"]):
            lab.serve(place, tcp=[80])
        yield lab, node, *pods


def guard(node: Node, *arguments: str, code: int = 0) -> str:
    command = ["guard", "--iptables-mode", node.mode, "--state-dir", str(node.directory / "state")]
    command += ["--log-format", "console", *arguments]
    log = node.directory / "guard.log"
    with log.open("wb") as output:
        done = node.fork("agent", *command, output=output)
        assert done.wait(PATIENCE) == code, log.read_text()
    return log.read_text()


def put(node: Node) -> list[Fault]:
    """Put a guard on a node, in this process."""
    with node.netns.entered():
        return guard_rules.put(node.mode.value, [network(node.cidr4), network(node.cidr6)])


def networks(node: Node) -> tuple[str, str]:
    return "--pod-networks", f"{node.cidr4},{node.cidr6}"


def of_pods(lab: Lab, one: Pod, two: Pod) -> list[Flow]:
    """Return the flows between pods, and between a pod and the network outside."""
    out = lab.hosts["out"]
    return [
        flow
        for source, to in ((one, two), (two, one), (one, out), (out, one))
        for flow in flows(source, to, tcp=[80])
    ]


def of_the_node(node: Node, *pods: Pod) -> list[Flow]:
    return [f for pod in pods for pair in ((node, pod), (pod, node)) for f in flows(*pair, tcp=[80])]


def agent(node: Node, directory: Path, *arguments: str) -> AgentProcess:
    return AgentProcess(node, "--manifests", str(directory), *arguments, forked=True)


def written(directory: Path, *pods: Pod) -> None:
    text = "---".join(POD.format(pod=pod) for pod in pods)
    (directory / ".new").write_text(text)
    (directory / ".new").rename(directory / "pods.yaml")
