"""One listening socket of an HTTP server: clients are let in, their requests read, and answers sent.

What is asked and answered is in :mod:`agent.observe.server`; what a client may hold in
:mod:`agent.observe.connections`.
"""

from __future__ import annotations

import http.client
import http.server
import io
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import cast
from urllib.parse import SplitResult, parse_qs, urlsplit

from agent import log
from agent.kernel.thread import require_room
from agent.observe import connections, hosts
from agent.observe.bounded import BoundedReader
from agent.observe.connections import Connections
from agent.observe.routes import TEXT, Request, Response

_log = log.get(__name__)

STATUS_AT_ONCE = 4
"""How many clients are sent a large answer at the same time: each takes memory until it has read it."""

STREAMS_AT_ONCE = 8
"""How many clients may follow a stream at the same time."""

_METHODS = ("GET", "HEAD")
_NO_DESCRIPTOR_SECONDS = 0.05


class Listener(http.server.ThreadingHTTPServer):
    """A threading server that knows its address family, which function answers, and whom it talks to."""

    request_queue_size = 128

    def __init__(
        self,
        address: str,
        port: int,
        refuse: Callable[[Request], Response | None],
        respond: Callable[[Request], Response],
        large: frozenset[str],
        patience: Mapping[str, float],
        names: frozenset[str],
        wrap: Callable[[socket.socket], socket.socket],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.refuse = refuse
        self.respond = respond
        self.large = large
        self.patience = patience
        self.names = names
        self.wrap = wrap
        self.connections = Connections(connections.most(connections.limit()))
        self.sending_large = threading.BoundedSemaphore(STATUS_AT_ONCE)
        self.streaming = threading.BoundedSemaphore(STREAMS_AT_ONCE)
        self.alone = False
        """Whether a client is answered on the thread that lets clients in, so that others wait for it."""
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        # The parent looks its own name up in DNS here, which can take long on a node whose DNS is a pod.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        try:
            connection, client = super().get_request()
        except OSError:
            # Without a descriptor for it the connection stays where it is, and would be asked about at once.
            time.sleep(_NO_DESCRIPTOR_SECONDS)
            raise
        try:
            return self.wrap(connection), client
        except OSError:
            connection.close()
            raise

    def process_request(self, request: object, client_address: object) -> None:
        """Answer on a thread; on this one where the system has no more to give, and then no stream."""
        try:
            require_room()
            super().process_request(cast(socket.socket, request), cast(tuple[str, int], client_address))
        except RuntimeError:
            self.alone = True
            try:
                self.process_request_thread(
                    cast(socket.socket, request), cast(tuple[str, int], client_address)
                )
            finally:
                self.alone = False

    def verify_request(self, request: object, client_address: tuple[str, int]) -> bool:
        return self.connections.enter(cast(socket.socket, request), client_address[0])

    def shutdown_request(self, request: object) -> None:
        self.connections.leave(cast(socket.socket, request))
        super().shutdown_request(cast(socket.socket, request))

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away in the middle."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Of a request that cannot be read, or says no version: its answer, too, has a status line.
    default_request_version = "HTTP/1.0"
    server_version = "netpol-agent"
    sys_version = ""
    timeout = 2 * connections.SECONDS
    error_content_type = TEXT
    error_message_format = "%(message)s\n"
    server: Listener

    def setup(self) -> None:
        super().setup()
        self._bounded = BoundedReader(cast(io.BufferedReader, self.rfile))
        self.rfile = cast(io.BufferedReader, self._bounded)
        self._served = False

    def handle_one_request(self) -> None:
        open_ones = self.server.connections
        try:
            if not self._bounded.begins():
                self.close_connection = True
                return
            if self._served:
                open_ones.began(self.connection)
            super().handle_one_request()
        except http.client.LineTooLong:
            self.requestline = self.request_version = self.command = ""
            self.close_connection = True
            self.send_error(414, "the request line is too long")
        except OSError:
            # The client went away, or the deadline is past.
            self.close_connection = True
        finally:
            self._served = True
            open_ones.answered(self.connection)

    def parse_request(self) -> bool:
        """Read the headers; what the server does not answer is answered here."""
        if not super().parse_request():
            return False
        self.server.connections.answering(self.connection)
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            # Nobody reads a body: what follows would be taken for a request.
            self.close_connection = True
        try:
            self._url = urlsplit(self.path)
            authority = self._url.netloc
        except ValueError:
            self._send(Response(400, TEXT, b"the request's target cannot be read\n"))
            return False
        refusal = self._refusal(authority)
        if refusal is not None:
            self._send(refusal)
        return refusal is None

    def _refusal(self, authority: str) -> Response | None:
        """Return why the request is not answered, if so."""
        named = self.headers.get_all("Host", [])
        if len(named) > 1 or (not named and self.request_version == "HTTP/1.1"):
            # RFC 9112, 3.2
            return Response(400, TEXT, b"a request names its host once\n")
        # A target that names a host counts alone (RFC 9112, 3.2.2).
        host = authority or "".join(named)
        if host and not hosts.is_own(host, self.server.names):
            return Response(403, TEXT, b"ask by an IP address, by localhost or by this node's own name\n")
        if self.command not in _METHODS:
            return Response(405, TEXT, b"only GET and HEAD are understood\n")
        return None

    def do_GET(self) -> None:
        accept, authorization = self.headers.get("Accept", ""), self.headers.get("Authorization", "")
        request = Request(_path(self._url), parse_qs(self._url.query), accept, authorization)
        if (refused := self.server.refuse(request)) is not None:
            self._send(refused)
            return
        if request.path not in self.server.large:
            self._send(self._response(request))
            return
        # Not waited for: a thread that waits would not let go of a connection that has to make room.
        if not self.server.sending_large.acquire(blocking=False):
            self._send(
                Response(503, TEXT, f"too many are being sent {request.path} now: ask again\n".encode())
            )
            return
        try:
            response = self._response(request)
            if response.stream is None:
                self._send(response)
                return
        finally:
            self.server.sending_large.release()
        # A stream has a bound of its own, and goes on for as long as its client likes.
        self._send(response)

    def _response(self, request: Request) -> Response:
        if (patience := self.server.patience.get(request.path)) is None:
            return self.server.respond(request)
        self.server.connections.working(self.connection, patience)
        try:
            return self.server.respond(request)
        finally:
            self.server.connections.answering_still(self.connection)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, response: Response) -> None:
        if response.stream is None:
            self._send_head(response)
            if self.command != "HEAD":
                self.wfile.write(response.body)
            return
        try:
            if not self.server.alone and self.server.streaming.acquire(blocking=False):
                try:
                    self._send_stream(response)
                finally:
                    self.server.streaming.release()
            else:
                self._send(Response(503, TEXT, b"too many follow a stream now: ask again\n"))
        finally:
            if isinstance(response.stream, Generator):
                response.stream.close()

    def _send_stream(self, response: Response) -> None:
        self.close_connection = True
        self._send_head(response)
        if self.command == "HEAD":
            return
        self.wfile.write(response.body)
        try:
            for piece in response.stream or ():
                # Each piece has a deadline of its own.
                self.server.connections.answering_still(self.connection)
                self.wfile.write(piece)
        except OSError:
            raise
        except Exception:
            _log.exception("a stream ended", path=self._url.path)

    def _send_head(self, response: Response) -> None:
        self.send_response(response.code)
        self.send_header("Content-Type", response.content_type)
        if response.stream is None:
            self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in response.headers:
            self.send_header(name, value)
        if response.code == 405:
            self.send_header("Allow", ", ".join(_METHODS))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log no line per request: a probe asks every few seconds."""


def _path(url: SplitResult) -> str:
    return url.path.rstrip("/") or "/"
