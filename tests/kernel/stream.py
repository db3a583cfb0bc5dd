"""A stream of UDP packets, each of them a new connection, sent from a place until it is ended.

The sender is a process of its own, so that it neither waits for the test nor holds it up.
"""

from __future__ import annotations

import contextlib
import itertools
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

FIRST_PORT, LAST_PORT = 1024, 65535
_HEADER = struct.Struct("!HHHH")
_BURST = 32
_ON_ITS_WAY_SECONDS = 0.05
"""How long a packet needs at most."""
_SOCKETS = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}


class Stream:
    """Sends from one place to a UDP port of another; a context manager.

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
        with source.netns.entered():
            self._sender = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.kernel.stream",
                    destination.address(family),
                    str(port),
                    str(rate),
                    str(burst),
                ],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def arrives(self, seconds: float = 0.1) -> bool:
        """Whether any packet arrives that is sent from now on, within some seconds."""
        time.sleep(_ON_ITS_WAY_SECONDS)
        self._take()
        before = self.arrived
        time.sleep(seconds)
        self._take()
        return self.arrived > before

    def _take(self) -> None:
        """Take what has arrived: all of it, since more comes more slowly."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._arriving.recv(64)
                self.arrived += 1

    def __enter__(self) -> Stream:
        assert self._sender.stdout
        self._sender.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self._sender.communicate()
        self.sent = int(out or 0)
        # A veth pair passes a packet on within the sending of it, or soon after on the same processor.
        while select.select([self._arriving], [], [], 0.3)[0]:
            self._arriving.recv(64)
            self.arrived += 1
        self._arriving.close()


def send(address: str, port: int, rate: int, burst: int) -> int:
    """Send until standard input ends; return how many."""
    sent = 0
    ports = itertools.cycle(range(FIRST_PORT, LAST_PORT + 1))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    began = time.monotonic()
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
        if family is socket.AF_INET6:
            # The kernel fills in the checksum, without which IPv4 permits UDP and IPv6 does not.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, _HEADER.size - 2)
        while True:
            for _ in range(burst):
                packet = _HEADER.pack(next(ports), port, 8, 0)
                sock.sendto(packet, (address, 0))
            sent += burst
            pause = max(0.0, began + sent / rate - time.monotonic()) if rate else 0.0
            if select.select([sys.stdin], [], [], pause)[0]:
                return sent


if __name__ == "__main__":
    print("sending", flush=True)
    print(send(sys.argv[1], *map(int, sys.argv[2:])))
