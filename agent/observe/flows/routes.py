"""``/flows``: the last reports, and live ones, as lines of JSON or as server-sent events.

::

    /flows?limit=100               the last, the oldest first
    /flows?follow=1&verdict=denied live, after the last ones that ``limit`` asks for (none without it)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agent.dataplane.logged import Decided
from agent.history.query import key_of
from agent.observe.flows.flow import Report, as_json
from agent.observe.flows.hub import KEPT, Flows, Wanted
from agent.observe.routes import TEXT, Request, Response, Route

LINES = "application/jsonl"
EVENTS = "text/event-stream"

_NUMBER = re.compile(r"[0-9]{0,9}")

_BEAT = 2.0
"""Seconds of silence after which an empty line shows that the agent is there."""


def flow_routes(flows: Flows) -> dict[str, Route]:
    """Return the route of reports."""
    about = "denied connections and why (JSON)"
    return {"/flows": Route(lambda request: _answer(flows, request), about, large=True)}


def _answer(flows: Flows, request: Request) -> Response:
    verdict, limit = request.one("verdict"), request.one("limit")
    if (verdict and verdict not in tuple(Decided)) or not _NUMBER.fullmatch(limit):
        return Response(400, TEXT, b"verdict is denied, would-deny or allowed, limit is a number\n")
    asked = {part: text for part in ("pod", "policy") if (text := request.one(part))}
    try:
        names = {part: str(key_of(part, text)) for part, text in asked.items()}
    except ValueError as error:
        return Response(400, TEXT, f"{error}\n".encode(errors="replace"))
    wanted = Wanted(Decided(verdict) if verdict else None, **names)
    if not request.one("follow"):
        found = flows.recent(int(limit or KEPT), wanted)
        return Response(200, LINES, b"".join(as_json(report) + b"\n" for report in found))
    events = EVENTS in request.accept
    stream = _live(flows, wanted, int(limit or 0), events=events)
    return Response(200, EVENTS if events else LINES, b"", stream)


def _live(flows: Flows, wanted: Wanted, limit: int, *, events: bool) -> Iterator[bytes]:
    beat, slow = (b":\n\n", b": too slow\n\n") if events else (b"\n", b'{"event":"too slow"}\n')
    lost = 0
    with flows.follow(wanted) as follower:
        # After it follows: what comes in between is told twice rather than not at all.
        yield beat + _pieces(flows.recent(limit, wanted), events=events)
        while not follower.closed:
            yield _pieces(follower.take(_BEAT), events=events) or beat
            if follower.lost > lost:
                lost = follower.lost
                yield slow


def _pieces(reports: Iterable[Report], *, events: bool) -> bytes:
    before, after = (b"data: ", b"\n\n") if events else (b"", b"\n")
    return b"".join(before + as_json(report) + after for report in reports)
