"""The rules of the table for frames that carry one thing, with each comparison numbered by the part it is of.

Whatever two values of a part are told apart by none of the comparisons, no rule tells apart, and neither does
the specification: so of each part a few values stand for all that there are (:class:`Values`).
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.proof.frames import header
from agent.proof.frames.allowed import ASKED, OWN, Asked
from agent.proof.frames.header import Context, Layout, Place, Sort
from agent.proof.frames.lines import INDEX, NAME, Line, Source, Test
from agent.proof.frames.reading import FrameReading
from agent.proof.frames.senders import Own
from agent.proof.frames.values import values


class Asks(enum.Enum):
    """What a rule asks for: something known here, of the link, of the frame, or that it does not have."""

    KNOWN = enum.auto()
    OF_LINK = enum.auto()
    OF_FRAME = enum.auto()
    ABSENT = enum.auto()
    UNREAD = enum.auto()


class Ask(NamedTuple):
    """A test of a rule. ``number`` is that of the comparison, of the link or of the part."""

    asks: Asks
    holds: bool = False
    part: Source = header.HARDWARE
    number: int = 0
    negated: bool = False
    whole: bool = False
    """It is asked behind an IPv4 header, which has to be whole."""


class Step(NamedTuple):
    """A rule."""

    asks: tuple[Ask, ...]
    line: Line


class _Bits(NamedTuple):
    mask: int
    value: int


class _InSet(NamedTuple):
    """A set, and what stands before the part's value in its keys: of the link, where it is no bytes."""

    name: str
    before: tuple[Source | bytes, ...]


class _IsOwn(NamedTuple):
    field: str


Signature = tuple[bool, ...]
"""How the comparisons of a part turn out."""
Values = Mapping[Signature, int]


class Program:
    """All chains, for one context; of which links it is asked is known before."""

    def __init__(self, context: Context, reading: FrameReading, owns: Iterable[Own]) -> None:
        self.context = context
        self._layout = Layout(context)
        self._sets = reading.sets
        self._of_part: dict[Source, list[_Bits | _InSet | _IsOwn]] = {}
        self._of_link: dict[tuple[Source, _Bits], int] = {}
        self._indexes: dict[tuple[str, int], dict[bytes, frozenset[int]]] = {}
        self._members: dict[Source, tuple[tuple[Signature, int], ...]] = {}
        self._owns = tuple(owns)
        self.asked = {asked: self._numbered(asked) for asked in ASKED}
        self.own = {
            part: Ask(Asks.OF_FRAME, part=part, number=self._number(part, _IsOwn(field)))
            for part, field in OWN.items()
        }
        self.chains = {chain: tuple(map(self._step, lines)) for chain, lines in reading.chains.items()}
        self.may_be = self._layout.may_be
        self._asked_of_link = tuple(self._of_link)
        hooked = {chain.name for chain in reading.hooked}
        self.of_links = tuple(
            ask
            for chain, steps in self.chains.items()
            if chain not in hooked
            for step in steps
            for ask in step.asks
            if ask.asks is Asks.OF_LINK
        )
        """The tests of chains that frames of many links come to, which are the same for all of one."""

    def _numbered(self, asked: Asked) -> Ask:
        return self._compared(self._layout.place(asked.part), asked.mask, asked.value, negated=False)

    def _step(self, line: Line) -> Step:
        return Step(tuple(map(self._ask, line.tests)), line)

    def _ask(self, test: Test) -> Ask:
        if test.of_set:
            return self._looked_up(test)
        return self._compared(self._layout.place(test.parts[0]), test.mask, test.value, negated=test.negated)

    def _compared(self, place: Place | None, mask: bytes, value: bytes, *, negated: bool) -> Ask:
        if place is None:
            return Ask(Asks.UNREAD)
        bits = _Bits(int.from_bytes(mask, "big"), int.from_bytes(value, "big"))
        if place.sort is Sort.KNOWN:
            return Ask(Asks.KNOWN, (int.from_bytes(place.value, "big") & bits.mask == bits.value) != negated)
        if place.sort is Sort.ABSENT:
            return Ask(Asks.ABSENT)
        if place.sort is Sort.OF_LINK:
            # The only parts of this sort: the index is four bytes long, the name sixteen.
            source = Source("meta", INDEX if len(mask) == 4 else NAME, 0, len(mask))
            number = self._of_link.setdefault((source, bits), len(self._of_link))
            return Ask(Asks.OF_LINK, number=number, negated=negated)
        behind = 8 * (place.part.length - place.shift - len(mask))
        moved = _Bits(bits.mask << behind, bits.value << behind)
        return Ask(
            Asks.OF_FRAME,
            part=place.part,
            number=self._number(place.part, moved),
            negated=negated,
            whole=self._behind(place.part),
        )

    def _behind(self, part: Source) -> bool:
        return (
            self.context.protocol == header.IPV4 and part.base == header.HEAD.base and part.kind == "payload"
        )

    def _number(self, part: Source, compared: _Bits | _InSet | _IsOwn) -> int:
        several = self._of_part.setdefault(part, [])
        if compared not in several:
            several.append(compared)
        return several.index(compared)

    def _looked_up(self, test: Test) -> Ask:
        places = [self._layout.place(part) for part in test.parts]
        before: list[Source | bytes] = []
        for part, place in zip(test.parts[:-1], places[:-1], strict=True):
            if place is None or place.sort not in (Sort.KNOWN, Sort.OF_LINK):
                return Ask(Asks.UNREAD)
            before.append(part if place.sort is Sort.OF_LINK else _filled(place.value))
        last, whole = places[-1], test.parts[-1]
        if last is not None and last.sort is Sort.ABSENT:
            return Ask(Asks.ABSENT)
        if last is None or last.sort is not Sort.OF_FRAME or last.part != whole:
            return Ask(Asks.UNREAD)
        if self._sets.get(test.of_set) is None:
            return Ask(Asks.UNREAD)
        number = self._number(last.part, _InSet(test.of_set, tuple(before)))
        behind = self._behind(last.part)
        return Ask(Asks.OF_FRAME, part=last.part, number=number, negated=test.negated, whole=behind)

    # --- Of one link --------------------------------------------------------------------------------------

    def settled(self, ask: Ask, own: Own) -> Ask:
        """Return a test that turns out the same for all frames of a link as one that is known."""
        if ask.asks is not Asks.OF_LINK:
            return ask
        source, bits = self._asked_of_link[ask.number]
        holds = int.from_bytes(_told(source, own), "big") & bits.mask == bits.value
        return Ask(Asks.KNOWN, holds is not ask.negated)

    def values(self, part: Source, own: Own) -> Values:
        """Return the values of a part that rules or the specification tell apart. Raises TooManyError."""
        if part == header.WHOLE:
            return {(): 1}
        compared = self._of_part.get(part, [])
        named: set[int] = set()
        holding: list[tuple[frozenset[int] | None, _Bits]] = []
        for one in compared:
            if isinstance(one, _Bits):
                holding.append((None, one))
                continue
            if isinstance(one, _InSet):
                index = self._index(one, part.length)
                held = index.get(b"".join(_told(each, own) for each in one.before), frozenset())
            else:
                held = frozenset(int.from_bytes(address, "big") for address in getattr(own, one.field))
            named |= held
            holding.append((held, _Bits(0, 0)))
        found: dict[Signature, int] = {}
        for value in sorted(named):
            signature = tuple(
                value & bits.mask == bits.value if held is None else value in held for held, bits in holding
            )
            found.setdefault(signature, value)
        for signature, value in self._others(part):
            if value not in named:
                found.setdefault(signature, value)
        return found

    def _others(self, part: Source) -> tuple[tuple[Signature, int], ...]:
        """Return values that no link has, or a rule names: one for each way in which bits may compare."""
        if part not in self._members:
            whole = (1 << 8 * part.length) - 1
            bits = [one for one in self._of_part.get(part, ()) if isinstance(one, _Bits)]
            exact = {one.value for one in bits if one.mask == whole}
            masked = (one for one in bits if one.mask != whole)
            found = values(8 * part.length, masked, exact, self._all(part))
            self._members[part] = tuple(
                (tuple(isinstance(b, _Bits) and v & b.mask == b.value for b in self._of_part[part]), v)
                for v in (*sorted(exact), *found)
            )
        return self._members[part]

    def _all(self, part: Source) -> set[int]:
        """Return all values of a part that links have."""
        found: set[int] = set()
        for one in self._of_part.get(part, ()):
            if isinstance(one, _InSet):
                found.update(*self._index(one, part.length).values())
            elif isinstance(one, _IsOwn):
                for own in self._owns:
                    found.update(int.from_bytes(address, "big") for address in getattr(own, one.field))
        return found

    def _index(self, asked: _InSet, length: int) -> Mapping[bytes, frozenset[int]]:
        """Return the values that a set has behind each beginning of its keys."""
        size = -(-length // 4) * 4
        if (asked.name, size) not in self._indexes:
            found: dict[bytes, set[int]] = {}
            for key in self._sets[asked.name] or ():
                before, value = key[:-size], key[-size:]
                found.setdefault(before, set()).add(int.from_bytes(value[:length], "big"))
            self._indexes[asked.name, size] = {before: frozenset(some) for before, some in found.items()}
        return self._indexes[asked.name, size]


def _filled(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


def _told(part: Source | bytes, own: Own) -> bytes:
    if isinstance(part, bytes):
        return part
    return own.number.to_bytes(4, sys.byteorder) if part.base == INDEX else own.name.encode().ljust(16, b"\0")
