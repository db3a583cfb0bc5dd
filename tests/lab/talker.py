"""A UDP client that has been answered, and keeps sending."""

from __future__ import annotations

import contextlib
import socket

from agent.net import Family
from tests.lab.beside import Beside
from tests.lab.place import LabError, Place

INTERVAL = 0.001
"""Seconds between datagrams."""


class Talker:
    """Sends a tag from one socket to a place's UDP port, in a thread, until closed; a context manager.

    Its first datagram has been answered when it is made: connection tracking holds an established flow.
    Raises LabError when there is no answer.
    """

    def __init__(self, source: Place, destination: Place, family: Family, port: int, tag: bytes) -> None:
        kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
        with source.netns.entered():
            self._sock = socket.socket(kind, socket.SOCK_DGRAM)
        self._tag = tag
        self.sent = 0
        self._sock.connect((destination.address(family), port))
        self._sock.settimeout(5)
        try:
            for _ in range(3):  # answered twice, the flow is assured
                self._sock.send(tag)
                self._sock.recv(100)
        except OSError as error:
            self._sock.close()
            raise LabError(f"{source.name} has no answer from {destination.name}: {error}") from error
        self._sock.setblocking(False)
        self._beside = Beside(self._talk, lambda: INTERVAL, "talk")
        self._beside.start()

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        with self._sock:
            self._beside.close()

    def _talk(self) -> None:
        # What comes back, refusals included, is of no interest; the next one goes out all the same.
        with contextlib.suppress(OSError):
            self._sock.send(self._tag)
            self.sent += 1
        with contextlib.suppress(OSError):
            self._sock.recv(100)
