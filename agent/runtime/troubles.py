"""What begins and ends while the agent runs: outages of sources, and faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from agent.fault import Fault
from agent.history.change import Subject, What
from agent.kube.model import Kind
from agent.sources.source import SyncState

MOST = 50
"""Faults that are told of at a time: a policy that is wrong in a hundred ways is one trouble."""


_NUMBERS = re.compile(r"\d+(\.\d+)?")


class Trouble(NamedTuple):
    """One that begins or ends. ``name``: of the kind of object, or what the fault is."""

    subject: Subject
    what: What
    name: str
    detail: tuple[str, ...] = ()


class Troubles:
    """Compares how things stand with how they stood."""

    def __init__(self) -> None:
        self._outage: dict[str, float] = {}
        self._faults: dict[str, Fault] = {}

    def look(
        self, states: Mapping[Kind, SyncState], faults: tuple[Fault, ...], now: float
    ) -> Iterator[Trouble]:
        """Yield what began or ended since the last look; ``now`` in ``time.time()`` seconds.

        An outage: what is known of a kind may not be what there is. It is told once the kind has been known.
        """
        for kind, state in states.items():
            behind = state.synced and not state.current
            if behind and kind.value not in self._outage:
                self._outage[kind.value] = state.last_contact or now
                yield Trouble(Subject.OUTAGE, What.BEGUN, kind.value, (state.fault,) if state.fault else ())
            elif not behind and kind.value in self._outage and state.synced:
                seconds = max(0.0, now - self._outage.pop(kind.value))
                yield Trouble(Subject.OUTAGE, What.ENDED, kind.value, (f"after {seconds:.0f} s",))
        # A number that changes in the text (of pods, of seconds) makes no other fault of it.
        present = {_NUMBERS.sub("#", fault.what): fault for fault in faults[:MOST]}
        if present.keys() == self._faults.keys():
            return
        for key, fault in self._faults.items():
            if key not in present:
                yield Trouble(Subject.FAULT, What.ENDED, fault.what)
        for key, fault in present.items():
            if key not in self._faults:
                yield Trouble(Subject.FAULT, What.BEGUN, fault.what, _told(fault))
        self._faults = {key: self._faults.get(key, fault) for key, fault in present.items()}


def _told(fault: Fault) -> tuple[str, ...]:
    return ((fault.remedy,) if fault.remedy else ()) + (
        ("it keeps the agent from being ready",) * fault.blocking
    )


Faults = Callable[[], tuple[Fault, ...]]
"""Returns what is wrong now."""
