"""Fresh flows by the thousand: is a connection allowed, denied or rejected?

A prober opens every flow of a batch at once from the calling thread, entering each source's namespace only
to create its sockets. A source port serves one flow per source and protocol until all have been used, so no
flow meets connection tracking's memory of an earlier one with its five-tuple, not even behind a Service.

How "denied" is told without waiting for a timeout, and without a busy machine turning allowed into denied:
every link of the lab is a veth pair, and a packet sent into one is queued on the sending processor's
backlog, first in, first out. So a packet of ours that goes round the loopback of a namespace on that
processor comes back after everything queued before it has moved one link on or been dropped. As many rounds
as the longest way has links, on each processor, and whatever is still on its way has arrived (`_flush`).
The kernel answers TCP by itself; for UDP and SCTP the responder is told to answer all it has received, and
the answers are flushed the same way. A flow with no answer after that was dropped. The short grace before
only spares the flush where answers come at once.
"""

from __future__ import annotations

import enum
import errno
import itertools
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.net import Family, Protocol
from tests.lab import sctp
from tests.lab.netns import SO_RCVBUFFORCE, Netns
from tests.lab.place import LabError, Place
from tests.patience import PATIENCE

GRACE = 0.02
"""Seconds without any answer after which the kernel is flushed to decide."""

CHUNK = 500
"""Flows in flight at once: below a processor's backlog (1,000 packets) and a listener's (4,096)."""

LINKS = 32
"""Rounds of a flush: more than the links of the longest way there and back, with neighbour discovery."""

FIRST_PORT, LAST_PORT = 10000, 65000
PORT_REST = 40.0
"""Seconds before a source port may be used again: longer than connection tracking remembers its flow
(10 s after a TCP reset, 30 s after a UDP answer, 10 s after an SCTP INIT ACK or ABORT)."""

IP_RECVERR, IPV6_RECVERR = 11, 25
MSG_ERRQUEUE = 0x2000


class Verdict(enum.StrEnum):
    """What became of a flow. REJECTED: someone answered with a refusal, be it policy or a closed port."""

    ALLOWED = "allowed"
    DENIED = "denied"
    REJECTED = "rejected"


class Flow(NamedTuple):
    """A connection to try: from a place to an address (as text) and port.

    ``own`` is the address it comes from, where the place has several; "" leaves that to the place's routes.
    """

    source: Place
    address: str
    protocol: Protocol
    port: int
    own: str = ""

    def __str__(self) -> str:
        own = f" {self.own}" if self.own else ""
        return f"{self.source.name}{own} → {self.protocol.name.lower()} {self.address} {self.port}"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class _Ports:
    """The next source port of each source address and protocol."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, Protocol], Iterator[int]] = {}
        self._wrapped: dict[tuple[str, Protocol], float] = {}

    def take(self, source: str, protocol: Protocol) -> int:
        key = source, protocol
        numbers = self._next.get(key)
        if numbers is not None and (number := next(numbers, 0)):
            return number
        now = time.monotonic()
        if now - self._wrapped.get(key, -PORT_REST) < PORT_REST:
            raise LabError(f"{source} has used every {protocol.name} source port within {PORT_REST:.0f} s")
        self._wrapped[key] = now
        self._next[key] = iter(range(FIRST_PORT, LAST_PORT))
        return next(self._next[key])


class Prober:
    """Opens flows, and serves the ports they go to. One thread at a time."""

    def __init__(self) -> None:
        self._netns = Netns("prober")
        self._ports = _Ports()
        self._owners: dict[int, int] = {}
        self._numbers = itertools.count(1)
        root = Path(__file__).parents[2]
        self._responder = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.responder"],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the test run; this one ends with its standard input
        )

    def close(self) -> None:
        """End the responder and every socket it holds."""
        assert self._responder.stdin
        assert self._responder.stdout
        self._responder.stdin.close()
        self._responder.wait(PATIENCE)
        self._responder.stdout.close()
        self._netns.close()

    def _tell(self, **command: object) -> None:
        assert self._responder.stdin
        assert self._responder.stdout
        self._responder.stdin.write(json.dumps(command).encode() + b"\n")
        self._responder.stdin.flush()
        line = self._responder.stdout.readline()
        if not line:
            raise LabError("the responder has ended")
        if error := json.loads(line).get("error"):
            raise LabError(error)

    def serve(
        self,
        place: Place,
        *,
        tcp: Iterable[int] = (),
        udp: Iterable[int] = (),
        sctp: Iterable[int] = (),
    ) -> None:
        """Answer on ports of a place, in both families: TCP and UDP echo, SCTP INIT ACK.

        A UDP answer is the request, a space and the place's name. Raises LabError when a port is taken.
        """
        owner = self._owners.setdefault(place.netns.fd, next(self._numbers))
        ports = {"tcp": list(tcp), "udp": list(udp), "sctp": list(sctp)}
        self._tell(do="serve", owner=owner, netns=place.netns.path, name=place.name, ports=ports)

    def stop(self, place: Place) -> None:
        """Close everything a place serves."""
        if owner := self._owners.pop(place.netns.fd, 0):
            self._tell(do="stop", owner=owner)

    def probe(self, flows: Sequence[Flow], grace: float = GRACE) -> list[Verdict]:
        """Open every flow and return their verdicts, in order."""
        verdicts: list[Verdict] = []
        for first in range(0, len(flows), CHUNK):
            verdicts += self._probe(flows[first : first + CHUNK], grace)
        return verdicts

    def _probe(self, flows: Sequence[Flow], grace: float) -> list[Verdict]:
        batch = _Batch(flows, self._ports)
        try:
            batch.open()
            while batch.waiting and batch.collect(grace):
                pass
            if batch.waiting:
                self._flush()
                self._tell(do="drain")
                self._flush()
                while batch.collect(0):
                    pass
        finally:
            batch.close()
        return [batch.verdicts.get(index, Verdict.DENIED) for index in range(len(flows))]

    def settle(self) -> None:
        """Return when every packet sent before the call has arrived, or has been dropped."""
        self._flush()
        self._tell(do="drain")
        self._flush()

    def _flush(self) -> None:
        """Wait until every packet that was on its way has arrived or been dropped. See the module's text."""
        allowed = os.sched_getaffinity(0)
        with self._netns.entered():
            ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            ours.bind(("127.0.0.1", 0))
            ours.connect(ours.getsockname())
            ours.settimeout(10)
            # Twice: a packet that waits for its neighbour's address is sent on by the processor of the
            # answer.
            for processor in sorted(allowed) * 2:
                os.sched_setaffinity(0, {processor})
                for _ in range(LINKS):
                    ours.send(b"x")
                    ours.recv(1)
        finally:
            os.sched_setaffinity(0, allowed)
            ours.close()


class _Batch:
    """Flows in flight. A flow's number is its index; TCP and UDP have a socket each, SCTP one per source
    and address it comes from."""

    def __init__(self, flows: Sequence[Flow], ports: _Ports) -> None:
        self.flows = flows
        self.verdicts: dict[int, Verdict] = {}
        self._ports = ports
        self._epoll = select.epoll()
        self._sockets: dict[int, tuple[socket.socket, int]] = {}
        self._raw: dict[tuple[int, int, str], socket.socket] = {}
        self._inits: dict[tuple[int, int], int] = {}

    @property
    def waiting(self) -> bool:
        return len(self.verdicts) < len(self.flows)

    def open(self) -> None:
        by_source: dict[int, list[int]] = {}
        for index, flow in enumerate(self.flows):
            by_source.setdefault(flow.source.netns.fd, []).append(index)
        for indexes in by_source.values():
            with self.flows[indexes[0]].source.netns.entered():
                for index in indexes:
                    try:
                        self._open(index)
                    except OSError as error:
                        hint = " (too many neighbours? see Lab.pin_neighbours)" * (
                            error.errno == errno.ENOBUFS
                        )
                        raise LabError(f"{self.flows[index]}: {error}{hint}") from error

    def _open(self, index: int) -> None:
        flow = self.flows[index]
        family = _family(flow.address)
        name = flow.own or flow.source.address(Family.V4)
        if flow.protocol is Protocol.SCTP:
            self._send_init(index, family, self._ports.take(name, flow.protocol))
            return
        kind = socket.SOCK_STREAM if flow.protocol is Protocol.TCP else socket.SOCK_DGRAM
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        self._sockets[sock.fileno()] = sock, index
        self._bind(sock, flow, name)
        if flow.protocol is Protocol.TCP:
            # Closing with a reset leaves no TIME_WAIT here nor in connection tracking.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        number = sock.connect_ex((flow.address, flow.port))
        if number in (errno.ENETUNREACH, errno.EADDRNOTAVAIL):
            raise OSError(number, os.strerror(number))
        if number not in (0, errno.EINPROGRESS):
            self._decide(index, Verdict.REJECTED)
        elif flow.protocol is Protocol.UDP:
            sock.send(b"probe %d" % index)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        else:
            self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def _bind(self, sock: socket.socket, flow: Flow, source: str) -> None:
        while True:
            try:
                sock.bind((flow.own, self._ports.take(source, flow.protocol)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return

    def _send_init(self, index: int, family: socket.AddressFamily, port: int) -> None:
        flow = self.flows[index]
        key = flow.source.netns.fd, int(family), flow.own
        sock = self._raw.get(key)
        if sock is None:
            sock = self._raw[key] = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, sctp.NUMBER)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
            if family is socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            if flow.own:
                sock.bind((flow.own, 0))
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._inits[sock.fileno(), port] = index
        packet = sctp.Packet(port, flow.port, 0, sctp.INIT, tag=_tag(index, port))
        sock.sendto(packet.encode(), (flow.address, 0))

    def _decide(self, index: int, verdict: Verdict) -> None:
        self.verdicts.setdefault(index, verdict)

    def collect(self, timeout: float) -> bool:
        """Take what has been answered; return whether anything had been."""
        events = self._epoll.poll(timeout)
        for fd, _ in events:
            entry = self._sockets.get(fd)
            if entry is None:
                self._collect_sctp(fd)
                continue
            sock, index = entry
            self._decide(index, _outcome(sock, self.flows[index].protocol))
            self._epoll.unregister(fd)
        return bool(events)

    def _collect_sctp(self, fd: int) -> None:
        sock = next(s for s in self._raw.values() if s.fileno() == fd)
        while True:
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error; its packet is read below
            packet = sctp.decode(sctp.without_ip_header(data, v4=sock.family == socket.AF_INET))
            if packet is None or packet.chunk not in (sctp.INIT_ACK, sctp.ABORT):
                continue
            index = self._inits.get((fd, packet.destination))
            # Until it is bound, a raw socket is given other addresses' packets, too.
            if index is not None and packet.verification == _tag(index, packet.destination):
                self._decide(index, Verdict.ALLOWED if packet.chunk == sctp.INIT_ACK else Verdict.REJECTED)
        while True:
            try:
                data, _, _, _ = sock.recvmsg(65536, 1024, MSG_ERRQUEUE)
            except BlockingIOError:
                return
            refused = sctp.decode(data.ljust(16, b"\0"))
            index = self._inits.get((fd, refused.source)) if refused else None
            if index is not None:
                self._decide(index, Verdict.REJECTED)

    def close(self) -> None:
        for sock, _ in self._sockets.values():
            sock.close()
        for sock in self._raw.values():
            sock.close()
        self._epoll.close()


def _tag(index: int, port: int) -> int:
    """Return the initiate tag of a flow's INIT, which each answer to it bears (RFC 9260, 8.5)."""
    return (index + 1) << 16 | port


def _outcome(sock: socket.socket, protocol: Protocol) -> Verdict:
    if protocol is Protocol.UDP:
        try:
            sock.recv(65536)
        except OSError:
            return Verdict.REJECTED
        return Verdict.ALLOWED
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    # Reset after the handshake: the other side had accepted.
    return Verdict.ALLOWED if number in (0, errno.ECONNRESET) else Verdict.REJECTED
