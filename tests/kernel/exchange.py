"""Connections without sockets of their own, which go on: SCTP associations, and echoes of ICMP."""

from __future__ import annotations

import itertools
import select
import socket
import struct
import time
from collections.abc import Callable

from agent.net import Family
from tests.lab import packets, sctp
from tests.lab.place import Place

TRIES = 20
_SECONDS = 0.02
"""How long one try waits."""
_ECHO_REPLY = {Family.V4: 0, Family.V6: 129}


class Association:
    """An SCTP association between two places; a context manager. Each end is a raw socket."""

    def __init__(self, client: Place, server: Place, family: Family, port: int, source_port: int) -> None:
        self.name = f"SCTP/IPv{int(family)} {client.name} to {server.name} port {port}"
        self._v4 = family is Family.V4
        self._ports = source_port, port
        self._client, self._server = (_raw(one, family, sctp.NUMBER) for one in (client, server))
        self._to_client, self._to_server = client.address(family), server.address(family)
        up, down = (*self._ports, 0), (port, source_port, 1)
        for chunk, packet in (
            (sctp.INIT, sctp.Packet(*up, sctp.INIT, 1)),
            (sctp.INIT_ACK, sctp.Packet(*down, sctp.INIT_ACK, 2)),
            (sctp.COOKIE_ECHO, sctp.Packet(*self._ports, 2, sctp.COOKIE_ECHO)),
            (sctp.COOKIE_ACK, sctp.Packet(*down, sctp.COOKIE_ACK)),
        ):
            assert self._arrives(packet, up=chunk in (sctp.INIT, sctp.COOKIE_ECHO)), (self.name, chunk)

    def __enter__(self) -> Association:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.close()

    def __repr__(self) -> str:
        return self.name

    def goes_on(self) -> bool:
        """Whether something arrives both ways."""
        return self._beats(up=True) and self._beats(up=False)

    def is_dead(self) -> bool:
        """Whether nothing arrives either way."""
        return not self._beats(up=True) and not self._beats(up=False)

    def _beats(self, *, up: bool) -> bool:
        ports = self._ports if up else self._ports[::-1]
        return self._arrives(sctp.Packet(*ports, 2 if up else 1, sctp.HEARTBEAT), up=up)

    def _arrives(self, packet: sctp.Packet, *, up: bool) -> bool:
        sender, receiver = (self._client, self._server) if up else (self._server, self._client)
        to = self._to_server if up else self._to_client

        def is_it(data: bytes) -> bool:
            found = sctp.decode(sctp.without_ip_header(data, v4=self._v4))
            return found is not None and found[:4] == packet[:4]

        return _one_arrives(lambda: sender.sendto(packet.encode(), (to, 0)), receiver, is_it)


class Echo:
    """Echo requests of one identifier, which connection tracking takes for one connection."""

    _identifiers = itertools.count(1000)

    def __init__(self, client: Place, server: Place, family: Family) -> None:
        self.name = f"ICMP/IPv{int(family)} {client.name} to {server.name}"
        v4 = family is Family.V4
        self._identifier, self._v4 = next(self._identifiers), v4
        self._kind = _ECHO_REPLY[family]
        protocol = socket.IPPROTO_ICMP if v4 else socket.IPPROTO_ICMPV6
        self._client, self._to = _raw(client, family, protocol), server.address(family)
        whole = packets.echo_request(client.address(family), self._to, b"", identifier=self._identifier)
        self._request = whole[20 if v4 else 40 :]
        assert self.goes_on(), self.name

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def __repr__(self) -> str:
        return self.name

    def goes_on(self) -> bool:
        """Whether an answer comes."""

        def is_it(data: bytes) -> bool:
            message = data[(data[0] & 0x0F) * 4 :] if self._v4 else data
            return message[0] == self._kind and message[4:6] == struct.pack("!H", self._identifier)

        return _one_arrives(lambda: self._client.sendto(self._request, (self._to, 0)), self._client, is_it)

    def is_dead(self) -> bool:
        """Whether no answer comes."""
        return not self.goes_on()


def _raw(place: Place, family: Family, protocol: int) -> socket.socket:
    kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    with place.netns.entered():
        opened = socket.socket(kind, socket.SOCK_RAW, protocol)
    opened.setblocking(False)
    return opened


def _one_arrives(send: Callable[[], object], receiver: socket.socket, is_it: Callable[[bytes], bool]) -> bool:
    """Whether one of many packets arrives, nothing that was sent before taken for it."""
    while select.select([receiver], [], [], 0)[0]:
        receiver.recv(2000)
    for _ in range(TRIES):
        send()
        until = time.monotonic() + _SECONDS
        while (left := until - time.monotonic()) > 0 and select.select([receiver], [], [], left)[0]:
            if is_it(receiver.recv(2000)):
                return True
    return False
