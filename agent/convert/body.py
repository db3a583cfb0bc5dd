"""What a line says of a policy, without its name, and the name that a policy gets by that."""

from __future__ import annotations

import hashlib
import re

from agent.convert.ends import write_peer, write_pods, write_port
from agent.convert.statement import LABEL, dns, named
from agent.kube.model import NetworkPolicy, Rule, Selector
from agent.net import Direction

_LONGEST = 63
_OTHERS = re.compile(r"[^a-z0-9]+")


def write_body(policy: NetworkPolicy, label: str = LABEL) -> str:
    """Return what a policy says, without its name."""
    if not policy.ingress and not policy.egress:
        pods = "" if policy.pod_selector == Selector() else f"/{write_pods(policy.pod_selector, label)}"
        denied = {
            (True, False): "ingress to",
            (False, True): "egress from",
            (True, True): "traffic of",
        }[policy.ingress is not None, policy.egress is not None]
        return f"deny all {denied} {policy.namespace}{pods}"
    rules = [
        _rule(rule, direction, policy.namespace, label)
        for direction in (Direction.INGRESS, Direction.EGRESS)
        for rule in _rules(policy, direction)
    ]
    return f"allow {policy.namespace}/{write_pods(policy.pod_selector, label)} {'; '.join(rules)}"


def _rules(policy: NetworkPolicy, direction: Direction) -> tuple[Rule | None, ...]:
    """Return the rules of a direction; None stands for that there is none, though it is named."""
    rules = policy.rules(direction)
    return () if rules is None else rules or (None,)


def _rule(rule: Rule | None, direction: Direction, namespace: str, label: str) -> str:
    word = "from" if direction is Direction.INGRESS else "to"
    if rule is None:
        return f"{word} nobody"
    if direction is Direction.EGRESS and rule == dns(namespace):
        return "to dns"
    peers = ", ".join(write_peer(peer, namespace, label) for peer in rule.peers) or "anyone"
    ports = ", ".join(map(write_port, rule.ports))
    return f"{word} {peers}" + (f" on {ports}" if ports else "")


def derived_name(policy: NetworkPolicy, label: str = LABEL) -> str:
    """Return the name of a policy whose line gives it none: made of what it says, at most 63 characters."""
    body = write_body(named(policy, ""), label)
    plain = body.replace(f" {policy.namespace}/", " ").replace("*", "all").lower()
    slug = _OTHERS.sub("-", plain).strip("-")
    if len(slug) <= _LONGEST:
        return slug
    digest = hashlib.sha256(body.encode()).hexdigest()[:8]
    return f"{slug[: _LONGEST - 9].rstrip('-')}-{digest}"
