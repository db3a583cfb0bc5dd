"""Kubernetes objects as this agent sees them: only the fields used, in normal form.

Every value here is immutable, hashable where it is used as a key, and already valid: decoding and
validation happen in their own modules, so nothing downstream meets a half-read object.
Field meanings follow the API reference of ``core/v1`` and ``networking.k8s.io/v1``.
"""

from __future__ import annotations

import enum
import functools
from bisect import bisect_left
from typing import NamedTuple

import msgspec

from agent.kube.logging import UNSAID, Logging
from agent.kube.mode import NO_MODE, Mode, ModeSaid
from agent.net import Direction, Network, Protocol


class Kind(enum.StrEnum):
    """The kinds of object the agent reads."""

    POD = "Pod"
    NAMESPACE = "Namespace"
    POLICY = "NetworkPolicy"
    NODE = "Node"


class Key(NamedTuple):
    """Which object: its namespace (empty for cluster-scoped kinds) and name."""

    namespace: str
    name: str

    @classmethod
    def of(cls, text: str) -> Key:
        """Return the namespaced object that ``NAMESPACE/NAME`` names. Raises ValueError that says so."""
        namespace, slash, name = text.partition("/")
        if not (slash and namespace and name) or "/" in name:
            raise ValueError(f"{text!r}: give it as NAMESPACE/NAME")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class NamedPort(NamedTuple):
    """A named container port."""

    name: str
    protocol: Protocol
    port: int


class Attached(NamedTuple):
    """What the node's network plugin (CNI) gave a pod that runs there.

    ``at``: when, in nanoseconds since 1970. ``addresses``: those of the pod's addresses that it gave; an
    address belongs to the pod that was given it last, whatever the pods' own times say. ``early``: the pod's
    status does not say all of them yet.
    """

    at: int = 0
    addresses: tuple[bytes, ...] = ()
    early: bool = False


UNATTACHED = Attached()


class Pod(msgspec.Struct, frozen=True, gc=False):
    """A pod.

    ``ports`` holds each (name, protocol) once: the first in ``containers``, then in sidecars
    (restartable init containers). ``started`` and ``created`` are RFC 3339 texts in UTC, empty when
    unset, so that they compare as they are written. ``workload`` is what controls it, as ``Kind/name``,
    empty where nothing does. ``logging`` is what its annotations ask for. ``attached`` is known of pods of
    this node only, and where their runtime keeps what plugins say.
    """

    namespace: str
    name: str
    uid: str = ""
    labels: dict[str, str] = {}
    node: str = ""
    addresses: tuple[bytes, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    host_network: bool = False
    finished: bool = False
    started: str = ""
    created: str = ""
    workload: str = ""
    logging: Logging = UNSAID
    attached: Attached = UNATTACHED

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)

    def given_at(self, address: bytes) -> int:
        """Return when the node's network plugin gave it an address, as :class:`Attached` says; else 0."""
        return self.attached.at if address in self.attached.addresses else 0

    @property
    def judged(self) -> bool:
        """Whether it can be a target or a peer: it has addresses of its own and has not finished."""
        return bool(self.addresses) and not self.host_network and not self.finished


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """A namespace. ``ingress_isolated`` is the Kubernetes 1.6 annotation's DefaultDeny.

    ``logging`` is what its annotations ask for of its pods. ``staging`` says what is done with those of its
    policies that do not say so themselves.
    """

    name: str
    labels: dict[str, str] = {}
    ingress_isolated: bool = False
    logging: Logging = UNSAID
    staging: ModeSaid = NO_MODE

    @property
    def key(self) -> Key:
        return Key("", self.name)


class Node(msgspec.Struct, frozen=True, gc=False):
    """A node: every address it reports, its tunnels' included, and the ranges its pods are numbered from."""

    name: str
    addresses: tuple[bytes, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()

    @property
    def key(self) -> Key:
        return Key("", self.name)


class Operator(enum.StrEnum):
    """The operators of a label selector requirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    """One ``matchExpressions`` entry; ``values`` sorted and unique."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


_FEW = 16
"""So many requirements, or values of one, are compared one by one."""


class _Requirements(NamedTuple):
    requirements: tuple[Requirement, ...] = ()


class Selector(_Requirements):
    """A label selector: the AND of its requirements; none of them matches everything.

    ``matchLabels`` entries are In requirements with one value. Requirements are sorted and unique,
    so selectors that are written differently and mean the same are mostly equal.
    """

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether labels satisfy every requirement (LabelSelector, meta/v1).

        NotIn and DoesNotExist hold when the key is absent. It takes as long as there are labels, however many
        requirements and values there are.
        """
        if len(self.requirements) > _FEW:
            return self._merged.match(labels)
        for key, operator, values in self.requirements:
            value = labels.get(key)
            if operator is Operator.IN:
                if value is None or not _among(value, values):
                    return False
            elif operator is Operator.NOT_IN:
                if value is not None and _among(value, values):
                    return False
            elif operator is Operator.EXISTS:
                if value is None:
                    return False
            elif value is not None:
                return False
        return True

    @functools.cached_property
    def _merged(self) -> _Merged:
        return _merged(self.requirements)

    def __str__(self) -> str:
        return ",".join(_requirement_text(r) for r in self.requirements)


def _among(value: str, values: tuple[str, ...]) -> bool:
    """Whether a value is among some that are sorted."""
    if len(values) <= _FEW:
        return value in values
    at = bisect_left(values, value)
    return at < len(values) and values[at] == value


class _Merged(NamedTuple):
    """What many requirements mean, by key.

    ``wanted``: values of which a label must have one, None where any will do; ``unwanted``: those of which it
    must have none, None where there must be no such label.
    """

    wanted: dict[str, frozenset[str] | None]
    unwanted: dict[str, set[str] | None]

    def match(self, labels: dict[str, str]) -> bool:
        if len(self.wanted) > len(labels):
            return False
        for key, values in self.wanted.items():
            value = labels.get(key)
            if value is None or (values is not None and value not in values):
                return False
        for key, value in labels.items():
            if key in self.unwanted:
                unwanted = self.unwanted[key]
                if unwanted is None or value in unwanted:
                    return False
        return True


def _merged(requirements: tuple[Requirement, ...]) -> _Merged:
    wanted: dict[str, frozenset[str] | None] = {}
    unwanted: dict[str, set[str] | None] = {}
    for key, operator, values in requirements:
        if operator is Operator.IN:
            before = wanted.get(key)
            wanted[key] = before.intersection(values) if before is not None else frozenset(values)
        elif operator is Operator.EXISTS:
            wanted.setdefault(key)
        elif operator is Operator.DOES_NOT_EXIST:
            unwanted[key] = None
        else:
            found = unwanted.setdefault(key, set())
            if found is not None:
                found.update(values)
    return _Merged(wanted, unwanted)


def _requirement_text(requirement: Requirement) -> str:
    key, operator, values = requirement
    if operator is Operator.IN:
        return f"{key}={values[0]}" if len(values) == 1 else f"{key} in ({','.join(values)})"
    if operator is Operator.NOT_IN:
        return f"{key} notin ({','.join(values)})"
    return key if operator is Operator.EXISTS else f"!{key}"


class IPBlock(NamedTuple):
    """An ipBlock: exactly ``cidr`` minus its ``excepts``, which lie strictly inside it."""

    cidr: Network
    excepts: tuple[Network, ...] = ()


class Peer(NamedTuple):
    """One entry of ``from`` or ``to``. All three absent: a field not known here; matches nothing."""

    pod_selector: Selector | None = None
    namespace_selector: Selector | None = None
    block: IPBlock | None = None


class Port(NamedTuple):
    """One entry of ``ports``: a number, a name, or with ``end`` an inclusive range; or any."""

    protocol: Protocol = Protocol.TCP
    port: int | str | None = None
    end: int | None = None


class Rule(NamedTuple):
    """One ingress or egress rule. No peers: any peer. No ports: any port of any protocol."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[Port, ...] = ()


class NetworkPolicy(msgspec.Struct, frozen=True):
    """A NetworkPolicy with ``policyTypes`` resolved.

    A direction that is None is not named by the policy; an empty tuple isolates and allows nothing.
    ``created`` is RFC 3339 text in UTC, empty when unset. ``ignored`` are the directions that it has
    rules for and does not name: these rules have no effect, and people are told so. ``staging`` is what its
    own annotation says is done with it. ``generation`` is ``metadata.generation``, 0 where there is none.
    """

    namespace: str
    name: str
    pod_selector: Selector = Selector()
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    created: str = ""
    ignored: tuple[Direction, ...] = ()
    staging: ModeSaid = NO_MODE
    generation: int = 0

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """Return the rules of a direction, or None when the policy does not name it."""
        return self.ingress if direction is Direction.INGRESS else self.egress

    def mode(self, namespace: ModeSaid = NO_MODE) -> Mode:
        """Return what is done with it: its own annotation says so, else its namespace's."""
        return self.staging.mode or namespace.mode or Mode.ENFORCE


Object = Pod | Namespace | NetworkPolicy | Node

_KINDS: dict[type, Kind] = {
    Pod: Kind.POD,
    Namespace: Kind.NAMESPACE,
    NetworkPolicy: Kind.POLICY,
    Node: Kind.NODE,
}


def kind_of(found: Object) -> Kind:
    """Return the kind of an object."""
    return _KINDS[type(found)]


ISOLATION_ANNOTATION = "net.beta.kubernetes.io/network-policy"
"""The namespace annotation of Kubernetes 1.3 to 1.6 that isolates its pods on ingress."""


def default_deny(namespace: str) -> NetworkPolicy:
    """Return the policy that stands for a namespace's DefaultDeny annotation.

    Its name is the annotation's: no object can be named so.
    """
    return NetworkPolicy(namespace, ISOLATION_ANNOTATION, ingress=())
