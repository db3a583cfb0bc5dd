"""Lets clients in by their bearer token, as the API server decides, and remembers that for a while."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from agent import log
from agent.observe.routes import TEXT, Request, Response, Route
from agent.sources.apiserver.review import Access, ReviewError

_log = log.get(__name__)

REMEMBERED_SECONDS = 60.0
"""How long a decision holds. So long a token that has been taken back may still be used."""
AWAY_SECONDS = 600.0
"""How long who was let in is let in while the API server cannot be asked: metrics matter most then."""
REMEMBERED = 256
"""How many decisions are kept."""


class _Decision(NamedTuple):
    access: Access
    at: float


class Authorizer:
    """Decides who may read. For any thread; the API server is asked one question at a time.

    ``review`` asks the API server about a token; see :func:`agent.sources.apiserver.review.review`.
    """

    def __init__(self, review: Callable[[str], Access], now: Callable[[], float] = time.monotonic) -> None:
        self._review = review
        self._now = now
        self._asking = threading.Lock()
        self._decided: OrderedDict[bytes, _Decision] = OrderedDict()
        self._fault = ""

    def guard(self, route: Route) -> Route:
        """Return a route that answers those who may read, and tells the others why not."""
        return route._replace(refuse=self._refusal)

    def _refusal(self, request: Request) -> Response | None:
        scheme, _, token = request.authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return _unauthorized("give a bearer token of the cluster")
        try:
            access = self._access(token)
        except ReviewError as error:
            self._tell(str(error))
            return Response(503, TEXT, f"cannot tell who may read this: {error}\n".encode())
        self._tell("")
        if access is Access.UNKNOWN:
            return _unauthorized("the token is nobody's in this cluster, or has expired")
        if access is Access.FORBIDDEN:
            text = f"forbidden: grant the user get on the nonResourceURL {request.path}\n"
            return Response(403, TEXT, text.encode())
        return None

    def _access(self, token: str) -> Access:
        """Return the decision on a token: one that is remembered, or a new one. Raises ReviewError."""
        # Never the token itself: what is remembered may end in a dump of the process.
        key = hashlib.sha256(token.encode()).digest()
        known = self._decided.get(key)
        if known is not None and self._now() - known.at < REMEMBERED_SECONDS:
            return known.access
        with self._asking:
            now, known = self._now(), self._decided.get(key)
            if known is not None and now - known.at < REMEMBERED_SECONDS:
                return known.access
            try:
                access = self._review(token)
            except ReviewError:
                if known is not None and known.access is Access.ALLOWED and now - known.at < AWAY_SECONDS:
                    return known.access
                raise
            self._decided[key] = _Decision(access, now)
            self._decided.move_to_end(key)
            while len(self._decided) > REMEMBERED:
                del self._decided[self._first_to_go()]
            return access

    def _first_to_go(self) -> bytes:
        """Return the oldest decision: of those who were not let in, for anybody can send any token."""
        refused = (key for key, one in self._decided.items() if one.access is not Access.ALLOWED)
        return next(refused, None) or next(iter(self._decided))

    def _tell(self, fault: str) -> None:
        """Log a trouble when it begins or changes."""
        if fault and fault != self._fault:
            _log.warning("metrics are refused", fault=fault)
        self._fault = fault


def _unauthorized(why: str) -> Response:
    challenge = (("WWW-Authenticate", 'Bearer realm="netpol-agent"'),)
    return Response(401, TEXT, f"{why}\n".encode(), headers=challenge)
