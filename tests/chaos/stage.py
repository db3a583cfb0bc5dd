"""A node with pods whose flows have known verdicts, an agent that reads manifests, and lanes for a probe."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.chaos.judge import Expected
from tests.chaos.probe import Lane, both_families
from tests.lab.cluster import AgentProcess
from tests.lab.lab import Host, Lab
from tests.lab.node import Layout, Mode, Node, Pod

PORT, OTHER_PORT = 5000, 5001
PODS = ("client", "web", "job", "store")

_CLIENT, _STORE = ({"podSelector": {"matchLabels": {"app": app}}} for app in ("client", "store"))
_PORTS = [{"protocol": "UDP", "port": PORT}]
SPECS: Mapping[str, Mapping[str, Any]] = {
    "web": {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [_CLIENT], "ports": _PORTS}],
    },
    "job": {
        "podSelector": {"matchLabels": {"app": "job"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [_STORE], "ports": _PORTS}],
    },
}
"""What makes the lanes' verdicts: ``web`` for ingress, ``job`` for egress."""


class Stage:
    """A node, its pods :data:`PODS` and a host ``out`` outside; a context manager.

    ``web`` takes UDP port 5000 from ``client`` and nothing else, and ``job`` sends to port 5000 of ``store``
    and nowhere else, as :data:`SPECS` says. ``lanes``: flows of which a third is allowed, in both directions
    and families. ``manifests``: the directory that the agent reads; it holds the pods and the policies.
    """

    def __init__(self, layout: Layout | str = Layout.ROUTED, mode: Mode | str = Mode.NFT) -> None:
        with contextlib.ExitStack() as stack:
            self.lab = stack.enter_context(Lab())
            self.node: Node = self.lab.node("node", layout, mode)
            fresh_flows(self.node)
            self.pods: dict[str, Pod] = {name: self.lab.pod(self.node, name) for name in PODS}
            self.out: Host = self.lab.host("out")
            self.manifests = self.node.directory / "manifests"
            self.manifests.mkdir()
            self.say("pods", [pod_manifest(pod) for pod in self.pods.values()])
            for name, spec in SPECS.items():
                self.say(name, [policy_manifest(name, spec)])
            self._agent: AgentProcess | None = None
            stack.callback(self.stop, signal.SIGKILL)
            self._stack = stack.pop_all()
        self.lanes = lanes(self.pods, self.out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def say(self, name: str, objects: Iterable[Mapping[str, Any]]) -> None:
        """Have a manifest hold these objects, at once and whole."""
        say(self.manifests, name, objects)

    def unsay(self, name: str) -> None:
        """Remove a manifest."""
        (self.manifests / f"{name}.yaml").unlink()

    @property
    def agent(self) -> AgentProcess:
        assert self._agent is not None
        return self._agent

    def start(self, *arguments: str, ready: bool = True, killed_at: str = "") -> AgentProcess:
        """Start the agent, which must not run, and wait until it is ready.

        ``killed_at``: a step at which it ends itself, as :mod:`tests.chaos.killed` reads it.
        """
        module = ("tests.chaos.killed", killed_at) if killed_at else ("agent",)
        self._agent = AgentProcess(self.node, "--manifests", str(self.manifests), *arguments, module=module)
        if ready:
            self._agent.wait_ready()
        return self._agent

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the agent, if it runs."""
        if self._agent is not None:
            self._agent.stop(number)


def fresh_flows(node: Node) -> None:
    """Have a node forget a probe's flows soon: there is room for as many as come in a second."""
    node.netns.sysctl({"net.netfilter.nf_conntrack_udp_timeout": 1})


def lanes(pods: Mapping[str, Pod], out: Host) -> tuple[Lane, ...]:
    """Return what :data:`SPECS` means for the four pods and a host outside, in both families."""
    client, web, job, store = (pods[name] for name in PODS)
    return (
        *both_families(client, web, PORT, Expected.ALLOWED),
        *both_families(client, web, OTHER_PORT, Expected.DENIED),
        *both_families(out, web, PORT, Expected.DENIED),
        *both_families(job, store, PORT, Expected.ALLOWED),
        *both_families(job, store, OTHER_PORT, Expected.DENIED),
        *both_families(job, out, PORT, Expected.DENIED),
    )


def pod_manifest(pod: Pod, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a running pod with its addresses; the label ``app`` is its name unless others are given."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "labels": dict(labels or {"app": pod.name})},
        "spec": {"nodeName": pod.node.name},
        "status": {"phase": "Running", "podIPs": [{"ip": pod.v4}, {"ip": pod.v6}]},
    }


def policy_manifest(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy in the namespace ``default``."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": dict(spec),
    }


def say(directory: Path, name: str, objects: Iterable[Mapping[str, Any]]) -> None:
    """Put objects into a file of a directory of manifests, at once and whole. JSON is YAML, too."""
    part = directory / f".{name}"
    part.write_text("---\n".join(f"{json.dumps(found)}\n" for found in objects))
    part.rename(directory / f"{name}.yaml")
