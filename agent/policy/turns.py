"""Policies that wait to be compiled: whose turn is next."""

from __future__ import annotations

from heapq import heappop, heappush

from agent.kube.model import Key


class Turns:
    """Gives each namespace its turn, and in it the policy that costs least.

    A namespace with many policies, or dear ones, so delays its own alone: whoever was served least since it
    began to wait is next.
    """

    def __init__(self) -> None:
        self._work: dict[Key, int] = {}
        self._heaps: dict[str, list[tuple[int, Key]]] = {}
        self._served: dict[str, int] = {}
        self._total = 0

    def put(self, key: Key, work: int) -> None:
        """Have a policy wait, which costs so much work."""
        if self._work.get(key) == work:
            return
        self.discard(key)
        self._work[key] = work
        self._total += work
        heappush(self._heaps.setdefault(key.namespace, []), (work, key))

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
        while self._work and spent < most:
            heads = [(self._served.get(n, 0), head, n) for n in list(self._heaps) if (head := self._head(n))]
            for served, (work, key), namespace in sorted(heads):
                if chosen and spent + work > most:
                    spent = most
                    break
                self._served[namespace] = served + 1
                heappop(self._heaps[namespace])
                self.discard(key)
                chosen.append(key)
                spent += work
        if not self._work:
            self._clear()
        return chosen

    def _head(self, namespace: str) -> tuple[int, Key] | None:
        heap = self._heaps[namespace]
        while heap and self._work.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        if heap:
            return heap[0]
        del self._heaps[namespace]
        self._served.pop(namespace, None)
        return None

    def _clear(self) -> None:
        self._work.clear()
        self._heaps.clear()
        self._served.clear()
        self._total = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._work

    def __len__(self) -> int:
        return len(self._work)
