"""What one line says: a NetworkPolicy, and what is to be done with it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agent.kube.mode import Mode
from agent.kube.model import NetworkPolicy, Operator, Peer, Port, Requirement, Rule, Selector
from agent.kube.validate import METADATA_NAME
from agent.net import Protocol

MODES = tuple(mode.value for mode in Mode)

LABEL = "app"
"""The label whose value a pod's short name is, unless another is chosen: ``shop/api`` has ``app=api``."""


class Statement(NamedTuple):
    """A policy; ``mode`` is the value of its annotation, empty where it has none.

    What the policy itself says of its mode does not count.
    """

    policy: NetworkPolicy
    mode: str = ""


def one(key: str, value: str) -> Selector:
    """Return the selector of one label with one value."""
    return Selector((Requirement(key, Operator.IN, (value,)),))


def of_namespace(name: str) -> Selector:
    """Return the selector of one namespace, by the label that every namespace has of its name."""
    return one(METADATA_NAME, name)


DNS_PEER = Peer(one("k8s-app", "kube-dns"), of_namespace("kube-system"))
DNS_PORTS = (Port(Protocol.UDP, 53), Port(Protocol.TCP, 53))


def dns(namespace: str) -> Rule:
    """Return the rule that the word ``dns`` stands for in a policy of a namespace."""
    own = namespace == "kube-system"
    return Rule((DNS_PEER._replace(namespace_selector=None) if own else DNS_PEER,), DNS_PORTS)


def normal(policy: NetworkPolicy) -> NetworkPolicy:
    """Return a policy in the form that lines know: what it allows, and nothing that says no more.

    A podSelector that matches every pod says nothing beside a namespaceSelector. When a policy was created,
    and rules of directions that it does not name, are no part of it.
    """
    return NetworkPolicy(
        policy.namespace,
        policy.name,
        policy.pod_selector,
        None if policy.ingress is None else tuple(map(_normal, policy.ingress)),
        None if policy.egress is None else tuple(map(_normal, policy.egress)),
    )


def _normal(rule: Rule) -> Rule:
    return rule._replace(
        peers=tuple(
            peer._replace(pod_selector=None)
            if peer.namespace_selector is not None and peer.pod_selector == Selector()
            else peer
            for peer in rule.peers
        )
    )


def named(policy: NetworkPolicy, name: str) -> NetworkPolicy:
    """Return a policy under another name."""
    return msgspec.structs.replace(policy, name=name)
