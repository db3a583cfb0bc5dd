"""The server, over real sockets."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agent.kube.model import Kind
from agent.observe import server as server_module
from agent.observe import snapshot as snapshot_module
from agent.observe.bounded import HEADER_BYTES
from agent.observe.connections import MOST, Connections
from agent.observe.health import Health
from agent.observe.server import STATUS_AT_ONCE, StatusServer
from agent.observe.snapshot import StatusSnapshot, decode
from agent.sources.source import SyncState
from tests.lab.cluster import wait_until


class Agent:
    """Stands in for the daemon: what the server asks, and how often."""

    def __init__(self, snapshot: StatusSnapshot) -> None:
        self.synced = True
        self.snapshot = snapshot
        self.asked = 0
        self.block = threading.Event()
        self.block.set()

    def health(self) -> Health:
        now = time.time()
        return Health(now, now, {Kind.POD: SyncState(self.synced, 1, now, now)}, applied=True)

    def status(self) -> StatusSnapshot:
        self.asked += 1
        self.block.wait(10)
        if self.asked > 100:
            raise RuntimeError("no snapshot today")
        return self.snapshot


Get = Callable[..., tuple[http.client.HTTPResponse, bytes]]


@pytest.fixture
def agent(snapshot: StatusSnapshot) -> Agent:
    return Agent(snapshot)


@pytest.fixture
def server(agent: Agent) -> Iterator[StatusServer]:
    server = StatusServer("127.0.0.1", 0, agent.health, agent.status, ["Node-1"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def get(server: StatusServer) -> Get:
    def get(
        path: str, method: str = "GET", host: str = "127.0.0.1:20245"
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        try:
            connection.request(method, path, headers={"Host": host})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    return get


def test_probes(get: Get, agent: Agent) -> None:
    response, body = get("/readyz")
    assert (response.status, body.splitlines()[1]) == (200, b"[+]cache/Pod ok")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    agent.synced = False
    assert get("/readyz")[0].status == 503
    assert get("/healthz")[0].status == 200
    assert get("/healthz/")[0].status == 200


def test_probes_in_json(get: Get) -> None:
    response, body = get("/readyz?format=json")
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(body)["ok"] is True


def test_status(get: Get, agent: Agent) -> None:
    response, body = get("/status")
    assert response.status == 200
    assert decode(body) == agent.snapshot


def test_nothing_is_built_unasked(get: Get, agent: Agent) -> None:
    get("/healthz")
    get("/readyz")
    get("/")
    assert agent.asked == 0


def test_index_and_unknown_paths(get: Get) -> None:
    assert b"/readyz" in get("/")[1]
    response, body = get("/metricz")
    assert (response.status, body) == (404, b"no such page: /metricz; / lists what there is\n")


def test_head_has_the_length_and_no_body(get: Get) -> None:
    response, body = get("/healthz", method="HEAD")
    assert (response.status, body) == (200, b"")
    assert int(response.headers["Content-Length"]) == len(get("/healthz")[1])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "BREW"])
def test_other_methods_are_refused(get: Get, method: str) -> None:
    response, _ = get("/status", method=method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_a_failure_is_answered_and_the_server_goes_on(get: Get, agent: Agent) -> None:
    agent.asked = 100
    response, body = get("/status")
    assert (response.status, body) == (500, b"RuntimeError: no snapshot today\n")
    assert get("/healthz")[0].status == 200


def test_a_slow_status_holds_up_no_probe(get: Get, agent: Agent) -> None:
    agent.block.clear()
    slow = threading.Thread(target=get, args=("/status",))
    slow.start()
    try:
        started = time.monotonic()
        assert get("/healthz")[0].status == 200
        assert time.monotonic() - started < 5
    finally:
        agent.block.set()
        slow.join()


def test_a_connection_serves_many_requests(server: StatusServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.connect()
    first = connection.sock
    for path, status in (("/healthz", 200), ("/nowhere", 404), ("/status", 200)):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        # Had the server ended it, the next request would have opened another.
        assert connection.sock is first
    connection.close()


def ask(server: StatusServer, text: bytes, seconds: float = 10.0) -> bytes:
    """Send bytes, and return all that comes back until the server closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(text)
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
    return answer


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1:20245",
        "10.0.0.1",
        "[::1]:20245",
        "[fd00::1]",
        "localhost:20245",
        "LOCALHOST.",
        "node-1",
        "NODE-1:1",
    ],
)
def test_addresses_and_own_names_are_answered(get: Get, host: str) -> None:
    assert get("/readyz", host=host)[0].status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:20245",
        "10.0.0.1.evil.example",
        "localhost.evil.example",
        "node-1.evil",
        "[node-1]",
    ],
)
def test_another_name_is_refused(get: Get, host: str, agent: Agent) -> None:
    response, body = get("/status", host=host)
    assert response.status == 403
    assert b"by an IP address" in body
    assert agent.asked == 0
    # A browser's page may ask again on the same connection.
    assert get("/status", method="POST", host=host)[0].status == 403


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
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(STATUS_AT_ONCE + 1)]
    for connection in silent:
        connection.sendall(request)
    wait_until(lambda: agent.asked >= STATUS_AT_ONCE)
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


def test_a_probe_is_answered_while_others_hold_all_connections(server: StatusServer, get: Get) -> None:
    held = []
    for _ in range(3 * MOST):
        held.append(connection := socket.create_connection(("127.0.0.1", server.port)))
        connection.sendall(b"GET /")
    began = time.monotonic()
    for _ in range(5):
        assert get("/readyz")[0].status == 200
        assert len(connections_of(server)) <= MOST
    assert time.monotonic() - began < 5
    for connection in held:
        connection.close()


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


def test_without_a_thread_for_it_a_connection_is_closed(
    server: StatusServer, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("no thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        assert ask(server, b"GET / HTTP/1.0\r\n\r\n") == b""
    assert get("/readyz")[0].status == 200


def connections_of(server: StatusServer) -> Connections:
    assert server._server is not None
    return server._server.connections


def test_a_client_that_says_nothing_or_nonsense_harms_nobody(server: StatusServer, get: Get) -> None:
    silent = socket.create_connection(("127.0.0.1", server.port))
    nonsense = socket.create_connection(("127.0.0.1", server.port))
    nonsense.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
    assert get("/healthz")[0].status == 200
    silent.close()
    nonsense.close()


def ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != errno.EADDRNOTAVAIL


def test_over_ipv6_where_there_is_any(agent: Agent) -> None:
    if not ipv6_loopback():
        pytest.skip("no IPv6 loopback here")
    server = StatusServer("::1", 0, agent.health, agent.status)
    server.start()
    try:
        with socket.create_connection(("::1", server.port), timeout=5) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        server.stop()


def test_stop_gives_the_port_back(agent: Agent) -> None:
    first = StatusServer("127.0.0.1", 0, agent.health, agent.status)
    first.start()
    first.stop()
    second = StatusServer("127.0.0.1", first.port, agent.health, agent.status)
    second.start()
    assert second.faults() == ()
    second.stop()


def test_a_port_that_is_taken_is_a_fault_until_it_is_free(
    server: StatusServer, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_BIND_SECONDS", 0.05)
    second = StatusServer("127.0.0.1", server.port, agent.health, agent.status)
    second.start()
    try:
        (fault,) = second.faults()
        assert "Address already in use" in fault.what
        assert not fault.blocking
        server.stop()
        deadline = time.monotonic() + 5
        while second.faults() and time.monotonic() < deadline:
            time.sleep(0.01)
        with socket.create_connection(("127.0.0.1", second.port), timeout=5) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        second.stop()


def test_a_server_that_never_got_its_port_stops_at_once(server: StatusServer, agent: Agent) -> None:
    second = StatusServer("127.0.0.1", server.port, agent.health, agent.status)
    second.start()
    began = time.monotonic()
    second.stop()
    assert time.monotonic() - began < 1


def test_an_address_this_host_has_not_is_a_fault(agent: Agent) -> None:
    server = StatusServer("192.0.2.77", 0, agent.health, agent.status)
    server.start()
    (fault,) = server.faults()
    assert "192.0.2.77 port 0: Cannot assign" in fault.what
    assert "--health-address" in fault.remedy
    server.stop()


@pytest.mark.parametrize(
    ("number", "option"),
    [
        (errno.EADDRNOTAVAIL, "--health-address"),
        (errno.EAFNOSUPPORT, "--health-address"),
        (errno.EADDRINUSE, "--health-port"),
        (errno.EACCES, "--health-port"),
    ],
)
def test_health_that_cannot_be_served_names_the_option_to_change(
    number: int, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "trouble")

    monkeypatch.setattr(server_module, "_Server", refuse)
    server = StatusServer("127.0.0.1", 1, lambda: pytest.fail("asked"), lambda: pytest.fail("asked"))
    server.start()
    (fault,) = server.faults()
    server.stop()
    assert option in fault.remedy
