"""Pods of other nodes that come, change and go all the time, told together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.history.change import Effect
from agent.kube.events import Event, Synced, Upsert
from agent.policy.lower.lowered import Delta
from agent.words import count

SHORTEST = 1.0
"""Seconds for which changes are gathered."""
LONGEST = 60.0
"""The same while changes come without a pause: then the history would hold nothing else."""
_NAMED = 3
"""Pods, and sets, that are named."""
_SETS = 100
"""Sets that are told apart."""


class Told(NamedTuple):
    """What is told of the pods of one namespace."""

    namespace: str
    changes: int
    detail: tuple[str, ...]
    effect: Effect


class _Pods:
    __slots__ = ("changed", "gone", "some")

    def __init__(self) -> None:
        self.changed = self.gone = 0
        self.some: dict[str, None] = {}


class Churn:
    """Gathers what changed here by pods of other nodes. Due a second after the first; later under churn."""

    def __init__(self) -> None:
        self.since = 0.0
        """When the first of what is gathered was seen, in ``time.time()`` seconds."""
        self.kernel: float | None = None
        """When the kernel had all of it; None while it has not."""
        self._window = SHORTEST
        self._namespaces: dict[str, _Pods] = {}
        self._sets: dict[str, list[int]] = {}
        self._members = [0, 0]
        self._ends = 0.0

    @property
    def empty(self) -> bool:
        """Whether nothing is gathered."""
        return not self._namespaces

    def due(self, now: float) -> bool:
        """Whether what is gathered is to be told; ``now`` in monotonic seconds."""
        return bool(self._namespaces) and now >= self._ends

    def add(self, events: Iterable[Event], delta: Delta, seen: float, now: float) -> None:
        """Take events of a step and what it changed; ``seen`` is when they came, ``now`` monotonic."""
        if not self._namespaces:
            # What came soon after the last was told belongs to it: churn, which is told ever more seldom.
            steady = self._ends > 0 and now <= self._ends + self._window + SHORTEST
            self._window = min(LONGEST, self._window * 2) if steady else SHORTEST
            self.since, self._ends = seen, now + self._window
        self.kernel = None
        for event in events:
            if isinstance(event, Synced):
                continue
            gone = not isinstance(event, Upsert)
            key = event.object.key if isinstance(event, Upsert) else event.key
            pods = self._namespaces.get(key.namespace)
            if pods is None:
                pods = self._namespaces[key.namespace] = _Pods()
            if gone:
                pods.gone += 1
            else:
                pods.changed += 1
            if len(pods.some) < _NAMED:
                pods.some[key.name] = None
        for set_id, membership in delta.members.items():
            added, removed = len(membership.added), len(membership.removed)
            self._members[0] += added
            self._members[1] += removed
            of_set = self._sets.get(set_id.meaning)
            if of_set is None:
                if len(self._sets) >= _SETS:
                    continue
                of_set = self._sets[set_id.meaning] = [0, 0]
            of_set[0] += added
            of_set[1] += removed

    def take(self) -> list[Told]:
        """Return what is told of each namespace, and begin anew."""
        namespaces, self._namespaces = self._namespaces, {}
        sets, self._sets = self._sets, {}
        (added, removed), self._members = self._members, [0, 0]
        together = sum(pods.changed + pods.gone for pods in namespaces.values())
        effect = Effect(members_added=added, members_removed=removed, together=together)
        most = sorted(sets, key=lambda meaning: -sum(sets[meaning]))[:_NAMED]
        lines = [f"+{sets[meaning][0]} -{sets[meaning][1]} in {meaning}" for meaning in most]
        if len(sets) > _NAMED:
            lines.append(f"and {count(len(sets) - _NAMED, 'more set')}")
        return [
            Told(namespace, pods.changed + pods.gone, (_pods_text(pods), *lines), effect)
            for namespace, pods in namespaces.items()
        ]


def _pods_text(pods: _Pods) -> str:
    parts = [f"{pods.changed} changed"] if pods.changed else []
    parts += [f"{pods.gone} gone"] if pods.gone else []
    dots = ", ..." if pods.changed + pods.gone > len(pods.some) else ""
    return f"{', '.join(parts)}: {', '.join(pods.some)}{dots}"
