"""Sends numbered datagrams and writes down when: ``sender.py FAMILY ADDRESS PORT PERIOD FD``.

Only the standard library, so that it starts at once. ``FD`` is shared memory of ``SLOTS`` + 1 64-bit
numbers: how many have been sent, then when each was, in nanoseconds of the monotonic clock, in a ring.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import sys
import time

SLOTS = 1 << 20


def main() -> None:
    version, address, port, period, descriptor = sys.argv[1:]
    sock = socket.socket(socket.AF_INET6 if version == "6" else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, int(port)))
    shared = mmap.mmap(int(descriptor), 8 * (SLOTS + 1))
    # A packet each period even when both processors are busy: it needs a few microseconds of one.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    step = int(period)
    number, due = 0, time.monotonic_ns()
    while True:
        struct.pack_into("q", shared, 8 * (1 + number % SLOTS), time.monotonic_ns())
        with contextlib.suppress(OSError):  # rejected or unreachable: then it does not arrive
            sock.send(struct.pack("q", number))
        number += 1
        struct.pack_into("q", shared, 0, number)
        due = max(due + step, time.monotonic_ns() - step)
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)


if __name__ == "__main__":
    main()
