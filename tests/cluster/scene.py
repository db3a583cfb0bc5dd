"""A test's stage on two nodes: namespaces, pods, policies, and what is expected of packets between them."""

from __future__ import annotations

import abc
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from agent.net import Family
from agent.net import Protocol as Transport
from tests.lab.client import Json
from tests.lab.cluster import Cluster, Workspace
from tests.lab.lab import Host, Lab
from tests.lab.node import Node, Pod
from tests.lab.place import LabError
from tests.lab.probe import Flow, Verdict


class Addressed(Protocol):
    """What has an address in each family: a place, or a Service."""

    def address(self, family: Family) -> str: ...


class End(Addressed, Protocol):
    """Where a connection can start: a pod is named ``NAMESPACE/NAME``."""

    @property
    def name(self) -> str: ...


class Way(NamedTuple):
    """A connection from a place, in every family of the stage."""

    source: End
    destination: Addressed
    port: int = 80
    protocol: Transport = Transport.TCP


Expected = dict[tuple[Way, Family], Verdict]


class Stage(abc.ABC):
    """What the features of NetworkPolicy are tested on: objects in a cluster, and real packets between pods.

    Everything it calls denied it has seen allowed before.
    """

    families: Sequence[Family] = tuple(Family)
    patience = 30.0
    """Seconds after which what is expected must be so, unless a test says otherwise."""

    near: Any
    far: Any

    def __init__(self) -> None:
        self._seen_open: set[tuple[object, ...]] = set()

    @abc.abstractmethod
    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Create a namespace that is gone after the test; return its full name."""

    @abc.abstractmethod
    def pod(
        self, node: Any, namespace: str, name: str, labels: Mapping[str, str] | None = None, **more: Any
    ) -> End:
        """Create a pod on a node; ``tcp`` are the ports that it serves, ``ports`` those that have names."""

    @abc.abstractmethod
    def policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        """Create a policy. ``from`` being a word of Python, rules are built by :func:`rule`."""

    @abc.abstractmethod
    def replace_policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        """Give a policy another spec, whole."""

    @abc.abstractmethod
    def delete_policy(self, namespace: str, name: str) -> None: ...

    @abc.abstractmethod
    def label(self, pod: End, labels: Mapping[str, str | None]) -> None:
        """Set a pod's labels; None removes one."""

    @abc.abstractmethod
    def label_namespace(self, namespace: str, labels: Mapping[str, str | None]) -> None:
        """Set a namespace's labels; None removes one."""

    @abc.abstractmethod
    def outside(self) -> End:
        """Return a host that is no pod and serves TCP 80."""

    @abc.abstractmethod
    def _check_open(self, ways: Sequence[Way]) -> None:
        """Check that these are open now. Raises LabError: a denial would show nothing."""

    @abc.abstractmethod
    def _hold(self, expected: Expected, timeout: float) -> None:
        """Wait until packets are treated so, and check that they still are when it has settled."""

    def are_open(self, ways: Iterable[Way]) -> None:
        """Check that these are open now, before any policy. Raises LabError."""
        ways = list(ways)
        self._check_open(ways)
        self._seen_open.update(_ends(way, family) for way in ways for family in self.families)

    def expect(
        self, *, allowed: Sequence[Way] = (), denied: Sequence[Way] = (), timeout: float | None = None
    ) -> None:
        """Wait until packets are treated so, and check that they still are when every agent has caught up."""
        expected = {(way, family): Verdict.ALLOWED for family in self.families for way in allowed}
        expected |= {(way, family): Verdict.DENIED for family in self.families for way in denied}
        opened = {_ends(*one) for one, verdict in expected.items() if verdict is Verdict.ALLOWED}
        unseen = [
            f"{way.source.name} to {way.destination.address(family)} {way.port}"
            for (way, family), verdict in expected.items()
            if verdict is Verdict.DENIED and _ends(way, family) not in self._seen_open
        ]
        if unseen:
            raise LabError(f"never seen open, so a denial would show nothing: {unseen}")
        self._hold(expected, self.patience if timeout is None else timeout)
        self._seen_open |= opened

    def hosts(self, *places: Addressed) -> list[Json]:
        """Return ipBlock peers for every address of places."""
        return [block(host(place, family)) for place in places for family in self.families]


class Scene(Stage):
    """A stage in the lab, whose agents are asked whether they have caught up."""

    def __init__(self, workspace: Workspace, near: Node, far: Node) -> None:
        super().__init__()
        self.workspace = workspace
        self.near: Node = near
        self.far: Node = far

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
        self.workspace.policy(namespace, name, selector, **spec)

    def replace_policy(self, namespace: str, name: str, selector: Json | None = None, **spec: Any) -> None:
        self.workspace.replace_policy(namespace, name, selector, **spec)

    def delete_policy(self, namespace: str, name: str) -> None:
        self.workspace.delete_policy(namespace, name)

    def label(self, pod: End, labels: Mapping[str, str | None]) -> None:
        namespace, name = pod.name.split("/")
        self.cluster.client.label_pod(namespace, name, labels)

    def label_namespace(self, namespace: str, labels: Mapping[str, str | None]) -> None:
        self.cluster.client.label_namespace(namespace, labels)

    def outside(self) -> Host:
        lab = self.lab
        if "outside" not in lab.hosts:
            lab.serve(lab.host("outside"), tcp=[80])
        return lab.hosts["outside"]

    def _check_open(self, ways: Sequence[Way]) -> None:
        self.lab.assert_open([_flow(way, family) for way in ways for family in self.families])

    def _hold(self, expected: Expected, timeout: float) -> None:
        """Each family is probed on its own, with neighbour caches emptied before."""
        for family in self.families:
            flows = {_flow(way, of): verdict for (way, of), verdict in expected.items() if of is family}
            self.lab.flush_neighbours()
            self.lab.wait_for(flows, timeout)
            self.cluster.settle()
            wrong = self.lab.check(flows)
            assert not wrong, "did not stay so: " + "; ".join(f"{f} is {v}" for f, v in wrong.items())


def _flow(way: Way, family: Family) -> Flow:
    assert isinstance(way.source, Pod | Node | Host), f"{way.source.name} is not in the lab"
    return Flow(way.source, way.destination.address(family), way.protocol, way.port)


def _ends(way: Way, family: Family) -> tuple[object, ...]:
    """Return what a way is on the wire: another pod with the same address has the same."""
    return way.source.address(family), way.destination.address(family), way.protocol, way.port


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


def host(place: Addressed, family: Family) -> str:
    """Return a place's address as a CIDR."""
    return f"{place.address(family)}/{32 if family is Family.V4 else 128}"


def spanning(family: Family, *places: Addressed) -> str:
    """Return the smallest CIDR that holds every place."""
    addresses = [ipaddress.ip_address(place.address(family)) for place in places]
    network = ipaddress.ip_network(addresses[0])
    while any(address not in network for address in addresses):
        network = network.supernet()
    return str(network)


def around(family: Family, place: Addressed, without: Iterable[Addressed]) -> str:
    """Return the widest CIDR, of a /16 (IPv6: /64) at most, that holds a place and none of the others."""
    others = [ipaddress.ip_address(other.address(family)) for other in without]
    first, last = (16, 32) if family is Family.V4 else (64, 128)
    for length in range(first, last + 1):
        network = ipaddress.ip_network(f"{place.address(family)}/{length}", strict=False)
        if not any(other in network for other in others):
            break
    return str(network)
