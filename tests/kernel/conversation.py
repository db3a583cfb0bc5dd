"""Connections that go on: both ends in the test's hand, so that it can tell what each of them sees."""

from __future__ import annotations

import contextlib
import select
import socket
import struct

from agent.net import Family, Protocol
from tests.lab.place import Place
from tests.patience import PATIENCE

_ARRIVES_SECONDS = 20.0
"""How long what is sent may take. What does not arrive is waited for as long."""
_UNACKNOWLEDGED = struct.Struct("=I")
"""tcpi_unacked of struct tcp_info (linux/tcp.h)."""
_KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


class Conversation:
    """An established connection between two places; a context manager. ``client`` has opened it.

    ``through``: the address that the client asks, where that is another than the server's. ``size``: of each
    message, in bytes; a datagram of more than a link takes is fragmented.
    """

    def __init__(
        self,
        client: Place,
        server: Place,
        family: Family,
        protocol: Protocol,
        port: int,
        through: tuple[str, int] | None = None,
        size: int = 1,
    ) -> None:
        self.name = f"{protocol.name}/IPv{int(family)} {client.name} to {server.name} port {port}"
        self.protocol = protocol
        self._message = b"x" * size
        kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
        with server.netns.entered():
            listener = socket.socket(kind, _KINDS[protocol])
        with client.netns.entered():
            self.client = socket.socket(kind, _KINDS[protocol])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((server.address(family), port))
        self.client.settimeout(PATIENCE)
        if protocol is Protocol.TCP:
            listener.listen()
            listener.settimeout(PATIENCE)
            self.client.connect(through or (server.address(family), port))
            self.server, _ = listener.accept()
            listener.close()
        else:
            self.client.connect(through or (server.address(family), port))
            self.client.send(b"?")
            listener.settimeout(PATIENCE)
            _, peer = listener.recvfrom(100)
            listener.connect(peer)
            self.server = listener
        self.server.settimeout(PATIENCE)
        self._reset: set[socket.socket] = set()
        # Answered twice, a datagram's flow is an established one.
        for _ in range(3):
            assert self.goes_on()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()

    def __repr__(self) -> str:
        return self.name

    def goes_on(self) -> bool:
        """Whether something arrives both ways. Of datagrams, which may be dropped, one of many."""
        return self._arrives(self.client, self.server) and self._arrives(self.server, self.client)

    def is_dead(self) -> bool:
        """Whether nothing arrives either way: of datagrams, none of many."""
        return not self._arrives(self.client, self.server) and not self._arrives(self.server, self.client)

    def is_reset(self, patience: float = PATIENCE) -> bool:
        """Whether both ends are told that the connection is over, though neither of them sends anything."""
        ends = {self.client, self.server}
        # An end is told once.
        self._reset |= {end for end in ends - self._reset if _is_reset(end, patience)}
        return self._reset == ends

    def _arrives(self, sender: socket.socket, receiver: socket.socket) -> bool:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            receiver.setblocking(False)
            while receiver.recv(100):
                pass
        try:
            if self.protocol is Protocol.TCP:
                sender.send(b"x")
                return (
                    bool(select.select([receiver], [], [], _ARRIVES_SECONDS)[0]) and receiver.recv(1) == b"x"
                )
            for _ in range(20):
                with contextlib.suppress(ConnectionError):
                    sender.send(self._message)
                if select.select([receiver], [], [], 0.01)[0]:
                    return receiver.recv(len(self._message)) == self._message
        except OSError:
            pass
        return False


def acknowledged(end: socket.socket) -> bool:
    """Whether all that an end of TCP has sent is acknowledged."""
    found = _UNACKNOWLEDGED.unpack_from(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)
    return found == (0,)


def _is_reset(end: socket.socket, patience: float) -> bool:
    end.settimeout(patience)
    try:
        end.recv(1)
    except ConnectionResetError:
        return True
    except OSError:
        pass
    return False
