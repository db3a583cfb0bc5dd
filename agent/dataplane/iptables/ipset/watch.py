"""Whether every set holds the members that it should, though a node's sets may hold a million.

How many members a set has comes with its header; which they are takes reading it. The kernel tells the same
set in the same words again, so a digest of these words is compared with that of the last time that the set
was found right: a tenth of the work of decoding them. What differs is decoded and compared with the program.
A digest may differ where the members do not, since the kernel moves them when a set grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from agent.dataplane.backend import SetsFound
from agent.dataplane.differences import Difference, What
from agent.dataplane.iptables.ipset.set_table import SetTable
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.net import AddressPort, Member, address_text
from agent.words import count

MOST_MEMBERS = 20_000
"""How many members one look decodes at most, but for the last set begun: 10 ms, and 3 MB until compared."""
OVERTAKEN = 3
"""How often a set may be written by this agent while it is read, before the agent waits for the reading."""
_SHOWN = 3

Wanted = Mapping[str, Callable[[], Iterable[Member]]]
"""What sets should hold, by their names."""


class _Seen(NamedTuple):
    """A set as it was read: the number of its last write, and its members if the digest was new.

    ``failed``: it could not be read, which is a difference (``unread``) unless the set is gone. The error
    itself is not kept: its frames would keep the reading, and the reading the error.
    """

    version: int
    digest: bytes = b""
    members: set[Member] | None = None
    failed: bool = False
    unread: Difference | None = None


class SetsReading:
    """Reads sets, and decodes those whose digest is not as it was when they were right.

    ``right``: these digests, each with the number of the set's last write then. ``version`` says that number.
    """

    def __init__(
        self,
        names: Iterable[str],
        right: Mapping[str, tuple[int, bytes]],
        version: Callable[[str], int],
        open_sets: Callable[[], IpSets],
    ) -> None:
        self.seconds = 0.0
        self.found: dict[str, _Seen] = {}
        self._names = tuple(names)
        self._right = right
        self._version = version
        self._open = open_sets

    def run(self) -> None:
        """Read, on any thread; nothing is raised here."""
        started = time.perf_counter()
        decoded = 0
        try:
            with self._open() as ipsets:
                for name in self._names:
                    seen = self.found[name] = self._read(ipsets, name)
                    decoded += len(seen.members or ())
                    if decoded >= MOST_MEMBERS:
                        break
        except OSError:
            pass  # No socket: what was not read is read the next time.
        self.seconds = time.perf_counter() - started

    def _read(self, ipsets: IpSets, name: str) -> _Seen:
        version = self._version(name)
        try:
            digest = ipsets.digest(name)
            if self._right.get(name) == (version, digest):
                return _Seen(version, digest)
            content, digest = ipsets.content_and_digest(name)
        except SetError as error:
            return _Seen(version, failed=True, unread=_unread(name, error))
        return _Seen(version, digest, content.members)


class SetWatch:
    """Remembers which sets were right when, and which are still to be read in this round.

    A round is over when each set was found right or wrong; it takes several looks where much is to be
    decoded. ``read`` returns a set's members and raises SetError.
    """

    def __init__(
        self, table: SetTable, open_sets: Callable[[], IpSets], read: Callable[[str], set[Member]]
    ) -> None:
        self._table = table
        self._open = open_sets
        self._read = read
        self._right: dict[str, tuple[int, bytes]] = {}
        self._todo: dict[str, int] = {}
        """The sets that are still to be read, and how often each was overtaken by a write."""

    def begin(self, wanted: Iterable[str]) -> SetsReading:
        """Begin a look at the sets of this round, or at all where a new one begins."""
        if not self._todo:
            self._todo = dict.fromkeys(wanted, 0)
            self._right = {name: right for name, right in self._right.items() if name in self._todo}
        return SetsReading(self._todo, dict(self._right), self._table.version, self._open)

    def compare(self, reading: SetsReading, wanted: Wanted) -> SetsFound:
        """Compare what was read with what sets should hold; those not named there are needed no more."""
        found: list[Difference] = []
        for name, seen in reading.found.items():
            overtaken = self._todo.pop(name, 0)
            if name not in wanted:
                continue
            if seen.version != self._table.version(name):
                if overtaken < OVERTAKEN:
                    self._todo[name] = overtaken + 1
                    continue
                seen = self._afresh(name)
            if (difference := self._compared(name, seen, wanted[name])) is not None:
                found.append(difference)
        return SetsFound(found, unfinished=bool(self._todo))

    def _afresh(self, name: str) -> _Seen:
        """Read a set here and now, while nothing is written."""
        try:
            return _Seen(-1, members=self._read(name))
        except SetError as error:
            return _Seen(-1, failed=True, unread=_unread(name, error))

    def _compared(self, name: str, seen: _Seen, wanted: Callable[[], Iterable[Member]]) -> Difference | None:
        if seen.failed:
            return seen.unread
        if seen.members is None:
            return None
        difference = compared(name, seen.members, wanted())
        if difference is None and seen.digest:
            self._right[name] = seen.version, seen.digest
        return difference


def all_compared(wanted: Wanted, read: Callable[[str], set[Member]]) -> list[Difference]:
    """Read sets here and now, and compare them with what they should hold."""
    found = []
    for name, expected in wanted.items():
        try:
            found.append(compared(name, read(name), expected()))
        except SetError as error:
            found.append(_unread(name, error))
    return [difference for difference in found if difference is not None]


def compared(name: str, held: set[Member], wanted: Iterable[Member]) -> Difference | None:
    """Return how a set differs from what it should hold; None if it does not."""
    expected = wanted if isinstance(wanted, set | frozenset) else set(wanted)
    if held == expected:
        return None
    lacking, surplus = expected - held, held - expected
    parts = [f"lacks {count(len(lacking), 'member')}{_examples(lacking)}"] if lacking else []
    if surplus:
        parts.append(f"has {count(len(surplus), 'member')} too many{_examples(surplus)}")
    return Difference(What.SET_MEMBERS, name=name, detail=" and ".join(parts))


def _unread(name: str, error: SetError) -> Difference | None:
    # One that is gone is told by who compares the headers.
    return None if error.missing else Difference(What.SET_UNREAD, name=name, detail=str(error))


def _examples(members: Iterable[Member]) -> str:
    shown = sorted(map(_text, members))
    return f" ({', '.join(shown[:_SHOWN])}{', ...' if len(shown) > _SHOWN else ''})"


def _text(member: Member) -> str:
    if isinstance(member, bytes):
        return address_text(member)
    if isinstance(member, AddressPort):
        return f"{address_text(member.address)} {member.protocol} {member.port}"
    return str(member.network)
