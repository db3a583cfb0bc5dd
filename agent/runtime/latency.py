"""How long changes take: from the moment an object's event arrives until the kernel holds what it changed."""

from __future__ import annotations

import datetime
import enum
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from agent.clock import Clock
from agent.histogram import SECONDS, Histogram
from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy, Pod
from agent.policy.lower.lowered import Delta
from agent.runtime.inbox import Arrival

MOST_OUTSTANDING = 1024
"""Steps that wait to be in the kernel and are kept apart; of more, the youngest are counted as the next."""


class Change(enum.StrEnum):
    """What kind of object changed."""

    POLICY = "policy"
    LOCAL_POD = "local_pod"
    REMOTE_POD = "remote_pod"
    NAMESPACE = "namespace"
    NODE = "node"


_CHANGES = {Kind.POLICY: Change.POLICY, Kind.NAMESPACE: Change.NAMESPACE, Kind.NODE: Change.NODE}


class Latency:
    """Observes, for each event that changed something on this node, how long that took.

    Steps whose work goes on, or failed and is tried again, are observed when everything is in the kernel.
    Used by the loop; any thread reads the histograms. Begin with :meth:`begin` once everything has been
    enforced for the first time: what is listed at the start says nothing of latency.
    """

    def __init__(self, node: str, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self.seconds = {change: Histogram(SECONDS) for change in Change}
        """From an event's arrival to the kernel."""
        self.created = Histogram(SECONDS)
        """From a policy's creationTimestamp to the kernel."""
        self._arrivals: deque[Arrival] = deque()
        self._since = 0.0
        self._known: set[Key] = set()
        """Policies created since the beginning that have been seen: what changes them is no creation."""
        self._outstanding: list[tuple[float, Change, int]] = []
        self._creations: list[float] = []

    @property
    def begun(self) -> bool:
        return self._since > 0.0

    def begin(self) -> None:
        """Observe from now on."""
        if not self.begun:
            self._since = self._clock.time()

    def take(self, arrivals: Iterable[Arrival]) -> None:
        """Take when the events arrived that the next steps are made of."""
        self._arrivals.clear()
        self._arrivals.extend(arrivals)

    def step(self, events: Sequence[Event], delta: Delta, here: frozenset[Key]) -> None:
        """Take note of a step, made of the next events in order.

        ``here``: pods that were on this node before it, of those that went. What changed nothing here is not
        observed. The rest is outstanding until :meth:`settle`.
        """
        arrived = self._arrived(len(events))
        if not self.begun or not events:
            return
        for event in events:
            if event.kind is Kind.POLICY:
                self._note_policy(event, changes=bool(delta))
        if not delta:
            return
        found: Counter[tuple[float, Change]] = Counter()
        at = iter(arrived)
        when, left = next(at)
        for event in events:
            while not left:
                when, left = next(at)
            left -= 1
            if isinstance(event, Synced):
                continue
            found[when, self._change(event, here)] += 1
        self._outstanding += [(when, change, times) for (when, change), times in found.items()]
        if len(self._outstanding) > MOST_OUTSTANDING:
            self._fold()

    def settle(self) -> None:
        """Observe what is outstanding: all of it is in the kernel now."""
        if not self._outstanding and not self._creations:
            return
        now, time = self._clock.monotonic(), self._clock.time()
        for when, change, times in self._outstanding:
            self.seconds[change].observe(max(0.0, now - when), times)
        for created in self._creations:
            self.created.observe(max(0.0, time - created))
        self._outstanding.clear()
        self._creations.clear()

    def _arrived(self, events: int) -> list[Arrival]:
        """Take the arrivals of so many events off those that are known."""
        found: list[Arrival] = []
        while events and self._arrivals:
            when, count = self._arrivals.popleft()
            taken = min(count, events)
            if taken < count:
                self._arrivals.appendleft(Arrival(when, count - taken))
            found.append(Arrival(when, taken))
            events -= taken
        if events:
            found.append(Arrival(self._clock.monotonic(), events))
        return found

    def _change(self, event: Event, here: frozenset[Key]) -> Change:
        if event.kind is not Kind.POD:
            return _CHANGES[event.kind]
        if isinstance(event, Upsert):
            local = isinstance(event.object, Pod) and event.object.node == self._node
        else:
            local = not isinstance(event, Synced) and event.key in here
        return Change.LOCAL_POD if local else Change.REMOTE_POD

    def _note_policy(self, event: Event, *, changes: bool) -> None:
        """Note a policy. Only the first event of one is its creation, even where that changes nothing."""
        if isinstance(event, Delete):
            self._known.discard(event.key)
        elif isinstance(event, Upsert) and isinstance(event.object, NetworkPolicy):
            created, key = _seconds(event.object.created), event.object.key
            # The timestamp has whole seconds.
            if created >= int(self._since) and key not in self._known:
                self._known.add(key)
                if changes:
                    self._creations.append(created)

    def _fold(self) -> None:
        """Let what is outstanding be fewer: the youngest count as having arrived together, with the first."""
        kept, rest = self._outstanding[: MOST_OUTSTANDING // 2], self._outstanding[MOST_OUTSTANDING // 2 :]
        when = min(when for when, _, _ in rest)
        folded: Counter[Change] = Counter()
        for _, change, times in rest:
            folded[change] += times
        self._outstanding = [*kept, *((when, change, times) for change, times in folded.items())]
        del self._creations[MOST_OUTSTANDING:]


def _seconds(created: str) -> float:
    """Return the seconds since 1970 of a creationTimestamp; 0.0 where there is none that can be read."""
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0
