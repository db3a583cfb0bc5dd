"""A pod is isolated by what its network plugin gave it, before its status says its address: by real packets.

The pods are made by real plugins and libcni (:mod:`tests.lab.cni`); the kubelet that would report them does
not exist until a test plays it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.net import Family
from tests.cluster.scene import pods, rule
from tests.lab.cluster import AgentProcess, Cluster, Workspace, http_get, wait_until
from tests.lab.cni import ContainerRuntime, Started
from tests.lab.gate import Gate
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.probe import Verdict
from tests.patience import PATIENCE

ALLOWED, DENIED = Verdict.ALLOWED, Verdict.DENIED


class Place(NamedTuple):
    """A node with an agent and a container runtime."""

    cluster: Cluster
    node: Node
    runtime: ContainerRuntime
    agent: AgentProcess

    def offer_nri(self) -> None:
        if not self.runtime.socket.exists():
            # Longer than a runtime waits by default: a busy machine is no failure.
            self.runtime.offer_nri(30.0)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((Layout.BRIDGE, Mode.NFT), id="bridge", marks=pytest.mark.xdist_group("cluster-early")),
        pytest.param((Layout.ROUTED, Mode.LEGACY), id="ptp", marks=pytest.mark.xdist_group("cluster-early")),
    ],
)
def place(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Place]:
    layout, mode = request.param
    node = cluster.bare_node(f"cni-{layout}", layout, mode)
    runtime = ContainerRuntime(node, 200, 202, like_crio=layout is Layout.ROUTED)
    agent = cluster.start_agent(
        node, "--cni-results", str(runtime.results), "--nri-socket", str(runtime.socket)
    )
    agent.wait_ready()
    yield Place(cluster, node, runtime, agent)
    runtime.close()
    cluster.remove_node(node)


class Scene(NamedTuple):
    """A namespace in which pods of app=server admit those of app=friend and reach nobody."""

    place: Place
    workspace: Workspace
    namespace: str
    friend: Pod
    stranger: Pod

    @property
    def lab(self) -> Lab:
        return self.place.cluster.lab

    def create(self, name: str) -> str:
        """Create a pod that has no status yet; return its uid."""
        created = self.place.cluster.client.create_pod(
            self.namespace, name, node=self.place.node.name, addresses=[], labels={"app": "server"}
        )
        uid: str = created["metadata"]["uid"]
        return uid

    def start(self, name: str, uid: str, *, dial: Sequence[str] = (), ips: bool = True) -> Started:
        started = self.place.runtime.start(f"{self.namespace}/{name}", uid, dial=dial, patience=0.3, ips=ips)
        # The address may have been another pod's until now.
        self.lab.flush_neighbours()
        self.lab.serve(started.pod, tcp=[80])
        return started

    def report(self, name: str, started: Started) -> None:
        """Report a pod running, as kubelet does later."""
        addresses = [started.pod.v4, started.pod.v6]
        status = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": a} for a in addresses]}
        self.place.cluster.client.set_pod_status(self.namespace, name, status)

    def stop(self, started: Started, uid: str) -> None:
        self.lab.prober.stop(started.pod)
        self.place.runtime.stop(started, uid)

    def expect(self, started: Started, timeout: float = PATIENCE) -> float:
        """Wait until a server is isolated in both directions; return the seconds it took."""
        expected = dict.fromkeys(flows(self.friend, started.pod, tcp=[80]), ALLOWED)
        expected |= dict.fromkeys(flows(self.stranger, started.pod, tcp=[80]), DENIED)
        expected |= dict.fromkeys(flows(started.pod, self.stranger, tcp=[80]), DENIED)
        return self.lab.wait_for(expected, timeout)

    def isolated(self, name: str) -> bool:
        found = {pod["pod"] for pod in self.place.agent.status()["pods"]}
        return f"{self.namespace}/{name}" in found


@pytest.fixture
def scene(place: Place) -> Iterator[Scene]:
    with place.cluster.workspace() as workspace:
        namespace = workspace.namespace("a")
        friend, stranger = (
            workspace.pod(place.node, namespace, name, {"app": name}) for name in ("friend", "stranger")
        )
        friends = rule({"podSelector": pods(app="friend")})
        workspace.policy(
            namespace, "s", pods(app="server"), ingress=[friends], policyTypes=["Ingress", "Egress"]
        )
        place.cluster.settle()
        yield Scene(place, workspace, namespace, friend, stranger)


@pytest.mark.guarantee("1.1")
def test_a_pod_is_isolated_before_its_status_says_its_address(scene: Scene) -> None:
    uid = scene.create("new")
    scene.place.cluster.settle()
    started = scene.start("new", uid)
    scene.expect(started)
    (shown,) = (p for p in scene.place.agent.status()["pods"] if p["pod"].endswith("/new"))
    assert set(shown["addresses"]) == {started.pod.v4, started.pod.v6}
    assert shown["early"] is True
    # That another test's pods went is told by the folder.
    wait_until(lambda: "[+]early-addresses ok: 1 results in " in http_get(scene.place.node, "/readyz")[1])
    scene.report("new", started)
    scene.place.cluster.settle()
    scene.expect(started)
    status = scene.place.agent.status()
    assert [pod["early"] for pod in status["pods"] if pod["pod"].endswith("/new")] == [False]
    assert [s["objects"] for s in status["sources"] if s["kind"] == "CNI result"] == [1]
    said = r"isolated \d+ ms before status.podIPs, by its network plugin \(CNI\)"
    rows = f"/history?pod={scene.namespace}/new"
    wait_until(lambda: bool(re.search(said, http_get(scene.place.node, rows)[1])))
    metrics = http_get(scene.place.node, "/metrics")[1]
    assert re.search(r"^netpol_agent_early_lead_seconds_count [1-9]", metrics, re.MULTILINE)
    assert re.search(r"^netpol_agent_early_addresses_total [1-9]", metrics, re.MULTILINE)
    scene.stop(started, uid)
    scene.place.cluster.client.delete_pod(scene.namespace, "new")


def test_a_result_of_another_uid_waits_for_the_watch(scene: Scene) -> None:
    uid = scene.create("web-0")
    scene.place.cluster.settle()
    started = scene.start("web-0", "00000000-0000-0000-0000-000000000000")
    scene.lab.assert_open(flows(scene.stranger, started.pod, tcp=[80]))
    scene.place.cluster.settle()
    assert not scene.isolated("web-0")
    scene.report("web-0", started)
    scene.expect(started)
    scene.stop(started, uid)
    scene.place.cluster.client.delete_pod(scene.namespace, "web-0")


@pytest.mark.guarantee("1.3")
def test_an_address_that_is_given_again_at_once_belongs_to_the_newer_pod(scene: Scene) -> None:
    """The first pod's object still exists, with a status that says the address."""
    first = scene.create("first")
    scene.place.cluster.settle()
    old = scene.start("first", first)
    scene.report("first", old)
    scene.expect(old)
    scene.stop(old, first)
    second = scene.create("second")
    new = scene.start("second", second)
    while new.pod.v4 != old.pod.v4:
        scene.stop(new, second)
        new = scene.start("second", second)
    wait_until(lambda: scene.isolated("second"))
    scene.expect(new)
    scene.place.cluster.client.label_pod(scene.namespace, "first", {"app": "other"})
    scene.place.cluster.settle()
    scene.expect(new)
    scene.report("second", new)
    scene.place.cluster.settle()
    scene.expect(new)
    scene.stop(new, second)
    for name in ("first", "second"):
        scene.place.cluster.client.delete_pod(scene.namespace, name)


@pytest.mark.parametrize("ips", [True, False], ids=["told", "of the result"])
def test_the_runtime_waits_until_the_kernel_enforces(scene: Scene, ips: bool) -> None:
    """A container that connects in its first instruction finds its policies enforced."""
    place = scene.place
    place.offer_nri()
    wait_until(lambda: "[+]nri ok: registered with lab 1.0" in http_get(place.node, "/readyz")[1], 20.0)
    denied = [f"{scene.stranger.v4}:80", f"[{scene.stranger.v6}]:80"]
    for number in range(3):
        uid = scene.create(f"n{number}")
        started = scene.start(f"n{number}", uid, dial=denied, ips=ips)
        assert [d.error != "" for d in started.dials] == [True, True]
        assert "timeout" in started.dials[0].error
        scene.stop(started, uid)
        place.cluster.client.delete_pod(scene.namespace, f"n{number}")
    found = _answers(place.node)
    assert found.pop("enforced") >= 3
    assert found == {"late": 0, "skipped": 0}


@pytest.mark.guarantee("1.4")
def test_a_policy_that_the_kernel_refuses_holds_up_no_other_pod(scene: Scene) -> None:
    """A set that it needs is there already, of another type, and a rule of others holds it, for good."""
    place = scene.place
    place.offer_nri()
    wait_until(lambda: "[+]nri ok" in http_get(place.node, "/readyz")[1], 20.0)
    wanted = {"peers": [rule({"podSelector": pods(app="out-there")})]}
    before = _sets(place.node)
    scene.workspace.policy(scene.namespace, "refused", pods(app="friend"), ingress=wanted["peers"])
    wait_until(lambda: len(_sets(place.node) - before) == 2, 20.0)
    came = sorted(_sets(place.node) - before)
    place.cluster.client.delete_policy(scene.namespace, "refused")
    wait_until(lambda: not _sets(place.node) & {*came}, 20.0)
    theirs = ("-m", "set", "--match-set", came[0], "src", "-j", "DROP")
    place.node.run("ipset", "create", came[0], "hash:net")
    place.node.iptables(Family.V4, "-A", "INPUT", *theirs)
    scene.workspace.policy(scene.namespace, "refused", pods(app="friend"), ingress=wanted["peers"])
    wait_until(lambda: came[0] in http_get(place.node, "/readyz")[1], 20.0)
    denied = [f"{scene.stranger.v4}:80", f"[{scene.stranger.v6}]:80"]
    late = _answers(place.node)["late"]
    for number in range(2):
        uid = scene.create(f"r{number}")
        started = scene.start(f"r{number}", uid, dial=denied)
        assert [d.error != "" for d in started.dials] == [True, True]
        scene.stop(started, uid)
        place.cluster.client.delete_pod(scene.namespace, f"r{number}")
    assert came[0] in http_get(place.node, "/readyz")[1]
    assert _answers(place.node)["late"] == late
    place.node.iptables(Family.V4, "-D", "INPUT", *theirs)
    wait_until(lambda: http_get(place.node, "/readyz")[0] == 200, 60.0)


def _sets(node: Node) -> set[str]:
    return set(node.run("ipset", "list", "-n").split())


def _answers(node: Node) -> dict[str, int]:
    """Return how often the runtime was answered, by what the answer meant."""
    metrics = http_get(node, "/metrics")[1]
    return {k: int(n) for k, n in re.findall(r"nri_sandboxes_total.answer=.(\w+).. (\d+)", metrics)}


@pytest.mark.xdist_group("cluster-early")
def test_a_pod_that_the_watch_does_not_tell_is_asked_for_by_name(cluster: Cluster) -> None:
    """The watch of pods is held back, as by a server that is overloaded."""
    node = cluster.bare_node("cni-unwatched", Layout.ROUTED, Mode.NFT)
    with cluster.workspace() as workspace, Gate(cluster.api, is_watch_of_pods) as gate:
        runtime = ContainerRuntime(node, 200, 202)
        kubeconfig = str(gate.kubeconfig("agent"))
        agent = AgentProcess(
            node, "--kubeconfig", kubeconfig, "--cni-results", str(runtime.results), forked=True
        )
        cluster.agents[node.name] = agent
        namespace = workspace.namespace("a")
        stranger = workspace.pod(node, namespace, "stranger")
        workspace.policy(namespace, "closed", pods(app="server"), policyTypes=["Ingress"])
        agent.wait_ready()
        created = cluster.client.create_pod(
            namespace, "new", node=node.name, addresses=[], labels={"app": "server"}
        )
        started = runtime.start(f"{namespace}/new", created["metadata"]["uid"])
        cluster.lab.serve(started.pod, tcp=[80])
        cluster.lab.wait_for(dict.fromkeys(flows(stranger, started.pod, tcp=[80]), DENIED), 20.0)
        assert f"/api/v1/namespaces/{namespace}/pods/new" in gate.asked
        assert [pod["early"] for pod in agent.status()["pods"]] == [True]
        gate.open()
        cluster.lab.prober.stop(started.pod)
        runtime.close()
        agent.stop()
    cluster.remove_node(node)


def is_watch_of_pods(path: str) -> bool:
    asked = urlsplit(path)
    return asked.path == "/api/v1/pods" and "watch" in parse_qs(asked.query)
