"""From what a probe has sent and received to a verdict: which flows were wrong, when, and for how long."""

from __future__ import annotations

import bisect
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field


class Expected(enum.Enum):
    """What has to become of a new flow. ``EITHER``: while a change is on its way."""

    ALLOWED = "allowed"
    DENIED = "denied"
    EITHER = "either"


@dataclass(frozen=True)
class Since:
    """From the packet of this number on, a lane's flows have to end so."""

    number: int
    expected: Expected


@dataclass(frozen=True)
class Allowance:
    """A fault at ``began``: until ``ends`` (monotonic seconds) wrong flows are within the promise."""

    began: float
    ends: float


@dataclass(frozen=True)
class Record:
    """All that a probe knows. Packet ``n`` belongs to lane ``n % lanes``.

    ``times``: monotonic seconds when each was sent. ``arrived``: 1 for each that arrived, 2 for each that the
    sender's own kernel did not take for another reason than a rule. ``drops``: the times (from, to) between
    which the machine itself has dropped packets of any namespace, because a queue of a processor was full.
    ``closed``: for each lane the times between which the agent had closed a pod of it, as its set says.
    """

    lanes: int
    times: Sequence[float]
    arrived: bytes | bytearray
    drops: Sequence[tuple[float, float]] = ()
    closed: Sequence[Sequence[tuple[float, float]]] = ()


@dataclass(frozen=True)
class Tally:
    """One lane. ``wrong``: seconds from the probe's start at which each wrong flow began.

    ``longest``: the longest time in which all flows were wrong, to the next right one. ``excused``: flows
    that had to pass and were lost while the machine itself dropped packets. ``in_time``: wrong flows within
    an :class:`Allowance`, and ``took``: the seconds from the fault to the last of them. ``held_back``: flows
    that had to pass and did not, since a pod was closed until the kernel had taken its rules.
    """

    lane: str
    sent: int
    wrong: tuple[float, ...] = ()
    longest: float = 0.0
    excused: int = 0
    in_time: int = 0
    took: float = 0.0
    held_back: int = 0

    def told(self) -> str:
        """Say for people what was wrong."""
        first, last = self.wrong[0], self.wrong[-1]
        return (
            f"{self.lane}: {len(self.wrong):,} of {self.sent:,} flows wrong, the first at {first:.3f} s, "
            f"the last at {last:.3f} s, at most {self.longest:.3f} s long"
        )


@dataclass(frozen=True)
class Report:
    """All lanes of a probe, over ``seconds``."""

    seconds: float
    tallies: tuple[Tally, ...] = field(default=())

    @property
    def flows(self) -> int:
        return sum(tally.sent for tally in self.tallies)

    @property
    def rate(self) -> float:
        """New flows a second."""
        return self.flows / self.seconds if self.seconds else 0.0

    @property
    def wrong(self) -> int:
        return sum(len(tally.wrong) for tally in self.tallies)

    @property
    def in_time(self) -> int:
        return sum(tally.in_time for tally in self.tallies)

    @property
    def took(self) -> float:
        return max((tally.took for tally in self.tallies), default=0.0)

    @property
    def excused(self) -> int:
        return sum(tally.excused for tally in self.tallies)

    @property
    def held_back(self) -> int:
        return sum(tally.held_back for tally in self.tallies)

    def told(self) -> list[str]:
        """Say for people what was wrong, a line for each lane."""
        return [tally.told() for tally in self.tallies if tally.wrong]


# A packet that is lost in a processor's queue may have been sent a moment before that is counted.
_AROUND_SECONDS = 0.1


def judge(
    record: Record,
    lanes: Sequence[str],
    expected: Sequence[Sequence[Since]],
    allowances: Sequence[Allowance] = (),
) -> Report:
    """Return who was wrong. ``expected``: for each lane what holds from which packet on, in their order."""
    if not record.times:
        return Report(0.0, tuple(Tally(lane, 0) for lane in lanes))
    began = record.times[0]
    tallies = tuple(
        _tally(record, number, lane, since, allowances)
        for number, (lane, since) in enumerate(zip(lanes, expected, strict=True))
    )
    return Report(record.times[-1] - began, tallies)


def _tally(
    record: Record, lane: int, name: str, since: Sequence[Since], allowances: Sequence[Allowance]
) -> Tally:
    began = record.times[0]
    wrong: list[float] = []
    excused = in_time = held_back = sent = 0
    closed = record.closed[lane] if record.closed else ()
    took = longest = 0.0
    run: float | None = None
    starts = [entry.number for entry in since]
    for number in range(lane, len(record.times), record.lanes):
        at, arrived = record.times[number], record.arrived[number]
        if arrived == 2:
            continue
        sent += 1
        holds = since[bisect.bisect_right(starts, number) - 1].expected
        right = holds is Expected.EITHER or (holds is Expected.ALLOWED) == bool(arrived)
        if right:
            if run is not None:
                longest, run = max(longest, at - run), None
            continue
        if holds is Expected.ALLOWED and any(a <= at <= b for a, b in closed):
            held_back += 1
            continue
        if holds is Expected.ALLOWED and _dropped_by_the_machine(record, at):
            excused += 1
            continue
        allowed = [a for a in allowances if a.began <= at <= a.ends]
        if allowed:
            in_time += 1
            took = max(took, at - max(a.began for a in allowed))
            continue
        wrong.append(at - began)
        run = at if run is None else run
    if run is not None:
        longest = max(longest, record.times[-1] - run)
    return Tally(name, sent, tuple(wrong), longest, excused, in_time, took, held_back)


def _dropped_by_the_machine(record: Record, at: float) -> bool:
    return any(a - _AROUND_SECONDS <= at <= b + _AROUND_SECONDS for a, b in record.drops)
