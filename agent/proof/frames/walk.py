"""Every frame of a link at once: what the rules do with it, against what the specification says.

A frame begins as one of which nothing is decided but what it carries. Where a rule, or the specification,
asks for a part of it, it becomes one frame for each answer that there may be. So only what is asked for is
told apart, and what is left undecided may be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.kernel.nf_write import BaseChain
from agent.proof.frames import header
from agent.proof.frames.allowed import FIRST_FRAGMENT, NO_OPTIONS, Asked, may_send
from agent.proof.frames.lines import Source
from agent.proof.frames.program import Ask, Asks, Program, Signature
from agent.proof.frames.senders import Own


class Place(NamedTuple):
    """A rule, by its chain and its number from 1; 0: the end of the chain."""

    chain: str
    number: int


class Wrong(NamedTuple):
    """Frames with which the rules do something else than they should.

    ``decided`` are their parts, None where one is missing; what is not among them is any. ``passes``: the
    rules let them pass; None where a rule cannot be read. ``at``: the rule that decides.
    """

    decided: Mapping[Source, Signature | None]
    passes: bool | None
    at: Place


class _UndecidedError(Exception):
    def __init__(self, part: Source) -> None:
        self.part = part


class _UnreadError(Exception):
    def __init__(self, at: Place) -> None:
        self.at = at


@dataclass
class _Frame:
    """A frame of a link, as far as it is decided."""

    program: Program
    own_link: Own
    decided: Mapping[Source, Signature | None]

    def ask(self, ask: Ask) -> bool | None:
        """Answer a test; None where the frame has no such part. Raises _UndecidedError."""
        if ask.asks is Asks.KNOWN:
            return ask.holds
        if ask.asks is Asks.ABSENT:
            return None
        if ask.asks is Asks.OF_LINK:
            return self.program.settled(ask, self.own_link).holds
        if ask.whole and not self.whole():
            return None
        part = self._decided(ask.part)
        return None if part is None else part[ask.number] is not ask.negated

    def _decided(self, part: Source) -> Signature | None:
        if part not in self.decided:
            raise _UndecidedError(part)
        return self.decided[part]

    def has(self, asked: Asked) -> bool:
        return self.ask(self.program.asked[asked]) is True

    def own(self, part: Source) -> bool:
        return self.ask(self.program.own[part]) is True

    def whole(self) -> bool:
        return self._decided(header.WHOLE) is not None


_Chains = tuple[BaseChain, ...]


@dataclass
class Walker:
    """Walks frames of one context."""

    program: Program
    _looked: list[tuple[Source, ...]] = field(default_factory=list)
    _known: dict[object, tuple[_Chains, list[Wrong]]] = field(default_factory=dict)
    """What is wrong with frames of links, by all that they are judged by: one link stands for all like it."""

    def wrong(self, own: Own, hooked: Iterable[BaseChain]) -> list[Wrong]:
        """Return what is wrong with frames of a link, one of a kind. Raises TooManyError.

        ``hooked``: the chains that see them, in their order.
        """
        chains = tuple(hooked)
        for looked in self._looked:
            known = self._known.get(self._like(looked, own, chains))
            if known is not None:
                return [_at(one, known[0], chains) for one in known[1]]
        parts: dict[Source, tuple[Signature, ...]] = {}
        found: dict[bool | None, Wrong] = {}
        for one in self._walked(own, chains, parts):
            # What is told with the fewest words says most.
            if one.passes not in found or self._words(one) < self._words(found[one.passes]):
                found[one.passes] = one
        looked = tuple(parts)
        if looked not in self._looked:
            self._looked.append(looked)
        wrong = list(found.values())
        self._known[self._like(looked, own, chains)] = chains, wrong
        return wrong

    def _words(self, wrong: Wrong) -> tuple[int, int]:
        """Return how much has to be said to describe frames, and how odd they are."""
        decided, plain = wrong.decided, self.program.asked[NO_OPTIONS]
        options = (decided.get(header.LENGTH4) or {plain.number: True})[plain.number]
        return len(decided), sum(value is None for value in decided.values()) + (not options)

    def _like(self, looked: tuple[Source, ...], own: Own, chains: _Chains) -> object:
        """Return all by which frames of a link are judged."""
        program = self.program
        first = tuple(
            (
                chain.accepts,
                tuple(
                    (tuple(program.settled(ask, own) for ask in step.asks), step.line[1:])
                    for step in program.chains.get(chain.name, ())
                ),
            )
            for chain in chains
        )
        rest = tuple(program.settled(ask, own) for ask in program.of_links)
        return first, rest, looked, tuple(frozenset(program.values(part, own)) for part in looked)

    def _walked(
        self, own: Own, chains: _Chains, parts: dict[Source, tuple[Signature, ...]]
    ) -> Iterator[Wrong]:
        pending: list[dict[Source, Signature | None]] = [{}]
        while pending:
            decided = pending.pop()
            frame = _Frame(self.program, own, decided)
            try:
                wanted = may_send(self.program.context, frame)
                passes, at = self._passes(frame, chains)
            except _UndecidedError as error:
                if error.part not in parts:
                    parts[error.part] = tuple(self.program.values(error.part, own))
                pending += ({**decided, error.part: one} for one in self._choices(error.part, parts, decided))
                continue
            except _UnreadError as error:
                yield Wrong(decided, None, error.at)
                continue
            if passes != wanted:
                yield Wrong(decided, passes, at)

    def _choices(
        self,
        part: Source,
        parts: Mapping[Source, tuple[Signature, ...]],
        decided: Mapping[Source, Signature | None],
    ) -> Iterator[Signature | None]:
        """Yield what a part may be beside those that were decided."""
        absent = [other for other, value in decided.items() if value is None]
        present = [other for other, value in decided.items() if value is not None]
        there, missing = self.program.may_be(part, absent, present)
        first = self.program.asked[FIRST_FRAGMENT].number
        fragment = decided.get(header.FRAGMENT)
        # Of a packet in fragments the first alone has what stands behind its header.
        if _is_behind(part) and fragment is not None and not fragment[first]:
            there, missing = False, True
        for one in parts[part] if there else ():
            if part != header.FRAGMENT or one[first] or not any(map(_is_behind, present)):
                yield one
        if missing:
            yield None

    def _passes(self, frame: _Frame, chains: tuple[BaseChain, ...]) -> tuple[bool, Place]:
        """Return whether a frame passes all chains that see it, and which rule decides."""
        at = Place("", 0)
        for chain in chains:
            word, at = self._through(chain.name, frame)
            if word == "drop" or (word != "accept" and not chain.accepts):
                return False, at
        return True, at

    def _through(self, chain: str, frame: _Frame) -> tuple[str, Place]:
        for number, step in enumerate(self.program.chains.get(chain, ()), start=1):
            at = Place(chain, number)
            if not self._matches(step.asks, frame, at):
                continue
            word, target = step.line.word, step.line.target
            if step.line.unread:
                raise _UnreadError(at)
            if word in ("accept", "drop"):
                return word, at
            if word == "return":
                return "", at
            if word in ("jump", "goto"):
                found, deeper = self._through(target, frame)
                if found or word == "goto":
                    return found, deeper
        return "", Place(chain, 0)

    def _matches(self, asks: tuple[Ask, ...], frame: _Frame, at: Place) -> bool:
        # What is known without the frame is looked at first: it needs nothing of it decided.
        for ask in asks:
            if ask.asks in (Asks.KNOWN, Asks.OF_LINK, Asks.ABSENT) and not frame.ask(ask):
                return False
        for ask in asks:
            if ask.asks is Asks.UNREAD:
                raise _UnreadError(at)
            if not frame.ask(ask):
                return False
        return True


def _is_behind(part: Source) -> bool:
    """Whether a part stands behind the header of IP and its extensions."""
    return part[:2] == header.HEAD[:2]


def _at(wrong: Wrong, known: _Chains, chains: _Chains) -> Wrong:
    """Return what is wrong with frames of a link as the same of another, by its own chains."""
    others = dict(zip((one.name for one in known), (one.name for one in chains), strict=True))
    return wrong._replace(at=wrong.at._replace(chain=others.get(wrong.at.chain, wrong.at.chain)))
