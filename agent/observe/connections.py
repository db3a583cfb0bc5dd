"""Which connections to the health port are open: few at a time, each with a deadline for a whole request.

The agent's commands, its netlink sockets and these connections share one limit of descriptors. So there are
few connections, whatever clients do, and a new one is never turned away for those that only wait: a probe has
to be answered while somebody holds as many connections as there may be.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

MOST = 32
"""Connections that are open at the same time."""

SECONDS = 5.0
"""The deadline of a request: for its headers, the answer, and the sending of that. Also how long a connection
may be silent between two requests."""

_OWN = 128
"""Descriptors for all else: the agent holds some 30, and each command that it runs needs six more."""

_MAKE_ROOM = 0.2
"""Seconds within which a connection that was shut down is let go of by its thread."""


def most(limit: int) -> int:
    """Return how many connections may be open where a process may have ``limit`` descriptors."""
    return max(2, min(MOST, (limit - _OWN) // 2))


def raise_limit() -> None:
    """Let this process, and the commands that it starts, have as many descriptors as it is permitted to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Return how many descriptors this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


@dataclass
class _Connection:
    client: str
    since: float
    answering: bool = False


class Connections:
    """The connections that are open. For any thread."""

    def __init__(
        self, most: int = MOST, seconds: float = SECONDS, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._changed = threading.Condition()
        self._open: dict[socket.socket, _Connection] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: socket.socket, client: str) -> bool:
        """Take one more; False where there is no room for it.

        Where there are too many, the one is shut down that has waited longest among those of the client
        address that has most; one that is being answered only where all are.
        """
        with self._changed:
            if len(self._open) >= self._most:
                self._shut_one()
            if not self._changed.wait_for(lambda: len(self._open) < self._most, _MAKE_ROOM):
                return False
            self._open[connection] = _Connection(client, self._now())
            return True

    def _shut_one(self) -> None:
        counts = Counter(found.client for found in self._open.values())

        def weight(connection: socket.socket) -> tuple[bool, int, float]:
            found = self._open[connection]
            return not found.answering, counts[found.client], -found.since

        _shut(max(self._open, key=weight))

    def began(self, connection: socket.socket) -> None:
        """Note that a further request begins on a connection, which has its own deadline."""
        self._note(connection, answering=False)

    def working(self, connection: socket.socket, seconds: float) -> None:
        """Note that it takes up to so many seconds more to make an answer."""
        with self._changed:
            if found := self._open.get(connection):
                found.since = self._now() + seconds

    def answering(self, connection: socket.socket) -> None:
        """Note that a request has been read."""
        with self._changed:
            if found := self._open.get(connection):
                found.answering = True

    def answering_still(self, connection: socket.socket) -> None:
        """Note that a part of an answer is about to be sent, which has a deadline of its own."""
        self._note(connection, answering=True)

    def answered(self, connection: socket.socket) -> None:
        """Note that a request has been answered, and another may come."""
        self._note(connection, answering=False)

    def _note(self, connection: socket.socket, *, answering: bool) -> None:
        with self._changed:
            if found := self._open.get(connection):
                found.since, found.answering = self._now(), answering

    def leave(self, connection: socket.socket) -> None:
        """Note that a connection is about to be closed."""
        with self._changed:
            self._open.pop(connection, None)
            self._changed.notify()

    def expire(self) -> None:
        """Shut down what is past its deadline. To be called several times a second."""
        with self._changed:
            end = self._now() - self._seconds
            for connection, found in self._open.items():
                if found.since < end:
                    _shut(connection)


def _shut(connection: socket.socket) -> None:
    """Wake the thread that reads from a connection or writes to it, which then closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
