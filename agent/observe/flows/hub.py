"""The last reports, and those that follow them live. For any thread; nothing here waits for a reader."""

from __future__ import annotations

import collections
import threading
from collections.abc import Iterator
from typing import NamedTuple

from agent.closing import Closing
from agent.dataplane.logged import Decided
from agent.observe.flows.flow import Flow, Report

KEPT = 1000
"""Reports that are kept."""
WAITING = 256
"""Reports that wait for one follower at most; what is more it does not get, and is told so."""


class Wanted(NamedTuple):
    """Which connections are asked for.

    ``pod`` is either end, ``policy`` one that isolates the pod: as ``namespace/name``. What was not logged is
    always told.
    """

    verdict: Decided | None = None
    pod: str = ""
    policy: str = ""

    def matches(self, report: Report) -> bool:
        """Whether a report is asked for."""
        if not isinstance(report, Flow):
            return True
        return (
            (self.verdict is None or report.verdict is self.verdict)
            and (not self.pod or self.pod in (report.pod, report.source.pod, report.destination.pod))
            and (not self.policy or self.policy in report.policies)
        )


ANY = Wanted()


class Follower(Closing):
    """One reader of what comes from now on. Leave it when done: it is a context manager."""

    def __init__(self, flows: Flows, wanted: Wanted) -> None:
        self.lost = 0
        """Reports that it was too slow for."""
        self._flows = flows
        self._wanted = wanted
        self._waiting: collections.deque[Report] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False

    def close(self) -> None:
        """Follow no longer; who waits in :meth:`take` is woken."""
        self._flows.leave(self)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, report: Report) -> None:
        """Be told of a report."""
        if not self._wanted.matches(report):
            return
        with self._changed:
            if len(self._waiting) >= WAITING:
                self.lost += 1
                return
            self._waiting.append(report)
            self._changed.notify_all()

    def take(self, seconds: float) -> list[Report]:
        """Return what has come, after waiting at most so many seconds for the first; then nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, seconds)
            found = list(self._waiting)
            self._waiting.clear()
            return found


class Flows:
    """What was reported lately, and who follows it."""

    def __init__(self, kept: int = KEPT) -> None:
        self._lock = threading.Lock()
        self._recent: collections.deque[Report] = collections.deque(maxlen=kept)
        self._followers: tuple[Follower, ...] = ()
        self.denied = 0
        """Packets that were reported as denied since the start."""
        self.would_deny = 0
        """The same of those that audited policies would deny."""
        self.allowed = 0
        """The same of allowed ones."""
        self.unlogged = 0
        """Packets that are known to have been left out."""

    def put(self, report: Report) -> None:
        """Keep a report, and tell it to all who follow."""
        with self._lock:
            self._recent.append(report)
            if not isinstance(report, Flow):
                self.unlogged += report.packets
            elif report.verdict is Decided.DENIED:
                self.denied += report.count
            elif report.verdict is Decided.WOULD_DENY:
                self.would_deny += report.count
            else:
                self.allowed += report.count
            followers = self._followers
        for follower in followers:
            follower.put(report)

    def recent(self, most: int = KEPT, wanted: Wanted = ANY) -> list[Report]:
        """Return the last reports that are asked for, the oldest first."""
        with self._lock:
            reports = list(self._recent)
        found = [report for report in reports if wanted.matches(report)]
        return found[max(0, len(found) - most) :]

    def follow(self, wanted: Wanted = ANY) -> Follower:
        """Return a reader of what is reported from now on."""
        follower = Follower(self, wanted)
        with self._lock:
            self._followers = (*self._followers, follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Tell a follower nothing more."""
        with self._lock:
            self._followers = tuple(one for one in self._followers if one is not follower)

    def close(self) -> None:
        """Let go of all who follow."""
        for follower in self._followers:
            follower.close()

    def __iter__(self) -> Iterator[Report]:
        return iter(self.recent())
