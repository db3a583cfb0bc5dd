"""Pods grouped by namespace and labels, so that a selector is matched once for pods that look the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from agent.kube.model import Selector
from agent.policy.graph import Identity
from agent.policy.peers.labels import Candidates, LabelIndex, Multimap


class Identities:
    """Every group that has pods, found by its labels, by selector and by namespace.

    Handles: the first pod of a group (:meth:`join`) and the last one (:meth:`discard`); of pods it knows
    only how many there are.
    """

    def __init__(self) -> None:
        self._by_labels: dict[tuple[str, ...], Identity] = {}
        self._by_namespace: Multimap[str, Identity] = Multimap()
        self._labels: LabelIndex[Identity] = LabelIndex()
        self.pods: dict[str, int] = {}
        """How many versions of live pods each namespace has."""
        self.total = 0
        self.stirred = 0
        """How often a pod came or went, or had its labels changed."""

    def join(self, namespace: str, labels: dict[str, str]) -> tuple[Identity, bool]:
        """Return the group of a namespace and labels, and whether it is new."""
        key = _key(namespace, labels)
        group = self._by_labels.get(key)
        if group is not None:
            return group, False
        group = self._by_labels[key] = Identity(namespace, labels)
        self._by_namespace.add(namespace, group)
        self._labels.add(labels, group)
        return group, True

    def discard(self, group: Identity) -> None:
        """Forget a group that has no pods any more."""
        del self._by_labels[_key(group.namespace, group.labels)]
        self._by_namespace.remove(group.namespace, group)
        self._labels.remove(group.labels, group)

    def count(self, namespace: str, by: int) -> None:
        """Count versions of pods that came to groups of a namespace, or went."""
        self.stirred += 1
        self.total += by
        pods = self.pods
        number = pods.get(namespace, 0) + by
        if number:
            pods[namespace] = number
        else:
            del pods[namespace]

    def like(self, selector: Selector) -> Candidates[Identity] | None:
        """Return the groups of all namespaces that a selector may match; None: any may."""
        return self._labels.candidates(selector)

    def in_namespace(self, namespace: str) -> Iterator[Identity]:
        return iter(self._by_namespace.get(namespace))

    def has(self, group: Identity) -> bool:
        """Whether a group has not gone meanwhile."""
        return group in self._by_namespace.get(group.namespace)

    def candidates_in(self, namespace: str, selector: Selector) -> list[Identity]:
        """Return the groups of a namespace, and maybe of others, that a selector may match."""
        found = self._narrowed(selector, len(self._by_namespace.get(namespace)))
        return list(self._labelled_in(namespace, selector) if found is None else found.things)

    def candidates_among(self, namespaces: set[str], selector: Selector) -> list[Identity]:
        """Return the groups of several namespaces, and maybe of others, that a selector may match."""
        # The sum costs as much as there are namespaces: only when that is less than what it may save.
        found = self._labels.candidates(selector)
        if found is not None and found.number > len(namespaces):
            found = self._narrowed(selector, sum(len(self._by_namespace.get(n)) for n in namespaces))
        if found is not None:
            return list(found.things)
        return list(chain.from_iterable(self._labelled_in(name, selector) for name in namespaces))

    def _labelled_in(self, namespace: str, selector: Selector) -> Iterable[Identity]:
        return self._labels.within(selector, self._by_namespace.get(namespace))

    def _narrowed(self, selector: Selector, otherwise: int) -> Candidates[Identity] | None:
        found = self._labels.candidates(selector)
        return found if found is not None and found.number < otherwise else None

    def sizes(self) -> dict[str, int]:
        return {
            "groups": len(self._by_labels),
            "groups by namespace": self._by_namespace.total,
            "groups by label": len(self._labels),
            "pods by namespace": self.total + len(self.pods),
        }


def _key(namespace: str, labels: dict[str, str]) -> tuple[str, ...]:
    """Return a namespace and labels as one flat tuple: a frozenset of pairs takes eight times the memory."""
    return namespace, *chain.from_iterable(sorted(labels.items()))
