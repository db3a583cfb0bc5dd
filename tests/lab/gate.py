"""A gate before the API server, which lets no request through that a test wants to wait."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests.lab.apiserver import PORT, ApiServer

_PIECE = 1 << 16


class Gate:
    """Passes GET requests on, in the API server's namespace; a context manager.

    It is spoken to in plain HTTP. A request whose path and query ``holds`` says true of waits until
    :meth:`open`; after that nothing does. ``waiting`` is set from when the first one waits.
    """

    def __init__(self, api: ApiServer, holds: Callable[[str], bool]) -> None:
        self.waiting = threading.Event()
        self._opened = threading.Event()
        self._api = api
        self._holds = holds
        self._tls = ssl.create_default_context(cafile=str(api.certificate))
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                try:
                    gate._pass_on(self)
                except (OSError, http.client.HTTPException):
                    # Either end may be gone by the time that the other is answered.
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        with api.netns.entered():
            self._server = ThreadingHTTPServer((api.address, 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        self._server.shutdown()
        self._server.server_close()

    def open(self) -> None:
        """Let everything through, that which waits too."""
        self._opened.set()

    def kubeconfig(self, user: str) -> Path:
        """Write and return a kubeconfig that leads through the gate; see :meth:`ApiServer.kubeconfig`."""
        config = json.loads(self._api.kubeconfig(user).read_text())
        config["clusters"][0]["cluster"] = {
            "server": f"http://{self._api.address}:{self._server.server_port}"
        }
        path = self._api.directory / f"{user}-{self._server.server_port}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        if self._holds(request.path) and not self._opened.is_set():
            self.waiting.set()
            self._opened.wait()
        server = http.client.HTTPSConnection(self._api.address, PORT, context=self._tls)
        with self._api.netns.entered():
            server.connect()
        with contextlib.closing(server):
            server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = {name: request.headers[name] for name in ("Authorization", "Accept")}
            server.request("GET", request.path, headers=asked)
            response = server.getresponse()
            request.send_response(response.status)
            request.send_header("Content-Type", response.headers["Content-Type"])
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            piece = b"nothing yet"
            while piece:
                piece = response.read1(_PIECE)
                request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
