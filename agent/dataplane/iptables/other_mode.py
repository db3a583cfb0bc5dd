"""What an earlier run left in the iptables mode that is not used any more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.iptables import cleanup
from agent.dataplane.iptables.access import Access, Elsewhere
from agent.dataplane.iptables.tables.readback import TablesReading
from agent.dataplane.iptables.variant import Mode
from agent.fault import Fault
from agent.kernel.ipset_shapes import SetContent
from agent.net import Family

PAUSE = 300.0
"""Seconds until what could not be removed is tried again."""


class OtherMode:
    """Our rules in the other mode. They are removed once those of the mode in use hold."""

    def __init__(
        self, used: Mode, families: Iterable[Family], access: Access, now: Callable[[], float]
    ) -> None:
        self._mode: Mode = "legacy" if used == "nft" else "nft"
        self._access = access
        self.faults: list[Fault] = []
        self._families = tuple(families)
        self._now = now
        self._clean = False
        self._again_at = float("-inf")

    def read(self) -> Elsewhere:
        """Read its tables. Safe to call on any thread."""
        return self._access.elsewhere(self._mode, self._families)

    def referred(self, reading: TablesReading, content: Mapping[str, SetContent]) -> frozenset[str]:
        """Return which of some sets our rules there may refer to."""
        if self._clean:
            return frozenset()
        return cleanup.sets_referred_to(reading.elsewhere, reading.elsewhere_errors, content)

    def remove(self) -> None:
        """Remove them; what cannot be is told, and tried rarely."""
        if self._clean or self._now() < self._again_at:
            return
        self.faults = self._access.remove(self._mode, self._families)
        self._clean = not self.faults
        self._again_at = self._now() + PAUSE
