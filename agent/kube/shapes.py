"""The parts of API objects that are read, as msgspec decodes them; all else is skipped unread."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from agent.kube.logging import ALLOWED_ANNOTATION, DENIED_ANNOTATION
from agent.kube.mode import MODE_ANNOTATION


class Meta(msgspec.Struct, frozen=True, gc=False):
    """What is read of any object's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    created: str | None = msgspec.field(default=None, name="creationTimestamp")
    labels: msgspec.Raw = msgspec.Raw()
    managed: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="managedFields")


class ManagedEntry(msgspec.Struct, frozen=True, gc=False):
    """What is read of an entry of ``managedFields``: not which fields are meant, which is most of it."""

    manager: str = ""
    operation: str = ""
    at: str = msgspec.field(default="", name="time")
    subresource: str = ""


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    """An entry of a container's ``ports``."""

    port: int = msgspec.field(default=0, name="containerPort")
    name: str | None = None
    protocol: str | None = None


class Container(msgspec.Struct, frozen=True, gc=False):
    """An entry of ``containers`` or ``initContainers``."""

    ports: list[ContainerPort] | None = None
    restart_policy: str | None = msgspec.field(default=None, name="restartPolicy")


class PodSpec(msgspec.Struct, frozen=True, gc=False):
    """A Pod's ``spec``."""

    node: str | None = msgspec.field(default=None, name="nodeName")
    host_network: bool | None = msgspec.field(default=None, name="hostNetwork")
    containers: list[Container] | None = None
    init_containers: list[Container] | None = msgspec.field(default=None, name="initContainers")


class PodIP(msgspec.Struct, frozen=True, gc=False):
    """An entry of ``podIPs``."""

    ip: str = ""


class PodStatus(msgspec.Struct, frozen=True, gc=False):
    """A Pod's ``status``."""

    phase: str | None = None
    ip: str | None = msgspec.field(default=None, name="podIP")
    ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")
    started: str | None = msgspec.field(default=None, name="startTime")


class LogAnnotations(msgspec.Struct, frozen=True, gc=False):
    """The annotations that are read of a Pod."""

    denied: str | None = msgspec.field(default=None, name=DENIED_ANNOTATION)
    allowed: str | None = msgspec.field(default=None, name=ALLOWED_ANNOTATION)


class PodMeta(Meta, frozen=True, gc=False):
    """A Pod's metadata."""

    annotations: LogAnnotations | None = None
    owners: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="ownerReferences")


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    """An entry of ``ownerReferences``."""

    kind: str = ""
    name: str = ""
    controller: bool | None = None


class Pod(msgspec.Struct, frozen=True, gc=False):
    """What is read of a Pod."""

    metadata: PodMeta
    kind: str = ""
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NamespaceMeta(Meta, frozen=True, gc=False):
    """A Namespace's metadata."""

    annotations: dict[str, str] | None = None


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """What is read of a Namespace."""

    metadata: NamespaceMeta
    kind: str = ""


class NodeAddress(msgspec.Struct, frozen=True, gc=False):
    """An entry of a Node's ``addresses``."""

    address: str = ""


class NodeSpec(msgspec.Struct, frozen=True, gc=False):
    """A Node's ``spec``."""

    cidr: str | None = msgspec.field(default=None, name="podCIDR")
    cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """A Node's ``status``."""

    addresses: list[NodeAddress] | None = None


class NodeMeta(Meta, frozen=True, gc=False):
    """What is read of a Node's metadata."""

    annotations: dict[str, str] | None = None


class Node(msgspec.Struct, frozen=True, gc=False):
    """What is read of a Node."""

    metadata: NodeMeta
    kind: str = ""
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class ModeAnnotation(msgspec.Struct, frozen=True, gc=False):
    """The annotation that is read of a NetworkPolicy. A null is a value: API servers keep it as ""."""

    mode: str | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name=MODE_ANNOTATION)


class PolicyMeta(Meta, frozen=True, gc=False):
    """A NetworkPolicy's metadata."""

    annotations: ModeAnnotation | None = None
    generation: int | None = None


class Policy(msgspec.Struct, frozen=True, gc=False):
    """A NetworkPolicy, its spec as plain data."""

    metadata: PolicyMeta
    kind: str = ""
    spec: Any = None


class Bare(msgspec.Struct, frozen=True, gc=False):
    """An object of which only its metadata is read."""

    metadata: Meta


class NameOnly(msgspec.Struct, frozen=True, gc=False):
    """Metadata of which only the name is read."""

    name: str = ""
    namespace: str = ""
    deleted: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="deletionTimestamp")


class Named(msgspec.Struct, frozen=True, gc=False):
    """An object of which only its name is read, whatever else is wrong with it."""

    metadata: NameOnly


class IdentityMeta(msgspec.Struct, frozen=True, gc=False):
    """Metadata of which only what tells one object, and one version of it, from another is read."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Which object it is, whatever else is wrong with it. In a list, an item seldom says its kind."""

    metadata: IdentityMeta = IdentityMeta()
    kind: str = ""
    api_version: str = msgspec.field(default="", name="apiVersion")


class Spec(msgspec.Struct, frozen=True, gc=False):
    """A policy of which only its spec is read."""

    spec: Any = None


class AnnotatedMeta(msgspec.Struct, frozen=True, gc=False):
    """Metadata of which only the mode is read."""

    annotations: ModeAnnotation | None = None


class Annotated(msgspec.Struct, frozen=True, gc=False):
    """A policy of which only its mode is read, whatever else is wrong with it."""

    metadata: AnnotatedMeta


class SelectorOnly(msgspec.Struct, frozen=True, gc=False):
    """A policy's ``spec`` of which only the podSelector is read."""

    selector: Any = msgspec.field(default=None, name="podSelector")


class Selecting(msgspec.Struct, frozen=True, gc=False):
    """A policy of which only its podSelector is read."""

    spec: SelectorOnly


Wire = Pod | Namespace | Node | Policy | Bare
W = TypeVar("W")


class ListMeta(msgspec.Struct, frozen=True, gc=False):
    """A list's metadata."""

    resource_version: str = msgspec.field(default="", name="resourceVersion")
    continuation: str = msgspec.field(default="", name="continue")
    remaining: int | None = msgspec.field(default=None, name="remainingItemCount")


class List(msgspec.Struct, Generic[W], frozen=True, gc=False):
    """One page of a list. ``items`` that are None were null or not there."""

    metadata: ListMeta = ListMeta()
    items: list[W] | None = None
    kind: str = ""
    api_version: str = msgspec.field(default="", name="apiVersion")


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What an answer says it is."""

    kind: str = ""
    code: int | None = None
    message: str = ""


class WatchLine(msgspec.Struct, frozen=True, gc=False):
    """One event of a watch."""

    type: str
    object: msgspec.Raw
