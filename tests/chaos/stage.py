"""A node with pods whose flows have known verdicts, an agent that reads manifests, and lanes for a probe."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from tests.chaos.judge import Expected
from tests.chaos.probe import Lane, both_families
from tests.lab.lab import Host
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.standing import Standing

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


class Stage(Standing):
    """A node, its pods :data:`PODS` and a host ``out`` outside; a context manager.

    ``web`` takes UDP port 5000 from ``client`` and nothing else, and ``job`` sends to port 5000 of ``store``
    and nowhere else, as :data:`SPECS` says. ``lanes``: flows of which a third is allowed, in both directions
    and families. ``manifests``: the directory that the agent reads; it holds the pods and the policies.
    """

    def __init__(self, layout: Layout | str = Layout.ROUTED, mode: Mode | str = Mode.NFT) -> None:
        super().__init__("node", layout, mode)
        with contextlib.ExitStack() as stack:
            stack.push(self)
            fresh_flows(self.node)
            self.pods: dict[str, Pod] = {name: self.lab.pod(self.node, name) for name in PODS}
            self.out: Host = self.lab.host("out")
            self.say("pods", [pod_manifest(pod) for pod in self.pods.values()])
            for name, spec in SPECS.items():
                self.say(name, [policy_manifest(name, spec)])
            stack.pop_all()
        self.lanes = lanes(self.pods, self.out)


def killed_at(step: str) -> tuple[str, ...]:
    """Return the module of an agent that ends itself at a step, as :mod:`tests.chaos.killed` reads it.

    Without a step it is the agent itself.
    """
    return ("tests.chaos.killed", step) if step else ("agent",)


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
