"""A scenario: one promise of docs/guarantees.md, a fault, and what became of the packets meanwhile."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.judge import Report

_PATIENCE_SECONDS = 20.0


class Length(enum.Enum):
    """How much of a scenario runs: ``SHORT`` in ``make test``, ``LONG`` in ``make chaos``."""

    SHORT = "short"
    LONG = "long"

    def within(self, seconds: float) -> float:
        """Return how long a promised time may take: in ``make test`` longer, since four tests run at once."""
        return seconds if self is Length.LONG else max(seconds, _PATIENCE_SECONDS)


@dataclass(frozen=True)
class Outcome:
    """What a scenario has shown.

    ``flows``: new flows that the probe has sent. ``wrong``: those that got the wrong verdict. ``in_time``:
    those that got it while the promise allows that, and ``took``: the seconds until the last of them.
    ``held_back``: flows of pods that were closed until the kernel had taken their rules. ``note``: what was
    done and measured, in a few words. ``broken``: how the promise was broken, a line each.
    """

    flows: int = 0
    wrong: int = 0
    in_time: int = 0
    took: float = 0.0
    held_back: int = 0
    note: str = ""
    broken: tuple[str, ...] = ()

    @classmethod
    def of(cls, *reports: Report, note: str = "", broken: tuple[str, ...] = ()) -> Outcome:
        """Return the outcome of what probes have seen, and of what else was found broken."""
        excused = sum(report.excused for report in reports)
        lost = f"{excused} lost while the machine dropped packets" if excused else ""
        return cls(
            flows=sum(report.flows for report in reports),
            wrong=sum(report.wrong for report in reports),
            in_time=sum(report.in_time for report in reports),
            took=max((report.took for report in reports), default=0.0),
            held_back=sum(report.held_back for report in reports),
            note="; ".join(filter(None, (note, lost))),
            broken=(*broken, *(line for report in reports for line in report.told())),
        )


@dataclass(frozen=True)
class Scenario:
    """``promise``: its number in docs/guarantees.md, as text. ``seconds``: what the long form takes, about.

    ``run`` makes its own lab and removes it. It raises AssertionError where the promise is broken in a way
    that no packet shows, and any other error where nothing could be shown. It is called from the main thread
    of a process. ``short``: ``make test`` runs its short form, too. ``also``: other promises that it shows.
    ``alone``: nothing else is to run beside it, since it measures processor time.
    """

    promise: str
    name: str
    run: Callable[[Length], Outcome]
    seconds: float
    short: bool = False
    also: tuple[str, ...] = ()
    alone: bool = False

    @property
    def title(self) -> str:
        return f"{self.promise} {self.name}"
