"""What a person should know beside a verdict: mistakes that policies are often written with.

A hint changes no verdict. It is there because the verdict alone, though right, does not show the mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from agent.kube.mode import MODE_ANNOTATION
from agent.kube.model import Key, NetworkPolicy, Pod, Port, Rule, Selector
from agent.net import Direction, Protocol

_NAMED = 3
"""Policies, or labels, that are named; of more, the rest are counted."""
DNS = 53
NO_DNS = "DNS is not allowed"
"""How the hint begins that a pod can look up no name."""


def labels_text(selector: Selector, labels: Mapping[str, str]) -> str:
    """Say which labels are there, or lacking, where a selector requires others: ``app=web``.

    Only what does not match is said: a label that is written wrongly stands beside the right one.
    """
    known = dict(labels)
    wrong = [one for one in selector.requirements if not Selector((one,)).matches(known)]
    keys = dict.fromkeys(one.key for one in wrong)
    told = [f"{key}={labels[key]}" if key in labels else f"no label {key}" for key in list(keys)[:_NAMED]]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{', '.join(told)}{more}"


def names_text(pod: Pod) -> str:
    """Say which ports of a pod have names, where a rule asks for another: ``it has http/tcp``."""
    names = list(dict.fromkeys(f"{port.name}/{port.protocol.name.lower()}" for port in pod.ports))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"it has {', '.join(names[:_NAMED])}{more}" if names else "none of its ports has a name"


def early_address(pod: Pod) -> Iterator[str]:
    """Say that a pod's address is what its network plugin gave it, and other nodes do not know it yet."""
    if pod.attached.early:
        yield f"the address of {pod.key} is told by its network plugin (CNI): its status does not say it yet"


def without_effect(policies: Iterable[NetworkPolicy], direction: Direction, pod: Pod) -> Iterator[str]:
    """Name the policies that select a pod and have rules of a direction that ``policyTypes`` does not name.

    The API accepts such rules and ignores them (``NetworkPolicySpec.policyTypes``).
    """
    for policy in policies:
        if direction in policy.ignored and policy.pod_selector.matches(pod.labels):
            kind = direction.value.capitalize()
            yield (
                f"the rules for {direction} of {policy.key} have no effect: "
                f"its policyTypes do not name {kind}; add {kind} there"
            )


def not_selecting(policies: Iterable[NetworkPolicy], direction: Direction, pod: Pod) -> Iterator[str]:
    """Name the policies that name a direction and do not select a pod of their namespace."""
    others = [
        p for p in policies if p.rules(direction) is not None and not p.pod_selector.matches(pod.labels)
    ]
    for policy in others[:_NAMED]:
        selector = policy.pod_selector
        has = labels_text(selector, pod.labels)
        yield f"{policy.key} is not for {pod.key}: its podSelector is {selector}, the pod has {has}"
    if len(others) > _NAMED:
        yield f"policies of its namespace that are not for it either: {len(others) - _NAMED} more"


def disabled(policies: Iterable[NetworkPolicy], direction: Direction, pod: Pod) -> Iterator[str]:
    """Name the disabled policies that would isolate a pod in a direction; ``policies`` are all disabled."""
    for policy in policies:
        if policy.rules(direction) is not None and policy.pod_selector.matches(pod.labels):
            yield f"{policy.key} is disabled ({MODE_ANNOTATION}): it neither isolates {pod.key} nor allows"


def without_dns(policies: Iterable[NetworkPolicy], pod: Key) -> Iterator[str]:
    """Say that a pod can look up no name: no egress rule that applies to it allows UDP port 53 to anybody."""
    if not any(is_for_dns(rule) for policy in policies for rule in policy.egress or ()):
        yield f"{NO_DNS}: no egress rule for {pod} has UDP port {DNS}, so it cannot look up names"


def is_for_dns(rule: Rule) -> bool:
    """Whether a rule's ports take in that of DNS."""
    return not rule.ports or any(map(_may_be_dns, rule.ports))


def _may_be_dns(port: Port) -> bool:
    """Whether a rule's port may be that of DNS; a name may be, whatever pod it is resolved on."""
    if port.protocol is not Protocol.UDP:
        return False
    if not isinstance(port.port, int):
        return True
    return port.port <= DNS <= (port.end or port.port)
