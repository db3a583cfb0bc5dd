"""The status server and clients that are slow, many, silent or wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from agent.observe import connections as connections_module
from agent.observe import snapshot as snapshot_module
from agent.observe.bounded import HEADER_BYTES
from agent.observe.connections import MOST
from agent.observe.listener import STATUS_AT_ONCE
from agent.observe.server import StatusServer
from tests.lab.cluster import wait_until
from tests.patience import PATIENCE
from tests.unit.observe.serving import Agent, connections_of
from tests.unit.observe.test_server import Get


def ask(server: StatusServer, text: bytes, seconds: float = PATIENCE) -> bytes:
    """Send bytes, and return all that comes back until the server closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(text)
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
    return answer


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /readyz HTTP/1.1\r\n\r\n", 400),
        (b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET http://evil.example/readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 403),
        (b"GET http://127.0.0.1/readyz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),
        (b"GET http://[/readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /readyz HTTP/1.0\r\n\r\n", 200),
        (b"GET /readyz HTTP/1.0\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /readyz HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", 505),
        (b"GET /readyz\r\n\r\n", 200),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"x" * HEADER_BYTES + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * HEADER_BYTES + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: 1\r\n" * 2000 + b"\r\n", 431),
    ],
)
def test_what_is_not_a_request_as_it_should_be_is_answered_tidily(
    server: StatusServer, request_: bytes, code: int
) -> None:
    answer = ask(server, request_.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    assert answer.startswith(b"HTTP/1.1 %d " % code)


def test_a_body_is_not_taken_for_a_request(server: StatusServer) -> None:
    second = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(second)
    answer = ask(server, b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + length + second)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer


def test_a_request_that_trickles_in_is_cut_at_the_deadline(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_of(server), "_seconds", 0.5)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        while not is_shut(connection):
            assert time.monotonic() - began < 15
            connection.sendall(b"X: 1\r\n")
            time.sleep(0.05)


def is_shut(connection: socket.socket) -> bool:
    """Whether the other end has closed a connection from which nothing is to come."""
    with contextlib.suppress(BlockingIOError):
        return connection.recv(1, socket.MSG_DONTWAIT) == b""
    return False


def test_an_answer_that_nobody_reads_is_given_up_at_the_deadline(
    server: StatusServer, agent: Agent, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_of(server), "_seconds", 60.0)
    monkeypatch.setattr(snapshot_module, "encode", lambda _: b"x" * (32 << 20))
    request = b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(STATUS_AT_ONCE)]
    for connection in silent:
        connection.sendall(request)
    wait_until(lambda: agent.asked == STATUS_AT_ONCE)
    assert get("/readyz")[0].status == 200
    refused, body = get("/status")
    assert (refused.status, body) == (503, b"too many are being sent /status now: ask again\n")
    monkeypatch.setattr(connections_of(server), "_seconds", 0.5)
    wait_until(lambda: not connections_of(server))
    monkeypatch.setattr(connections_of(server), "_seconds", 60.0)
    assert agent.asked == STATUS_AT_ONCE
    assert get("/status")[0].status == 200
    for connection in silent:
        connection.close()


@pytest.fixture
def only_room(server: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody let in because others are late; a connection's thread may be slow to let go of it."""
    monkeypatch.setattr(connections_of(server), "_seconds", 3600.0)
    monkeypatch.setattr(connections_module, "_MAKE_ROOM", 60.0)


@pytest.mark.usefixtures("only_room")
def test_a_probe_is_answered_while_others_hold_all_connections(server: StatusServer, get: Get) -> None:
    held = []
    for _ in range(3 * MOST):
        held.append(connection := socket.create_connection(("127.0.0.1", server.port)))
        connection.sendall(b"GET /")
    for _ in range(5):
        assert get("/readyz")[0].status == 200
        assert len(connections_of(server)) <= MOST
    for connection in held:
        connection.close()


@pytest.mark.usefixtures("only_room")
def test_a_probe_is_answered_while_others_ask_for_status_and_do_not_read_it(
    server: StatusServer, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_module, "encode", lambda _: b"x" * (32 << 20))
    held = []
    for _ in range(2 * MOST):
        held.append(connection := socket.create_connection(("127.0.0.1", server.port)))
        connection.sendall(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    for _ in range(5):
        assert get("/readyz")[0].status == 200
    for connection in held:
        connection.close()


def test_a_client_that_says_nothing_or_nonsense_harms_nobody(server: StatusServer, get: Get) -> None:
    silent = socket.create_connection(("127.0.0.1", server.port))
    nonsense = socket.create_connection(("127.0.0.1", server.port))
    nonsense.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
    assert get("/healthz")[0].status == 200
    silent.close()
    nonsense.close()


def test_where_the_system_has_no_more_threads_clients_are_answered_one_after_the_other(
    get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    for _ in range(3):
        assert get("/readyz")[0].status == 200
        assert get("/status")[0].status == 200
