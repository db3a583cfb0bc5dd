"""The history as it is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from agent.decoding import decode as decode_json
from agent.history.change import Row
from agent.history.query import MOST, Query, parse_url
from agent.history.store import StoreError
from agent.observe.routes import JSON, TEXT, Request, Response, Route

Read = Callable[[Query], list[Row]]
"""Returns the rows that a query asks for. Raises StoreError."""


class History(msgspec.Struct, frozen=True):
    """The answer of ``/history``: rows, the oldest first."""

    node: str
    rows: tuple[Row, ...]


def history_route(node: str, read: Read, now: Callable[[], float]) -> Route:
    """Return the route that answers with rows; ``now`` in ``time.time()`` seconds."""

    def answer(request: Request) -> Response:
        try:
            query = parse_url(request.query, now())
        except ValueError as error:
            return Response(400, TEXT, f"{error}\n".encode(errors="replace"))
        try:
            rows = read(query)
        except StoreError as error:
            return Response(503, TEXT, f"the history cannot be read: {error}\n".encode())
        return Response(200, JSON, encode(node, rows))

    about = f"what changed here, who changed it, and when the kernel had it (JSON, {MOST} rows at most)"
    return Route(answer, about, large=True)


def encode(node: str, rows: Iterable[Row]) -> bytes:
    """Return rows as they are served."""
    return msgspec.json.encode(History(node, tuple(rows))) + b"\n"


def decode(body: bytes) -> History:
    """Return what was served; raises :class:`agent.decoding.UndecodableError` when it is none."""
    return decode_json(body, History)
