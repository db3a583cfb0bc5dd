"""Whose connections are to be looked at after a change, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.runtime.cut_look import MOST
from agent.runtime.cuts import SHOWN


@dataclass
class Scope:
    """Ends of connections, packed addresses, or all that are judged; ``causes`` are what changed."""

    ends: set[bytes] = field(default_factory=set)
    everything: bool = False
    causes: dict[str, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ends) or self.everything

    def add(self, other: Scope) -> None:
        self.ends |= other.ends
        self.everything = self.everything or other.everything
        add_causes(self.causes, other.causes)
        if len(self.ends) > MOST:
            self.ends, self.everything = set(), True


def add_causes(causes: dict[str, None], others: Iterable[str]) -> None:
    """Add some: they may have to wait for long, and are names that tenants choose."""
    room = max(0, SHOWN - len(causes))
    causes |= dict.fromkeys([one for one in others if one not in causes][:room])
