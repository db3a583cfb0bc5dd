"""A gate before the API server: what it lets through waits, is answered otherwise, or finds nobody there."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from tests.lab.apiserver import PORT, ApiServer

_PIECE = 1 << 16


class Reply(NamedTuple):
    """What a request is answered with in place of the API server's answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})


def pass_on(path: str) -> None:
    """Answer nothing oneself."""
    del path


class Gate:
    """Passes GET requests on, in the API server's namespace; a context manager.

    It is spoken to in plain HTTP. A request whose path and query ``holds`` says true of waits until
    :meth:`open`; after that nothing does. ``waiting`` is set from when the first one waits. ``instead``,
    given the path and query, returns what to answer in place of the API server, None for what that answers.
    """

    def __init__(self, api: ApiServer, holds: Callable[[str], bool] = lambda _: False) -> None:
        self.waiting = threading.Event()
        self.instead: Callable[[str], Reply | None] = pass_on
        self.expired = ""
        """A token in whose place the API server is shown one that it does not take."""
        self.delay = 0.0
        """Seconds for which each request waits before it is passed on."""
        self.breaks_off = False
        """Whether answers of the API server's end in the middle."""
        self.asked: list[str] = []
        """The paths and queries of all requests."""
        self._opened = threading.Event()
        self._api = api
        self._holds = holds
        self._tls = ssl.create_default_context(cafile=str(api.certificate))
        self._to = api
        self._token = ""
        self._open: set[socket.socket] = set()
        self._port = 0
        self._start()

    def _start(self) -> None:
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                gate._open.add(self.connection)
                try:
                    gate._pass_on(self)
                except (OSError, http.client.HTTPException, ValueError):
                    # Either end may be gone by the time that the other is answered.
                    self.close_connection = True
                finally:
                    gate._open.discard(self.connection)

            def log_message(self, *_: object) -> None:
                pass

        with self._api.netns.entered():
            self._server = _Server((self._api.address, self._port), Handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        self.away()

    def away(self) -> None:
        """Be gone: every connection breaks, and new ones are refused."""
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def back(self) -> None:
        """Be there again, at the same address."""
        self._start()

    def cut(self) -> None:
        """Break every connection on which an answer is on its way, such as those of watches."""
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def lead_to(self, api: ApiServer) -> None:
        """Lead to another API server from now on, which takes whoever comes for its own agent."""
        self._to = api
        self._token = "" if api is self._api else api.agent_token()
        self._tls = ssl.create_default_context(cafile=str(api.certificate))
        self.cut()

    @property
    def port(self) -> int:
        """On which it listens."""
        return self._port

    def open(self) -> None:
        """Let everything through, that which waits too."""
        self._opened.set()

    def kubeconfig(self, user: str) -> Path:
        """Write and return a kubeconfig that leads through the gate; see :meth:`ApiServer.kubeconfig`."""
        config = json.loads(self._api.kubeconfig(user).read_text())
        config["clusters"][0]["cluster"] = {"server": f"http://{self._api.address}:{self._port}"}
        path = self._api.directory / f"{user}-{self._port}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        if self._holds(request.path) and not self._opened.is_set():
            self.waiting.set()
            self._opened.wait()
        self.asked.append(request.path)
        if self.delay:
            time.sleep(self.delay)
        reply = self.instead(request.path)
        if reply is not None:
            _send(request, reply)
            return
        to, token = self._to, self._token
        server = http.client.HTTPSConnection(to.address, PORT, context=self._tls)
        with to.netns.entered():
            server.connect()
        with contextlib.closing(server):
            self._open.add(server.sock)
            try:
                server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asked = {name: request.headers[name] for name in ("Authorization", "Accept")}
                if self.expired and self.expired in (asked["Authorization"] or ""):
                    asked["Authorization"] = "Bearer expired"
                if token:
                    asked["Authorization"] = f"Bearer {token}"
                server.request("GET", request.path, headers=asked)
                _copy(server.getresponse(), request, breaks_off=self.breaks_off)
            finally:
                self._open.discard(server.sock)


def _send(request: BaseHTTPRequestHandler, reply: Reply) -> None:
    request.send_response(reply.status)
    for name, value in reply.headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(reply.body)))
    request.end_headers()
    request.wfile.write(reply.body)


def _copy(response: http.client.HTTPResponse, request: BaseHTTPRequestHandler, *, breaks_off: bool) -> None:
    request.send_response(response.status)
    for name in ("Content-Type", "Retry-After"):
        if response.headers[name]:
            request.send_header(name, response.headers[name])
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    piece = b"nothing yet"
    while piece:
        piece = response.read1(_PIECE)
        if breaks_off and piece:
            request.wfile.write(b"%x\r\n%s" % (len(piece), piece[: len(piece) // 2]))
            raise ConnectionAbortedError("in the middle of an answer")
        request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    # Who connects while this process has no turn is not to wait for a packet that is sent again.
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away."""
