"""Sends the same datagram at a rate: ``flooder.py FAMILY ADDRESS PORT PACKETS_A_SECOND FD``.

Only the standard library, so that it starts at once. ``FD`` is shared memory of one 64-bit number: how many
have been sent.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import sys
import time

_LOT = 200


def main() -> None:
    version, address, port, rate, descriptor = sys.argv[1:]
    sock = socket.socket(socket.AF_INET6 if version == "6" else socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, int(port)))
    shared = mmap.mmap(int(descriptor), 8)
    pause = _LOT / int(rate)
    sent, due = 0, time.monotonic()
    while True:
        for _ in range(_LOT):
            with contextlib.suppress(OSError):
                sock.send(b"flood")
        sent += _LOT
        struct.pack_into("q", shared, 0, sent)
        # What a busy machine could not send in time is not sent all at once.
        due = max(due + pause, time.monotonic() - pause)
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
