"""What the status port answers: each path with the function that answers it.

A route's function is called on a thread of the server, once for each request. It may take seconds. What it
raises is logged and answered with 500.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from agent.observe import health, snapshot

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class Request(NamedTuple):
    """What is asked: the path without its last slash, the query's values by name, and two headers."""

    path: str
    query: Mapping[str, list[str]]
    accept: str = ""
    authorization: str = ""

    def one(self, name: str, default: str = "") -> str:
        """Return the first value of a name in the query."""
        return next(iter(self.query.get(name, ())), default)

    @property
    def as_json(self) -> bool:
        """Whether JSON is asked for where text is the rule."""
        return self.query.get("format") == ["json"]


class Response(NamedTuple):
    """What one request is answered with.

    ``stream`` is sent after ``body``, piece by piece, and the connection is closed when it ends. Each piece
    has to come within the deadline of a request (:data:`agent.observe.connections.SECONDS`), or the client is
    let go. The server closes the stream, if it is a generator, when the client has gone.
    """

    code: int
    content_type: str
    body: bytes
    stream: Iterator[bytes] | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Route(NamedTuple):
    """One path: who answers, what the index says of it, and whether few are sent at the same time.

    ``large``: the answer takes memory until the client has read it. ``refuse`` is asked first, and what it
    returns is the answer: who is not let in takes no place from those who are. ``patience``: so many seconds
    later than others may the answer come (:data:`agent.observe.connections.SECONDS`).
    """

    answer: Callable[[Request], Response]
    about: str = ""
    large: bool = False
    refuse: Callable[[Request], Response | None] | None = None
    patience: float = 0.0


Routes = Mapping[str, Route]
"""Paths, each with its route. They are matched exactly."""


def own_routes(
    ask_health: Callable[[], health.Health], ask_status: Callable[[], snapshot.StatusSnapshot]
) -> dict[str, Route]:
    """Return the routes that every agent has: health and status."""
    return {
        "/healthz": Route(
            lambda request: _answer(health.healthz(ask_health()), request.as_json),
            "whether the agent makes progress",
        ),
        "/readyz": Route(
            lambda request: _answer(health.readyz(ask_health()), request.as_json),
            "whether everything known is enforced",
        ),
        "/status": Route(
            lambda _: Response(200, JSON, snapshot.encode(ask_status()) + b"\n"),
            "what this node enforces and why (JSON)",
            large=True,
        ),
    }


def index(routes: Routes) -> Response:
    """Return the list of what there is, as text."""
    told = {path: route.about for path, route in routes.items() if route.about}
    width = max(map(len, told), default=0)
    lines = [f"{path:{width}}  {about}" for path, about in told.items()]
    text = "\n".join(["netpol-agent", "", *lines, "", "?format=json gives healthz and readyz as JSON.", ""])
    return Response(200, TEXT, text.encode())


def _answer(answer: health.Answer, as_json: bool) -> Response:
    if as_json:
        return Response(answer.code, JSON, json.dumps(health.as_dict(answer)).encode() + b"\n")
    return Response(answer.code, TEXT, health.text(answer).encode())
