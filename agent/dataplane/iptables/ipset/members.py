"""Whether sets hold the members that they should: looked at in turn, a few each time.

How many members a set has comes with its header; which they are takes reading it, and a node's sets may hold
a million. One member put in another's place is found when its set's turn comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.differences import Difference, What
from agent.kernel.ipset_errors import SetError
from agent.net import AddressPort, Member, address_text
from agent.words import count

SECONDS = 0.01
"""How long one look takes at most, but for the last set begun within it."""
_SHOWN = 3

Members = Iterable[Member]


class SpotCheck:
    """Remembers where the last look ended. ``read`` returns a set's members and raises SetError."""

    def __init__(
        self, read: Callable[[str], set[Member]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._read = read
        self._clock = clock
        self._last = ""

    def compare(
        self,
        always: Mapping[str, Callable[[], Members]],
        others: Mapping[str, Callable[[], Members]],
    ) -> list[Difference]:
        """Compare sets with what they should hold: the first ones, and at least one of the others."""
        found = [self._compared(name, wanted) for name, wanted in always.items()]
        end = self._clock() + SECONDS
        turn = sorted(others, key=lambda name: (name <= self._last, name))
        for name in turn:
            found.append(self._compared(name, others[name]))
            self._last = name
            if self._clock() >= end:
                break
        return [difference for difference in found if difference is not None]

    def _compared(self, name: str, wanted: Callable[[], Members]) -> Difference | None:
        try:
            held = self._read(name)
        except SetError as error:
            # One that is gone is told by who compares the headers.
            return None if error.missing else Difference(What.SET_UNREAD, name=name, detail=str(error))
        expected = set(wanted())
        if held == expected:
            return None
        lacking, surplus = expected - held, held - expected
        parts = [f"lacks {count(len(lacking), 'member')}{_examples(lacking)}"] if lacking else []
        if surplus:
            parts.append(f"has {count(len(surplus), 'member')} too many{_examples(surplus)}")
        return Difference(What.SET_MEMBERS, name=name, detail=" and ".join(parts))


def _examples(members: set[Member]) -> str:
    shown = sorted(map(_text, members))
    return f" ({', '.join(shown[:_SHOWN])}{', ...' if len(shown) > _SHOWN else ''})"


def _text(member: Member) -> str:
    if isinstance(member, bytes):
        return address_text(member)
    if isinstance(member, AddressPort):
        return f"{address_text(member.address)} {member.protocol} {member.port}"
    return str(member.network)
