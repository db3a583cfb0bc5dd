"""The local HTTP server of health, status and the rest of :mod:`agent.observe.routes`.

It asks the agent anew for each request and holds no state. What clients may hold is bounded: see
:mod:`agent.observe.connections`.
"""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import TypeVar

from agent import log
from agent.fault import Fault
from agent.kernel.thread import start
from agent.observe import health, snapshot
from agent.observe.listener import Listener
from agent.observe.routes import TEXT, Request, Response, Routes, index, own_routes
from agent.observe.tls import Certificate

_log = log.get(__name__)

T = TypeVar("T")

_BIND_SECONDS = 2.0
_TURN_SECONDS = 0.2
"""How often it is looked whether to stop, and what is past its deadline."""

HEALTH_REMEDIES = (
    "choose an address of this node with --health-address",
    "free the port, or choose another with --health-port",
)


class RouteServer:
    """Serves routes on threads of its own until stopped.

    What answers a route is called from those threads, once for each request; what it raises is logged and
    answered with 500. Port 0 takes a free one; ``port`` says which, once there
    is one. An address that cannot be had is tried again and again: enforcing does not depend on being asked
    how it goes.
    """

    def __init__(
        self,
        address: str,
        port: int,
        routes: Routes,
        names: Iterable[str] = (),
        *,
        what: str = "health",
        remedies: tuple[str, str] = HEALTH_REMEDIES,
        certificate: Callable[[], Certificate] | None = None,
    ) -> None:
        """``names``: under which this node may be asked, besides IP addresses and ``localhost``.

        ``what`` is served, and the ``remedies`` for an address or a port that cannot be had, are for faults.
        ``certificate`` gives what to speak TLS with. What it raises as OSError is such a fault.
        """
        self.port = port
        self._names = frozenset(names)
        self._address = address
        self._routes = dict(routes)
        self._what = what
        self._remedies = remedies
        self._certificate = certificate
        self._server: Listener | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"serve-{what}", daemon=True)
        self._fault: tuple[Fault, ...] = ()

    def start(self) -> None:
        """Begin to answer, or to try; raises nothing."""
        self._bind()
        start(self._thread)

    def stop(self) -> None:
        """Stop answering and give the port back."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._server is not None:
            self._server.server_close()

    @property
    def routes(self) -> Routes:
        """What it answers."""
        return self._routes

    def faults(self) -> tuple[Fault, ...]:
        """Return why it does not answer, if so. For any thread."""
        return self._fault

    def _serve(self) -> None:
        while self._server is None:
            if self._stopping.wait(_BIND_SECONDS):
                return
            self._bind()
        self._server.timeout = _TURN_SECONDS
        while not self._stopping.is_set():
            try:
                self._server.handle_request()
                self._server.connections.expire()
            except MemoryError:
                # Who asks again may be answered then.
                self._stopping.wait(_TURN_SECONDS)

    def _bind(self) -> None:
        try:
            wrap = _plain if self._certificate is None else self._certificate().wrap
            asked = self._refuse, self._respond
            patience = {path: route.patience for path, route in self._routes.items() if route.patience}
            self._server = Listener(
                self._address, self.port, *asked, self._large(), patience, self._names, wrap
            )
        except OSError as error:
            fault = Fault(
                f"{self._what} cannot be served on {self._address} port {self.port}: "
                f"{error.strerror or error}{_file_of(error)}",
                self._remedy(error),
                blocking=False,
            )
            if self._fault != (fault,):
                _log.error(f"cannot serve {self._what}", fault=fault.what, remedy=fault.remedy)
            self._fault = (fault,)
            return
        self.port = self._server.server_port
        self._fault = ()
        _log.info(f"serving {self._what}", address=self._address, port=self.port)

    def _remedy(self, error: OSError) -> str:
        if isinstance(error, ssl.SSLError) or error.filename is not None:
            return "give a certificate and the key of it, PEM each; the agent tries again by itself"
        # A family that is turned off has no address at all.
        return self._remedies[error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)]

    def _refuse(self, request: Request) -> Response | None:
        """Return what a client is told who is not let in; None who is."""
        route = self._routes.get(request.path)
        return None if route is None or route.refuse is None else _safely(route.refuse, request)

    def _respond(self, request: Request) -> Response:
        route = self._routes.get(request.path)
        if route is not None:
            return _safely(route.answer, request)
        if request.path == "/":
            return index(self._routes)
        return Response(404, TEXT, f"no such page: {request.path}; / lists what there is\n".encode())

    def _large(self) -> frozenset[str]:
        return frozenset(path for path, route in self._routes.items() if route.large)


def _safely(ask: Callable[[Request], T], request: Request) -> T | Response:
    try:
        return ask(request)
    except Exception as error:
        _log.exception("status request failed", path=request.path)
        return Response(500, TEXT, f"{type(error).__name__}: {error}\n".encode())


def _file_of(error: OSError) -> str:
    return f": {error.filename}" if error.filename is not None else ""


def _plain(connection: socket.socket) -> socket.socket:
    return connection


class StatusServer(RouteServer):
    """Serves health and status, and ``more`` routes."""

    def __init__(
        self,
        address: str,
        port: int,
        health: Callable[[], health.Health],
        status: Callable[[], snapshot.StatusSnapshot],
        names: Iterable[str] = (),
        more: Routes = MappingProxyType({}),
    ) -> None:
        """See :func:`agent.observe.routes.own_routes` for what ``health`` and ``status`` answer."""
        super().__init__(address, port, {**own_routes(health, status), **more}, names)
