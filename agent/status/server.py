"""The local HTTP server: ``/healthz``, ``/readyz`` and ``/status``.

It asks the agent anew for each request, through the two callables it is given, and holds no state.
"""

from __future__ import annotations

import errno
import http.server
import json
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from agent import log
from agent.dataplane.backend import Fault
from agent.status import health, snapshot

_log = log.get(__name__)

_INDEX = """netpol-agent

/healthz  whether the agent makes progress
/readyz   whether everything known is enforced
/status   what this node enforces and why (JSON)

?format=json gives healthz and readyz as JSON.
"""
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_IDLE_SECONDS = 10.0
_BIND_SECONDS = 2.0
_STOP_SECONDS = 0.2


class Response(NamedTuple):
    """What one request is answered with."""

    code: int
    content_type: str
    body: bytes


class StatusServer:
    """Serves health and status on threads of its own until stopped.

    ``health`` and ``status`` are called from those threads, once for each request; what they raise is
    logged and answered with 500. Port 0 takes a free one; ``port`` says which, once there is one. An address
    that cannot be had is tried again and again: enforcing does not depend on being asked how it goes.
    """

    def __init__(
        self,
        address: str,
        port: int,
        health: Callable[[], health.Health],
        status: Callable[[], snapshot.StatusSnapshot],
    ) -> None:
        self.port = port
        self._address = address
        self._health = health
        self._status = status
        self._server: _Server | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="status", daemon=True)
        self._fault: tuple[Fault, ...] = ()

    def start(self) -> None:
        """Begin to answer, or to try; raises nothing."""
        self._bind()
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and give the port back."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._server is not None:
            self._server.server_close()

    def faults(self) -> tuple[Fault, ...]:
        """Return why it does not answer, if so. For any thread."""
        return self._fault

    def _serve(self) -> None:
        while self._server is None:
            if self._stopping.wait(_BIND_SECONDS):
                return
            self._bind()
        self._server.timeout = _STOP_SECONDS
        while not self._stopping.is_set():
            self._server.handle_request()

    def _bind(self) -> None:
        try:
            self._server = _Server(self._address, self.port, self._respond)
        except OSError as error:
            fault = Fault(
                f"health cannot be served on {self._address} port {self.port}: {error.strerror or error}",
                _remedy(error),
                blocking=False,
            )
            if self._fault != (fault,):
                _log.error("cannot serve health", fault=fault.what, remedy=fault.remedy)
            self._fault = (fault,)
            return
        self.port = self._server.server_port
        self._fault = ()
        _log.info("serving health", address=self._address, port=self.port)

    def _respond(self, target: str) -> Response:
        url = urlsplit(target)
        path = url.path.rstrip("/") or "/"
        as_json = parse_qs(url.query).get("format") == ["json"]
        try:
            if path == "/healthz":
                return _answer(health.healthz(self._health()), as_json)
            if path == "/readyz":
                return _answer(health.readyz(self._health()), as_json)
            if path == "/status":
                return Response(200, _JSON, snapshot.encode(self._status()) + b"\n")
        except Exception as error:
            _log.exception("status request failed", path=path)
            return Response(500, _TEXT, f"{type(error).__name__}: {error}\n".encode())
        if path == "/":
            return Response(200, _TEXT, _INDEX.encode())
        return Response(404, _TEXT, f"no such page: {path}; / lists what there is\n".encode())


def _remedy(error: OSError) -> str:
    # A family that is turned off has no address at all.
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return "choose an address of this node with --health-address"
    return "free the port, or choose another with --health-port"


def _answer(answer: health.Answer, as_json: bool) -> Response:
    if as_json:
        return Response(answer.code, _JSON, json.dumps(health.as_dict(answer)).encode() + b"\n")
    return Response(answer.code, _TEXT, health.text(answer).encode())


class _Server(http.server.ThreadingHTTPServer):
    """A threading server that knows its address family and which function answers."""

    def __init__(self, address: str, port: int, respond: Callable[[str], Response]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.respond = respond
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        # The parent looks its own name up in DNS here, which can take long on a node whose DNS is a pod.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away in the middle."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "netpol-agent"
    sys_version = ""
    timeout = _IDLE_SECONDS
    error_content_type = _TEXT
    error_message_format = "%(message)s\n"
    server: _Server

    def do_GET(self) -> None:
        self._send(self.server.respond(self.path), with_body=True)

    def do_HEAD(self) -> None:
        self._send(self.server.respond(self.path), with_body=False)

    def _send(self, response: Response, with_body: bool) -> None:
        self.send_response(response.code)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(response.body)

    def log_message(self, format: str, *args: object) -> None:
        """Log no line per request: a probe asks every few seconds."""
