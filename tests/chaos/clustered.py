"""A real API server and two nodes with an agent each, whose pods' flows have known verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Self

from tests.chaos.probe import Lane
from tests.chaos.stage import PODS, SPECS, fresh_flows, lanes
from tests.lab.cluster import Cluster
from tests.lab.lab import Host
from tests.lab.node import Layout, Mode, Node, Pod

NAMESPACE = "chaos"


class Clustered:
    """Nodes of a cluster with the four pods of a :class:`tests.chaos.stage.Stage` each; a context manager.

    All pods and policies are in the namespace :data:`NAMESPACE`. ``lanes``: those of each node. No agent runs
    until one is started with ``cluster.start_agent(node)``.
    """

    def __init__(self, nodes: Sequence[tuple[str, Layout, Mode]]) -> None:
        with contextlib.ExitStack() as stack:
            self.cluster = stack.enter_context(Cluster())
            self.client = self.cluster.client
            self.out: Host = self.cluster.lab.host("out")
            self.nodes: dict[str, Node] = {}
            self.pods: dict[str, dict[str, Pod]] = {}
            found: list[Lane] = []
            self.client.create_namespace(NAMESPACE)
            for name, layout, mode in nodes:
                node = self.nodes[name] = self.cluster.bare_node(name, layout, mode)
                fresh_flows(node)
                self.pods[name] = {app: self._pod(node, app) for app in PODS}
                found += lanes(self.pods[name], self.out)
            for name, spec in SPECS.items():
                self.client.create_policy(NAMESPACE, name, dict(spec))
            self.lanes = tuple(found)
            self._stack = stack.pop_all()

    def _pod(self, node: Node, app: str) -> Pod:
        pod = self.cluster.lab.pod(node, f"{node.name}-{app}")
        self.client.create_pod(
            NAMESPACE, pod.name, node=node.name, addresses=[pod.v4, pod.v6], labels={"app": app}
        )
        return pod

    def all_pods(self, app: str) -> list[Pod]:
        """Return the pods of all nodes with a label."""
        return [pods[app] for pods in self.pods.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
