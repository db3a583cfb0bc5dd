"""Policies as manifests: what ``kubectl apply`` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from agent.convert.statement import Statement, normal
from agent.kube.manifest import read_text
from agent.kube.mode import MODE_ANNOTATION
from agent.kube.model import NetworkPolicy, Operator, Peer, Port, Requirement, Rule, Selector
from agent.net import Direction

Data = dict[str, Any]


class UnfitError(Exception):
    """A policy that a create would refuse, and why."""


def to_yaml(statements: Iterable[Statement]) -> str:
    """Return manifests of policies, one document each. Raises UnfitError.

    Each is read again as a create reads it, so that what is returned is valid and means the policy.
    """
    texts = [_checked(one) for one in statements]
    return "---\n".join(texts)


def _checked(statement: Statement) -> str:
    text = yaml.safe_dump(document(statement), sort_keys=False, width=120)
    (found,) = read_text(text.encode()).manifests
    if not isinstance(found.value, NetworkPolicy):
        problem = found.problems[0]
        raise UnfitError(f"{statement.policy.key}: {problem.field}: {problem.message}")
    if normal(found.value) != normal(statement.policy):
        raise UnfitError(f"{statement.policy.key}: a manifest of it would mean another policy")
    return text


def document(statement: Statement) -> Data:
    """Return a policy's manifest as plain data."""
    policy, mode = statement
    metadata: Data = {"name": policy.name, "namespace": policy.namespace}
    if mode:
        metadata["annotations"] = {MODE_ANNOTATION: mode}
    named = [d for d in (Direction.INGRESS, Direction.EGRESS) if policy.rules(d) is not None]
    spec: Data = {
        "podSelector": _selector(policy.pod_selector),
        "policyTypes": [direction.value.capitalize() for direction in named],
    }
    for direction in named:
        if rules := policy.rules(direction):
            spec[direction.value] = [_rule(rule, direction) for rule in rules]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def _rule(rule: Rule, direction: Direction) -> Data:
    data: Data = {}
    if rule.peers:
        data["from" if direction is Direction.INGRESS else "to"] = list(map(_peer, rule.peers))
    if rule.ports:
        data["ports"] = list(map(_port, rule.ports))
    return data


def _peer(peer: Peer) -> Data:
    if peer.block is not None:
        block: Data = {"cidr": str(peer.block.cidr)}
        if peer.block.excepts:
            block["except"] = list(map(str, peer.block.excepts))
        return {"ipBlock": block}
    data: Data = {}
    if peer.namespace_selector is not None:
        data["namespaceSelector"] = _selector(peer.namespace_selector)
    if peer.pod_selector is not None:
        data["podSelector"] = _selector(peer.pod_selector)
    return data


def _port(port: Port) -> Data:
    data: Data = {"protocol": port.protocol.name}
    if port.port is not None:
        data["port"] = port.port
    if port.end is not None:
        data["endPort"] = port.end
    return data


def _selector(selector: Selector) -> Data:
    """Write one value as matchLabels, where the key has but one requirement of that form."""
    labels: dict[str, str] = {}
    expressions = []
    for one in selector.requirements:
        if one.operator is Operator.IN and len(one.values) == 1 and one.key not in labels:
            labels[one.key] = one.values[0]
        else:
            expressions.append(_expression(one))
    data: Data = {}
    if labels:
        data["matchLabels"] = labels
    if expressions:
        data["matchExpressions"] = expressions
    return data


def _expression(one: Requirement) -> Data:
    data: Data = {"key": one.key, "operator": one.operator.value}
    if one.values:
        data["values"] = list(one.values)
    return data
