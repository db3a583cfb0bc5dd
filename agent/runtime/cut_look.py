"""Looking for connections that the new state denies, beside the loop, and those that it allows again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from agent.kernel import conntrack, marked, membarrier, resets
from agent.kernel.marked import Connection
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import read_own_addresses
from agent.policy.lower.verdicts import Sort, Verdicts
from agent.policy.program import PodId
from agent.runtime.cuts import sort_of

MOST = 20_000
"""Connections that are remembered at a time; a further look finds the others."""
_JUDGED = 10_000
"""Sorts of connections whose verdict a look remembers."""


class Asking(Protocol):
    """Asks ends of TCP connections, so that they are reset: :class:`agent.kernel.resets.Resets`."""

    def ask(
        self, connections: Iterable[tuple[conntrack.Tuple, conntrack.Tuple]], mark: int
    ) -> OSError | None: ...

    def close(self) -> None: ...


class Kernel(NamedTuple):
    """What is asked of the kernel; a test gives another."""

    settle: Callable[[], object] = membarrier.packets_judged
    own: Callable[[], frozenset[bytes]] = lambda: _own()
    connections: Callable[
        [int, Collection[bytes], marked.Wanted, Callable[[], object]], Iterable[Connection]
    ] = marked.connections
    carrying: Callable[[int, marked.Wanted], Iterable[Connection]] = marked.carrying
    opened: Callable[[Collection[conntrack.Tuple]], Iterable[Connection]] = marked.opened
    mark: Callable[[Sequence[Connection], int], list[Connection]] = marked.mark
    forget: Callable[[Iterable[conntrack.Entry]], int] = conntrack.forget_entries
    resets: Callable[[], Asking] = resets.Resets


def _own() -> frozenset[bytes]:
    with NetlinkSocket(ROUTE) as netlink:
        return frozenset(read_own_addresses(netlink))


class Judged(NamedTuple):
    """A connection, and by what it is judged: denied where all of these are.

    One that belongs to another, as a helper of connection tracking expects it (the data of FTP), may be there
    because the other one may: it is denied where both are.
    """

    connection: Connection
    sorts: tuple[Sort, ...]

    def denied_by(self, verdicts: Verdicts) -> PodId | None:
        """Return the pod, and the direction, whose policies deny it; None where it may be there."""
        found = [verdicts.denies(sort) for sort in self.sorts]
        return None if None in found else found[0]


class Waiting:
    """Connections that are to be ended, taken from each pod in turn, so that none waits for another's many.

    Of more than there is room for, those of the pod are left out that has most.
    """

    def __init__(self, room: int = MOST) -> None:
        self._room = room
        self._size = 0
        self._most = 0
        """No pod has more, where there is no room left."""
        self._by_pod: dict[PodId, deque[Judged]] = {}
        self._known: set[conntrack.Entry] = set()

    def __len__(self) -> int:
        return self._size

    def has(self, one: Judged) -> bool:
        return one.connection.entry in self._known

    def pods(self) -> Collection[PodId]:
        return self._by_pod.keys()

    def items(self) -> Iterator[tuple[PodId, Judged]]:
        for pod, found in self._by_pod.items():
            for one in found:
                yield pod, one

    def is_full_for(self, pod: PodId) -> bool:
        """Whether there is room for none of a pod any more."""
        return self._size >= self._room and len(self._by_pod.get(pod, ())) >= self._most - 1

    def put(self, pod: PodId, one: Judged) -> tuple[PodId, Judged] | None:
        """Take one more, if it is not there already; return what had to be left out, which may be another."""
        if self.has(one):
            return None
        left = None
        if self._size >= self._room:
            if self.is_full_for(pod):
                return pod, one
            largest = max(self._by_pod, key=lambda pod: len(self._by_pod[pod]))
            left = largest, self._by_pod[largest].pop()
            self._known.discard(left[1].connection.entry)
            self._size -= 1
        self._by_pod.setdefault(pod, deque()).append(one)
        self._known.add(one.connection.entry)
        self._size += 1
        if self._size >= self._room:
            self._most = max(map(len, self._by_pod.values()))
        return left

    def take(self, number: int) -> list[Judged]:
        """Take out so many, of each pod one after the other."""
        found: list[Judged] = []
        while self._by_pod and len(found) < number:
            for pod in list(self._by_pod):
                if len(found) < number:
                    of_pod = self._by_pod.pop(pod)
                    found.append(of_pod.popleft())
                    if of_pod:
                        # Behind the others, also in the next turn.
                        self._by_pod[pod] = of_pod
        self._size -= len(found)
        self._known.difference_update(one.connection.entry for one in found)
        return found

    def clear(self) -> None:
        self._by_pod.clear()
        self._known.clear()
        self._size = 0


class Errand(NamedTuple):
    """A look, and what makes it and hands its result on."""

    look: Look
    work: Callable[[], None]


@dataclass
class Look:
    """One look at the kernel's table, by the verdicts of a moment: no more than a hint afterwards.

    It may take long where many are denied, so what changes meanwhile is looked at in the middle of it.
    """

    kernel: Kernel
    verdicts: Verdicts
    bit: int
    own: frozenset[bytes] = frozenset()
    waiting: Waiting = field(default_factory=Waiting)
    more: bool = False
    """Whether there was no room for all that were found."""
    errands: deque[Errand] = field(default_factory=deque)
    """Looks for others, made in the middle of this one; put here by the thread that began it."""
    freed: list[Connection] = field(default_factory=list)
    cut: bool = False
    """Whether there is any connection that was cut."""
    _known: dict[tuple[bytes, bytes, int, int], PodId | None] = field(default_factory=dict)

    def search(self, ends: Collection[bytes]) -> None:
        """Find the connections of these ends that are denied and not cut yet. Raises ConntrackError."""
        # What was allowed a moment ago may not be tracked yet.
        self.kernel.settle()
        self.own = self.kernel.own()

        def wanted(source: bytes, destination: bytes, protocol: int, port: int) -> bool:
            if self.errands:
                self._run_errands()
            if source not in ends and destination not in ends:
                return False
            pod = self._denies((source, destination, protocol, port))
            if pod is None:
                return False
            full = self.waiting.is_full_for(pod)
            self.more = self.more or full
            return not full

        found = self.kernel.connections(self.bit, ends, wanted, self._run_errands)
        for one in self._judged(one for one in found if not one.marked):
            pod = self._denied(one)
            if pod is not None and self.waiting.put(pod, one) is not None:
                self.more = True

    def search_freed(self) -> None:
        """Find the connections that were cut and are allowed now. Raises ConntrackError."""
        self.own = self.kernel.own()

        def wanted(*sort: *tuple[bytes, bytes, int, int]) -> bool:
            if self.errands:
                self._run_errands()
            self.cut = True
            if self._denies(sort) is not None:
                return False
            full = len(self.freed) >= MOST
            self.more = self.more or full
            return not full

        self.freed += self.kernel.carrying(self.bit, wanted)

    def _run_errands(self) -> None:
        while self.errands:
            self.errands.popleft().work()

    def _judged(self, found: Iterable[Connection]) -> Iterator[Judged]:
        """Give each connection with what it is judged by; those of others at the end."""
        children: list[Connection] = []
        for one in found:
            if one.master is None:
                yield Judged(one, (sort_of(one),))
            else:
                children.append(one)
        masters = {one.master for one in children if one.master is not None}
        sorts = {one.opened: sort_of(one) for one in (self.kernel.opened(masters) if masters else ())}
        for one in children:
            if one.master is not None and (sort := sorts.get(one.master)) is not None:
                yield Judged(one, (sort_of(one), sort))

    def _denied(self, one: Judged) -> PodId | None:
        found = [self._denies(sort) for sort in one.sorts]
        return None if None in found else found[0]

    def _denies(self, sort: tuple[bytes, bytes, int, int]) -> PodId | None:
        if sort in self._known:
            return self._known[sort]
        if len(self._known) >= _JUDGED:
            self._known.clear()
        one = Sort(*sort)
        free = one.source in self.own or one.destination in self.own
        verdict = self._known[sort] = None if free else self.verdicts.denies(one)
        return verdict
