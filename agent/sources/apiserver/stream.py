"""The stream of a watch: lines as they arrive, all that have arrived at once."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
import time
from collections.abc import Iterator

import urllib3

from agent.sources.apiserver.proof import UnprovenError

_READ_BYTES = 1 << 16
_LONGEST_LINE = 1 << 26
"""Of one event: an object in etcd has 1.5 MB at most, unless set otherwise."""
_WATCH_SECONDS = (300, 600)


class NoLineError(Exception):
    """Something comes on a stream, but for long no whole line: to a reader it is silent."""


def watch_query(version: str) -> dict[str, str]:
    """Return what asks for a watch from a version on, for some minutes."""
    return {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311 - spreads load
    }


def batches(response: urllib3.BaseHTTPResponse, silence: float) -> Iterator[list[bytes]]:
    """Give the lines of a stream, all that have arrived at once, waiting only when there are none.

    Raises UnprovenError when it ends within a line, or a line does not end; NoLineError when what comes in
    more than ``silence`` seconds is no line.
    """
    rest = b""
    last = time.monotonic()
    while data := response.read1(_READ_BYTES):
        parts = [rest, data]
        size = len(data)
        # Each event is its own HTTP chunk, and a read ends with its chunk; the limit bounds a batch.
        while size < 16 * _READ_BYTES and _more_at_hand(response):
            data = response.read1(_READ_BYTES)
            if not data:
                break
            parts.append(data)
            size += len(data)
        *lines, rest = b"".join(parts).split(b"\n")
        whole = [line for line in lines if line.strip()]
        if whole:
            yield whole
            last = time.monotonic()
        elif time.monotonic() - last > silence:
            raise NoLineError
        if len(rest) > _LONGEST_LINE:
            raise UnprovenError(f"a line of the watch is longer than {_LONGEST_LINE} bytes")
    if rest.strip():
        raise UnprovenError("the watch ended in the middle of a line")


def allow_silence(response: urllib3.BaseHTTPResponse, seconds: float) -> None:
    """Let a watch, now that it has begun, be silent longer than an answer may take."""
    sock = _socket_of(response)
    if sock is not None:
        sock.settimeout(seconds)


def _socket_of(response: urllib3.BaseHTTPResponse) -> socket.socket | None:
    sock = getattr(getattr(response, "_connection", None), "sock", None)
    return sock if isinstance(sock, socket.socket) else None


def _more_at_hand(response: urllib3.BaseHTTPResponse) -> bool:
    """Whether a read would find bytes without waiting.

    urllib3 has no such question, so its parts are asked; where they are not as known here the
    answer is no, and the stream is taken event by event.
    """
    sock = _socket_of(response)
    buffered = getattr(getattr(response, "_fp", None), "fp", None)
    if sock is None or buffered is None:
        return False
    timeout = sock.gettimeout()
    try:
        sock.settimeout(0)
        held = buffered.peek(1)
        if held[:2] not in (b"\r", b"\r\n") or len(held) > 2:
            return bool(held)
        # Only the end of the last chunk is left in the buffer; is there another chunk behind it?
        pending = sock.pending() if isinstance(sock, ssl.SSLSocket) else 0
        return pending > 0 or bool(select.select([sock], [], [], 0)[0])
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except (OSError, ValueError):
        # The next read meets it again and names it.
        return False
    finally:
        with contextlib.suppress(OSError):
            sock.settimeout(timeout)
