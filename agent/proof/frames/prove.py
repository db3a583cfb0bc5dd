"""The proof of the table that guards frames: for each pod's link, all frames that may come in by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.kube.model import Key
from agent.proof.difference import Difference, Kind
from agent.proof.frames import PRIORITY, TABLE, say
from agent.proof.frames.header import ARP, ETHERTYPE, IPV4, IPV6, TAGS, Context
from agent.proof.frames.lines import META, PROTOCOL
from agent.proof.frames.program import Program
from agent.proof.frames.reading import FrameReading
from agent.proof.frames.senders import Own, senders
from agent.proof.frames.values import TooManyError, values
from agent.proof.frames.walk import Walker
from agent.proof.given import Given

_INGRESS = 0
"""NF_NETDEV_INGRESS."""


def prove(given: Given, reading: FrameReading, pod: Key | None) -> tuple[int, list[Difference]]:
    """Return of how many links it was proved whose frames are guarded, and what differs.

    ``pod``: of this pod alone.
    """
    if given.frames is None:
        return 0, []
    # An interface that is gone sends nothing.
    owns = [
        own for own in senders(given.frames, given.holders) if reading.interfaces.get(own.number) == own.name
    ]
    found = list(_hooks(owns, reading))
    asked = [own for own in owns if pod in (None, own.pod)]
    if not reading.there:
        return len(asked), found
    whole = []
    for own in asked:
        if missing := _unseen(own, reading):
            found.append(missing)
        else:
            whole.append(own)
    return len(asked), [*found, *_of_frames(whole, owns, reading)]


def _hooks(owns: Iterable[Own], reading: FrameReading) -> Iterator[Difference]:
    """Give what keeps frames from the table, or has others come to it."""
    table = f"table netdev {TABLE}"
    if not reading.there:
        if any(True for _ in owns):
            why = "is dormant: no frames come to it" if reading.dormant else "is not there"
            yield Difference(
                Kind.HOOK, 0, f"frames of pods are not guarded: {table} {why}", rule=TABLE, frames=True
            )
        return
    names = {own.name for own in owns}
    for chain in reading.hooked:
        which = f"chain {chain.name} of {table}"
        others = sorted(set(chain.devices) - names)
        if chain.devices and chain.number != _INGRESS:
            said = f"{which} sees what leaves by {', '.join(chain.devices)}, which nothing is to look at"
        elif others:
            said = f"{which} sees frames of {', '.join(others)}, which is no pod's link"
        elif chain.devices and chain.priority != PRIORITY:
            said = f"{which} has the priority {chain.priority}, and chains of others may come before it"
        else:
            continue
        yield Difference(Kind.HOOK, 0, said, rule=f"{TABLE} {chain.name}", frames=True)


def _unseen(own: Own, reading: FrameReading) -> Difference | None:
    """Say that no chain sees what comes in by a link, if so."""
    if any(own.name in chain.devices and chain.number == _INGRESS for chain in reading.hooked):
        return None
    said = f"{say.whose(own)} may send any frame: no chain of table netdev {TABLE} sees what comes in there"
    return Difference(Kind.HOOK, 0, said, pod=str(own.pod or ""), rule=TABLE, frames=True)


def _of_frames(asked: Iterable[Own], owns: list[Own], reading: FrameReading) -> Iterator[Difference]:
    links = list(asked)
    seen: set[tuple[int, Kind]] = set()
    for context in _contexts(reading):
        program = Program(context, reading, owns)
        walker = Walker(program)
        for own in links:
            hooked = [
                chain for chain in reading.hooked if own.name in chain.devices and chain.number == _INGRESS
            ]
            try:
                wrong = walker.wrong(own, hooked)
            except TooManyError:
                yield say.too_much(own)
                continue
            for one in wrong:
                difference = say.wrong(program, own, one)
                which = own.number, difference.kind
                if which not in seen:
                    seen.add(which)
                    yield difference


def _contexts(reading: FrameReading) -> Iterator[Context]:
    """Yield what frames may carry, as far as the rules or the specification tell it apart."""
    exact, masked = {IPV4, IPV6, ARP, *TAGS}, []
    for lines in reading.chains.values():
        for line in lines:
            for test in line.tests:
                part = test.parts[0]
                if part != ETHERTYPE and not (part.kind == META and part.base == PROTOCOL):
                    continue
                mask, value = int.from_bytes(test.mask, "big"), int.from_bytes(test.value, "big")
                if mask == 0xFFFF:
                    exact.add(value)
                else:
                    masked.append((mask, value))
    for protocol in (*sorted(exact - set(TAGS)), *values(16, masked, exact, ())):
        for tag in (0, *TAGS):
            yield Context(protocol, tag)
