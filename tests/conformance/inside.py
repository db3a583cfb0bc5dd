"""Runs inside a pod of the tests, by whatever Python 3 its image has: serves TCP ports, or tries connections.

The text of this file is the argument of ``python3 -c``, followed by one of:

- ``serve PORT...`` accepts connections on each port, in both families, until it is killed.
- ``probe SECONDS [[ADDRESS, PORT], ...]`` (JSON) opens every connection at once and prints a JSON list of
  ``allowed``, ``rejected`` (someone answered with a refusal) or ``denied`` (no answer), in order.
"""

from __future__ import annotations

import errno
import json
import selectors
import socket
import sys
import time


def serve(ports: list[int]) -> None:
    """Accept and close whatever comes, for ever."""
    with selectors.DefaultSelector() as selector:
        for port in ports:
            selector.register(_listener(port), selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                try:
                    key.fileobj.accept()[0].close()
                except OSError:
                    continue  # its other end was quicker to close it


def _listener(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    except (OSError, ValueError):  # no IPv6 here
        return socket.create_server(("", port), backlog=1024)


def probe(seconds: float, targets: list[tuple[str, int]]) -> list[str]:
    """Return what became of a connection to each target within so many seconds."""
    verdicts = ["denied"] * len(targets)
    with selectors.DefaultSelector() as selector:
        for index, (address, port) in enumerate(targets):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            sock.setblocking(False)
            number = sock.connect_ex((address, port))
            if number in (0, errno.EINPROGRESS):
                selector.register(sock, selectors.EVENT_WRITE, index)
            else:
                verdicts[index] = "rejected"
        deadline = time.monotonic() + seconds
        while selector.get_map():
            # Also when it had no turn for so long: what has been answered meanwhile was in time.
            left = deadline - time.monotonic()
            answered = selector.select(max(0.0, left))
            if not answered and left <= 0:
                break
            for key, _ in answered:
                assert isinstance(key.fileobj, socket.socket)
                selector.unregister(key.fileobj)
                number = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                # Reset after the handshake: the other side had accepted.
                verdicts[key.data] = "allowed" if number in (0, errno.ECONNRESET) else "rejected"
                key.fileobj.close()
    return verdicts


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve([int(word) for word in sys.argv[2:]])
    else:
        print(json.dumps(probe(float(sys.argv[2]), json.loads(sys.argv[3]))))
