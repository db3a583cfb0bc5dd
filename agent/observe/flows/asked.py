"""Which Service an address is, for logged connections: asked for when seen, and remembered for a while.

The API server is asked on the thread that reads logged packets, never on the loop, and so that it can hold
that thread up for a moment only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agent import log
from agent.clock import AT_ONCE, Clock
from agent.kube.model import Key
from agent.sources.services import ServicesError

_log = log.get(__name__)

KEPT_SECONDS = 300.0
"""For so long an address is taken for the same Service, or for none."""
MOST = 256
"""Addresses that are remembered."""
PAUSE_SECONDS = 60.0
"""After an answer that failed, or took longer than ``SLOW_SECONDS``, nothing is asked for so long."""
SLOW_SECONDS = 0.5
A_SECOND = 5
"""Questions to the API server in one second at most."""

Ask = Callable[[bytes], Key | None]
"""Which Service has a ClusterIP; raises ServicesError."""


class _Known(NamedTuple):
    name: str
    until: float


class ServiceNames:
    """Names Services by their addresses. For one thread."""

    def __init__(self, ask: Ask, clock: Clock) -> None:
        self._ask = ask
        self._clock = clock
        self._known: dict[bytes, _Known] = {}
        self._next = AT_ONCE
        self._refused = False

    def name(self, address: bytes) -> str:
        """Return ``namespace/name`` of the Service that has an address; empty where that is not known."""
        now = self._clock.monotonic()
        known = self._known.get(address)
        if known is not None and now < known.until:
            return known.name
        if now < self._next:
            return known.name if known is not None else ""
        self._next = now + 1 / A_SECOND
        try:
            found = self._ask(address)
        except ServicesError as error:
            self._next = self._clock.monotonic() + PAUSE_SECONDS
            if not self._refused:
                _log.info("Services are not named in logged connections", reason=str(error))
            self._refused = True
            return known.name if known is not None else ""
        self._refused = False
        ended = self._clock.monotonic()
        if ended - now > SLOW_SECONDS:
            self._next = ended + PAUSE_SECONDS
        self._known.pop(address, None)
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        name = "" if found is None else str(found)
        self._known[address] = _Known(name, ended + KEPT_SECONDS)
        return name
