"""The process that answers in every pod: TCP and UDP echo, and SCTP's INIT ACK, on many ports at once.

A socket belongs to the namespace that its creator was in, so one thread with one epoll serves all
pods. An answer comes from the address that was asked, also where a place has several. Commands come as
JSON lines on standard input, one answer line each on standard output; the end of the input ends the
process, so it never outlives a lab.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

from tests.lab import sctp
from tests.lab.netns import SO_RCVBUFFORCE

BACKLOG = 4096
BUFFER = 4 << 20
IP_PKTINFO = 8
"""With a packet, the address it was sent to (ip(7)); Python's socket module does not name it."""
ADDRESS_ROOM = 64

Control = tuple[int, int, bytes]
"""A control message: level, kind and data."""

_libc = ctypes.CDLL(None, use_errno=True)


class Responder:
    """Every socket being served, by descriptor, and whose they are."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[], None]] = {}
        self.sockets: dict[int, dict[int, socket.socket]] = {}
        self.sctp: dict[int, set[int]] = {}

    def _watch(self, owner: int, sock: socket.socket, handler: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.sockets[owner][sock.fileno()] = sock
        self.handlers[sock.fileno()] = handler
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def _close(self, owner: int, sock: socket.socket) -> None:
        fd = sock.fileno()
        self.handlers.pop(fd, None)
        self.sockets[owner].pop(fd, None)
        sock.close()  # takes it out of the epoll too

    def serve(self, owner: int, netns: str, name: str, ports: dict[str, list[int]]) -> None:
        """Serve more ports in a namespace. Raises OSError when a port is taken."""
        self.sockets.setdefault(owner, {})
        fd = os.open(netns, os.O_RDONLY)
        try:
            if _libc.setns(fd, 0) != 0:
                raise OSError(ctypes.get_errno(), f"setns {netns}")
        finally:
            os.close(fd)
        for port in ports.get("tcp", ()):
            self._tcp(owner, port)
        for port in ports.get("udp", ()):
            self._udp(owner, port, name.encode())
        if wanted := ports.get("sctp"):
            self._sctp(owner, wanted)

    def stop(self, owner: int) -> None:
        """Close everything a pod serves, its open connections too."""
        self.sctp.pop(owner, None)
        for sock in list(self.sockets.pop(owner, {}).values()):
            self.handlers.pop(sock.fileno(), None)
            sock.close()

    def _tcp(self, owner: int, port: int) -> None:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.listen(BACKLOG)

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    try:
                        connection, _ = listener.accept()
                    except ConnectionError:
                        continue
                    self._watch(owner, connection, lambda c=connection: echo(c))  # type: ignore[misc]

        def echo(connection: socket.socket) -> None:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except BlockingIOError:
                return
            except OSError:
                pass
            self._close(owner, connection)

        self._watch(owner, listener, accept)

    def _udp(self, owner: int, port: int, name: bytes) -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind(("::", port))

        def answer() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, asked, _, peer = sock.recvmsg(65536, ADDRESS_ROOM)
                    with contextlib.suppress(OSError):
                        sock.sendmsg([data, b" ", name], _from(asked), 0, peer)

        self._watch(owner, sock, answer)

    def _sctp(self, owner: int, wanted: list[int]) -> None:
        if served := self.sctp.get(owner):
            served.update(wanted)
            return
        ports = self.sctp[owner] = set(wanted)
        for family in (socket.AF_INET, socket.AF_INET6):
            sock = socket.socket(family, socket.SOCK_RAW, sctp.NUMBER)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            if family is socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            self._watch(owner, sock, lambda s=sock: _init_ack(s, ports))  # type: ignore[misc]

    def step(self, timeout: float) -> bool:
        """Serve what is ready; return whether anything was."""
        ready = self.epoll.poll(timeout)
        for fd, _ in ready:
            if handler := self.handlers.get(fd):
                try:
                    handler()
                except OSError:
                    # Such as an ICMP error about an earlier answer; the socket goes on.
                    continue
        return bool(ready)


def _from(asked: list[Control]) -> list[Control]:
    """Turn what came with a packet into what an answer needs to come from the address it was sent to."""
    answer: list[Control] = []
    for level, kind, data in asked:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            link = data[16:] if data[:2] == b"\xfe\x80" else bytes(4)
            answer.append((level, kind, data[:16] + link))
        elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            # struct in_pktinfo: interface, source of an answer, destination of the packet.
            answer.append((level, kind, bytes(4) + data[8:12] + bytes(4)))
    return answer


def _init_ack(sock: socket.socket, ports: set[int]) -> None:
    while True:
        try:
            data, asked, _, peer = sock.recvmsg(65536, ADDRESS_ROOM)
        except BlockingIOError:
            return
        packet = sctp.decode(sctp.without_ip_header(data, v4=sock.family == socket.AF_INET))
        if packet is None or packet.chunk != sctp.INIT:
            continue
        chunk = sctp.INIT_ACK if packet.destination in ports else sctp.ABORT
        reply = sctp.Packet(packet.destination, packet.source, packet.tag, chunk, tag=packet.tag ^ 0xFFFF)
        with contextlib.suppress(OSError):
            sock.sendmsg([reply.encode()], _from(asked), 0, (peer[0], 0))


def _obey(responder: Responder, command: dict[str, Any]) -> dict[str, str]:
    try:
        match command["do"]:
            case "serve":
                responder.serve(command["owner"], command["netns"], command["name"], command["ports"])
            case "stop":
                responder.stop(command["owner"])
            case "drain":
                while responder.step(0):
                    pass
    except OSError as error:
        return {"error": f"{command}: {error}"}
    return {}


def main() -> None:
    """Serve until standard input ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    responder = Responder()
    responder.epoll.register(0, select.EPOLLIN)
    pending = b""

    def control() -> None:
        nonlocal pending
        data = os.read(0, 65536)
        if not data:
            sys.exit(0)
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            answer = _obey(responder, json.loads(line))
            os.write(1, json.dumps(answer).encode() + b"\n")

    responder.handlers[0] = control
    while True:
        responder.step(-1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
