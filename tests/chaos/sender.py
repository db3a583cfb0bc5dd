"""The process of a probe: sends numbered packets of all lanes, and takes what arrives.

``python -m tests.chaos.sender PLAN``: the sockets, made in their namespaces, are inherited. Sender and
receiver are one process, so that one clock counts, and nothing else that a test does holds it up.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import json
import mmap
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.net import Direction, Family

FIRST_PORT, LAST_PORT = 1024, 65535
PACKET = struct.Struct("!HHHHQ")
"""A UDP header, and the packet's number, from 0."""
_NUMBER = struct.Struct("!Q")
COUNT = struct.Struct("@Q")
CHECKSUM_AT = 6
_QUIET_SECONDS = 0.3
"""What is on its way has arrived when nothing did for so long: veth pairs pass packets on at once."""
_PRIORITY = -15
"""Above that of all else (setpriority(2)): it needs a twentieth of a processor."""
_SOFTNET = Path("/proc/net/softnet_stat")


class Plan(NamedTuple):
    """What the process is told, as JSON.

    ``lanes``: for each the descriptor that sends, the address and the port. ``receivers``: descriptors that
    receive. ``rate``: packets a second, of all lanes. ``shared``: how many packets were sent, and for each
    lane the newest number, plus 1, that arrived (``COUNT`` each). ``results``: a file for what was seen.
    ``nodes``: the namespaces whose agents' sets of closed addresses are looked at.
    """

    lanes: list[tuple[int, str, int]]
    receivers: list[int]
    rate: float
    shared: int
    results: int
    nodes: list[int]


class ClosedSets:
    """The sets in which an agent has the addresses that are closed until their rules are written."""

    def __init__(self, netns: int) -> None:
        """Look into the namespace of this descriptor; the thread goes there and back. Raises OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            if libc.setns(netns, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            self._ipsets = IpSets()
        finally:
            libc.setns(home, 0)
            os.close(home)

    def members(self) -> set[bytes]:
        """Return the addresses, of both families and directions."""
        found: set[bytes] = set()
        for direction in Direction:
            for family in Family:
                # There is none before the agent's first sync.
                with contextlib.suppress(SetError):
                    found |= {
                        member
                        for member in self._ipsets.members(names.closed_set(direction, family))
                        if isinstance(member, bytes)
                    }
        return found


def softnet_drops() -> int:
    """Return how many packets the machine has dropped since a processor's queue was full."""
    return sum(int(line.split()[1], 16) for line in _SOFTNET.read_text().splitlines())


class _Work:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._senders = {fd: socket.socket(fileno=fd) for fd in {fd for fd, _, _ in plan.lanes}}
        self._receivers = {fd: socket.socket(fileno=fd) for fd in plan.receivers}
        self._shared = mmap.mmap(plan.shared, COUNT.size * (1 + len(plan.lanes)))
        self._times = array.array("d")
        self._arrived = bytearray()
        self._drops: list[tuple[float, float]] = []
        self._dropped = softnet_drops()
        self._looked = time.monotonic()
        self._sets = [ClosedSets(fd) for fd in plan.nodes]
        self._closed: list[tuple[float, float, str]] = []
        self._closed_now: set[bytes] = set()
        self._epoll = select.epoll()
        for fd in plan.receivers:
            self._epoll.register(fd, select.EPOLLIN)
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)

    def run(self) -> None:
        period = len(self._plan.lanes) / self._plan.rate
        due = time.monotonic()
        while True:
            # A pod may be closed for some milliseconds only: before the packets, or after them.
            self._look()
            self._send()
            self._look()
            # Where the machine is too slow the rate sinks: a burst later says nothing of the time before.
            due = max(due + period, time.monotonic())
            if self._receive_until(due):
                break
        while self._receive_until(time.monotonic() + _QUIET_SECONDS, ending=True):
            pass
        self._look()
        self._tell()

    def _send(self) -> None:
        turn = len(self._times) // len(self._plan.lanes)
        port = FIRST_PORT + turn % (LAST_PORT + 1 - FIRST_PORT)
        for fd, address, to in self._plan.lanes:
            number = len(self._times)
            packet = PACKET.pack(port, to, PACKET.size, 0, number)
            taken = 0
            self._times.append(time.monotonic())
            try:
                self._senders[fd].sendto(packet, (address, 0))
            except OSError as error:
                # A rule of OUTPUT answers EPERM: it was denied.
                taken = 0 if error.errno == errno.EPERM else 2
            self._arrived.append(taken)
            COUNT.pack_into(self._shared, 0, number + 1)

    def _receive_until(self, until: float, *, ending: bool = False) -> bool:
        """Take what arrives; return whether to end or, while ``ending``, whether anything has arrived."""
        found = False
        while True:
            rest = until - time.monotonic()
            for fd, _ in self._epoll.poll(max(0.0, rest)):
                if fd in self._receivers:
                    found |= self._take(self._receivers[fd])
                elif not ending:
                    self._epoll.unregister(sys.stdin.fileno())
                    return True
            if rest <= 0 or (ending and found):
                return found and ending

    def _take(self, receiver: socket.socket) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                data = receiver.recv(64)
                if len(data) != _NUMBER.size:
                    continue
                (number,) = _NUMBER.unpack(data)
                self._arrived[number] = 1
                COUNT.pack_into(self._shared, COUNT.size * (1 + number % len(self._plan.lanes)), number + 1)
        return True

    def _look(self) -> None:
        """See what else than rules may have stopped the packets that were sent just now."""
        before = self._closed_now
        self._closed_now = {member for sets in self._sets for member in sets.members()}
        now, dropped = time.monotonic(), softnet_drops()
        # Closed at one of two looks: perhaps all the time between them.
        self._closed += [(self._looked, now, member.hex()) for member in before | self._closed_now]
        if dropped != self._dropped:
            self._drops.append((self._looked, now))
            self._dropped = dropped
        self._looked = now

    def _tell(self) -> None:
        head = json.dumps({"count": len(self._times), "drops": self._drops, "closed": self._closed}).encode()
        with os.fdopen(self._plan.results, "wb", closefd=False) as file:
            file.write(COUNT.pack(len(head)) + head + self._times.tobytes() + self._arrived)


def main() -> None:
    # On a busy machine it would not send as many, nor look in time at what has stopped them.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    work = _Work(Plan(**json.loads(sys.argv[1])))
    print("sending", flush=True)
    work.run()


if __name__ == "__main__":
    main()
