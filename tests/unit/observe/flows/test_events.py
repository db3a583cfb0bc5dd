"""Events of pods: few, bounded, and what the API server says of them."""

from __future__ import annotations

import json
import threading

import msgspec
import pytest

from agent.dataplane.logged import Decided
from agent.net import Direction
from agent.observe.flows import events
from agent.observe.flows.events import AGAIN, REMEMBERED, WAITING, EventSink, event_of
from agent.observe.flows.flow import End
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.unit.observe.flows.test_hub import UNLOGGED, flow


class ApiServer:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.code: int | Exception = 201
        self.got: list[tuple[str, dict[str, object]]] = []
        self.came = threading.Event()
        self.sink = EventSink(self.post, "here", self.clock)

    def post(self, path: str, body: bytes) -> int:
        self.got.append((path, json.loads(body)))
        self.came.set()
        if isinstance(self.code, Exception):
            raise self.code
        return self.code


def test_an_event_is_of_the_pod_that_was_judged() -> None:
    denied = msgspec.structs.replace(flow(), destination=End("10.0.0.2", 80, "shop/db", "shop", "here", "u1"))
    event = json.loads(event_of(denied, "here"))
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "shop",
        "name": "db",
        "uid": "u1",
    }
    assert event["message"] == "ingress TCP 80 from shop/web (10.0.0.1) was denied: because"
    assert (event["reason"], event["type"], event["metadata"]["namespace"]) == (
        "ConnectionDenied",
        "Warning",
        "shop",
    )
    egress = msgspec.structs.replace(flow(), direction=Direction.EGRESS, pod="shop/web", why="x" * 2000)
    message = json.loads(event_of(egress, "here"))["message"]
    assert message.startswith("egress TCP 80 to shop/db (10.0.0.2) was denied: xxx")
    assert len(message) == 1000


def test_the_same_is_not_told_again_for_a_while() -> None:
    server = ApiServer()
    for _ in range(3):
        server.sink.put(flow())
    server.sink.put(flow(pod="shop/other"))
    assert len(server.sink._waiting) == 2
    server.clock.now += AGAIN
    server.sink.put(flow())
    assert len(server.sink._waiting) == 3


def test_only_denied_connections_of_pods_are_told() -> None:
    server = ApiServer()
    for report in (flow(verdict=Decided.ALLOWED), flow(pod=""), UNLOGGED):
        server.sink.put(report)
    assert not server.sink._waiting


def test_what_waits_and_what_is_remembered_are_bounded() -> None:
    server = ApiServer()
    for number in range(REMEMBERED + 10):
        server.sink.put(flow(pod=f"shop/{number}"))
    assert len(server.sink._waiting) == WAITING
    assert len(server.sink._told) == REMEMBERED


@pytest.mark.parametrize(
    ("code", "why"), [(403, "the API server answers 403"), (OSError("no route"), "no route")]
)
def test_a_refusal_is_a_warning_until_one_is_taken(code: int | Exception, why: str) -> None:
    server = ApiServer()
    server.code = code
    server.sink.put(flow())
    server.sink.tell(server.sink._waiting.popleft())
    (fault,) = server.sink.faults()
    assert fault.what.endswith(why)
    assert "deploy/components/events" in fault.remedy
    assert not fault.blocking
    server.sink.put(flow())
    assert len(server.sink._waiting) == 1
    server.code = 201
    server.sink.tell(flow())
    assert server.sink.faults() == ()
    assert server.got[0][0] == "/api/v1/namespaces/shop/events"


def test_its_thread_tells_what_comes_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PAUSE", 0.0)
    server = ApiServer()
    thread = threading.Thread(target=server.sink.run)
    thread.start()
    server.sink.put(flow())
    assert server.came.wait(PATIENCE)
    server.sink.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert len(server.got) == 1
