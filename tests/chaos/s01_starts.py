"""1: pods are started by real network plugins, and connect and listen in their first instruction.

Their runtime waits for the agent (NRI), or new pods are closed until they are known. Each pod gets the
address of the one before, which had it until some milliseconds ago, and the API server still says it has.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from agent.net import Family
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.lab.beside import Beside
from tests.lab.client import Json
from tests.lab.cluster import Cluster, http_get, wait_until
from tests.lab.cni import ContainerRuntime, Started
from tests.lab.lab import Lab
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.place import LabError

NAMESPACE = "starts"
PORT, LISTENED = 80, 5000
HOST = 200
"""The last number of the one address that pods get."""
DENIED_SECONDS, ALLOWED_SECONDS = 0.15, 20.0
"""How long a container tries a connection that must be denied, and one that must be allowed."""
_PACE = 0.005
"""Seconds between two packets of each peer to the address, in each family."""
_RUNTIME_WAITS = 2.0
"""Seconds, as containerd and CRI-O have it by default."""
_STARTS = {Length.SHORT: (6, 4), Length.LONG: (380, 120)}
"""Pods that are started: with NRI, and closed until they are known."""
_SPARED = {"red": "friend", "blue": "stranger"}
"""Which of the two peers each kind of pod may talk with."""


def _policy(kind: str) -> Json:
    peer = [{"podSelector": {"matchLabels": {"app": _SPARED[kind]}}}]
    return {
        "podSelector": {"matchLabels": {"app": kind}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peer}],
        "egress": [{"to": peer}],
    }


@dataclass
class Seen:
    """What became of the packets of all starts."""

    flows: int = 0
    wrong: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    reached: int = 0
    """Pods that heard their friend: where none does, it shows nothing that none hears the stranger."""

    def take(self, number: int, started: Started, friend: Pod, stranger: Pod) -> None:
        """Judge a start, of a pod that may talk with ``friend`` and nobody else."""
        self.waits.append(started.nri)
        allowed = {f"{friend.v4}:{PORT}", f"[{friend.v6}]:{PORT}"}
        for tried in started.dials:
            self.flows += 1
            if (tried.address in allowed) is not (tried.error == ""):
                self.wrong.append(f"start {number}: {tried.address}: {tried.error or 'connected'}")
            if tried.address in allowed:
                self.firsts.append(tried.seconds)
        self.reached += any(heard.source in (friend.v4, friend.v6) for heard in started.heard)
        for heard in started.heard:
            self.flows += heard.packets
            if heard.source in (stranger.v4, stranger.v6):
                self.wrong.append(f"start {number}: {heard.packets} packets of {heard.source} arrived")

    def add(self, other: Seen) -> None:
        """Take in what was seen at another place."""
        self.flows += other.flows
        self.reached += other.reached
        for mine, others in ((self.waits, other.waits), (self.firsts, other.firsts)):
            mine += others
        self.wrong += other.wrong

    def told(self) -> str:
        """Say how long pods waited, and how long a permitted first connection took."""
        told = [("a first connection took", self.firsts)]
        if any(self.waits):
            told.insert(0, ("the runtime waited", self.waits))
        return "; ".join(
            f"{what} {1000 * statistics.median(found):.0f} ms, at most {1000 * max(found):.0f} ms"
            for what, found in told
        )


class Place:
    """A node with an agent, a container runtime, and a pod of each peer."""

    def __init__(self, cluster: Cluster, layout: Layout, mode: Mode, nri: float) -> None:
        """``nri``: how many seconds the runtime waits; 0: pods are closed until they are known."""
        self.cluster = cluster
        self.client = cluster.client.another()
        self.nri = nri
        self.node: Node = cluster.bare_node(f"starts-{layout}", layout, mode)
        self.runtime = ContainerRuntime(self.node, HOST, HOST, like_crio=layout is Layout.ROUTED)
        self.peers = {name: self._peer(name) for name in ("friend", "stranger")}
        arguments = ["--cni-results", str(self.runtime.results)]
        if nri:
            arguments += ["--nri-socket", str(self.runtime.offer_nri(nri))]
        else:
            arguments += ["--nri-socket", "off", "--new-pods", "deny"]
            arguments += ["--pod-networks", f"{self.node.cidr4},{self.node.cidr6}"]
        self.agent = cluster.start_agent(self.node, *arguments)

    def _peer(self, name: str) -> Pod:
        lab: Lab = self.cluster.lab
        pod = lab.pod(self.node, f"{NAMESPACE}/{self.node.name}-{name}")
        lab.serve(pod, tcp=[PORT])
        self.cluster.client.create_pod(
            NAMESPACE,
            f"{self.node.name}-{name}",
            node=self.node.name,
            addresses=[pod.v4, pod.v6],
            labels={"app": name},
        )
        return pod

    def wait_ready(self) -> None:
        self.agent.wait_ready()
        if self.nri:
            wait_until(lambda: "[+]nri ok" in http_get(self.node, "/readyz")[1], 30.0)

    def run(self, times: int) -> Seen:
        """Start so many pods one after the other; return what they have met. For a thread of its own."""
        seen = Seen()
        before = ""
        for number in range(times):
            name, started = self.start(number, ("red", "blue")[number % 2], seen)
            self.report(name, started)
            self.runtime.stop(started)
            if before:
                self.client.delete_pod(NAMESPACE, before)
            before = name
        return seen

    def start(self, number: int, kind: str, seen: Seen) -> tuple[str, Started]:
        """Start a pod and judge what it meets; return its name."""
        name = f"{self.node.name}-{kind}-{number}"
        created = self.client.create_pod(
            NAMESPACE, name, node=self.node.name, addresses=[], labels={"app": kind}
        )
        friend = self.peers[_SPARED[kind]]
        (stranger,) = (pod for pod in self.peers.values() if pod is not friend)
        tries = dict.fromkeys(_addresses(friend), ALLOWED_SECONDS)
        tries |= dict.fromkeys(_addresses(stranger), DENIED_SECONDS)
        uid = created["metadata"]["uid"]
        started = self.runtime.start(f"{NAMESPACE}/{name}", uid, dial=tries, listen=LISTENED)
        seen.take(number, started, friend, stranger)
        return name, started

    def report(self, name: str, started: Started) -> None:
        """Say in the API that a pod runs, as kubelet does."""
        ips = [{"ip": started.pod.address(family)} for family in Family]
        status = {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}
        self.client.set_pod_status(NAMESPACE, name, status)

    @contextlib.contextmanager
    def knocking(self) -> Iterator[None]:
        """Have both peers send to the address on end, whether or not any pod has it."""
        sockets = []
        base4, base6 = self.node.gateway4.removesuffix("1"), self.node.gateway6.removesuffix("1")
        to = {Family.V4: f"{base4}{HOST}", Family.V6: f"{base6}{HOST:x}"}
        with contextlib.ExitStack() as stack:
            for pod in self.peers.values():
                for family, kind in ((Family.V4, socket.AF_INET), (Family.V6, socket.AF_INET6)):
                    with pod.netns.entered():
                        made = stack.enter_context(socket.socket(kind, socket.SOCK_DGRAM))
                    made.setblocking(False)
                    sockets.append((made, (to[family], LISTENED)))

            def knock() -> None:
                for made, address in sockets:
                    with contextlib.suppress(OSError):  # nobody has the address now
                        made.sendto(b"x", address)

            with Beside(knock, lambda: _PACE, "knocking"):
                yield


def _addresses(pod: Pod) -> tuple[str, str]:
    return f"{pod.v4}:{PORT}", f"[{pod.v6}]:{PORT}"


def first_instruction(length: Length, *, nri: bool) -> Outcome:
    """Start pods on a node of each layout, each with the address of the one before."""
    starts = _STARTS[length][not nri]
    began = time.monotonic()
    seen = Seen()
    with Cluster() as cluster, contextlib.ExitStack() as stack:
        cluster.client.create_namespace(NAMESPACE)
        for kind in _SPARED:
            cluster.client.create_policy(NAMESPACE, kind, _policy(kind))
        places = [
            Place(cluster, layout, mode, length.within(_RUNTIME_WAITS) if nri else 0.0)
            for layout, mode in ((Layout.BRIDGE, Mode.NFT), (Layout.ROUTED, Mode.LEGACY))
        ]
        for place in places:
            stack.callback(place.runtime.close)
            place.wait_ready()
            stack.enter_context(place.knocking())
        with ThreadPoolExecutor(len(places)) as threads:
            for found in threads.map(lambda place: place.run(starts // len(places)), places):
                seen.add(found)
        late = sum(_late(place.node) for place in places) if nri else 0
    # Short is how long each listens, and few they are: on a busy machine some hear nobody.
    if seen.reached < (starts // 2 if length is Length.LONG else 1):
        raise LabError(f"of {starts} pods only {seen.reached} heard anybody")
    note = f"{starts} starts in {time.monotonic() - began:.0f} s; {seen.told()}"
    broken = (*seen.wrong[:5], *([f"{late} pods were started before the kernel was ready"] if late else []))
    return Outcome(flows=seen.flows, wrong=len(seen.wrong), note=note, broken=broken)


def _late(node: Node) -> int:
    lines = http_get(node, "/metrics")[1].splitlines()
    (line,) = (line for line in lines if line.startswith('netpol_agent_nri_sandboxes_total{answer="late"}'))
    return int(float(line.split()[-1]))


SCENARIOS = (
    Scenario(
        promise="1.2",
        name="the first instruction of pods for which the runtime waits",
        run=functools.partial(first_instruction, nri=True),
        seconds=120.0,
        short=True,
        also=("1.3",),
    ),
    Scenario(
        promise="1.2",
        name="the first instruction of pods that are closed until they are known",
        run=functools.partial(first_instruction, nri=False),
        seconds=180.0,
    ),
)
