"""The parts that the engine links together, and nothing else: they hold references, the stages keep them.

::

    PodRecord ── in ──► Identity ◄── matches ──► ActiveSelector
    (a pod)             (equal labels)           (a peer's selectors)
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec

from agent.kube.model import Key, Pod
from agent.policy.program import Predicate

T = TypeVar("T")


class PodIdentity(NamedTuple):
    """Which pod it is: a pod recreated under its name is another one."""

    key: Key
    uid: str


class PodRecord(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One version of a pod, never changed. ``group`` is None when it is no peer and no target (not live)."""

    pod: Pod
    group: Identity | None
    local: bool

    @property
    def identity(self) -> PodIdentity:
        return PodIdentity(self.pod.key, self.pod.uid)

    def is_same_pod(self, other: PodRecord) -> bool:
        """Whether the other is a version of the same pod."""
        mine, others = self.pod, other.pod
        return mine.name == others.name and mine.namespace == others.namespace and mine.uid == others.uid

    def is_like(self, other: PodRecord) -> bool:
        """Whether an address is in the same sets in the hands of either."""
        return self.group is other.group and self.local == other.local and self.pod.ports == other.pod.ports


Some = tuple[T, ...] | set[T]
"""Distinct things, mostly few: a tuple takes a third of what a set does, for each of 100,000 pods."""

FEW = 8


def with_one(things: Some[T], thing: T) -> Some[T]:
    """Return the things and one more; a set is changed in place."""
    if isinstance(things, set):
        things.add(thing)
        return things
    if thing in things:
        return things
    return (*things, thing) if len(things) < FEW else {*things, thing}


def without_one(things: Some[T], thing: T) -> Some[T]:
    """Return the things without one, whether or not it is among them; a set is changed in place."""
    if isinstance(things, set):
        things.discard(thing)
        return things if things else ()
    return tuple(one for one in things if one is not thing)


class Identity:
    """The live pods of one namespace with equal labels, and the terms that match them.

    Identities that the same terms match share one tuple of these, as far as that is known.
    """

    __slots__ = ("labels", "namespace", "pods", "terms")

    def __init__(self, namespace: str, labels: dict[str, str]) -> None:
        self.namespace = namespace
        self.labels = labels
        self.pods: Some[PodRecord] = ()
        self.terms: tuple[ActiveSelector, ...] = ()


class ActiveSelector:
    """A predicate that somebody asks about, and the groups that match it."""

    __slots__ = ("groups", "predicate")

    def __init__(self, predicate: Predicate) -> None:
        self.predicate = predicate
        self.groups: dict[Identity, None] = {}
