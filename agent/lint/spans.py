"""Ports as spans of one line, on which every port of every protocol has its place, and every name."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from agent.kube.model import Port

Place = tuple[Any, ...]
"""A place on the line: protocol, whether it is a name, and the number or name. Shorter ones are edges."""

Owner = TypeVar("Owner")

_NUMBER, _NAME, _END = range(3)
_LAST = (1 << 16,)


class Span(NamedTuple):
    """The places from ``first`` to ``last``, both included."""

    first: Place
    last: Place


EVERY = Span((), _LAST)
"""What a rule without ports allows."""


def span_of(port: Port) -> Span:
    """Return what a port of a rule allows. A name meets the same name: nothing else is known of it."""
    protocol = int(port.protocol)
    if port.port is None:
        return Span((protocol,), (protocol, _END))
    if isinstance(port.port, str):
        return Span((protocol, _NAME, port.port), (protocol, _NAME, port.port))
    return Span((protocol, _NUMBER, port.port), (protocol, _NUMBER, port.end or port.port))


def spans_of(ports: Iterable[Port]) -> tuple[Span, ...]:
    """Return what the ports of a rule allow."""
    return tuple(map(span_of, ports)) or (EVERY,)


class Spans(Generic[Owner]):
    """Spans, each with whose it is, asked for one that meets another span."""

    def __init__(self, spans: Iterable[tuple[Span, Owner]]) -> None:
        self._spans = sorted(spans, key=itemgetter(0))
        self._firsts = [span.first for span, _ in self._spans]
        # Of the spans up to each one, that which ends last: if any of them reaches a place, it does.
        self._furthest: list[int] = []
        for at, (span, _) in enumerate(self._spans):
            best = self._furthest[-1] if at else at
            self._furthest.append(at if span.last > self._spans[best][0].last else best)

    def meeting(self, span: Span) -> Owner | None:
        """Return whose span has a place of this one; None: nobody's. It costs a search."""
        before = bisect_right(self._firsts, span.last)
        if not before:
            return None
        found, owner = self._spans[self._furthest[before - 1]]
        return owner if found.last >= span.first else None
