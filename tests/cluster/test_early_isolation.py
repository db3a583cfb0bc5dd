"""From an agent's start until it has read the cluster: what is open, and what is closed, by real packets."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cluster.scene import pods, rule
from tests.lab.cluster import AgentProcess, Cluster, Workspace, http_get
from tests.lab.gate import Gate
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.probe import Verdict
from tests.patience import PATIENCE


class Start(NamedTuple):
    """A node on which nothing runs yet, with a pod that lets in its friends, of which one is elsewhere."""

    cluster: Cluster
    workspace: Workspace
    node: Node
    server: Pod
    near: Pod
    far: Pod
    stranger: Pod

    @property
    def lab(self) -> Lab:
        return self.cluster.lab

    def expect(self, *, near: bool = True, far: bool, stranger: bool) -> None:
        """Wait until packets of each fare so, and see that they still do a little later."""
        expected = {
            flow: Verdict.ALLOWED if allowed else Verdict.DENIED
            for pod, allowed in ((self.near, near), (self.far, far), (self.stranger, stranger))
            for flow in flows(pod, self.server, tcp=[80])
        }
        self.lab.wait_for(expected, 20.0)
        self.lab.settle()
        assert not self.lab.check(expected)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[tuple[Gate, AgentProcess]]:
        """Start the node's agent, and have its list of all pods wait at a gate."""
        with Gate(self.cluster.api, is_list_of_all_pods) as gate:
            agent = AgentProcess(self.node, "--kubeconfig", str(gate.kubeconfig("agent")), forked=True)
            self.cluster.agents[self.node.name] = agent
            assert gate.waiting.wait(PATIENCE), agent.tail()
            yield gate, agent


@pytest.fixture(params=[pytest.param(mode, marks=pytest.mark.xdist_group("cluster-early")) for mode in Mode])
def start(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Start]:
    here, there = (
        cluster.bare_node(f"{which}-{request.param}", Layout.ROUTED, request.param)
        for which in ("early", "else")
    )
    with cluster.workspace() as workspace:
        namespace = workspace.namespace("a")
        server = workspace.pod(here, namespace, "server", {"app": "server"})
        near, far = (
            workspace.pod(node, namespace, name, {"app": "friend"})
            for node, name in ((here, "near"), (there, "far"))
        )
        stranger = workspace.pod(there, namespace, "stranger", {"app": "stranger"})
        friends = rule({"podSelector": pods(app="friend")})
        workspace.policy(namespace, "friends", pods(app="server"), ingress=[friends])
        found = Start(cluster, workspace, here, server, near, far, stranger)
        found.expect(far=True, stranger=True)
        yield found
    for node in (here, there):
        cluster.remove_node(node)


def is_list_of_all_pods(path: str) -> bool:
    asked = urlsplit(path)
    return asked.path == "/api/v1/pods" and not {"watch", "fieldSelector"} & parse_qs(asked.query).keys()


def assert_waiting_for_pods(node: Node) -> None:
    status, text = http_get(node, "/readyz")
    assert status == 503
    # On a slow machine the list's answer is given up, and it is asked for again.
    assert re.search(r"^\[-\]cache/Pod failed: (not synced yet|.* fell silent)", text, re.MULTILINE), text
    assert "[-]kernel failed" in text
    assert http_get(node, "/healthz")[0] == 200


def test_own_pods_are_isolated_before_all_pods_are_read_and_peers_let_in_when_they_are(start: Start) -> None:
    with start.held_back() as (gate, agent):
        start.expect(far=False, stranger=False)
        assert_waiting_for_pods(start.node)
        assert agent.status()["ready"] is False
        gate.open()
        start.expect(far=True, stranger=False)
        agent.wait_ready()


def test_one_that_comes_to_be_isolated_meanwhile_is(start: Start) -> None:
    """No pod is isolated when this node's are known: the policy comes later."""
    namespace = start.server.name.split("/")[0]
    start.workspace.delete_policy(namespace, "friends")
    with start.held_back() as (gate, agent):
        start.expect(far=True, stranger=True)
        start.workspace.policy(namespace, "closed", pods(app="server"), policyTypes=["Ingress"])
        start.expect(near=False, far=False, stranger=False)
        assert_waiting_for_pods(start.node)
        gate.open()
        agent.wait_ready()


def test_an_agent_that_is_killed_meanwhile_leaves_what_it_wrote_until_the_next_has_read_everything(
    start: Start,
) -> None:
    with start.held_back() as (gate, agent):
        start.expect(far=False, stranger=False)
        agent.stop(signal.SIGKILL)
        start.expect(far=False, stranger=False)
    with start.held_back() as (gate, agent):
        start.expect(far=False, stranger=False)
        assert_waiting_for_pods(start.node)
        gate.open()
        start.expect(far=True, stranger=False)
        agent.wait_ready()


def test_a_restart_closes_nothing_that_was_open_while_pods_are_read(start: Start) -> None:
    start.cluster.start_agent(start.node).wait_ready()
    start.expect(far=True, stranger=False)
    start.cluster.agents[start.node.name].stop()
    with start.held_back() as (gate, agent):
        start.expect(far=True, stranger=False)
        assert_waiting_for_pods(start.node)
        gate.open()
        agent.wait_ready()
        start.expect(far=True, stranger=False)
