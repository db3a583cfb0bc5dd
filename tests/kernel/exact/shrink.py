"""A smaller cluster that shows the same: objects and their parts are left out as long as it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from agent.kube.model import Namespace, NetworkPolicy, Object, Peer, Pod, Rule, Selector

Objects = tuple[Object, ...]
T = TypeVar("T")


def shrink(objects: Objects, shows: Callable[[Objects], bool], tries: int = 400) -> Objects:
    """Return the smallest cluster found that ``shows`` it, asking at most so many times."""
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(objects):
            if tries == 0:
                return objects
            tries -= 1
            if shows(smaller):
                objects, progress = smaller, True
                break
    return objects


def _smaller(objects: Objects) -> Iterator[Objects]:
    """Give clusters that say less, the boldest first."""
    for kinds in ((NetworkPolicy,), (Pod, Namespace)):
        for index, found in enumerate(objects):
            if isinstance(found, kinds):
                yield objects[:index] + objects[index + 1 :]
    for index, found in enumerate(objects):
        for less in _less(found):
            yield (*objects[:index], less, *objects[index + 1 :])


def _less(found: Object) -> Iterator[Object]:
    if isinstance(found, NetworkPolicy):
        yield from _less_policy(found)
    elif isinstance(found, Pod):
        yield from _less_pod(found)
    elif isinstance(found, Namespace):
        if found.ingress_isolated:
            yield msgspec.structs.replace(found, ingress_isolated=False)
        for labels in _less_labels(found.labels):
            yield msgspec.structs.replace(found, labels=labels)


def _less_pod(pod: Pod) -> Iterator[Pod]:
    plain = Pod(pod.namespace, pod.name)
    for field in ("started", "created", "uid", "host_network", "finished"):
        if getattr(pod, field) != getattr(plain, field):
            yield msgspec.structs.replace(pod, **{field: getattr(plain, field)})
    for ports in _without_one(pod.ports):
        yield msgspec.structs.replace(pod, ports=ports)
    for addresses in _without_one(pod.addresses):
        yield msgspec.structs.replace(pod, addresses=addresses)
    for labels in _less_labels(pod.labels):
        yield msgspec.structs.replace(pod, labels=labels)


def _less_labels(labels: dict[str, str]) -> Iterator[dict[str, str]]:
    for left_out in labels:
        yield {key: value for key, value in labels.items() if key != left_out}


def _less_policy(policy: NetworkPolicy) -> Iterator[NetworkPolicy]:
    for side, other in (("ingress", policy.egress), ("egress", policy.ingress)):
        rules: tuple[Rule, ...] | None = getattr(policy, side)
        if rules is None:
            continue
        if other is not None:
            yield msgspec.structs.replace(policy, **{side: None})
        for fewer in _without_one(rules):
            yield msgspec.structs.replace(policy, **{side: fewer})
        for index, rule in enumerate(rules):
            for less in _less_rule(rule):
                yield msgspec.structs.replace(policy, **{side: _with(rules, index, less)})
    for selector in _less_selector(policy.pod_selector):
        yield msgspec.structs.replace(policy, pod_selector=selector)


def _less_rule(rule: Rule) -> Iterator[Rule]:
    for peers in _without_one(rule.peers):
        yield rule._replace(peers=peers)
    for ports in _without_one(rule.ports):
        yield rule._replace(ports=ports)
    for index, peer in enumerate(rule.peers):
        for less in _less_peer(peer):
            yield rule._replace(peers=_with(rule.peers, index, less))


def _less_peer(peer: Peer) -> Iterator[Peer]:
    if peer.block is not None:
        for excepts in _without_one(peer.block.excepts):
            yield peer._replace(block=peer.block._replace(excepts=excepts))
    if peer.pod_selector is not None:
        if peer.namespace_selector is not None:
            yield peer._replace(pod_selector=None)
            yield peer._replace(namespace_selector=None)
        for selector in _less_selector(peer.pod_selector):
            yield peer._replace(pod_selector=selector)
    if peer.namespace_selector is not None:
        for selector in _less_selector(peer.namespace_selector):
            yield peer._replace(namespace_selector=selector)


def _less_selector(selector: Selector) -> Iterator[Selector]:
    for requirements in _without_one(selector.requirements):
        yield Selector(requirements)


def _without_one(found: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    for index in range(len(found)):
        yield found[:index] + found[index + 1 :]


def _with(found: tuple[T, ...], index: int, new: T) -> tuple[T, ...]:
    return (*found[:index], new, *found[index + 1 :])
