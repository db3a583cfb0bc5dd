"""Routes that are given to the server: paths, what is asked for, and streams."""

from __future__ import annotations

import http.client
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent.observe import listener
from agent.observe.connections import SECONDS, Connections
from agent.observe.health import Health
from agent.observe.listener import STREAMS_AT_ONCE
from agent.observe.routes import TEXT, Request, Response, Route, Routes
from agent.observe.server import StatusServer
from agent.observe.snapshot import StatusSnapshot
from tests.lab.cluster import wait_until
from tests.patience import PATIENCE
from tests.unit.observe.serving import connections_of

Serve = Callable[[Routes], StatusServer]


@pytest.fixture
def serve(snapshot: StatusSnapshot) -> Iterator[Serve]:
    started: list[StatusServer] = []

    def serve(more: Routes) -> StatusServer:
        now = time.time()
        started.append(
            StatusServer("127.0.0.1", 0, lambda: Health(now, now, {}, True), lambda: snapshot, (), more)
        )
        started[-1].start()
        return started[-1]

    yield serve
    for one in started:
        one.stop()


def get(server: StatusServer, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_a_route_is_told_what_is_asked_for_and_is_in_the_index(serve: Serve) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        asked.append(request)
        return Response(201, TEXT, b"done\n", headers=(("X-Extra", "1"),))

    port = serve({"/more": Route(answer, "what there is more"), "/secret": Route(answer)})
    response, body = get(port, "/more/?a=1&a=2&b=%2F&format=json", Accept="text/html")
    assert (response.status, body, response.headers["X-Extra"]) == (201, b"done\n", "1")
    (request,) = asked
    assert (request.path, request.accept, request.as_json) == ("/more", "text/html", True)
    assert (request.one("a"), request.one("b"), request.one("c", "no")) == ("1", "/", "no")
    index = get(port, "/")[1].decode()
    assert "/healthz  whether the agent makes progress\n" in index
    assert "/more     what there is more\n" in index
    assert "/secret" not in index


def test_what_a_route_raises_is_answered_with_500(serve: Serve) -> None:
    def fail(_: Request) -> Response:
        raise ValueError("not today")

    response, body = get(serve({"/fails": Route(fail)}), "/fails")
    assert (response.status, body) == (500, b"ValueError: not today\n")


class Ticks:
    """A stream without end; remembers how many are open.

    ``seconds``: how long each piece takes, by the clock ``now``.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.open = 0
        self.now = 0.0
        self._seconds = seconds
        self._lock = threading.Lock()

    def route(self, _: Request) -> Response:
        return Response(200, "text/event-stream", b"begin\n", stream=self._ticks())

    def _ticks(self) -> Iterator[bytes]:
        with self._lock:
            self.open += 1
        try:
            for number in itertools.count():
                time.sleep(0.02)
                self.now += self._seconds
                yield f"{number}\n".encode()
        finally:
            with self._lock:
                self.open -= 1


def follow(server: StatusServer) -> tuple[socket.socket, bytes]:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    connection.sendall(b"GET /ticks HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while b"\n2\n" not in received and b"ask again" not in received:
        piece = connection.recv(4096)
        assert piece, received
        received += piece
    return connection, received


def test_a_stream_goes_on_past_the_deadline_of_a_request_and_ends_with_its_client(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = Ticks(seconds=SECONDS / 2)
    looked: list[float] = []

    class Open(Connections):
        def expire(self) -> None:
            looked.append(ticks.now)
            super().expire()

    monkeypatch.setattr(listener, "Connections", lambda most: Open(most, now=lambda: ticks.now))
    connection, received = follow(serve({"/ticks": Route(ticks.route)}))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Content-Length" not in head
    assert b"Connection: close" in head
    assert body.startswith(b"begin\n0\n1\n2\n")
    while not (looked and looked[-1] > 4 * SECONDS):
        assert connection.recv(4096) != b""
    assert ticks.open == 1
    connection.close()
    wait_until(lambda: ticks.open == 0)


def test_streams_are_few(serve: Serve) -> None:
    ticks = Ticks()
    port = serve({"/ticks": Route(ticks.route)})
    followers = [follow(port)[0] for _ in range(STREAMS_AT_ONCE)]
    refused, received = follow(port)
    assert b" 503 " in received.splitlines()[0]
    refused.close()
    assert get(port, "/healthz")[0].status == 200
    for one in followers:
        one.close()
    wait_until(lambda: ticks.open == 0)
    again, received = follow(port)
    assert b" 200 " in received.splitlines()[0]
    again.close()


@pytest.mark.parametrize("patience", [0.0, 60.0])
def test_an_answer_may_come_late_where_its_route_has_the_patience(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    cut: list[bool] = []

    def is_cut() -> bool:
        """Whether a silent client that comes now is let go at the deadline."""
        with socket.create_connection(("127.0.0.1", asked.port), 30) as silent:
            return silent.recv(1) == b""

    def answer(_: Request) -> Response:
        # It is read and sent in time, however slow this machine is.
        with monkeypatch.context() as patched:
            patched.setattr(connections_of(asked), "_seconds", 0.2)
            cut.extend(is_cut() for _ in range(2))
        return Response(200, TEXT, b"late\n")

    asked = serve({"/slow": Route(answer, large=True, patience=patience)})
    monkeypatch.setattr(connections_of(asked), "_seconds", 3600.0)
    if patience:
        assert get(asked, "/slow")[1] == b"late\n"
        assert cut == [True, True]
    else:
        with pytest.raises(http.client.RemoteDisconnected):
            get(asked, "/slow")


def test_a_stream_takes_no_place_from_large_answers(serve: Serve) -> None:
    ends = threading.Event()

    def stream() -> Iterator[bytes]:
        yield b"first\n"
        ends.wait(120)

    def answer(request: Request) -> Response:
        return Response(200, TEXT, b"", stream() if request.query else None)

    asked = serve({"/flows": Route(answer, large=True)})
    clients = [socket.create_connection(("127.0.0.1", asked.port), 60) for _ in range(STREAMS_AT_ONCE)]
    try:
        for client in clients:
            client.sendall(b"GET /flows?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while b"first" not in client.recv(4096):
                pass
        assert get(asked, "/flows")[0].status == 200
        assert get(asked, "/status")[0].status == 200
    finally:
        ends.set()
        for client in clients:
            client.close()
