"""Policies that wait to be compiled: whose turn is next."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace

from agent.kube.model import Key


class Turns:
    """Gives each namespace its turn, and in it the policy that costs least.

    The namespace for which least work was done is next. So one with many policies, or dear ones, or ones that
    are edited again and again, delays its own alone. One that comes begins where the least of those that wait
    stands: it has no claim to what was done for others before. Work is forgotten when nobody waits.
    """

    def __init__(self) -> None:
        self._work: dict[Key, int] = {}
        self._heaps: dict[str, list[tuple[int, Key]]] = {}
        self._charged: dict[str, int] = {}
        """How much work was done for each namespace."""
        self._total = 0
        self._floor = 0
        """How much was done for the one that was next, at the last look."""

    def put(self, key: Key, work: int) -> None:
        """Have a policy wait, which costs so much work."""
        if self._work.get(key) == work:
            return
        self.discard(key)
        self._work[key] = work
        self._total += work
        namespace = key.namespace
        heap = self._heaps.get(namespace)
        if heap is None:
            heap = self._heaps[namespace] = []
            self._charged[namespace] = max(self._charged.get(namespace, 0), self._floor)
        heappush(heap, (work, key))

    def discard(self, key: Key) -> None:
        """Have a policy wait no longer."""
        self._total -= self._work.pop(key, 0)

    def take(self, most: int | None) -> list[Key]:
        """Return whose turn it is: policies of at most so much work, and one at least; None: all.

        None of them waits any longer. With ``most`` 0 it is nobody's turn.
        """
        if most is None or self._total <= most:
            found = list(self._work)
            self._clear()
            return found
        chosen: list[Key] = []
        spent = 0
        heads = [head for namespace in list(self._heaps) if (head := self._head(namespace))]
        heapify(heads)
        while heads and spent < most:
            charged, work, key = heads[0]
            self._floor = charged
            if chosen and spent + work > most:
                break
            namespace = key.namespace
            self._charged[namespace] = charged + work
            heappop(self._heaps[namespace])
            self.discard(key)
            chosen.append(key)
            spent += work
            head = self._head(namespace)
            if head is not None:
                heapreplace(heads, head)
            else:
                heappop(heads)
        if not self._work:
            self._clear()
        return chosen

    def _head(self, namespace: str) -> tuple[int, int, Key] | None:
        """Return the cheapest policy of a namespace, after what was done for it and its own work."""
        heap = self._heaps[namespace]
        while heap and self._work.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        if heap:
            return self._charged[namespace], *heap[0]
        del self._heaps[namespace]
        return None

    def _clear(self) -> None:
        self._work.clear()
        self._heaps.clear()
        self._charged.clear()
        self._total = self._floor = 0

    def waits_in(self, namespace: str) -> bool:
        """Whether any policy of a namespace waits."""
        return namespace in self._heaps and self._head(namespace) is not None

    def __contains__(self, key: Key) -> bool:
        return key in self._work

    def __iter__(self) -> Iterator[Key]:
        return iter(self._work)

    def __len__(self) -> int:
        return len(self._work)
