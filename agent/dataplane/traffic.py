"""What rules have counted: packets and bytes that were denied and allowed, added up over the agent's life.

The kernel counts for each rule, and forgets a rule's count when the rule is written anew. So what a reading
shows is added to totals here: of a rule that was seen before, what it has counted since; of one that has
begun anew, all that it shows. What a rule counted between the last reading and its end is lost, so the totals
are at least what the frequency of reading makes them, and never too large.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from agent.clock import AT_ONCE, Clock

CACHED_SECONDS = 1.0
"""A second reading within so long is answered with the first."""
GONE_SECONDS = 600.0
"""How long totals are kept after the last rule that counted for them."""


class Told(enum.Enum):
    """What a rule that counts says of a packet."""

    DENIED = enum.auto()
    """No policy of a pod allows it."""
    ALLOWED = enum.auto()
    """A policy of a pod allows it, or it is from the pod to itself."""
    BY_POLICY = enum.auto()
    """A rule of one policy allows it, for whatever pod."""
    WOULD_DENY = enum.auto()
    """It passes, and no audited policy of a pod would allow it."""
    UNKNOWN = enum.auto()
    """It has an address of this node's pods that no pod is known to have."""
    WRONG_LINK = enum.auto()
    """Its address is not one of the pod whose link it came by, or was to leave by."""


class Subject(NamedTuple):
    """What is counted together.

    ``direction`` is ``ingress`` or ``egress``, and empty for a wrong link. ``namespace`` is that of the pods,
    or of the policy; empty where no pod has the address. ``policy`` is a name where one policy is meant.
    """

    told: Told
    direction: str
    namespace: str
    policy: str = ""


class Amount(NamedTuple):
    """Packets, and the bytes in them, IP headers included."""

    packets: int
    bytes: int

    def plus(self, other: Amount) -> Amount:
        return Amount(self.packets + other.packets, self.bytes + other.bytes)

    def since(self, before: Amount) -> Amount:
        """Return what has been added, where the count has gone on; all of it where it has begun anew."""
        if self.packets < before.packets or self.bytes < before.bytes:
            return self
        return Amount(self.packets - before.packets, self.bytes - before.bytes)


NOTHING = Amount(0, 0)


class RuleCount(NamedTuple):
    """What one rule shows. ``rule`` is a hash of where it is and of its text."""

    rule: int
    subject: Subject
    amount: Amount


class Traffic(NamedTuple):
    """The totals, how long the last reading took, and how many have failed.

    ``fault``: why the last one failed, else empty.
    """

    totals: Mapping[Subject, Amount] = MappingProxyType({})
    seconds: float = 0.0
    failures: int = 0
    fault: str = ""


NO_TRAFFIC = Traffic()


class Meter:
    """Adds up readings of the kernel's counters. For any thread; one reads at a time.

    ``read`` reads every rule that counts, on the thread that asks. Where it raises OSError the reading has
    failed, and the totals stay.
    """

    def __init__(self, read: Callable[[], Iterable[RuleCount]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._at = AT_ONCE
        self._counted: dict[int, Amount] = {}
        self._totals: dict[Subject, Amount] = {}
        self._seen: dict[Subject, float] = {}
        self._last = Traffic()

    def take(self) -> Traffic:
        """Return the totals of now, or of a second ago at most."""
        with self._lock:
            began = self._clock.monotonic()
            if began - self._at < CACHED_SECONDS:
                return self._last
            try:
                self._add(self._read(), began)
            except OSError as error:
                self._last = self._last._replace(failures=self._last.failures + 1, fault=str(error))
            else:
                self._last = self._last._replace(totals=MappingProxyType(dict(self._totals)), fault="")
            self._at = self._clock.monotonic()
            self._last = self._last._replace(seconds=self._at - began)
            return self._last

    def _add(self, counts: Iterable[RuleCount], now: float) -> None:
        found: dict[int, RuleCount] = {}
        for one in counts:
            # A rule that is there twice counts twice.
            known = found.get(one.rule)
            found[one.rule] = one if known is None else one._replace(amount=one.amount.plus(known.amount))
        for rule, (_, subject, amount) in found.items():
            self._seen[subject] = now
            more = amount.since(self._counted.get(rule, NOTHING))
            self._totals[subject] = self._totals.get(subject, NOTHING).plus(more)
        # Most rules have counted nothing.
        self._counted = {rule: one.amount for rule, one in found.items() if one.amount.packets}
        for subject in [s for s, seen in self._seen.items() if now - seen > GONE_SECONDS]:
            del self._seen[subject], self._totals[subject]
