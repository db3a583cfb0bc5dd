"""Events that have come and are not compiled yet: which of them are next, so that no tenant's wait long."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy, Pod
from agent.net import Direction
from agent.runtime.inbox import Arrival

FAR, NEAR = 200, 50
"""As many events of pods of other nodes, and of all else, are compiled between two looks at what has come.

Either takes some 10 ms.
"""
_PEERS_OF_AN_EVENT = 50
"""So many peers of a policy count as one more event."""


class Batch(NamedTuple):
    """Events that are compiled together, in the order in which they came, and when they came."""

    events: list[Event]
    arrivals: list[Arrival]


class _Waiting(NamedTuple):
    number: int
    weight: int
    at: float
    event: Event
    pod: Key | None = None
    """The pod that it is about, if any."""


class _Lanes:
    """Events, of which each namespace has a lane of its own. The lanes take turns."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[_Waiting]] = {}
        """The lane that is next comes first."""
        self._pods: Counter[Key] = Counter()
        """Of how many events each pod is what they are about."""
        self._weight = 0

    def put(self, lane: str, waiting: _Waiting) -> None:
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = deque()
        found.append(waiting)
        self._weight += waiting.weight
        if waiting.pod is not None:
            self._pods[waiting.pod] += 1

    def take(self, most: int | None) -> list[_Waiting]:
        """Take one at least, where there are any, of about so much weight; None: all of them."""
        taken: list[_Waiting] = []
        if most is None or self._weight <= most:
            for lane in self._lanes.values():
                taken += lane
            self._lanes.clear()
            self._pods.clear()
            self._weight = 0
        spent = 0
        while self._lanes and most is not None and spent < most:
            name, lane = next(iter(self._lanes.items()))
            del self._lanes[name]
            waiting = lane.popleft()
            if lane:
                self._lanes[name] = lane
            taken.append(waiting)
            spent += waiting.weight
            self._taken(waiting)
        taken.sort(key=_number)
        return taken

    def withdraw(self, lane: str, pod: Key) -> list[_Waiting]:
        """Take all that is about one pod."""
        if pod not in self._pods:
            return []
        found = self._lanes[lane]
        withdrawn = [waiting for waiting in found if waiting.pod == pod]
        for waiting in withdrawn:
            found.remove(waiting)
            self._taken(waiting)
        if not found:
            del self._lanes[lane]
        return withdrawn

    def _taken(self, waiting: _Waiting) -> None:
        self._weight -= waiting.weight
        if waiting.pod is not None:
            self._pods[waiting.pod] -= 1
            if not self._pods[waiting.pod]:
                del self._pods[waiting.pod]

    def has(self, pod: Key) -> bool:
        """Whether an event is about a pod."""
        return pod in self._pods

    def __contains__(self, lane: str) -> bool:
        return lane in self._lanes

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __bool__(self) -> bool:
        return bool(self._lanes)


class Backlog:
    """Events in two parts: those of pods of other nodes, which change members of sets alone, and all others.

    The first part comes first: so a pod that is no peer any more waits for no policy to be compiled. In both
    parts each namespace has its turn, so that no tenant's events are behind another's. What happens to an
    object stays in order; so does all of one namespace in the second part: a pod of this node never comes
    before a policy that was told before it and isolates it. What happens to objects of different kinds, or in
    different namespaces, is told by watches that know nothing of each other, and the program does not depend
    on its order.

    The marks that all of a kind has been told come after all else.
    """

    def __init__(self, node: str, is_here: Callable[[Key], bool]) -> None:
        """``is_here`` says of a pod that is known whether it is on this ``node``."""
        self._node = node
        self._is_here = is_here
        self._far, self._near = _Lanes(), _Lanes()
        self._marks: list[_Waiting] = []
        self._number = 0

    def put(self, events: Sequence[Event], arrivals: Sequence[Arrival], now: float) -> None:
        """Take events in; ``arrivals``: when they came, ``now`` where that does not say."""
        times = _times(arrivals)
        for event in events:
            self._number += 1
            waiting = _Waiting(self._number, _weight(event), next(times, now), event)
            if isinstance(event, Synced):
                self._marks.append(waiting)
                continue
            key = event.object.key if isinstance(event, Upsert) else event.key
            if event.kind is not Kind.POD:
                self._near.put(key.name if event.kind is Kind.NAMESPACE else key.namespace, waiting)
            elif self._near.has(key) or not is_far(event, self._is_here, self._node):
                # What was told of it before it came here stays before that.
                for one in (*self._far.withdraw(key.namespace, key), waiting._replace(pod=key)):
                    self._near.put(key.namespace, one)
            else:
                self._far.put(key.namespace, waiting._replace(pod=key))

    def take_far(self, most: int | None = FAR) -> Batch:
        """Return which of the first part are next; ``most``: None: all."""
        return _batch(self._far.take(most))

    def take_near(self, most: int | None = NEAR) -> Batch:
        """Return which of the second part are next, and marks where nothing else is left; None: all."""
        taken = self._near.take(most)
        if not self._far and not self._near:
            taken += self._marks
            self._marks = []
        return _batch(taken)

    @property
    def far(self) -> bool:
        """Whether any of the first part wait."""
        return bool(self._far)

    @property
    def near(self) -> bool:
        """Whether any of the second part wait, or marks that could be taken."""
        return bool(self._near) or (bool(self._marks) and not self._far)

    def waits_in(self, namespace: str) -> bool:
        """Whether an event waits on which the verdicts of a namespace's pods depend, peers aside."""
        return namespace in self._near

    def __len__(self) -> int:
        return len(self._far) + len(self._near) + len(self._marks)


def ended_by(batch: Batch, is_last: Callable[[Event], bool]) -> list[Batch]:
    """Divide a batch after each event that is to be the last of one; one batch at least."""
    found: list[list[_Waiting]] = [[]]
    for at, event in zip(_times(batch.arrivals), batch.events, strict=True):
        found[-1].append(_Waiting(0, 0, at, event))
        if is_last(event):
            found.append([])
    return [_batch(part) for part in found if part] or [batch]


def is_far(event: Event, is_here: Callable[[Key], bool], node: str) -> bool:
    """Whether an event is about a pod of another node."""
    if isinstance(event, Upsert):
        found = event.object
        return isinstance(found, Pod) and found.node != node and not is_here(found.key)
    return isinstance(event, Delete) and event.kind is Kind.POD and not is_here(event.key)


def _number(waiting: _Waiting) -> int:
    return waiting.number


def _weight(event: Event) -> int:
    if not isinstance(event, Upsert) or not isinstance(event.object, NetworkPolicy):
        return 1
    rules = (event.object.rules(direction) or () for direction in Direction)
    return 1 + sum(len(rule.peers or ()) for each in rules for rule in each) // _PEERS_OF_AN_EVENT


def _times(arrivals: Iterable[Arrival]) -> Iterator[float]:
    for at, events in arrivals:
        for _ in range(events):
            yield at


def _batch(taken: Iterable[_Waiting]) -> Batch:
    batch = Batch([], [])
    for _, _, at, event, _ in taken:
        batch.events.append(event)
        if batch.arrivals and batch.arrivals[-1].at == at:
            batch.arrivals[-1] = Arrival(at, batch.arrivals[-1].events + 1)
        else:
            batch.arrivals.append(Arrival(at, 1))
    return batch
