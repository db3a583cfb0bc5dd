"""What an API server's create would refuse in Pods, Namespaces, Nodes and NetworkPolicies.

NetworkPolicies, namespaces and all metadata are held to every field: an unknown one is a problem,
because a misspelt ``ports`` would open every port (a ``status`` passes: old servers write one). A pod's
and a node's spec and status have hundreds of fields that are not read here; those pass, except one that
differs only in case from a field that is read. The rest of what a create asks of a pod (an image, say)
is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from agent.kube import names
from agent.kube.address import strict_address, strict_network
from agent.kube.check import Check, unknown_field
from agent.kube.convert import isolation_of
from agent.kube.events import Problem
from agent.kube.mode import MODE_ANNOTATION, mode_of
from agent.kube.model import ISOLATION_ANNOTATION, Key, Kind, NetworkPolicy, default_deny
from agent.kube.policy import closing, read_policy, read_port_number, read_protocol, staged

METADATA_NAME = "kubernetes.io/metadata.name"
"""The label that every namespace has, its name the value."""

_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = (
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
)
_POD_SPEC = ("nodeName", "hostNetwork", "containers", "initContainers")
_POD_STATUS = ("phase", "podIP", "podIPs", "startTime")
_CONTAINER = ("name", "ports", "restartPolicy")
_CONTAINER_PORT = ("name", "hostPort", "containerPort", "protocol", "hostIP")
_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_NODE_SPEC = ("podCIDR", "podCIDRs")


class Validated(NamedTuple):
    """A manifest's object: defaulted plain data to decode, only what is read, or its problems.

    ``closed`` isolates what an invalid NetworkPolicy selects, or the pods of an invalid namespace that has
    an annotation to that end.
    """

    data: dict[str, Any]
    problems: tuple[Problem, ...] = ()
    closed: NetworkPolicy | None = None


def key_of(kind: Kind, data: Mapping[str, object]) -> Key | Problem:
    """Return which object the data is, defaulted as a create does, or why that cannot be read."""
    check = Check(strict=False)
    meta = check.mapping(data.get("metadata"), "metadata")
    name = check.text(meta.get("name"), "metadata.name")
    namespace = check.text(meta.get("namespace"), "metadata.namespace")
    if check.problems:
        return check.problems[0]
    if not name:
        return Problem("metadata.name", "missing; give the object a name")
    if kind in (Kind.NAMESPACE, Kind.NODE):
        return Key("", name)
    return Key(namespace or "default", name)


def validate(kind: Kind, key: Key, data: Mapping[str, object]) -> Validated:
    """Check and default one object as a create does. Never raises, whatever the data."""
    check = Check(strict=True)
    check.mapping(data, "", _TOP)
    meta = _metadata(check, kind, key, data.get("metadata"))
    if kind is Kind.POLICY:
        said = mode_of(meta["annotations"].get(MODE_ANNOTATION))
        reading = staged(read_policy(key, data.get("spec"), strict=True), said)
        return _policy(data, meta, key, check.problems, reading.problems, reading.closed)
    if kind is Kind.NAMESPACE:
        check.mapping(data.get("spec"), "spec", ("finalizers",))
        return _namespace(meta, key, check.problems)
    read = {"metadata": meta, **(_pod(check, data) if kind is Kind.POD else _node(check, data))}
    return Validated(read, tuple(check.problems))


def _policy(
    data: Mapping[str, object],
    meta: dict[str, Any],
    key: Key,
    outer: list[Problem],
    inner: tuple[Problem, ...],
    closed: NetworkPolicy | None,
) -> Validated:
    problems = (*outer, *inner)
    if problems and not inner:
        # The spec is fine, so what it isolates is known; only its metadata is not.
        said = mode_of(meta["annotations"].get(MODE_ANNOTATION))
        policy = staged(read_policy(key, data.get("spec"), strict=True), said).policy
        if policy is not None:
            closed = closing(policy)
    return Validated({"metadata": meta, "spec": data.get("spec")}, problems, closed)


def _namespace(meta: dict[str, Any], key: Key, problems: list[Problem]) -> Validated:
    closed = None
    annotation = meta["annotations"].get(ISOLATION_ANNOTATION)
    if problems and annotation is not None and isolation_of(annotation) != "":
        closed = default_deny(key.name)
    return Validated({"metadata": meta}, tuple(problems), closed)


def _metadata(check: Check, kind: Kind, key: Key, value: object) -> dict[str, Any]:
    meta = check.mapping(value, "metadata", _METADATA)
    name_rule = names.dns_label if kind is Kind.NAMESPACE else names.dns_subdomain
    check.refuse("metadata.name", name_rule(key.name))
    if kind not in (Kind.NAMESPACE, Kind.NODE):
        check.refuse("metadata.namespace", names.dns_label(key.namespace))
    labels = check.texts(meta.get("labels"), "metadata.labels")
    for name, text in labels.items():
        check.refuse("metadata.labels", names.qualified_name(name))
        check.refuse(f"metadata.labels[{name}]", names.label_value(text))
    annotations = check.texts(meta.get("annotations"), "metadata.annotations")
    for name in annotations:
        check.refuse("metadata.annotations", names.qualified_name(name.lower()))
    if kind is Kind.NAMESPACE:
        labels[METADATA_NAME] = key.name
        _isolation(check, annotations)
    return {
        "name": key.name,
        "namespace": key.namespace,
        "uid": check.text(meta.get("uid"), "metadata.uid"),
        "resourceVersion": check.text(meta.get("resourceVersion"), "metadata.resourceVersion"),
        "generation": _generation(check, meta.get("generation")),
        "creationTimestamp": _time(check, meta.get("creationTimestamp"), "metadata.creationTimestamp"),
        "labels": dict(sorted(labels.items())),
        "annotations": annotations if kind is not Kind.NODE else {},
    }


def _generation(check: Check, value: object) -> int | None:
    """Return an int64, as ObjectMeta (meta/v1) has it, None where there is none."""
    generation = check.integer(value, "metadata.generation")
    if generation is None or 0 <= generation < 1 << 63:
        return generation
    check.add("metadata.generation", "not between 0 and 2**63 - 1; leave it out")
    return None


def _isolation(check: Check, annotations: Mapping[str, str]) -> None:
    text = annotations.get(ISOLATION_ANNOTATION)
    if text is not None and isolation_of(text) not in ("", "DefaultDeny"):
        check.add(
            f"metadata.annotations[{ISOLATION_ANNOTATION}]",
            f'{text!r} is not understood; write {{"ingress":{{"isolation":"DefaultDeny"}}}} or remove it',
        )


def _time(check: Check, value: object, path: str) -> str:
    """Return a time as API servers write it: RFC 3339 in UTC to the second; "" when unset."""
    text = check.text(value, path)
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        pass
    check.add(path, f"{text!r} is not a time; write one such as 2026-01-31T12:00:00Z")
    return ""


def _loosely(check: Check, value: object, path: str, read: tuple[str, ...]) -> dict[str, Any]:
    """Return a mapping in which unknown fields pass, unless one is a field that is read in other letters."""
    mapping = dict(check.mapping(value, path))
    folded = {name.lower() for name in read}
    for name in mapping:
        if name not in read and str(name).lower() in folded:
            check.add(f"{path}.{name}", unknown_field(str(name), read))
    return mapping


def _pod(check: Check, data: Mapping[str, object]) -> dict[str, Any]:
    spec = _loosely(check, data.get("spec"), "spec", _POD_SPEC)
    node = check.text(spec.get("nodeName"), "spec.nodeName")
    if node:
        check.refuse("spec.nodeName", names.dns_subdomain(node))
    check.boolean(spec.get("hostNetwork"), "spec.hostNetwork")
    containers = _containers(check, spec.get("containers"), "spec.containers")
    init_containers = _containers(check, spec.get("initContainers"), "spec.initContainers")
    status = _loosely(check, data.get("status"), "status", _POD_STATUS)
    phase = check.text(status.get("phase"), "status.phase")
    if phase and phase not in _PHASES:
        check.add("status.phase", f"{phase!r} is no phase; write one of {', '.join(_PHASES)}")
    return {
        "spec": {
            "nodeName": node,
            "hostNetwork": spec.get("hostNetwork"),
            "containers": containers,
            "initContainers": init_containers,
        },
        "status": {
            "phase": phase,
            "startTime": _time(check, status.get("startTime"), "status.startTime"),
            "podIPs": [{"ip": text} for text in _pod_ips(check, status)],
        },
    }


def _pod_ips(check: Check, status: Mapping[str, object]) -> list[str]:
    first = check.text(status.get("podIP"), "status.podIP")
    texts = []
    families: dict[int, str] = {}
    for index, entry in enumerate(check.sequence(status.get("podIPs"), "status.podIPs")):
        path = f"status.podIPs[{index}].ip"
        fields = check.mapping(entry, f"status.podIPs[{index}]", ("ip",))
        text = check.text(fields.get("ip"), path)
        texts.append(text)
        _one_per_family(check, text, path, families)
    if not texts and first:
        _one_per_family(check, first, "status.podIP", families)
        return [first]
    if first and first != texts[0]:
        check.add("status.podIP", f"{first!r} is not the first of podIPs, {texts[0]!r}; make them equal")
    return texts


def _one_per_family(check: Check, text: str, path: str, families: dict[int, str]) -> None:
    packed = strict_address(text)
    if isinstance(packed, str):
        check.add(path, packed)
    elif len(packed) in families:
        check.add(path, f"{text!r} beside {families[len(packed)]!r}; keep one for each address family")
    else:
        families[len(packed)] = text


def _containers(check: Check, value: object, path: str) -> list[dict[str, Any]]:
    found = []
    for index, entry in enumerate(check.sequence(value, path)):
        here = f"{path}[{index}]"
        fields = _loosely(check, entry, here, _CONTAINER)
        restart = check.text(fields.get("restartPolicy"), f"{here}.restartPolicy")
        if restart not in ("", "Always", "Never", "OnFailure"):
            check.add(f"{here}.restartPolicy", f"{restart!r} is not supported; write Always or remove it")
        ports = _ports(check, fields.get("ports"), f"{here}.ports")
        found.append({"restartPolicy": restart, "ports": ports})
    return found


def _ports(check: Check, value: object, path: str) -> list[dict[str, Any]]:
    found = []
    seen: set[str] = set()
    for index, entry in enumerate(check.sequence(value, path)):
        here = f"{path}[{index}]"
        fields = check.mapping(entry, here, _CONTAINER_PORT)
        name = check.text(fields.get("name"), f"{here}.name")
        if name:
            check.refuse(f"{here}.name", names.port_name(name))
            if name in seen:
                check.add(f"{here}.name", f"{name!r} twice in one container; give each port its own name")
            seen.add(name)
        number = fields.get("containerPort")
        if number is None:
            check.add(f"{here}.containerPort", "missing; write the port's number")
        protocol = read_protocol(check, fields.get("protocol") or None, f"{here}.protocol")
        port = read_port_number(check, number, f"{here}.containerPort")
        found.append({"name": name, "containerPort": port or 0, "protocol": protocol.name})
    return found


def _node(check: Check, data: Mapping[str, object]) -> dict[str, Any]:
    spec = _loosely(check, data.get("spec"), "spec", _NODE_SPEC)
    texts = [("spec.podCIDR", check.text(spec.get("podCIDR"), "spec.podCIDR"))]
    for index, entry in enumerate(check.sequence(spec.get("podCIDRs"), "spec.podCIDRs")):
        path = f"spec.podCIDRs[{index}]"
        texts.append((path, check.text(entry, path)))
    for path, text in texts:
        wrong = strict_network(text) if text else None
        if isinstance(wrong, str):
            check.add(path, wrong)
    status = _loosely(check, data.get("status"), "status", ("addresses",))
    addresses = []
    for index, entry in enumerate(check.sequence(status.get("addresses"), "status.addresses")):
        path = f"status.addresses[{index}]"
        fields = check.mapping(entry, path, ("type", "address"))
        # A node's addresses may be host names, which are not read.
        addresses.append({"address": check.text(fields.get("address"), f"{path}.address")})
    return {
        "spec": {"podCIDR": texts[0][1], "podCIDRs": [text for _, text in texts[1:]]},
        "status": {"addresses": addresses},
    }
