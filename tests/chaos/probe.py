"""Packets of new flows, 1,000 a second, that must be denied and that must be allowed, until it is ended."""

from __future__ import annotations

import array
import contextlib
import ipaddress
import json
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from agent.net import Family
from tests.chaos.judge import Allowance, Expected, Record, Report, Since, judge
from tests.chaos.sender import CHECKSUM_AT, COUNT, Plan
from tests.lab.children import dies_with_us
from tests.lab.cluster import ROOT
from tests.lab.netns import SO_RCVBUFFORCE
from tests.lab.node import Pod
from tests.lab.place import LabError, Place
from tests.patience import PATIENCE

RATE = 1000
_SEVERAL = 25
"""Packets of a lane of which none arrives where they are denied."""
_ON_ITS_WAY_SECONDS = 0.05
_SOCKETS = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_RECEIVE_BYTES = 64 << 20
_SO_MEMINFO, _DROPS_AT, _MEMINFO_VALUES = 55, 8, 9


@dataclass(frozen=True)
class Lane:
    """New flows (UDP, each from another port) from one place to a port of another, and how they must end."""

    source: Place
    destination: Place
    port: int
    family: Family
    expected: Expected

    @property
    def name(self) -> str:
        where = f"{self.source.name} > {self.destination.name}:{self.port}"
        return f"{where} IPv{int(self.family)} {self.expected.value}"


def both_families(source: Place, destination: Place, port: int, expected: Expected) -> tuple[Lane, Lane]:
    """Return a lane in each family."""
    one, other = (Lane(source, destination, port, family, expected) for family in Family)
    return one, other


class Probe:
    """Sends on all lanes in turn, ``rate`` packets a second in all; a context manager.

    ``report`` says afterwards what was wrong. Source ports come round after 64,512 packets of a lane: give
    nodes a short ``nf_conntrack_udp_timeout``, as :mod:`tests.chaos.stage` does. On a machine that is too
    slow the rate is lower, and ``report.rate`` says so. Flows of pods that an agent has closed until the
    kernel takes their rules are counted apart. Call it from the main thread.
    """

    def __init__(self, lanes: Iterable[Lane], rate: float = RATE) -> None:
        self.lanes = tuple(lanes)
        self.report = Report(0.0)
        self._expected = [[Since(0, lane.expected)] for lane in self.lanes]
        self._allowances: list[Allowance] = []
        with contextlib.ExitStack() as stack:
            self._shared_file = _memory(stack, "shared")
            self._results_file = _memory(stack, "results")
            size = COUNT.size * (1 + len(self.lanes))
            os.truncate(self._shared_file, size)
            self._shared = mmap.mmap(self._shared_file, size)
            stack.callback(self._shared.close)
            senders = {
                key: _sender(stack, *key) for key in {(lane.source, lane.family) for lane in self.lanes}
            }
            self._receivers = {
                key: _receiver(stack, *key)
                for key in {(lane.destination, lane.family, lane.port) for lane in self.lanes}
            }
            places = [place for lane in self.lanes for place in (lane.source, lane.destination)]
            nodes = {place.node.netns.fd for place in places if isinstance(place, Pod)}
            plan = Plan(
                lanes=[
                    (
                        senders[lane.source, lane.family].fileno(),
                        lane.destination.address(lane.family),
                        lane.port,
                    )
                    for lane in self.lanes
                ],
                receivers=[found.fileno() for found in self._receivers.values()],
                rate=rate,
                shared=self._shared_file,
                results=self._results_file,
                nodes=sorted(nodes),
            )
            self._process = subprocess.Popen(
                dies_with_us([sys.executable, "-m", "tests.chaos.sender", json.dumps(plan._asdict())]),
                pass_fds=[
                    *(found.fileno() for found in (*senders.values(), *self._receivers.values())),
                    self._shared_file,
                    self._results_file,
                    *nodes,
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            stack.callback(self._end)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        assert self._process.stdout
        if self._process.stdout.readline() != b"sending\n":
            raise LabError("the probe does not send")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            if kind is None:
                self.report = self._judged()

    def expect(self, expected: Expected, which: Callable[[Lane], bool] = lambda _: True) -> None:
        """Have flows that begin from now on end otherwise, on the lanes that ``which`` chooses."""
        # The one after those that are counted may have been sent just now.
        number = self._sent() + 1
        for lane, since in zip(self.lanes, self._expected, strict=True):
            if which(lane):
                since.append(Since(number, expected))

    def allow(self, seconds: float, ago: float = 0.0) -> None:
        """Say that there is a fault now, for which the promise allows wrong flows for so long.

        The report counts them apart, and says how long they were wrong. ``ago``: the fault came so many
        seconds before this is called, at most.
        """
        now = time.monotonic() - ago
        self._allowances.append(Allowance(now, now + seconds))

    def passes(self, lane: Lane) -> bool:
        """Whether flows of a lane that begin from now on arrive: any of the next 25.

        Raises TimeoutError when as many are not sent.
        """
        number = self.lanes.index(lane)
        first = self._sent() + 1
        enough = first + _SEVERAL * len(self.lanes)
        until = time.monotonic() + PATIENCE
        while self._sent() < enough:
            if time.monotonic() > until or self._process.poll() is not None:
                raise TimeoutError(f"{self._sent() - first} of {enough - first} packets were sent")
            if self._latest(number) >= first:
                return True
            time.sleep(0.005)
        time.sleep(_ON_ITS_WAY_SECONDS)
        return self._latest(number) >= first

    def _sent(self) -> int:
        """Return how many packets have been sent, or one less."""
        return int(COUNT.unpack_from(self._shared)[0])

    def _latest(self, lane: int) -> int:
        return int(COUNT.unpack_from(self._shared, COUNT.size * (1 + lane))[0]) - 1

    def _judged(self) -> Report:
        assert self._process.stdin
        self._process.stdin.close()
        if self._process.wait(PATIENCE) != 0:
            raise LabError("the probe has failed")
        for (place, _, port), found in self._receivers.items():
            if dropped := _dropped(found):
                raise LabError(f"the probe was too slow: {dropped} packets to {place.name}:{port} are lost")
        record = _read(self._results_file, self.lanes)
        return judge(record, [lane.name for lane in self.lanes], self._expected, self._allowances)

    def _end(self) -> None:
        with self._process:
            self._process.kill()


def _memory(stack: contextlib.ExitStack, name: str) -> int:
    file = os.memfd_create(name)
    stack.callback(os.close, file)
    return file


def _sender(stack: contextlib.ExitStack, source: Place, family: Family) -> socket.socket:
    with source.netns.entered():
        sock = stack.enter_context(socket.socket(_SOCKETS[family], socket.SOCK_RAW, socket.IPPROTO_UDP))
    # It is told of each UDP packet that its namespace receives, and reads none.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sock.setblocking(False)
    if family is Family.V6:
        # The kernel fills in the checksum, without which IPv4 permits UDP and IPv6 does not.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, CHECKSUM_AT)
    return sock


def _receiver(stack: contextlib.ExitStack, destination: Place, family: Family, port: int) -> socket.socket:
    with destination.netns.entered():
        sock = stack.enter_context(socket.socket(_SOCKETS[family], socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BYTES)
    sock.setblocking(False)
    sock.bind((destination.address(family), port))
    return sock


def _dropped(receiver: socket.socket) -> int:
    """Return how many packets a full buffer has cost (SO_MEMINFO, ``SK_MEMINFO_DROPS``)."""
    found = array.array("I", receiver.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_VALUES))
    return found[_DROPS_AT]


def _read(file: int, lanes: Sequence[Lane]) -> Record:
    data = os.pread(file, os.fstat(file).st_size, 0)
    (length,) = COUNT.unpack_from(data)
    begin = COUNT.size + length
    head = json.loads(data[COUNT.size : begin])
    times = array.array("d")
    end = begin + times.itemsize * head["count"]
    times.frombytes(data[begin:end])
    closed = [
        [(one, other) for one, other, member in head["closed"] if member in _ends(lane)] for lane in lanes
    ]
    return Record(len(lanes), times, data[end:], [(one, other) for one, other in head["drops"]], closed)


def _ends(lane: Lane) -> set[str]:
    """Return the addresses of a lane's two ends, as the process writes them."""
    places = (lane.source, lane.destination)
    return {ipaddress.ip_address(place.address(lane.family)).packed.hex() for place in places}
