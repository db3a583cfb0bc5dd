"""The source with results before another one: who waits while the loop is behind, and who does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent.kube.events import Event, Room, Sink, Upsert, after_room, enough
from agent.kube.model import Key, Kind, Pod
from agent.runtime import inbox as inbox_module
from agent.runtime.inbox import Inbox
from agent.sources.cni.source import CniSource
from agent.sources.nri.messages import Sandbox
from agent.sources.source import SyncState

V4 = bytes((10, 1, 0, 2))
WEB = Key("shop", "web")
NEW = Upsert(Kind.POD, Pod("shop", "web", "u1", node="here"))


class Inner:
    """A source whose one thread tells without end, as one that reads faster than the loop works."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._sink: Sink = lambda _: None
        self._stopped = False

    def start(self, sink: Sink, room: Room = enough) -> None:
        def wait() -> None:
            self.waits.set()
            room()

        self._sink = after_room(wait, sink)
        sink([NEW])
        self.thread.start()

    def _run(self) -> None:
        while not self._stopped:
            self.waits.clear()
            self._sink([NEW])

    def stop(self) -> None:
        self._stopped = True

    def threads(self) -> Mapping[str, bool]:
        return {}

    def states(self) -> Mapping[Kind, SyncState]:
        return {}


@pytest.fixture
def behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[CniSource, Inbox]]:
    """Return a source whose inner one has told more than the loop has room for, and waits."""
    monkeypatch.setattr(inbox_module, "WAITING", 20)
    monkeypatch.setattr(inbox_module, "_LOOK_SECONDS", 0.02)
    inbox, inner = Inbox(), Inner()
    source = CniSource(inner, "here", [tmp_path], None)
    source.start(inbox.put, inbox.room)
    asleep = threading.Event()
    while len(inbox.take(0.0).events) < 20:
        asleep.wait(0.05)
    while not inner.waits.is_set() or len(inbox._events) < 20:
        asleep.wait(0.005)
    yield source, inbox
    inner.stop()
    inbox.close()
    source.stop()
    inner.thread.join(20.0)


@pytest.mark.guarantee("1.4")
def test_a_runtime_does_not_wait_for_a_loop_that_is_behind(behind: tuple[CniSource, Inbox]) -> None:
    source, inbox = behind
    told: list[Sandbox | None] = []
    runtime = threading.Thread(
        target=lambda: told.append(source.began(Sandbox("c1", WEB, "u1", (V4,)))), daemon=True
    )
    runtime.start()
    runtime.join(20.0)
    assert [found and found.addresses for found in told] == [(V4,)]
    events: list[Event] = inbox.take(0.0).events
    assert len(events) <= 22
    assert any(isinstance(e, Upsert) and isinstance(e.object, Pod) and e.object.addresses for e in events)
