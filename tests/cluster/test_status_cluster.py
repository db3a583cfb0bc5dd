"""``status --cluster``: agents asked through a real API server's proxy to their pods."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.lab.cluster import Cluster
from tests.lab.node import Layout, Mode, Node

pytestmark = pytest.mark.xdist_group("cluster-apart")

NAMESPACE = "kube-system"


class Asked(NamedTuple):
    """Two nodes with agents: one that the API server reaches, and one that answers on its loopback only."""

    cluster: Cluster
    open: Node
    local: Node

    def status(self, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``status --cluster`` on a node, as ``admin`` or ``agent``."""
        return self.run(user, "status", *arguments)

    def run(self, user: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with ``--cluster`` on a node, as ``admin`` or ``agent``."""
        kubeconfig = str(self.cluster.api.kubeconfig(user))
        return self.open.agent_ended(name, "--cluster", "--kubeconfig", kubeconfig, *arguments)

    def nodes(self, user: str) -> dict[str, Any]:
        answer = json.loads(self.status(user, "--json").stdout)
        return {line["node"]: line for line in answer["nodes"]}


@pytest.fixture(scope="module")
def asked(cluster: Cluster) -> Iterator[Asked]:
    reached = cluster.node("reached", Layout.ROUTED, Mode.NFT, "--health-address", "0.0.0.0")
    local = cluster.node("local", Layout.ROUTED, Mode.NFT)
    cluster.client.create_node("bare", ["10.0.0.99", "fd00::99"], ["10.244.99.0/24", "fd00:99::/64"])
    for node in (reached, local):
        cluster.agents[node.name].wait_ready()
        name = f"netpol-agent-{node.name}"
        labels = {"app.kubernetes.io/name": "netpol-agent"}
        cluster.client.create_pod(
            NAMESPACE, name, node=node.name, addresses=[node.v4, node.v6], labels=labels, hostNetwork=True
        )
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        cluster.client.set_pod_status(NAMESPACE, name, ready)
    yield Asked(cluster, reached, local)
    cluster.client.delete_node("bare")
    for node in (reached, local):
        cluster.client.delete_pod(NAMESPACE, f"netpol-agent-{node.name}")
        cluster.remove_node(node)


def test_each_agent_that_is_reached_says_how_it_is_and_of_others_their_kubelet(asked: Asked) -> None:
    found = asked.nodes("admin")
    reached, local, bare = (found[name] for name in ("reached", "local", "bare"))
    assert (reached["ready"], reached["status"]["node"], reached["error"]) == (True, "reached", "")
    assert (local["ready"], local["status"]) == (True, None)
    assert "--health-address" in local["error"]
    assert (bare["agent"], bare["ready"]) == ("", False)
    shown = asked.status("admin")
    assert shown.returncode == 1, "a node has no agent"
    rows = {line.split()[0]: line for line in shown.stdout.splitlines() if line.split()}
    assert "ready" in rows["reached"]
    assert "ready, by its kubelet" in rows["local"]
    assert "no agent" in rows["bare"]
    assert f"2 of {len(found)} nodes ready" in shown.stdout


def test_an_agent_that_is_down_is_told_from_one_that_answers_on_loopback_only(asked: Asked) -> None:
    client, pod = asked.cluster.client, "netpol-agent-local"
    client.set_pod_status(NAMESPACE, pod, {"conditions": [{"type": "Ready", "status": "False"}]})
    try:
        error = asked.nodes("admin")["local"]["error"]
    finally:
        client.set_pod_status(NAMESPACE, pod, {"conditions": [{"type": "Ready", "status": "True"}]})
    assert "its kubelet says that it is not ready" in error
    assert f"kubectl -n {NAMESPACE} logs {pod} --previous" in error
    assert "--health-address" not in error


def test_the_right_that_is_lacking_is_named(asked: Asked) -> None:
    """The agent's own account may list pods, and neither ask their proxy nor list nodes."""
    found = asked.nodes("agent")
    assert set(found) == {"reached", "local"}
    assert "the right to get pods/proxy in namespace kube-system is lacking" in found["reached"]["error"]
    shown = asked.status("agent").stdout
    assert "nodes without an agent are not shown: the right to list nodes is lacking" in shown
    assert shown.count("the right to get pods/proxy") == 1, "one trouble of all nodes is told once"


def test_where_there_is_no_agent_that_is_said(asked: Asked) -> None:
    none = asked.status("agent", "--agents", "default")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no pod of an agent is in namespace default: --agents names another" in none.stderr


def test_a_change_is_replayed_on_every_node_and_one_that_is_not_reached_is_named(asked: Asked) -> None:
    """The policy to remove is in the cluster: agents know it, though nothing that was seen depends on it."""
    with asked.cluster.workspace() as workspace:
        namespace = workspace.namespace("a")
        workspace.policy(namespace, "closed", ingress=[])
        asked.cluster.settle()
        done = asked.run("admin", "replay", "--remove", f"{namespace}/closed", "--json")
        found = json.loads(done.stdout)
        assert done.returncode == 2, "a node could not be asked"
        assert found["nodes"] == ["reached"]
        assert found["cut"] == []
        (missing,) = found["missing"]
        assert missing.startswith("node local: cannot be reached through the API server")
        unknown = asked.run("admin", "replay", "--remove", f"{namespace}/none")
        assert (unknown.returncode, unknown.stdout) == (2, "")
        assert "there is no policy" in unknown.stderr
