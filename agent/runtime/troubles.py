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

API_SERVER = "API server"
"""Whose outages there are."""

_NUMBERS = re.compile(r"\d+(\.\d+)?")


class Trouble(NamedTuple):
    """One that begins or ends. ``name``: whose outage it is, or what the fault is."""

    subject: Subject
    what: What
    name: str
    detail: tuple[str, ...] = ()


class Troubles:
    """Compares how things stand with how they stood."""

    def __init__(self) -> None:
        self._behind: set[str] = set()
        self._missed: set[str] = set()
        self._since = 0.0
        self._faults: dict[str, Fault] = {}

    def look(
        self, states: Mapping[Kind, SyncState], faults: tuple[Fault, ...], now: float
    ) -> Iterator[Trouble]:
        """Yield what began or ended since the last look; ``now`` in ``time.time()`` seconds.

        An outage: what is known of a kind may not be what there is. A kind counts once it has been known. An
        outage begins with the first kind and ends with the last: a server that is away is away for all.
        """
        yield from self._outage({kind: state for kind, state in states.items() if state.synced}, now)
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

    def _outage(self, states: Mapping[Kind, SyncState], now: float) -> Iterator[Trouble]:
        before = bool(self._behind)
        behind = {kind: state for kind, state in states.items() if not state.current}
        self._behind = {kind.value for kind in behind} | (self._behind - {kind.value for kind in states})
        self._missed |= self._behind
        kinds = f"not read: {', '.join(sorted(self._missed))}"
        if self._behind and not before:
            self._since = min(state.last_contact or now for state in behind.values())
            faults = dict.fromkeys(state.fault for state in behind.values() if state.fault)
            yield Trouble(Subject.OUTAGE, What.BEGUN, API_SERVER, (kinds, *faults))
        elif before and not self._behind:
            seconds = max(0.0, now - self._since)
            yield Trouble(Subject.OUTAGE, What.ENDED, API_SERVER, (f"after {seconds:.0f} s", kinds))
            self._missed = set()


def _told(fault: Fault) -> tuple[str, ...]:
    return ((fault.remedy,) if fault.remedy else ()) + (
        ("it keeps the agent from being ready",) * fault.blocking
    )


Faults = Callable[[], tuple[Fault, ...]]
"""Returns what is wrong now."""
