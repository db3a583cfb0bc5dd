"""The account may do what the agent does and nothing else: each verb that is taken away is missed."""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import yaml

from tests.deploy.stage import DEPLOY, DeployedCluster, PodAgent, reach_api_server
from tests.lab.access import permitted
from tests.lab.client import Json
from tests.lab.cluster import http_get, wait_until
from tests.lab.container import of_host
from tests.lab.node import Layout, Mode, Node
from tests.unit.sources.cni.results import text as result_text

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS = "/api/v1/namespaces/kube-system/serviceaccounts"
KINDS = {
    "pods": "Pod",
    "namespaces": "Namespace",
    "networkpolicies": "NetworkPolicy",
    "nodes": "Node",
}
_numbers = itertools.count(1)


def rules() -> list[Json]:
    """Return the rules without which enforcing fails: the base's, and those of letting nodes in."""
    found: list[Json] = []
    for place in ("base", "components/allow-nodes"):
        documents = yaml.safe_load_all((DEPLOY / place / "rbac.yaml").read_text())
        found += [rule for each in documents if each["kind"] == "ClusterRole" for rule in each["rules"]]
    return found


PERMISSIONS = [
    (resource, verb) for rule in rules() for resource in rule["resources"] for verb in rule["verbs"]
]


class Spare(NamedTuple):
    """A node without an agent, and a way to start one there whose account has given permissions."""

    node: Node
    start: Callable[[list[Json]], PodAgent]


@pytest.fixture(
    scope="module", params=[pytest.param(None, marks=pytest.mark.xdist_group("deploy"), id="deployed")]
)
def spare(deployed: DeployedCluster) -> Iterator[Spare]:
    node = deployed.lab.node("spare", Layout.ROUTED, Mode.NFT)
    reach_api_server(node, deployed.api.address)
    started: list[PodAgent] = []

    def start(granted: list[Json]) -> PodAgent:
        name = f"probe-{next(_numbers)}"
        client = deployed.client
        account = {"kind": "ServiceAccount", "namespace": "kube-system", "name": name}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        client.post(ACCOUNTS, {"metadata": {"name": name}})
        client.post(f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": granted})
        binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [account]}
        client.post(f"{RBAC}/clusterrolebindings", binding)
        asked = client.post(f"{ACCOUNTS}/{name}/token", {"spec": {"expirationSeconds": 3600}})
        kubelet = deployed.kubelet_of(asked["status"]["token"], deployed.lab.directory / name)
        pod = copy.deepcopy(deployed.pod)
        pod["containers"][0]["env"].append({"name": "NETPOL_AGENT_ALLOW_NODES", "value": "true"})
        # What the server grants lags behind what is written.
        resource, verb = granted[-1]["resources"][-1], granted[-1]["verbs"][-1]
        wait_until(lambda: permitted(client, name, resource, verb), 30)
        started.append(PodAgent(node, pod, kubelet))
        return started[-1]

    yield Spare(node, start)
    for agent in started:
        agent.stop()
    deployed.lab.remove_node(node)


def without(resource: str, verb: str) -> list[Json]:
    """Return the rules, one for each resource, that lack one permission."""
    return [
        {
            "apiGroups": rule["apiGroups"],
            "resources": [each],
            "verbs": [v for v in rule["verbs"] if (each, v) != (resource, verb)],
        }
        for rule in rules()
        for each in rule["resources"]
    ]


def readyz(node: Node) -> tuple[int, str]:
    try:
        return http_get(node, "/readyz")
    except OSError:
        return 0, ""


def version_seen(node: Node, kind: str) -> int:
    sources = json.loads(http_get(node, "/status")[1])["sources"]
    (version,) = (source["resource_version"] for source in sources if source["kind"] == kind)
    return int(version or 0)


def hear_of(node: Node, kind: str, version: int) -> None:
    wait_until(lambda: version_seen(node, kind) >= version)


def change(cluster: DeployedCluster, resource: str) -> int:
    """Write an object of a kind; return its resourceVersion."""
    client = cluster.client
    name = f"probe-{next(_numbers)}"
    if resource == "nodes":
        client.create_node(name, ["192.0.2.1"], ["10.1.0.0/24"])
    elif resource == "namespaces":
        client.create_namespace(name)
    elif resource == "pods":
        client.create_pod("default", name, node="elsewhere", addresses=())
    else:
        client.create_policy("default", name, {"podSelector": {}})
    return client.written[KINDS[resource]]


def test_with_every_permission_it_becomes_ready_and_sees_changes(
    deployed: DeployedCluster, spare: Spare
) -> None:
    agent = spare.start(rules())
    try:
        agent.wait_ready()
        for resource, kind in KINDS.items():
            hear_of(spare.node, kind, change(deployed, resource))
    finally:
        agent.stop()


def test_without_get_no_pod_is_asked_for_by_name(spare: Spare) -> None:
    """A pod runs here, as its result says, and the watch knows none of its name."""
    agent = spare.start(without("pods", "get"))
    try:
        agent.wait_ready()
        folder = of_host(spare.node, "/var/lib/cni/results")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lab-c1-eth0").write_bytes(result_text())
        wait_until(lambda: "forbidden to get pods" in readyz(spare.node)[1], 30)
        assert readyz(spare.node)[0] == 200
    finally:
        agent.stop()


@pytest.mark.parametrize(("resource", "verb"), [one for one in PERMISSIONS if one[1] != "get"])
def test_each_permission_is_missed(deployed: DeployedCluster, spare: Spare, resource: str, verb: str) -> None:
    agent = spare.start(without(resource, verb))
    try:
        fault = f"forbidden to {verb} {resource}"
        wait_until(lambda: fault in readyz(spare.node)[1], 30)
        status, _ = readyz(spare.node)
        if verb == "list":
            assert status == 503
            return
        # It was listed: what was there is enforced, and what comes is not heard of.
        agent.wait_ready()
        written = change(deployed, resource)
        time.sleep(1)
        assert version_seen(spare.node, KINDS[resource]) < written
        assert fault in readyz(spare.node)[1]
    finally:
        agent.stop()


def test_nothing_else_is_granted() -> None:
    expected = [(resource, verb) for resource in KINDS for verb in ("list", "watch")]
    assert sorted(PERMISSIONS) == sorted([*expected, ("pods", "get")])
    assert {group for rule in rules() for group in rule["apiGroups"]} == {"", "networking.k8s.io"}
    assert all(rule.keys() == {"apiGroups", "resources", "verbs"} for rule in rules())
