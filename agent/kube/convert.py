"""From what an API server's JSON holds to objects: pods, namespaces, nodes; what is alike is shared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec

from agent.kube import shapes
from agent.kube.address import lenient_address, lenient_network
from agent.kube.logging import ALLOWED_ANNOTATION, DENIED_ANNOTATION, UNSAID, logging_of
from agent.kube.mode import MODE_ANNOTATION, mode_of
from agent.kube.model import (
    ISOLATION_ANNOTATION,
    Kind,
    NamedPort,
    Namespace,
    Node,
    Pod,
)
from agent.kube.policy import PROTOCOLS

_SHARED = 16384
"""How many label sets, port lists and times are remembered for sharing before starting anew."""


_LABELS = msgspec.json.Decoder(dict[str, str] | None)


# What msgspec raises on bytes that are no JSON, or not of the type.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


_NO_LABELS: dict[str, str] = {}


_label_sets: dict[bytes, dict[str, str]] = {}


_OWNERS = msgspec.json.Decoder(list[shapes.OwnerReference] | None)


_times: dict[str, str] = {}


_port_lists: dict[tuple[NamedPort, ...], tuple[NamedPort, ...]] = {}


def _labels(raw: msgspec.Raw) -> dict[str, str]:
    """Return a label set, one dict for equal sets: API servers write labels in sorted order."""
    text = bytes(raw)
    labels = _label_sets.get(text)
    if labels is None:
        decoded = _LABELS.decode(text) if text else None
        if not decoded:
            return _NO_LABELS
        labels = {sys.intern(key): sys.intern(value) for key, value in decoded.items()}
        if len(_label_sets) >= _SHARED:
            _label_sets.clear()
        _label_sets[text] = labels
    return labels


def _pod(wire: shapes.Pod) -> Pod:
    meta, spec, status = wire.metadata, wire.spec, wire.status
    asked = meta.annotations
    return Pod(
        namespace=sys.intern(meta.namespace),
        name=meta.name,
        uid=meta.uid,
        labels=_labels(meta.labels),
        node=sys.intern(spec.node or ""),
        addresses=_pod_addresses(status),
        ports=_pod_ports(spec),
        host_network=bool(spec.host_network),
        finished=status.phase in ("Succeeded", "Failed"),
        started=time_text(status.started),
        created=time_text(meta.created),
        workload=_workload(meta.owners, meta.labels),
        logging=UNSAID if asked is None else logging_of(asked.denied, asked.allowed),
    )


def _workload(owners: msgspec.Raw, labels: msgspec.Raw) -> str:
    """Return what controls a pod, as ``Kind/name``; of a Deployment's pod the Deployment, not its ReplicaSet.

    A Deployment calls its ReplicaSets by its own name and the hash that their pods have as a label. What
    cannot be read is no reason to refuse a pod: it only names it.
    """
    if not len(owners):
        return ""
    try:
        references = _OWNERS.decode(owners) or ()
    except UNDECODABLE:
        return ""
    found = next(((one.kind, one.name) for one in references if one.controller), None)
    if found is None:
        return ""
    kind, name = found
    template = _labels(labels).get("pod-template-hash") if kind == "ReplicaSet" else None
    if template and name.endswith(f"-{template}"):
        kind, name = "Deployment", name.removesuffix(f"-{template}")
    return sys.intern(f"{kind}/{name}")


def time_text(text: str | None) -> str:
    """Return a time of an object; pods that come together have equal ones, which they share."""
    if not text:
        return ""
    if len(_times) >= _SHARED:
        _times.clear()
    return _times.setdefault(text, text)


def _pod_addresses(status: shapes.PodStatus) -> tuple[bytes, ...]:
    """Return a pod's addresses, at most one for each family, the first holding.

    The unspecified address, 0.0.0.0 or ::, is nobody's, and no set of the kernel can hold it.
    """
    texts = [entry.ip for entry in status.ips] if status.ips else [status.ip or ""]
    found: dict[int, bytes] = {}
    for text in texts:
        packed = lenient_address(text) if text else None
        if packed is not None and any(packed):
            found.setdefault(len(packed), packed)
    return tuple(found.values())


def _pod_ports(spec: shapes.PodSpec) -> tuple[NamedPort, ...]:
    """Return the named ports: of containers, then of sidecars, the first (name, protocol) holding."""
    found: dict[tuple[str, str], NamedPort] = {}
    for container in spec.containers or ():
        if container.ports:
            _add_ports(found, container.ports)
    for container in spec.init_containers or ():
        if container.ports and container.restart_policy == "Always":
            _add_ports(found, container.ports)
    if not found:
        return ()
    ports = tuple(found.values())
    if len(_port_lists) >= _SHARED:
        _port_lists.clear()
    return _port_lists.setdefault(ports, ports)


def _add_ports(found: dict[tuple[str, str], NamedPort], ports: list[shapes.ContainerPort]) -> None:
    for port in ports:
        protocol = port.protocol or "TCP"
        if port.name and protocol in PROTOCOLS and (port.name, protocol) not in found:
            named = NamedPort(sys.intern(port.name), PROTOCOLS[protocol], port.port)
            found[port.name, protocol] = named


def _namespace(wire: shapes.Namespace) -> Namespace:
    meta = wire.metadata
    annotations = meta.annotations or {}
    annotation = annotations.get(ISOLATION_ANNOTATION, "")
    return Namespace(
        name=sys.intern(meta.name),
        labels=_labels(meta.labels),
        ingress_isolated=bool(annotation) and isolation_of(annotation) == "DefaultDeny",
        logging=logging_of(annotations.get(DENIED_ANNOTATION), annotations.get(ALLOWED_ANNOTATION)),
        staging=mode_of(annotations.get(MODE_ANNOTATION)),
    )


def isolation_of(annotation: str) -> str | None:
    """Return the ingress isolation the 1.6 annotation names, "" for none; None when it is no such text."""
    try:
        policy = msgspec.json.decode(annotation)
    except UNDECODABLE:
        return None
    ingress = policy.get("ingress") if isinstance(policy, dict) else None
    if not isinstance(ingress, dict | None) or not isinstance(policy, dict):
        return None
    isolation = (ingress or {}).get("isolation", "")
    return isolation if isinstance(isolation, str) else None


_TUNNEL_ENDS = (
    "flannel.alpha.coreos.com/public-ip",
    "flannel.alpha.coreos.com/public-ipv6",
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
)
"""Annotations by which network plugins tell from which address a node's tunnels send, perhaps on a network of
their own. Calico writes a prefix behind it."""


def _node(wire: shapes.Node) -> Node:
    annotations = wire.metadata.annotations or {}
    texts = [entry.address for entry in wire.status.addresses or ()]
    texts += [annotations[name].partition("/")[0] for name in _TUNNEL_ENDS if name in annotations]
    addresses = map(lenient_address, texts)
    texts = wire.spec.cidrs or ([wire.spec.cidr] if wire.spec.cidr else [])
    networks = (lenient_network(text) for text in texts)
    return Node(
        name=sys.intern(wire.metadata.name),
        addresses=tuple(dict.fromkeys(a for a in addresses if a is not None)),
        pod_cidrs=tuple(dict.fromkeys(n for n in networks if n is not None)),
    )


CONVERSIONS: dict[Kind, Callable[[Any], Pod | Namespace | Node]] = {
    Kind.POD: _pod,
    Kind.NAMESPACE: _namespace,
    Kind.NODE: _node,
}
