"""Another cluster at the API server's address: nothing changes until a person confirms it, by packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.behind import Behind, closed_behind
from tests.lab.apiserver import ApiServer
from tests.lab.cluster import Cluster, http_get, wait_until
from tests.lab.node import Layout, Mode
from tests.patience import PATIENCE

pytestmark = pytest.mark.xdist_group("cluster-apart")


@pytest.fixture
def moved(cluster: Cluster) -> Iterator[tuple[Behind, ApiServer]]:
    """A node whose agent holds the policies of one cluster, and another cluster, which has none."""
    elsewhere = cluster.lab.hosts.get("elsewhere") or cluster.lab.host("elsewhere")
    with (
        closed_behind(cluster, "moved", Layout.ROUTED, Mode.NFT) as found,
        ApiServer(elsewhere.netns, elsewhere.v4, cluster.lab.directory / "elsewhere") as other,
    ):
        yield found, other


def command(behind: Behind, name: str) -> tuple[int, str]:
    """Run one of the agent's commands on the node; return its exit code and what it printed."""
    log = behind.node.directory / f"{name}.log"
    with log.open("wb") as output:
        code = behind.node.fork("agent", name, output=output).wait(PATIENCE)
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
    wait_until(lambda: "another cluster answers at" in behind.said(), 30)
    assert http_get(behind.node, "/readyz")[0] == 503
    behind.expect(open=False)
    # The address is right again: that is all there is to do.
    behind.gate.lead_to(cluster.api)
    agent.wait_ready()
    behind.expect(open=False)
    wait_until(lambda: "another cluster" not in behind.ready())
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
