"""A stream of packets between two pods, which shows when exactly it is treated otherwise.

One UDP flow that nobody answers: connection tracking holds it unreplied, so each packet is as new as the
first and is judged anew. That this is so shows in every measurement: an established flow would never be
denied.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from agent.net import Family
from tests.bench.sender import SLOTS
from tests.lab.children import dies_with_us
from tests.lab.netns import SO_RCVBUFFORCE
from tests.lab.place import LabError, Place
from tests.patience import PATIENCE

PORT = 9999
PERIOD_NS = 400_000
"""Between two packets: what a time can be wrong by."""

_SENDER = Path(__file__).with_name("sender.py")
_ON_THEIR_WAY_NS = 3_000_000
"""How long after it was sent a packet that has not arrived is taken for lost; it needs some microseconds."""
_STAYS_NS = 30_000_000
"""How long packets must all be treated the same way."""
_LOOK_SECONDS = 0.002


class Beam:
    """The packets from a pod to another that are on their way now; see :func:`beam`."""

    def __init__(self, shared: mmap.mmap, sink: socket.socket, what: str) -> None:
        self._shared = shared
        self._sink = sink
        self._what = what
        self._arrived: set[int] = set()
        self.flaps: list[list[float]] = []
        """Where packets went the new way and then the old way again before the new way held: how long each
        lasted, in milliseconds."""

    def wait(self, passes: bool, since_ns: int = 0, timeout: float = PATIENCE) -> int:
        """Wait until packets sent after a time of the monotonic clock all pass, or none does.

        Return when the first of them was sent, in nanoseconds; ``since_ns`` 0: from now on. Raises LabError.
        """
        since = since_ns or time.monotonic_ns()
        first = self._first_after(since)
        deadline = since + int(timeout * 1e9)
        while True:
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic_ns()
            last = self._last_before(now - _ON_THEIR_WAY_NS)
            self.take()
            changed = self._last_otherwise(first, last, passes) + 1
            if changed <= last and self._sent_at(last) - self._sent_at(changed) >= _STAYS_NS:
                seen = [number in self._arrived for number in range(first, last + 1)]
                runs = [len(list(run)) for _, run in itertools.groupby(seen)]
                if len(runs) > 2:
                    self.flaps.append([round(run * PERIOD_NS / 1e6, 1) for run in runs])
                self._arrived = {number for number in self._arrived if number > last}
                return self._sent_at(changed)
            if now > deadline:
                wanted = "pass" if passes else "are dropped"
                raise LabError(f"{self._what}: {timeout:.0f} s later not all packets {wanted}")

    def _last_otherwise(self, first: int, last: int, passes: bool) -> int:
        """Return the last packet from ``first`` to ``last`` that was treated the other way."""
        for number in range(last, first - 1, -1):
            if (number in self._arrived) is not passes:
                return number
        return first - 1

    def take(self) -> None:
        """Note what has arrived: to be called at least every 20 s, after which there is no room for more."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._arrived.add(struct.unpack("q", self._sink.recv(64))[0])

    def _sent(self) -> int:
        return int(struct.unpack_from("q", self._shared)[0])

    def _sent_at(self, number: int) -> int:
        return int(struct.unpack_from("q", self._shared, 8 * (1 + number % SLOTS))[0])

    def _first_after(self, moment: int) -> int:
        number = self._sent()
        while number > 0 and self._sent_at(number - 1) >= moment:
            number -= 1
        return number

    def _last_before(self, moment: int) -> int:
        number = self._sent() - 1
        while number >= 0 and self._sent_at(number) > moment:
            number -= 1
        return number


@contextlib.contextmanager
def beam(source: Place, destination: Place, address: str, family: Family = Family.V4) -> Iterator[Beam]:
    """Send packets from one pod to an address of another until the end. Call from the main thread."""
    kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    memory = os.memfd_create("beam")
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, memory)
        os.ftruncate(memory, 8 * (SLOTS + 1))
        shared = stack.enter_context(mmap.mmap(memory, 8 * (SLOTS + 1)))
        with destination.netns.entered():
            sink = stack.enter_context(socket.socket(kind, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
        sink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sink.bind((address, PORT))
        with source.netns.entered():
            sender = subprocess.Popen(
                dies_with_us(
                    [
                        *(sys.executable, "-S", "-E", str(_SENDER)),
                        *(str(int(family)), address, str(PORT), str(PERIOD_NS), str(memory)),
                    ]
                ),
                pass_fds=[memory],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        stack.callback(sender.wait)
        stack.callback(sender.kill)
        what = f"{source.name} to {destination.name}"
        made = Beam(shared, sink, what)
        deadline = time.monotonic() + PATIENCE
        while made._sent() == 0:
            if sender.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"{what}: no packets are sent")
            time.sleep(_LOOK_SECONDS)
        yield made
