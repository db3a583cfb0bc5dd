"""Another cluster at the API server's address: nothing changes until a person confirms it, by packets."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.cluster.scene import pods
from tests.cluster.test_lies import Behind
from tests.lab.apiserver import ApiServer
from tests.lab.cluster import ROOT, Cluster, http_get, wait_until
from tests.lab.gate import Gate
from tests.lab.node import Layout, Mode


@pytest.fixture
def moved(cluster: Cluster) -> Iterator[tuple[Behind, ApiServer]]:
    """A node whose agent holds the policies of one cluster, and another cluster, which has none."""
    node = cluster.bare_node("moved", Layout.ROUTED, Mode.NFT)
    elsewhere = cluster.lab.host("elsewhere")
    with (
        cluster.workspace() as workspace,
        Gate(cluster.api) as gate,
        ApiServer(elsewhere.netns, elsewhere.v4, cluster.lab.directory / "elsewhere") as other,
    ):
        namespace = workspace.namespace("a")
        server, client = (
            workspace.pod(node, namespace, name, {"app": name}) for name in ("server", "client")
        )
        found = Behind(cluster, workspace, gate, node, namespace, server, client)
        found.expect(open=True)
        workspace.policy(namespace, "closed", pods(app="server"), policyTypes=["Ingress"])
        found.start().wait_ready()
        found.expect(open=False)
        yield found, other
    cluster.remove_node(node)


def command(behind: Behind, name: str) -> tuple[int, str]:
    """Run one of the agent's commands on the node; return its exit code and what it printed."""
    log = behind.node.directory / f"{name}.log"
    with log.open("wb") as output:
        process = behind.node.popen(
            [sys.executable, "-m", "agent", name],
            output=output,
            environment={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        )
        code = process.wait(60)
    return code, log.read_text()


def uid(api: ApiServer) -> str:
    return str(api.client.get("/api/v1/namespaces/kube-system")["metadata"]["uid"])


def test_another_cluster_changes_nothing_until_a_person_confirms_it(
    moved: tuple[Behind, ApiServer], cluster: Cluster
) -> None:
    behind, other = moved
    assert command(behind, "confirm-cluster")[0] == 1
    behind.gate.lead_to(other)
    behind.until_ready_says("another cluster answers at")
    said = behind.ready()
    for words in (uid(cluster.api), uid(other), "nothing changes", "netpol-agent confirm-cluster"):
        assert words in said
    assert http_get(behind.node, "/readyz")[0] == 200
    behind.expect(open=False)
    # A restart is no confirmation.
    agent = cluster.agents[behind.node.name]
    agent.stop()
    agent = behind.start()
    wait_until(lambda: "another cluster answers at" in _said(behind), 30)
    assert http_get(behind.node, "/readyz")[0] == 503
    behind.expect(open=False)
    # The address is right again: that is all there is to do.
    behind.gate.lead_to(cluster.api)
    agent.wait_ready()
    behind.expect(open=False)
    behind.gate.lead_to(other)
    behind.until_ready_says("another cluster answers at")
    assert command(behind, "confirm-cluster") == (
        0,
        f"confirmed: the cluster whose namespace kube-system has the uid {uid(other)}\n",
    )
    behind.expect(open=True)
    wait_until(lambda: "warning" not in behind.ready(), 20)
    # From now on it is this one that holds.
    behind.gate.lead_to(cluster.api)
    behind.until_ready_says("another cluster answers at")
    behind.expect(open=True)


def _said(behind: Behind) -> str:
    try:
        return behind.ready()
    except OSError:
        return ""


def test_a_node_that_was_cleaned_up_takes_the_cluster_that_it_finds(
    moved: tuple[Behind, ApiServer], cluster: Cluster
) -> None:
    behind, other = moved
    cluster.agents[behind.node.name].stop()
    assert command(behind, "cleanup")[0] == 0
    behind.gate.lead_to(other)
    behind.start().wait_ready()
    assert "another cluster" not in behind.ready()
    behind.expect(open=True)
