"""Names of Services: remembered for a while, asked for seldom, and never waited for again after a failure."""

from __future__ import annotations

import pytest

from agent.kube.model import Key
from agent.observe.flows import asked
from agent.observe.flows.asked import KEPT_SECONDS, PAUSE_SECONDS, ServiceNames
from agent.sources.services import ServicesError
from tests.build import packed
from tests.clock import FakeClock

DB, OTHER = packed("10.96.0.5"), packed("10.96.0.6")


class Server:
    """An API server that knows one Service, and can fail or be slow."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.asked: list[bytes] = []
        self.trouble = False
        self.takes = 0.0

    def __call__(self, address: bytes) -> Key | None:
        self.asked.append(address)
        self.clock.now += self.takes
        if self.trouble:
            raise ServicesError("no right")
        return Key("shop", "db") if address == DB else None


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server(clock: FakeClock) -> Server:
    return Server(clock)


@pytest.fixture
def names(server: Server, clock: FakeClock) -> ServiceNames:
    return ServiceNames(server, clock)


def test_an_address_is_asked_about_once_in_a_while(
    names: ServiceNames, server: Server, clock: FakeClock
) -> None:
    assert [names.name(DB) for _ in range(3)] == ["shop/db"] * 3
    clock.now += 1
    assert [names.name(OTHER), names.name(OTHER), names.name(DB)] == ["", "", "shop/db"]
    assert server.asked == [DB, OTHER]
    clock.now += KEPT_SECONDS
    assert names.name(DB) == "shop/db"
    assert server.asked == [DB, OTHER, DB]


def test_many_addresses_at_once_are_not_all_asked_about(names: ServiceNames, server: Server) -> None:
    assert [names.name(bytes([10, 96, 1, number])) for number in range(50)] == [""] * 50
    assert len(server.asked) == 1


@pytest.mark.parametrize("slow", [False, True])
def test_a_server_that_fails_or_is_slow_is_left_alone_for_a_while(
    names: ServiceNames, server: Server, clock: FakeClock, slow: bool
) -> None:
    assert names.name(DB) == "shop/db"
    clock.now += KEPT_SECONDS
    server.trouble, server.takes = not slow, 0.9 if slow else 0.0
    for _ in range(3):
        # What was known is better than nothing.
        assert names.name(DB) == "shop/db"
    clock.now += PAUSE_SECONDS - 1
    assert names.name(OTHER) == ""
    assert len(server.asked) == 2
    server.trouble, server.takes = False, 0.0
    clock.now += 1
    assert names.name(OTHER) == ""
    assert server.asked == [DB, DB, OTHER]


def test_the_longest_known_is_forgotten_first(
    names: ServiceNames, server: Server, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "MOST", 2)
    for number in (1, 2, 3, 1):
        names.name(bytes([10, 96, 1, number]))
        clock.now += 1
    assert len(server.asked) == 4
