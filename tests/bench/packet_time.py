"""Processor time of a small packet from one pod to another, where it is one of a known connection.

All of its way is in the sender's own time, up to the receiver's socket. So what else the machine does matters
little, and what a rule adds can be told from a difference of some nanoseconds.
"""

from __future__ import annotations

import contextlib
import random
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from agent.net import Family, Protocol
from tests.kernel.conversation import Conversation
from tests.lab.node import Pod

PACKETS = 40_000
"""Of one measurement."""

_SENDER = """\
import socket, sys, time
sending = socket.socket(fileno=int(sys.argv[1]))
for line in sys.stdin:
    began = time.process_time_ns()
    for _ in range(int(line)):
        sending.send(bytes(64))
    print(time.process_time_ns() - began, flush=True)
"""


@contextlib.contextmanager
def sending(client: Pod, server: Pod, port: int, before: Sequence[str]) -> Iterator[Callable[[], float]]:
    """Give what measures a packet, in nanoseconds; ``before``: what the sender's command begins with."""
    with Conversation(client, server, Family.V4, Protocol.UDP, port) as made:
        # What nobody reads is dropped at the end of its way.
        made.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        made.client.setblocking(True)
        number = made.client.fileno()
        command = [*before, sys.executable, "-c", _SENDER, str(number)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=(number,)) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            into, out = process.stdin, process.stdout

            def measure() -> float:
                into.write(f"{PACKETS}\n")
                into.flush()
                return int(out.readline()) / PACKETS

            measure()
            yield measure
            into.close()


def added(
    measure: Callable[[], float], switch: Callable[[bool], None], pairs: int
) -> list[tuple[float, float]]:
    """Return of each pair what is added where something is switched on, and what a packet takes without."""
    found = []
    for _ in range(pairs):
        times: dict[bool, list[float]] = {True: [], False: []}
        order = random.sample((True, False), 2)
        for _ in range(2):
            for on in order:
                switch(on)
                times[on].append(measure())
            order.reverse()
        without = statistics.mean(times[False])
        found.append((statistics.mean(times[True]) - without, without))
    return found
