"""A stream of UDP packets, each of them a new connection, sent from a place until it is ended.

The sender is a process of its own, so that it neither waits for the test nor holds it up. Packets are
numbered, and the sender says in shared memory how many it has sent: what they tell does not depend on how
long a busy machine takes to send them.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from agent.net import Family
from tests.lab.netns import SO_RCVBUFFORCE
from tests.lab.place import Place
from tests.patience import PATIENCE

FIRST_PORT, LAST_PORT = 1024, 65535
_PACKET = struct.Struct("!HHHHQ")
"""A UDP header, and the packet's number, from 0."""
_NUMBER = struct.Struct("!Q")
_COUNT = struct.Struct("@Q")
_CHECKSUM_AT = 6
_BURST = 32
_ENOUGH = 1000
"""Packets of which none arrives where they are denied."""
_ON_ITS_WAY_SECONDS = 0.05
"""How long a packet needs at most once it has been sent."""
_SOCKETS = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}


class Stream:
    """Sends from one place to a UDP port of another; a context manager. ``sender``: the process that sends.

    ``rate`` is packets a second, 0: as many as possible; they are sent ``burst`` at a time. Source ports come
    round after 64,512 packets.
    """

    def __init__(
        self,
        source: Place,
        destination: Place,
        port: int,
        rate: int = 0,
        *,
        burst: int = _BURST,
        family: Family = Family.V4,
    ) -> None:
        with destination.netns.entered():
            self._arriving = socket.socket(_SOCKETS[family], socket.SOCK_DGRAM)
        self._arriving.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self._arriving.setblocking(False)
        self._arriving.bind((destination.address(family), port))
        self.sent = 0
        self.arrived = 0
        self._latest = -1
        counter = os.memfd_create("sent")
        os.truncate(counter, _COUNT.size)
        self._counter = mmap.mmap(counter, _COUNT.size)
        with source.netns.entered():
            self.sender = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.kernel.stream",
                    destination.address(family),
                    str(port),
                    str(rate),
                    str(burst),
                    str(counter),
                ],
                pass_fds=[counter],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        os.close(counter)

    def arrives(self) -> bool:
        """Whether any packet arrives that is sent from now on.

        False when none of many did. Raises TimeoutError when the sender does not send as many.
        """
        self._take()
        # The one after those that are counted may have been sent just now.
        first = self.count() + 1
        until = time.monotonic() + PATIENCE
        while self.count() < first + _ENOUGH:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.count() - first} of {_ENOUGH} packets were sent")
            select.select([self._arriving], [], [], 0.01)
            self._take()
            if self._latest >= first:
                return True
        time.sleep(_ON_ITS_WAY_SECONDS)
        self._take()
        return self._latest >= first

    def count(self) -> int:
        """Return how many packets have been sent until now, or one less."""
        (count,) = _COUNT.unpack_from(self._counter)
        return int(count)

    def _take(self) -> None:
        """Take what has arrived: all of it, since more comes more slowly."""
        with contextlib.suppress(BlockingIOError):
            while True:
                (number,) = _NUMBER.unpack(self._arriving.recv(64))
                self._latest = max(self._latest, number)
                self.arrived += 1

    def __enter__(self) -> Stream:
        assert self.sender.stdout
        self.sender.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self.sender.communicate()
        self.sent = int(out or 0)
        # A veth pair passes a packet on within the sending of it, or soon after on the same processor.
        while select.select([self._arriving], [], [], 0.3)[0]:
            self._arriving.recv(64)
            self.arrived += 1
        self._arriving.close()
        self._counter.close()


def send(address: str, port: int, rate: int, burst: int, counter: int) -> int:
    """Send until standard input ends; return how many. ``counter``: the file that says how many meanwhile."""
    sent = 0
    ports = itertools.cycle(range(FIRST_PORT, LAST_PORT + 1))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    count = mmap.mmap(counter, _COUNT.size)
    began = time.monotonic()
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
        if family is socket.AF_INET6:
            # The kernel fills in the checksum, without which IPv4 permits UDP and IPv6 does not.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, _CHECKSUM_AT)
        while True:
            for number in range(sent, sent + burst):
                packet = _PACKET.pack(next(ports), port, _PACKET.size, 0, number)
                sock.sendto(packet, (address, 0))
                _COUNT.pack_into(count, 0, number + 1)
            sent += burst
            pause = max(0.0, began + sent / rate - time.monotonic()) if rate else 0.0
            if select.select([sys.stdin], [], [], pause)[0]:
                return sent


if __name__ == "__main__":
    print("sending", flush=True)
    print(send(sys.argv[1], *map(int, sys.argv[2:])))
