"""TLS for a port: a certificate and its key from files, read again when they change."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent import log

_log = log.get(__name__)

LOOK_SECONDS = 1.0
"""How often it is looked, at most, whether a file has changed."""

_Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate with its key, PEM each, as kubelet and cert-manager put them into a directory.

    Where the files cannot be used any more, the last that could be stays in use: one is often written before
    the other. For any thread. Raises OSError (ssl.SSLError is one) when they cannot be used at first.
    """

    def __init__(self, certificate: Path, key: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._files = certificate, key
        self._now = now
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._context = self._load()
        self._looked_at = now()

    def wrap(self, connection: socket.socket) -> socket.socket:
        """Return a connection that speaks TLS. The handshake comes with the first read, on its thread."""
        return self._current().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _current(self) -> ssl.SSLContext:
        with self._lock:
            if self._now() - self._looked_at >= LOOK_SECONDS:
                self._looked_at = self._now()
                self._renew()
            return self._context

    def _renew(self) -> None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._context = self._load()
        except OSError as error:
            _log.warning("certificate not usable", fault=str(error), meanwhile="the last one stays in use")
            return
        self._stamp = stamp
        _log.info("certificate read again", path=str(self._files[0]))

    def _look(self) -> _Stamp:
        found = (os.stat(path) for path in self._files)
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*self._files)
        return context
