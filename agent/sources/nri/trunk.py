"""The connection to a runtime: two logical ones over one socket, and calls on each (ttrpc).

Each frame of NRI's multiplexer (pkg/net/multiplex) is the number of a logical connection, a length, and so
many bytes. On connection 1 the runtime calls the plugin, on connection 2 the plugin calls the runtime. Their
bytes are messages of ttrpc: a length, the number of the call, a type and flags, and so many bytes.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from agent.sources.nri.protobuf import MalformedError

PLUGIN_SIDE, RUNTIME_SIDE = 1, 2
REQUEST, RESPONSE = 1, 2
LARGEST = 4 << 20
"""Bytes of one message of ttrpc; the runtime sends no larger one."""

_FRAME = struct.Struct(">II")
_HEADER = struct.Struct(">IIBB")
_RECEIVE = 1 << 16


class Message(NamedTuple):
    """A message: of which logical connection, of which call, and what."""

    connection: int
    stream: int
    kind: int
    body: bytes


class Trunk:
    """Sends and receives whole messages. Used on one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = bytearray()
        self._streams: dict[int, bytearray] = {PLUGIN_SIDE: bytearray(), RUNTIME_SIDE: bytearray()}

    def send(self, message: Message) -> None:
        """Send a message. Raises OSError."""
        body = _HEADER.pack(len(message.body), message.stream, message.kind, 0) + message.body
        self._socket.sendall(_FRAME.pack(message.connection, len(body)) + body)

    @property
    def buffered(self) -> bool:
        """Whether a whole message has come that was not received yet: the socket does not tell of it."""
        return any(_end(stream) is not None for stream in self._streams.values())

    def receive(self) -> Message | None:
        """Return the next message, waiting for it; None where the runtime has closed the connection.

        Raises OSError, TimeoutError where nothing came for as long as the socket's timeout says, and
        MalformedError.
        """
        while True:
            for connection, stream in self._streams.items():
                found = _message(connection, stream)
                if found is not None:
                    return found
            received = self._socket.recv(_RECEIVE)
            if not received:
                return None
            self._frames += received
            self._unpack()

    def _unpack(self) -> None:
        while len(self._frames) >= _FRAME.size:
            connection, length = _FRAME.unpack_from(self._frames)
            if length > LARGEST + _HEADER.size:
                raise MalformedError(f"a frame of {length} bytes")
            end = _FRAME.size + length
            if len(self._frames) < end:
                return
            stream = self._streams.get(connection)
            if stream is not None:
                stream += self._frames[_FRAME.size : end]
            del self._frames[:end]


def _message(connection: int, stream: bytearray) -> Message | None:
    """Take one whole message off the bytes of a connection. Raises MalformedError."""
    end = _end(stream)
    if end is None:
        return None
    _, number, kind, _ = _HEADER.unpack_from(stream)
    body = bytes(stream[_HEADER.size : end])
    del stream[:end]
    return Message(connection, number, kind, body)


def _end(stream: bytearray) -> int | None:
    """Return where the first message ends; None where it is not whole. Raises MalformedError."""
    if len(stream) < _HEADER.size:
        return None
    (length, *_) = _HEADER.unpack_from(stream)
    if length > LARGEST:
        raise MalformedError(f"a message of {length} bytes")
    end: int = _HEADER.size + length
    return end if len(stream) >= end else None
