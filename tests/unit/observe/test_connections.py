"""Which connections are kept, and which are shut down for others or for being late."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from agent.observe import connections as connections_module
from agent.observe.connections import MOST, Connections, most, raise_limit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    found = [socket.socketpair() for _ in range(5)]
    yield found
    for ours, theirs in found:
        ours.close()
        theirs.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a connection's thread take as long as it likes to let go of it: on a busy machine it does."""
    monkeypatch.setattr(connections_module, "_MAKE_ROOM", 60.0)


def is_shut(theirs: socket.socket) -> bool:
    theirs.setblocking(False)
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


def reading(connections: Connections, ours: socket.socket) -> threading.Thread:
    """Do as the thread of a connection does: read until its end, and let go of it."""

    def run() -> None:
        ours.recv(1)
        connections.leave(ours)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("patient")
def test_the_one_that_waits_longest_of_the_client_with_most_makes_room(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    clock = Clock()
    connections = Connections(4, 5.0, clock)
    for (ours, _), client in zip(pairs, ("one", "many", "many", "many"), strict=False):
        assert connections.enter(ours, client)
        reading(connections, ours)
        clock.now += 1
    connections.answering(pairs[1][0])
    assert connections.enter(pairs[4][0], "new")
    assert [is_shut(theirs) for _, theirs in pairs] == [False, False, True, False, False]
    assert len(connections) == 4


@pytest.mark.usefixtures("patient")
def test_one_that_is_being_answered_makes_room_where_all_are(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    clock = Clock()
    connections = Connections(2, 5.0, clock)
    for ours, _ in pairs[:2]:
        assert connections.enter(ours, "one")
        connections.answering(ours)
        reading(connections, ours)
        clock.now += 1
    assert connections.enter(pairs[2][0], "another")
    assert [is_shut(theirs) for _, theirs in pairs[:3]] == [True, False, False]


def test_there_is_no_room_while_no_thread_lets_go_of_its_connection(
    pairs: list[tuple[socket.socket, socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "_MAKE_ROOM", 0.01)
    connections = Connections(1, 5.0)
    assert connections.enter(pairs[0][0], "one")
    assert not connections.enter(pairs[1][0], "another")
    connections.leave(pairs[0][0])
    assert connections.enter(pairs[1][0], "another")


def test_what_is_late_is_shut_down_whatever_it_does(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    clock = Clock()
    connections = Connections(4, 5.0, clock)
    for ours, _ in pairs[:3]:
        assert connections.enter(ours, "one")
    connections.answering(pairs[0][0])
    clock.now = 4.0
    connections.began(pairs[1][0])
    connections.leave(pairs[2][0])
    clock.now = 5.5
    connections.expire()
    assert [is_shut(theirs) for _, theirs in pairs[:3]] == [True, False, False]


@pytest.mark.parametrize(
    ("limit", "allowed"), [(1 << 20, MOST), (1024, MOST), (256, MOST), (150, 11), (64, 2), (0, 2)]
)
def test_connections_leave_descriptors_to_the_rest_of_the_agent(limit: int, allowed: int) -> None:
    assert most(limit) == allowed


def test_the_limit_is_raised_as_far_as_is_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (100, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.update(now=wanted))
    raise_limit()
    assert limits["now"] == (4096, 4096)
    assert connections_module.limit() == 4096

    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    limits["now"] = (100, 4096)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
