"""Cluster objects in few words: policies as a manifest writes them, read the way manifests are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.kube.model import Key, NetworkPolicy
from agent.kube.policy import read_policy

Fields = dict[str, Any]


def labels(**wanted: str) -> Fields:
    """Return a label selector; no labels, every object."""
    return {"matchLabels": wanted} if wanted else {}


def expression(key: str, operator: str, *values: str) -> Fields:
    """Return a label selector of one expression."""
    requirement: Fields = {"key": key, "operator": operator}
    if values:
        requirement["values"] = list(values)
    return {"matchExpressions": [requirement]}


def pods(**wanted: str) -> Fields:
    """Return a peer, or the half of one: pods with these labels. ``pods() | namespaces()`` is both."""
    return {"podSelector": labels(**wanted)}


def namespaces(**wanted: str) -> Fields:
    """Return a peer, or the half of one: namespaces with these labels."""
    return {"namespaceSelector": labels(**wanted)}


def block(cidr: str, *excepts: str) -> Fields:
    """Return an ipBlock peer."""
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


def port(number: int | str, protocol: str = "TCP", *, end: int | None = None) -> Fields:
    """Return an entry of ``ports``."""
    return {"protocol": protocol, "port": number, **({"endPort": end} if end is not None else {})}


def policy(
    name: str,
    selector: Mapping[str, Any] | None = None,
    *,
    ns: str = "x",
    ingress: Sequence[Fields] | None = None,
    egress: Sequence[Fields] | None = None,
    types: Sequence[str] | None = None,
) -> NetworkPolicy:
    """Return a policy, with no selector of every pod of its namespace; what is not given is left out."""
    spec: Fields = {"podSelector": dict(selector or {})}
    given = {"ingress": ingress, "egress": egress, "policyTypes": types}
    spec |= {field: list(value) for field, value in given.items() if value is not None}
    reading = read_policy(Key(ns, name), spec, strict=True)
    assert reading.policy is not None, reading.problems
    return reading.policy


def isolated(*names: str, ns: str = "x", types: Sequence[str] = ("Ingress",)) -> NetworkPolicy:
    """Return a policy that isolates pods, by the label ``pod``, and allows nothing."""
    selector = expression("pod", "In", *names) if names else {}
    return policy(
        f"isolate-{'-'.join(names) or 'all'}-{'-'.join(types).lower()}", selector, ns=ns, types=types
    )
