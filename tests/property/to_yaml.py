"""From values back to manifests, so that a counter-example can be given to ``render`` and ``explain``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from agent.kube.mode import MODE_ANNOTATION, ModeSaid
from agent.kube.model import (
    ISOLATION_ANNOTATION,
    IPBlock,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Operator,
    Peer,
    Pod,
    Port,
    Rule,
    Selector,
)
from agent.kube.validate import METADATA_NAME
from agent.net import address_text

Data = dict[str, Any]

DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's, where PyYAML has it, as the agent reads: ten times as fast."""

NOTHING = {
    "matchExpressions": [
        {"key": "nothing", "operator": "Exists"},
        {"key": "nothing", "operator": "DoesNotExist"},
    ]
}
"""A selector that matches nothing: stands for a peer of an unknown kind, which manifests may not have."""


def to_yaml(objects: Iterable[Object]) -> str:
    """Return manifests of the objects, in their order.

    What only an API server can tell is said in a comment: a namespace that is used and not known.
    """
    found = tuple(objects)
    known = {one.name for one in found if isinstance(one, Namespace)}
    used = {one.namespace for one in found if isinstance(one, Pod | NetworkPolicy)}
    comments = "".join(f"# Namespace {name} is not known to the agent.\n" for name in sorted(used - known))
    return comments + _dumped([document(one) for one in found])


def _dumped(documents: list[Data]) -> str:
    text: str = yaml.dump_all(documents, Dumper=DUMPER, sort_keys=False, width=120)
    return text


def document(found: Object) -> Data:
    """Return one object's manifest as plain data."""
    if isinstance(found, Pod):
        return _pod(found)
    if isinstance(found, Namespace):
        return _namespace(found)
    if isinstance(found, Node):
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": found.name},
            "spec": {"podCIDRs": [str(cidr) for cidr in found.pod_cidrs]},
            "status": {
                "addresses": [{"type": "InternalIP", "address": address_text(a)} for a in found.addresses]
            },
        }
    return _policy(found)


def _filled(**fields: object) -> Data:
    """Return the fields that say something."""
    return {name: value for name, value in fields.items() if value or value == 0}


def _pod(pod: Pod) -> Data:
    # A container for each: one may not have two ports of one name.
    containers: list[Data] = [{"name": "main"}]
    containers += [
        {
            "name": f"port-{index}",
            "ports": [{"name": port.name, "containerPort": port.port, "protocol": port.protocol.name}],
        }
        for index, port in enumerate(pod.ports)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _filled(
            name=pod.name,
            namespace=pod.namespace,
            uid=pod.uid,
            creationTimestamp=pod.created,
            labels=dict(pod.labels),
        ),
        "spec": {
            **_filled(nodeName=pod.node),
            **({"hostNetwork": True} if pod.host_network else {}),
            "containers": containers,
        },
        "status": _filled(
            phase="Succeeded" if pod.finished else "Running",
            startTime=pod.started,
            podIPs=[{"ip": address_text(address)} for address in pod.addresses],
        ),
    }


def _namespace(namespace: Namespace) -> Data:
    labels = {key: text for key, text in namespace.labels.items() if key != METADATA_NAME}
    isolation = {ISOLATION_ANNOTATION: '{"ingress":{"isolation":"DefaultDeny"}}'}
    annotations = (isolation if namespace.ingress_isolated else {}) | _mode(namespace.staging)
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": _filled(name=namespace.name, labels=labels, annotations=annotations),
    }


def _policy(policy: NetworkPolicy) -> Data:
    spec: Data = {"podSelector": _selector(policy.pod_selector), "policyTypes": []}
    if policy.ingress is not None:
        spec["policyTypes"].append("Ingress")
        spec["ingress"] = [_rule(rule, "from") for rule in policy.ingress]
    if policy.egress is not None:
        spec["policyTypes"].append("Egress")
        spec["egress"] = [_rule(rule, "to") for rule in policy.egress]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _filled(name=policy.name, namespace=policy.namespace, annotations=_mode(policy.staging)),
        "spec": spec,
    }


def _mode(said: ModeSaid) -> dict[str, str]:
    return {} if said.mode is None else {MODE_ANNOTATION: said.unknown or said.mode.value}


def _rule(rule: Rule, peers: str) -> Data:
    return _filled(**{peers: [_peer(peer) for peer in rule.peers], "ports": [_port(p) for p in rule.ports]})


def _peer(peer: Peer) -> Data:
    if peer.block is not None:
        return {"ipBlock": _block(peer.block)}
    found: Data = {}
    if peer.pod_selector is not None:
        found["podSelector"] = _selector(peer.pod_selector)
    if peer.namespace_selector is not None:
        found["namespaceSelector"] = _selector(peer.namespace_selector)
    return found or {"podSelector": NOTHING}


def _block(block: IPBlock) -> Data:
    return {"cidr": str(block.cidr), **_filled(**{"except": [str(network) for network in block.excepts]})}


def _port(port: Port) -> Data:
    return {"protocol": port.protocol.name, **_filled(port=port.port, endPort=port.end)}


def _selector(selector: Selector) -> Data:
    expressions = [
        {
            "key": requirement.key,
            "operator": requirement.operator.value,
            **(
                {"values": list(requirement.values)}
                if requirement.operator in (Operator.IN, Operator.NOT_IN)
                else {}
            ),
        }
        for requirement in selector.requirements
    ]
    return {"matchExpressions": expressions} if expressions else {}
