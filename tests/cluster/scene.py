"""A test's stage on two nodes: namespaces, pods, policies, and what is expected of packets between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from agent.kube.model import Family
from agent.kube.model import Protocol as Transport
from tests.lab.client import Json
from tests.lab.cluster import Cluster, Workspace
from tests.lab.lab import Host, Lab
from tests.lab.node import Node, Pod
from tests.lab.place import LabError, Place
from tests.lab.probe import Flow, Verdict


class Addressed(Protocol):
    """What has an address in each family: a place, or a Service."""

    def address(self, family: Family) -> str: ...


class Way(NamedTuple):
    """A connection from a place, in both families."""

    source: Place
    destination: Addressed
    port: int = 80
    protocol: Transport = Transport.TCP

    def flow(self, family: Family) -> Flow:
        return Flow(self.source, self.destination.address(family), self.protocol, self.port)


class Scene:
    """Creates objects and checks packets. Everything it calls denied it has seen allowed before."""

    def __init__(self, workspace: Workspace, near: Node, far: Node) -> None:
        self.workspace = workspace
        self.near = near
        self.far = far
        self._seen_open: set[tuple[object, ...]] = set()

    @property
    def cluster(self) -> Cluster:
        return self.workspace.cluster

    @property
    def lab(self) -> Lab:
        return self.workspace.cluster.lab

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        return self.workspace.namespace(name, labels)

    def pod(
        self, node: Node, namespace: str, name: str, labels: Mapping[str, str] | None = None, **more: Any
    ) -> Pod:
        """Create a pod; see :meth:`tests.lab.cluster.Workspace.pod`."""
        return self.workspace.pod(node, namespace, name, labels, **more)

    def policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        """Create a policy. ``from`` being a word of Python, rules are built by :func:`ingress`."""
        self.workspace.policy(namespace, name, selector, **spec)

    def outside(self) -> Host:
        """Return a host outside the cluster that serves TCP 80."""
        lab = self.lab
        if "outside" not in lab.hosts:
            lab.serve(lab.host("outside"), tcp=[80])
        return lab.hosts["outside"]

    def are_open(self, ways: Iterable[Way]) -> None:
        """Check that these are open now, before any policy. Raises LabError."""
        flows = [way.flow(family) for way in ways for family in Family]
        self.lab.assert_open(flows)
        self._seen_open.update(map(_ends, flows))

    def expect(
        self, *, allowed: Sequence[Way] = (), denied: Sequence[Way] = (), timeout: float = 10.0
    ) -> None:
        """Wait until packets are treated so, and check that they still are when every agent has caught up.

        Each family is probed on its own, with neighbour caches emptied before.
        """
        for family in Family:
            expected = {way.flow(family): Verdict.ALLOWED for way in allowed}
            expected |= {way.flow(family): Verdict.DENIED for way in denied}
            unseen = [
                str(f) for f, v in expected.items() if v is Verdict.DENIED and _ends(f) not in self._seen_open
            ]
            if unseen:
                raise LabError(f"never seen open, so a denial would show nothing: {unseen}")
            self.lab.flush_neighbours()
            self.lab.wait_for(expected, timeout)
            self.cluster.settle()
            wrong = self.lab.check(expected)
            assert not wrong, "did not stay so: " + "; ".join(f"{f} is {v}" for f, v in wrong.items())
            self._seen_open.update(_ends(f) for f, v in expected.items() if v is Verdict.ALLOWED)


def _ends(flow: Flow) -> tuple[object, ...]:
    """Return what a flow is on the wire: another pod with the same address has the same."""
    return flow.source.address(Family.V4), *flow[1:]


def pods(**labels: str) -> Json:
    """Return a selector, or a peer's part, of labels."""
    return {"matchLabels": labels}


def where(key: str, operator: str, *values: str) -> Json:
    """Return a selector of one matchExpressions entry."""
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def rule(*peers: Json, ports: Sequence[Json] = (), key: str = "from") -> Json:
    """Return a rule of these peers and ports; without peers or ports the field is left out."""
    made: Json = {}
    if peers:
        made[key] = list(peers)
    if ports:
        made["ports"] = list(ports)
    return made


def to(*peers: Json, ports: Sequence[Json] = ()) -> Json:
    """Return an egress rule."""
    return rule(*peers, ports=ports, key="to")


def port(number: int | str, protocol: str = "TCP", **more: Any) -> Json:
    """Return an entry of ``ports``."""
    return {"port": number, "protocol": protocol, **more}


def block(cidr: str, *excepts: str) -> Json:
    """Return an ipBlock peer."""
    return {"ipBlock": {"cidr": cidr, "except": list(excepts)} if excepts else {"cidr": cidr}}


def host(place: Place, family: Family) -> str:
    """Return a place's address as a CIDR."""
    return f"{place.address(family)}/{32 if family is Family.V4 else 128}"


def hosts(*places: Place) -> list[Json]:
    """Return ipBlock peers for every address of places."""
    return [block(host(place, family)) for place in places for family in Family]
