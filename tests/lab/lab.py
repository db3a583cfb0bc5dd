"""The whole lab: nodes on a routed underlay, hosts outside the cluster, and the prober."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.net import Family, Protocol
from tests.lab.netns import Netns, own_link_local
from tests.lab.node import UPLINK, Layout, Mode, Node, Pod
from tests.lab.place import LabError, Place
from tests.lab.probe import GRACE, Flow, Prober, Verdict
from tests.patience import PATIENCE

UNDERLAY4, UNDERLAY6 = "172.18.0.1", "fd00:172:18::1"


@dataclass(eq=False)
class Host:
    """A host outside the cluster, on the underlay."""

    name: str
    netns: Netns
    v4: str
    v6: str

    def address(self, family: Family) -> str:
        return self.v4 if family is Family.V4 else self.v6


class Lab:
    """Nodes, pods, hosts and probes; a context manager that leaves nothing behind.

    The underlay is a namespace with a bridge, 172.18.0.0/16 and fd00:172:18::/64, that nodes and hosts are
    attached to, and which routes for hosts. Nodes route to each other's pods directly.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.hosts: dict[str, Host] = {}
        self._indexes = itertools.count(1)
        self._addresses_used: set[str] = set()
        with contextlib.ExitStack() as stack:
            _sweep()
            self.directory = Path(tempfile.mkdtemp(prefix=f"netpol-lab-{os.getpid()}-"))
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.underlay = Netns("underlay")
            stack.callback(self.underlay.close)
            self.underlay.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
            self.underlay.ip(
                "link add br0 type bridge",
                *own_link_local("br0", "fe80::1"),
                "link set br0 up",
                f"addr add {UNDERLAY4}/16 dev br0",
                f"addr add {UNDERLAY6}/64 dev br0 nodad",
            )
            for address in ("fe80::1", UNDERLAY6):
                self.underlay.wait_for_address("br0", address)
            self.prober = Prober()
            stack.callback(self.prober.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and let go of every namespace."""
        for node in self.nodes.values():
            for pod in node.pods.values():
                pod.netns.close()
            node.netns.close()
        for host in self.hosts.values():
            host.netns.close()
        self.nodes.clear()
        self.hosts.clear()
        self._stack.close()

    # Nodes and hosts

    def _plug(self, netns: Netns, port: str, v4: str, v6: str) -> None:
        self.underlay.ip(
            f"link add {port} type veth peer name {UPLINK} netns {netns.path}",
            f"link set {port} master br0",
            f"link set {port} up",
        )
        link_local = f"fe80::{v6.partition('::')[2]}"
        netns.ip(
            *own_link_local(UPLINK, link_local),
            f"link set {UPLINK} up",
            f"addr add {v4}/16 dev {UPLINK}",
            f"addr add {v6}/64 dev {UPLINK} nodad",
            f"route add default via {UNDERLAY4}",
            f"route add default via {UNDERLAY6}",
        )
        self.underlay.wait_for_link(port)
        netns.wait_for_link(UPLINK)
        for address in (link_local, v6):
            netns.wait_for_address(UPLINK, address)

    def node(self, name: str, layout: Layout | str = Layout.BRIDGE, mode: Mode | str = Mode.NFT) -> Node:
        """Add a node; every other node gets routes to its pods, and it to theirs."""
        directory = self.directory / name
        directory.mkdir()
        netns = Netns(name, {"XTABLES_LOCKFILE": str(directory / "xtables.lock")})
        node = Node(name, next(self._indexes), Layout(layout), Mode(mode), netns, directory)
        node.set_up()
        self._plug(netns, f"n{node.index}", node.v4, node.v6)
        for other in self.nodes.values():
            _route_to(netns, other)
            _route_to(other.netns, node)
        _route_to(self.underlay, node)
        self.nodes[name] = node
        return node

    def remove_node(self, node: Node) -> None:
        """Remove a node and its pods, whose processes must have ended."""
        for pod in list(node.pods.values()):
            self.remove(pod)
        self.prober.stop(node)
        del self.nodes[node.name]
        self.underlay.ip(f"link del n{node.index}")
        for netns in [self.underlay, *(other.netns for other in self.nodes.values())]:
            netns.ip(f"route del {node.cidr4}", f"route del {node.cidr6}")
        node.netns.close()
        shutil.rmtree(node.directory, ignore_errors=True)

    def host(self, name: str) -> Host:
        """Add a host outside the cluster, addressed from 172.18.100.0/24 and fd00:172:18::100:0/112."""
        number = len(self.hosts) + 1
        host = Host(name, Netns(name), f"172.18.100.{number}", f"fd00:172:18::100:{number:x}")
        self._plug(host.netns, f"h{number}", host.v4, host.v6)
        self.hosts[name] = host
        return host

    # Pods

    def pod(self, node: Node, name: str, addresses: tuple[str, str] | None = None) -> Pod:
        """Add a pod. With ``addresses`` (IPv4, IPv6) it takes over those of another that is gone."""
        if name in node.pods:
            raise LabError(f"{node.name} has a pod {name} already")
        v4, v6 = addresses or node.next_addresses()
        pod = node.attach(name, v4, v6)
        if pod.foreign:
            self._announce(pod)
        if v4 in self._addresses_used:
            self.flush_neighbours()
        self._addresses_used.add(v4)
        return pod

    def _announce(self, pod: Pod) -> None:
        """Tell every other node, and the underlay, where an address is that its range does not tell."""
        for netns in [self.underlay, *(n.netns for n in self.nodes.values() if n is not pod.node)]:
            netns.ip(
                f"route replace {pod.v4}/32 via {pod.node.v4}",
                f"route replace {pod.v6}/128 via {pod.node.v6}",
            )
        for node in self.nodes.values():
            if node is not pod.node and node.layout is Layout.BRIDGE:
                node.netns.ip(f"neigh replace proxy {pod.v6} dev cni0")

    def _withdraw(self, pod: Pod) -> None:
        for netns in [self.underlay, *(n.netns for n in self.nodes.values() if n is not pod.node)]:
            netns.ip(f"route del {pod.v4}/32", f"route del {pod.v6}/128")
        for node in self.nodes.values():
            if node is not pod.node and node.layout is Layout.BRIDGE:
                node.netns.ip(f"neigh del proxy {pod.v6} dev cni0")

    def remove(self, pod: Pod) -> None:
        """Remove a pod: its sockets, link and namespace. Its addresses are free for another."""
        self.prober.stop(pod)
        if pod.foreign:
            self._withdraw(pod)
        pod.node.detach(pod)

    def move(self, pod: Pod, node: Node) -> Pod:
        """Move a pod to another node, keeping its addresses, as a new namespace; it serves nothing yet."""
        self.remove(pod)
        return self.pod(node, pod.name, (pod.v4, pod.v6))

    def places(self) -> Iterator[Place]:
        """Yield every node, pod and host."""
        for node in self.nodes.values():
            yield node
            yield from node.pods.values()
        yield from self.hosts.values()

    def flush_neighbours(self) -> None:
        """Empty every neighbour cache, so that the next packets show that discovery works."""
        for netns in [self.underlay, *(place.netns for place in self.places())]:
            netns.ip("neigh flush all")

    def pin_neighbours(self) -> None:
        """Give pods that share a bridge permanent entries for each other; call it again when pods have come.

        The kernel's limit of 1,024 neighbours counts every namespace of the machine, and packets past it
        are lost: 32 pods that all talk to each other reach it. Permanent entries do not count, nor does a
        flush remove them.
        """
        for node in self.nodes.values():
            if node.layout is Layout.BRIDGE:
                for pod in node.pods.values():
                    pod.netns.ip(
                        *(
                            f"neigh replace {address} lladdr {other.mac} dev eth0 nud permanent"
                            for other in node.pods.values()
                            for address in (other.v4, other.v6)
                            if other is not pod
                        )
                    )

    # Probes

    def serve(
        self, place: Place, *, tcp: Iterable[int] = (), udp: Iterable[int] = (), sctp: Iterable[int] = ()
    ) -> None:
        """Answer on ports of a place, in both families. See :meth:`tests.lab.probe.Prober.serve`."""
        self.prober.serve(place, tcp=tcp, udp=udp, sctp=sctp)

    def probe(self, flows: Sequence[Flow], grace: float = GRACE) -> list[Verdict]:
        """Open every flow at once; return their verdicts in order. A denied one costs milliseconds."""
        return self.prober.probe(flows, grace)

    def settle(self) -> None:
        """Return when every packet sent before the call has arrived or been dropped."""
        self.prober.settle()

    def check(self, expected: dict[Flow, Verdict]) -> dict[Flow, Verdict]:
        """Probe; return what was not as expected, with what it was."""
        got = self.probe(list(expected))
        return {
            flow: verdict
            for (flow, wanted), verdict in zip(expected.items(), got, strict=True)
            if verdict != wanted
        }

    def assert_open(self, flows: Sequence[Flow]) -> None:
        """Check that flows pass before any policy does. Raises LabError: a denial would show nothing."""
        closed = self.check(dict.fromkeys(flows, Verdict.ALLOWED))
        if closed:
            raise LabError("not open without policy: " + "; ".join(f"{f}: {v}" for f, v in closed.items()))

    def wait_for(self, expected: dict[Flow, Verdict], timeout: float = PATIENCE) -> float:
        """Probe until everything is as expected; return the seconds it took.

        Raises AssertionError with what was not, after ``timeout`` seconds.
        """
        begin, pause = time.monotonic(), 0.005
        wrong, over = self.check(expected), False
        while wrong:
            if over:
                raise AssertionError(
                    f"after {timeout} s: "
                    + "; ".join(f"{f} is {v}, not {expected[f]}" for f, v in wrong.items())
                )
            time.sleep(pause)
            pause = min(1.5 * pause, 0.2)
            # The last look begins when the time is over: on a busy machine that of a look may be most of it.
            over = time.monotonic() - begin > timeout
            # What was right is looked at again when all the rest is: source ports are not without end.
            wrong = self.check({f: expected[f] for f in wrong}) or self.check(expected)
        return time.monotonic() - begin


def flows(
    source: Place,
    destination: Place,
    *,
    tcp: Iterable[int] = (),
    udp: Iterable[int] = (),
    sctp: Iterable[int] = (),
    families: Iterable[Family] = (Family.V4, Family.V6),
) -> list[Flow]:
    """Return the flows from one place to ports of another, in each family."""
    return [
        Flow(source, destination.address(family), protocol, port)
        for family in families
        for protocol, ports in ((Protocol.TCP, tcp), (Protocol.UDP, udp), (Protocol.SCTP, sctp))
        for port in ports
    ]


def _sweep() -> None:
    """Remove the files of labs whose process was killed."""
    for left in Path(tempfile.gettempdir()).glob("netpol-lab-*-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)


def _route_to(netns: Netns, node: Node) -> None:
    netns.ip(f"route add {node.cidr4} via {node.v4}", f"route add {node.cidr6} via {node.v6}")
