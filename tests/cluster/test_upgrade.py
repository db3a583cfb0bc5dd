"""From the version before to this one, back, and forward again, under traffic: no packet goes wrong.

Each version takes over the other's rules and sets, and reads the other's files.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from agent.dataplane.iptables.rules import names
from agent.kube.mode import MODE_ANNOTATION
from agent.net import Family
from tests.cluster.scene import pods, port, rule, to
from tests.cluster.upgrading import UDP_PORTS, Traffic, held, told
from tests.conftest import Measured
from tests.lab.backends import differences
from tests.lab.client import Json
from tests.lab.cluster import ROOT, AgentProcess, Cluster, python_of, wait_until
from tests.lab.former import former
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.probe import Verdict

pytestmark = pytest.mark.xdist_group("upgrade")

FROM_CLIENTS = rule(
    {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["client", "caged"]}]}},
    ports=[port(80), *(port(number, "UDP") for number in UDP_PORTS)],
)
TO_SERVERS = to({"podSelector": pods(app="server")}, ports=[port(80)])


@pytest.fixture(scope="module")
def before(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the code of the version before is; what cannot run here is skipped by ``cluster``."""
    del cluster
    code = tmp_path_factory.mktemp("former")
    former(code)
    for there in (code, ROOT):
        command = [sys.executable, "-c", "import agent; print(agent.__path__[0])"]
        done = subprocess.run(command, env=python_of(there), capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()) == there / "agent"
    return code


class Pair:
    """Two nodes of a cluster, one of each layout and mode, with pods, and the agents that run on them."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.near = cluster.bare_node("upgrade-near", Layout.ROUTED, Mode.NFT)
        self.far = cluster.bare_node("upgrade-far", Layout.BRIDGE, Mode.LEGACY)
        self.nodes = (self.near, self.far)

    def start(self, node: Node, code: Path) -> AgentProcess:
        kubeconfig = str(self.cluster.api.kubeconfig("agent"))
        agent = self.cluster.agents[node.name] = AgentProcess(
            node, "--kubeconfig", kubeconfig, code=code, forked=code == ROOT
        )
        return agent

    def fresh(self, code: Path) -> Mapping[str, object]:
        """Start agents on nodes that hold nothing; return what they hold then."""
        for node in self.nodes:
            if agent := self.cluster.agents.get(node.name):
                agent.stop()
                node.agent("cleanup")
            self.start(node, code)
        self.cluster.wait_ready()
        self.cluster.settle()
        # Which links are pods' is found out when first rules are there, and again when all pods are known.
        links = {f"{n.name} {int(f)} KUBE-NETPOL-LINKS-INGRESS" for n in self.nodes for f in Family}
        looks: list[Mapping[str, object]] = [self.held()]

        def stays_so() -> bool:
            looks.append(self.held())
            return looks[-1].keys() >= links and looks[-1] == looks[-2]

        wait_until(stays_so, interval=1.0)
        return looks[-1]

    def held(self) -> Mapping[str, object]:
        return {f"{node.name} {name}": what for node in self.nodes for name, what in held(node).items()}

    def comes_to(self, state: Mapping[str, object]) -> None:
        """Wait until the kernels hold this, and nothing else of the agent's."""
        try:
            wait_until(lambda: not differences(self.held(), state), interval=0.2)
        except TimeoutError:
            pytest.fail("\n".join(differences(self.held(), state)))


@pytest.fixture
def pair(cluster: Cluster) -> Iterator[Pair]:
    made = Pair(cluster)
    yield made
    for node in made.nodes:
        cluster.remove_node(node)


def test_nodes_of_a_cluster(pair: Pair, cluster: Cluster, before: Path, measured: Measured) -> None:
    """Both nodes, one after the other. Each version enforces what changes, and has the other's history."""
    lab = cluster.lab
    with cluster.workspace() as workspace:
        namespace = workspace.namespace("a")

        def pod(node: Node, name: str, app: str) -> Pod:
            return workspace.pod(node, namespace, name, {"app": app})

        servers = [pod(node, f"server-{i}", "server") for i, node in enumerate(pair.nodes)]
        spares = [pod(node, f"spare-{i}", "spare") for i, node in enumerate(pair.nodes)]
        client, stranger = (pod(pair.near, name, name) for name in ("client", "stranger"))
        caged = pod(pair.far, "caged", "caged")
        allowed = [(source, target) for source in (client, caged) for target in servers]
        denied = [(stranger, servers[1]), (stranger, servers[0]), (caged, client)]
        changing = [flow for spare in spares for flow in flows(client, spare, tcp=[80])]
        lab.assert_open([flow for ends in [*allowed, *denied] for flow in flows(*ends, tcp=[80])])
        workspace.policy(namespace, "servers", pods(app="server"), ingress=[FROM_CLIENTS])
        workspace.policy(namespace, "caged", pods(app="caged"), policyTypes=["Egress"], egress=[TO_SERVERS])
        states = {ROOT: pair.fresh(ROOT), before: pair.fresh(before)}
        agents = cluster.agents
        with Traffic(lab, allowed, denied) as traffic:
            for turn, code in enumerate((before, ROOT, before, ROOT)):
                if turn:
                    traffic.replace(agents, pair.start, code)
                    cluster.settle()
                workspace.policy(namespace, f"turn-{turn}", pods(app="spare"), ingress=[])
                lab.wait_for(dict.fromkeys(changing, Verdict.DENIED))
                workspace.delete_policy(namespace, f"turn-{turn}")
                lab.wait_for(dict.fromkeys(changing, Verdict.ALLOWED))
                pair.comes_to(states[code])
                so_far = {f"{namespace}/turn-{number}" for number in range(turn + 1)}
                for agent in agents.values():
                    traffic.until(lambda a=agent, s=so_far: s <= told(a))  # type: ignore[misc]
        assert traffic.wrong == []
        measured(f"upgraded two nodes, back and forward: {traffic.tried} connections, none wrong")


def manifest(kind: str, name: str, **more: Json) -> Json:
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": {"app": name}}, **more}


def audits(node: Node) -> bool:
    """Whether a node has chains in which audited policies are asked."""
    return names.AUDIT_POD_PREFIX in node.netns.run(["iptables-nft-save", "-t", "filter"])


def test_a_node_with_manifests(before: Path, measured: Measured) -> None:
    """The last good version of a file that has become unreadable is kept from version to version."""
    with Lab() as lab:
        node = lab.node("alone", Layout.BRIDGE, Mode.NFT)
        server, client, stranger = (lab.pod(node, name) for name in ("server", "client", "stranger"))
        for pod in (server, client, stranger):
            lab.serve(pod, tcp=[80])
        objects = [
            manifest(
                "Pod",
                pod.name,
                spec={"nodeName": node.name, "containers": [{"name": "main", "image": "none"}]},
                status={"phase": "Running", "podIPs": [{"ip": pod.v4}, {"ip": pod.v6}]},
            )
            for pod in (server, client, stranger)
        ]
        policy = manifest(
            "NetworkPolicy", "servers", spec={"podSelector": pods(app="server"), "ingress": [FROM_CLIENTS]}
        )
        manifests = node.directory / "manifests"
        manifests.mkdir()
        (manifests / "pods.yaml").write_text(yaml.safe_dump_all(objects))
        (manifests / "policy.yaml").write_text(yaml.safe_dump(policy))
        # The version before enforces it, and removes what audited it.
        audited = manifest("NetworkPolicy", "stranger", spec={"podSelector": pods(app="stranger")})
        audited["metadata"]["annotations"] = {MODE_ANNOTATION: "audit"}
        (manifests / "audited.yaml").write_text(yaml.safe_dump(audited))

        def start(node: Node, code: Path) -> AgentProcess:
            return AgentProcess(node, "--manifests", str(manifests), code=code, forked=code == ROOT)

        agents = {node.name: start(node, before)}
        try:
            agents[node.name].wait_ready()
            (manifests / "policy.yaml").write_text("spec: {podSelector: [")
            with Traffic(lab, [(client, server)], [(stranger, server)]) as traffic:
                for turn, code in enumerate((before, ROOT, before, ROOT)):
                    if turn:
                        traffic.replace(agents, start, code)
                    name = f"turn-{turn}"
                    closed = {"podSelector": pods(app="client"), "policyTypes": ["Ingress"]}
                    (manifests / f"{name}.yaml").write_text(
                        yaml.safe_dump(manifest("NetworkPolicy", name, spec=closed))
                    )
                    so_far = {f"default/turn-{number}" for number in range(turn + 1)}
                    traffic.until(lambda s=so_far: s <= told(agents[node.name]))  # type: ignore[misc]
                    assert "policy.yaml" in str(agents[node.name].status())
                    traffic.until(lambda c=code: audits(node) is (c == ROOT))  # type: ignore[misc]
        finally:
            agents[node.name].stop()
        assert traffic.wrong == []
        measured(f"upgraded a node with manifests, back and forward: {traffic.tried} connections, none wrong")
