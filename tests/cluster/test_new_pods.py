"""``--new-pods deny`` against a real API server: the node's own podCIDRs, and a server that goes away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
import yaml

from tests.lab.cluster import ROOT, Cluster, http_get, wait_until
from tests.lab.lab import flows
from tests.lab.node import Layout, Mode
from tests.lab.probe import Verdict

pytestmark = pytest.mark.xdist_group("cluster-apart")

RBAC = ROOT / "deploy/components/new-pods-deny/rbac.yaml"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"


@pytest.mark.guarantee("1.6")
def test_a_pod_that_the_server_has_not_told_is_closed_also_while_the_server_is_away(
    cluster: Cluster,
) -> None:
    with cluster.workspace() as work, _may_read_nodes(cluster):
        node = cluster.node("closing", Layout.BRIDGE, Mode.NFT, "--new-pods", "deny")
        other = cluster.bare_node("beside", Layout.BRIDGE, Mode.NFT)
        lab, agent = cluster.lab, cluster.agents["closing"]
        agent.wait_ready()
        namespace = work.namespace("a")
        known, far = (work.pod(n, namespace, name) for n, name in ((node, "known"), (other, "far")))
        passing = dict.fromkeys([*flows(known, far, tcp=[80]), *flows(far, known, tcp=[80])], Verdict.ALLOWED)
        lab.wait_for(passing, 20)
        # Of all nodes it reads its own alone.
        (nodes,) = (source for source in agent.status()["sources"] if source["kind"] == "Node")
        assert nodes["objects"] == 1
        assert set(agent.status()["new_pods"]["networks"]) == {node.cidr4, node.cidr6}
        late = lab.pod(node, f"{namespace}/late")
        lab.serve(late, tcp=[80])
        pairs = [pair for place in (known, far) for pair in ((place, late), (late, place))]
        closed = [flow for pair in pairs for flow in flows(*pair, tcp=[80])]
        denied = dict.fromkeys(closed, Verdict.DENIED)
        probes = dict.fromkeys(flows(node, late, tcp=[80]), Verdict.ALLOWED)
        assert lab.check({**denied, **passing, **probes}) == {}
        wait_until(lambda: _closed(agent.status()) == {late.v4, late.v6}, 20)
        said = http_get(node, "/readyz")[1]
        assert "new-pods ok: new pods are closed in" in said
        assert late.v4 in said
        answer = json.loads(http_get(node, f"/explain?from={late.v4}&to={known.v4}&port=80")[1])
        assert answer["outcome"] == "denied"
        assert "no pod is known to have it" in json.dumps(answer)
        cluster.api.stop()
        try:
            assert lab.check({**denied, **passing, **probes}) == {}
        finally:
            cluster.api.start()
        cluster.client.create_pod(namespace, "late", node=node.name, addresses=[late.v4, late.v6])
        lab.wait_for(dict.fromkeys(closed, Verdict.ALLOWED), 30)
        wait_until(lambda: not _closed(agent.status()), 20)
        cluster.client.delete_pod(namespace, "late")
        lab.remove(late)
    for each in (node, other):
        cluster.remove_node(each)


@contextlib.contextmanager
def _may_read_nodes(cluster: Cluster) -> Iterator[None]:
    """Give agents the rights of the component, and no others."""
    made = list(yaml.safe_load_all(RBAC.read_text()))
    for document in made:
        cluster.client.post(f"{_RBAC}/{document['kind'].lower()}s?fieldValidation=Strict", document)
    try:
        yield
    finally:
        for document in made:
            cluster.client.delete(f"{_RBAC}/{document['kind'].lower()}s/{document['metadata']['name']}")


def _closed(status: dict[str, object]) -> set[str]:
    found = status["new_pods"]
    assert isinstance(found, dict)
    return set(found["closed"])
