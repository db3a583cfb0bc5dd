"""Clients that hold connections and send a byte from time to time, and come again when they are turned away.

Run as ``python -m tests.kernel.crowding ADDRESS PORT COUNT SECONDS``; ends with its standard input.
"""

from __future__ import annotations

import resource
import select
import socket
import sys
import time


def crowd(address: str, port: int, count: int, seconds: float) -> None:
    """Hold so many connections until standard input ends, each with one byte every so many seconds."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    said = False
    while not select.select([sys.stdin], [], [], 0)[0]:
        while len(held) < count:
            held.append(connection := socket.socket())
            connection.setblocking(False)
            connection.connect_ex((address, port))
        if not said:
            said = True
            print("crowding", flush=True)
        time.sleep(seconds)
        for connection in list(held):
            try:
                connection.send(b"G")
            except BlockingIOError:
                continue
            except OSError:
                held.remove(connection)
                connection.close()


if __name__ == "__main__":
    crowd(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
