"""Metrics of a real agent: what packets and changes make of them, and who may read them."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.scene import Scene, Way, pods, rule
from tests.lab.client import Client
from tests.lab.cluster import ROOT, AgentProcess, Cluster, http_get, wait_until
from tests.lab.node import Layout, Mode, Node
from tests.patience import PATIENCE

COMPONENT = ROOT / "deploy/components/metrics-auth"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS = "/api/v1/namespaces/kube-system/serviceaccounts"
PATHS = {
    "ServiceAccount": ACCOUNTS,
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
}
PORT = 20246

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    """Return every series of a scrape, by name and labels."""
    return {
        (sample.name.removeprefix("netpol_agent_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(node: Node) -> str:
    status, text = http_get(node, "/metrics")
    assert status == 200, text
    return text


def value(node: Node, name: str, **labels: str) -> float:
    return series(scrape(node)).get((name, frozenset(labels.items())), 0.0)


def test_packets_and_changes_are_counted(scene: Scene) -> None:
    namespace = scene.namespace("shop")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    friend = scene.pod(scene.far, namespace, "friend", {"app": "friend"})
    stranger = scene.pod(scene.far, namespace, "stranger", {"app": "stranger"})
    scene.are_open([Way(friend, server), Way(stranger, server)])
    scene.cluster.settle()
    changes = value(scene.near, "change_latency_seconds_count", change="policy")
    created = value(scene.near, "policy_creation_latency_seconds_count")
    scene.policy(
        namespace, "only-friends", pods(app="server"), ingress=[rule({"podSelector": pods(app="friend")})]
    )
    scene.expect(allowed=[Way(friend, server)], denied=[Way(stranger, server)])

    def counted(told: str) -> float:
        return value(scene.near, f"{told}_packets_total", direction="ingress", namespace=namespace)

    # A scrape within a second of another shows the same.
    wait_until(lambda: counted("denied") >= 2 and counted("allowed") >= 2, 60.0, 0.3)
    assert value(scene.near, "denied_bytes_total", direction="ingress", namespace=namespace) >= 80
    assert value(scene.near, "isolated_pods", direction="ingress", family="4") >= 1
    assert value(scene.near, "change_latency_seconds_count", change="policy") == changes + 1
    assert value(scene.near, "policy_creation_latency_seconds_count") == created + 1
    assert value(scene.near, "ready") == value(scene.near, "enforcing") == 1
    assert value(scene.near, "events_total", source="apiserver", kind="Pod", event="upsert") >= 3
    before = counted("denied")
    # The policy's rules are written anew, and their counters with them: what was counted stays.
    scene.replace_policy(
        namespace, "only-friends", pods(app="server"), ingress=[rule({"podSelector": pods(app="nobody")})]
    )
    scene.expect(denied=[Way(stranger, server), Way(friend, server)])
    wait_until(lambda: counted("denied") > before, 60.0, 0.3)
    far = value(scene.far, "denied_packets_total", direction="ingress", namespace=namespace)
    assert far == 0, "the other node enforces nothing of it"


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: .ci/packages python3 monitoring"
)
def test_promtool_finds_nothing_to_mend(scene: Scene) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=scrape(scene.near),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


class Guarded(NamedTuple):
    """A node whose agent lets only those read its metrics who may."""

    cluster: Cluster
    node: Node
    agent: AgentProcess

    def get(self, token: str = "") -> tuple[int, str]:
        """Ask the metrics port from the API server's place."""
        connection = http.client.HTTPConnection(self.node.v4, PORT, timeout=PATIENCE)
        with self.cluster.api.netns.entered():
            connection.connect()
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request("GET", "/metrics", headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def token(self, account: str) -> str:
        asked = {"spec": {"expirationSeconds": 3600}}
        answer = self.cluster.client.post(f"{ACCOUNTS}/{account}/token", asked)
        return str(answer["status"]["token"])


def install(client: Client, *files: str) -> Iterator[None]:
    """Have what files of the component hold in the cluster for a while."""
    made: list[str] = []
    for file in files:
        for document in yaml.safe_load_all((COMPONENT / file).read_text()):
            if document["kind"] in PATHS:
                client.post(f"{PATHS[document['kind']]}?fieldValidation=Strict", document)
                made.append(f"{PATHS[document['kind']]}/{document['metadata']['name']}")
    yield
    for path in reversed(made):
        client.delete(path)


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Iterator[Guarded]:
    node = cluster.bare_node("guarded", Layout.ROUTED, Mode.NFT)
    agent = cluster.start_agent(node, "--metrics-address", f"0.0.0.0:{PORT}", "--metrics-authorize")
    agent.wait_ready()
    yield Guarded(cluster, node, agent)
    cluster.remove_node(node)


@pytest.mark.xdist_group("metrics-auth")
def test_who_may_not_ask_the_api_server_says_which_right_is_missing(guarded: Guarded) -> None:
    client = guarded.cluster.client
    with contextlib.contextmanager(install)(client, "reader.yaml"):
        status, text = guarded.get(guarded.token("netpol-agent-metrics-reader"))
    assert status == 503
    assert "grant the agent's user create on tokenreviews" in text


@pytest.mark.xdist_group("metrics-auth")
def test_only_who_may_read_metrics_does(guarded: Guarded) -> None:
    client = guarded.cluster.client
    client.post(ACCOUNTS, {"metadata": {"name": "passer-by"}})
    with contextlib.contextmanager(install)(client, "reviews.yaml", "reader.yaml"):
        reader, other = guarded.token("netpol-agent-metrics-reader"), guarded.token("passer-by")
        # What the server grants lags behind what is written.
        wait_until(lambda: guarded.get(reader)[0] == 200, 70.0, 0.5)
        assert series(guarded.get(reader)[1])["ready", frozenset()] == 1
        status, text = guarded.get(other)
        assert (status, "nonResourceURL /metrics" in text) == (403, True)
        assert guarded.get("nobody's")[0] == 401
        assert guarded.get()[0] == 401
        # Who was let in is let in while the API server is away; others are not.
        guarded.cluster.api.stop()
        try:
            assert guarded.get(reader)[0] == 200
            assert guarded.get(other + "x")[0] == 503
        finally:
            guarded.cluster.api.start()
    client.delete(f"{ACCOUNTS}/passer-by")
    assert http_get(guarded.node, "/metrics")[0] == 200, "the status port asks nobody"


def test_the_component_grants_no_more_than_is_tested() -> None:
    documents = [d for file in sorted(COMPONENT.glob("*.yaml")) for d in yaml.safe_load_all(file.read_text())]
    rules = [rule for d in documents if d["kind"] == "ClusterRole" for rule in d["rules"]]
    assert rules == [
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
    ]
