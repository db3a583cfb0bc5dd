"""1: pods are started by real network plugins, and the runtime waits for the agent before they run.

Each pod gets the address of the one before, which it had until some milliseconds ago, and which the API
server still says of it.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.net import Family
from tests.chaos.scenario import Length, Outcome, Scenario
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
_STARTS = {Length.SHORT: 6, Length.LONG: 500}
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

    def told(self) -> str:
        """Say how long pods waited, and how long a permitted first connection took."""
        return "; ".join(
            f"{what} {1000 * statistics.median(found):.0f} ms, at most {1000 * max(found):.0f} ms"
            for what, found in (("the runtime waited", self.waits), ("a first connection took", self.firsts))
        )


class Place:
    """A node with an agent, a container runtime, and a pod of each peer."""

    def __init__(self, cluster: Cluster, layout: Layout, mode: Mode) -> None:
        self.cluster = cluster
        self.node: Node = cluster.bare_node(f"starts-{layout}", layout, mode)
        self.runtime = ContainerRuntime(self.node, HOST, HOST)
        self.peers = {name: self._peer(name) for name in ("friend", "stranger")}
        self.runtime.offer_nri()
        self.agent = cluster.start_agent(
            self.node,
            *("--cni-results", str(self.runtime.results), "--nri-socket", str(self.runtime.socket)),
        )

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
        wait_until(lambda: "[+]nri ok" in http_get(self.node, "/readyz")[1], 30.0)

    def start(self, number: int, kind: str, seen: Seen) -> tuple[str, Started]:
        """Start a pod and judge what it meets; return its name."""
        name = f"{self.node.name}-{kind}-{number}"
        created = self.cluster.client.create_pod(
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
        self.cluster.client.set_pod_status(NAMESPACE, name, status)

    @contextlib.contextmanager
    def knocking(self) -> Iterator[None]:
        """Have both peers send to the address on end, whether or not any pod has it."""
        ends = threading.Event()
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
                while not ends.wait(_PACE):
                    for made, address in sockets:
                        with contextlib.suppress(OSError):  # nobody has the address now
                            made.sendto(b"x", address)

            thread = threading.Thread(target=knock, daemon=True)
            thread.start()
            try:
                yield
            finally:
                ends.set()
                thread.join()


def _addresses(pod: Pod) -> tuple[str, str]:
    return f"{pod.v4}:{PORT}", f"[{pod.v6}]:{PORT}"


def first_instruction(length: Length) -> Outcome:
    """Start pods one after the other on a node of each layout, each with the address of the one before."""
    seen = Seen()
    began = time.monotonic()
    with Cluster() as cluster, contextlib.ExitStack() as stack:
        cluster.client.create_namespace(NAMESPACE)
        for kind in _SPARED:
            cluster.client.create_policy(NAMESPACE, kind, _policy(kind))
        places = [
            Place(cluster, layout, mode)
            for layout, mode in ((Layout.BRIDGE, Mode.NFT), (Layout.ROUTED, Mode.LEGACY))
        ]
        for place in places:
            stack.callback(place.runtime.close)
            place.wait_ready()
            stack.enter_context(place.knocking())
        before: dict[int, str] = {}
        for number in range(_STARTS[length]):
            place = places[number % 2]
            kind = ("red", "blue")[number // 2 % 2]
            name, started = place.start(number, kind, seen)
            place.report(name, started)
            place.runtime.stop(started)
            if number - 2 in before:
                cluster.client.delete_pod(NAMESPACE, before.pop(number - 2))
            before[number] = name
        late = sum(_late(place.node) for place in places)
    if seen.reached < _STARTS[length] // 2:
        raise LabError(f"of {_STARTS[length]} pods only {seen.reached} heard anybody")
    note = f"{_STARTS[length]} starts in {time.monotonic() - began:.0f} s; {seen.told()}"
    broken = (*seen.wrong[:5], *([f"{late} pods were started before the kernel was ready"] if late else []))
    return Outcome(flows=seen.flows, wrong=len(seen.wrong), note=note, broken=broken)


def _late(node: Node) -> int:
    lines = http_get(node, "/metrics")[1].splitlines()
    (line,) = (line for line in lines if line.startswith('netpol_agent_nri_sandboxes_total{answer="late"}'))
    return int(float(line.split()[-1]))


SCENARIOS = (
    Scenario(
        promise="1.2",
        name="containers that connect and listen in their first instruction",
        run=first_instruction,
        seconds=240.0,
        short=True,
        also=("1.3",),
    ),
)
