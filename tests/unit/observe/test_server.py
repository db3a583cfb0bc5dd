"""The server, over real sockets."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from agent.observe import server as server_module
from agent.observe.server import StatusServer
from agent.observe.snapshot import decode
from tests.lab.cluster import wait_until
from tests.patience import PATIENCE
from tests.unit.observe.serving import Agent, connections_of

Get = Callable[..., tuple[http.client.HTTPResponse, bytes]]


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


def test_a_slow_status_holds_up_no_probe(
    server: StatusServer, get: Get, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_of(server), "_seconds", 3600.0)
    agent.block.clear()
    slow = threading.Thread(target=get, args=("/status",))
    slow.start()
    try:
        wait_until(lambda: agent.asked == 1)
        assert get("/healthz")[0].status == 200
        assert slow.is_alive()
    finally:
        agent.block.set()
        slow.join()


def test_a_connection_serves_many_requests(server: StatusServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
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


def ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != errno.EADDRNOTAVAIL


def test_over_ipv6_where_there_is_any(agent: Agent) -> None:
    if not ipv6_loopback():
        pytest.skip("no IPv6 loopback here")
    server = StatusServer("::1", 0, agent.health, agent.status)
    server.start()
    try:
        with socket.create_connection(("::1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        server.stop()


def test_stop_gives_the_port_back(agent: Agent) -> None:
    # Nobody else takes a port of this address meanwhile.
    address = "127.45.67.89"
    first = StatusServer(address, 0, agent.health, agent.status)
    first.start()
    first.stop()
    second = StatusServer(address, first.port, agent.health, agent.status)
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
        wait_until(lambda: not second.faults())
        with socket.create_connection(("127.0.0.1", second.port), timeout=PATIENCE) as connection:
            connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        second.stop()


def test_a_server_that_never_got_its_port_stops_at_once(
    server: StatusServer, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_BIND_SECONDS", 60.0)
    second = StatusServer("127.0.0.1", server.port, agent.health, agent.status)
    second.start()
    began = time.monotonic()
    second.stop()
    assert time.monotonic() - began < 30


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

    monkeypatch.setattr(server_module, "Listener", refuse)
    server = StatusServer("127.0.0.1", 1, lambda: pytest.fail("asked"), lambda: pytest.fail("asked"))
    server.start()
    (fault,) = server.faults()
    server.stop()
    assert option in fault.remedy
