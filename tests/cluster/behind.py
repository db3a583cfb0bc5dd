"""A node whose agent reads the API server through a gate, and what packets and /readyz say of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from tests.cluster.scene import pods
from tests.lab.cluster import AgentProcess, Cluster, Workspace, http_get, wait_until
from tests.lab.gate import Gate, pass_on
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.probe import Verdict
from tests.patience import PATIENCE

CONFIRM_SECONDS = 4


class Behind(NamedTuple):
    """A node whose agent reads the API server through a gate, and a pod of it that is closed."""

    cluster: Cluster
    workspace: Workspace
    gate: Gate
    node: Node
    namespace: str
    server: Pod
    client: Pod

    @property
    def lab(self) -> Lab:
        return self.cluster.lab

    def start(self) -> AgentProcess:
        kubeconfig = str(self.gate.kubeconfig("agent"))
        arguments = ("--kubeconfig", kubeconfig, "--confirm-empty", str(CONFIRM_SECONDS), "--linger", "0")
        agent = AgentProcess(self.node, *arguments, forked=True)
        self.cluster.agents[self.node.name] = agent
        return agent

    def expect(self, *, open: bool, timeout: float = PATIENCE) -> None:
        """Wait until the pod is so, and see that it still is a little later."""
        verdict = Verdict.ALLOWED if open else Verdict.DENIED
        expected = dict.fromkeys(flows(self.client, self.server, tcp=[80]), verdict)
        self.lab.wait_for(expected, timeout)
        self.lab.settle()
        assert not self.lab.check(expected)

    def ready(self) -> str:
        """Return what /readyz says."""
        return http_get(self.node, "/readyz")[1]

    def until_ready_says(self, words: str, timeout: float = PATIENCE) -> None:
        try:
            wait_until(lambda: words in self.ready(), timeout)
        except TimeoutError:
            raise AssertionError(f"{words!r} is not in\n{self.ready()}") from None

    def in_step(self) -> None:
        """Tell no lies any more, and wait until the agent has been told the truth."""
        self.gate.instead = pass_on
        # With pauses that have not grown by what failed before: it has noticed that the server was away.
        noticed = self._noticed()
        self.gate.away()
        wait_until(lambda: self._noticed() > noticed)
        self.gate.back()
        wait_until(lambda: "warning" not in self.ready() and "failed" not in self.ready())

    def _noticed(self) -> int:
        """Return how often the agent has told that the API server is away."""
        log = self.cluster.agents[self.node.name].log
        return log.read_text(errors="replace").count("API server away")

    def said(self) -> str:
        """Return what /readyz says, "" while nobody answers."""
        try:
            return self.ready()
        except OSError:
            return ""


@contextlib.contextmanager
def behind_a_gate(cluster: Cluster, name: str, layout: Layout, mode: Mode) -> Iterator[Behind]:
    """Have a node with two pods, one of which reaches the other, and no agent yet."""
    node = cluster.bare_node(name, layout, mode)
    try:
        with cluster.workspace() as workspace, Gate(cluster.api) as gate:
            namespace = workspace.namespace("a")
            server, client = (
                workspace.pod(node, namespace, label, {"app": label}) for label in ("server", "client")
            )
            found = Behind(cluster, workspace, gate, node, namespace, server, client)
            found.expect(open=True)
            yield found
    finally:
        cluster.remove_node(node)


@contextlib.contextmanager
def closed_behind(cluster: Cluster, name: str, layout: Layout, mode: Mode) -> Iterator[Behind]:
    """Have the one closed by a policy, and the agent ready."""
    with behind_a_gate(cluster, name, layout, mode) as found:
        found.workspace.policy(found.namespace, "closed", pods(app="server"), policyTypes=["Ingress"])
        found.start().wait_ready()
        found.expect(open=False)
        yield found
