"""The source with results before another one: who waits while the loop is behind, and who does not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from agent.kube.events import Event, Room, Sink, Synced, Upsert, after_room, enough
from agent.kube.model import Key, Kind, Pod
from agent.runtime import inbox as inbox_module
from agent.runtime.inbox import Inbox
from agent.sources.cni.source import CniSource
from agent.sources.nri.messages import Sandbox
from agent.sources.source import SyncState
from tests.patience import PATIENCE

V4 = bytes((10, 1, 0, 2))
WEB = Key("shop", "web")
NEW = Upsert(Kind.POD, Pod("shop", "web", "u1", node="here"))
UNTOLD = Pod("shop", "untold", "u2", node="here")
"""A pod of which only an answer by name tells."""


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
        sink([NEW, Synced(Kind.POD)])
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
    source = CniSource(inner, "here", [tmp_path], {UNTOLD.key: UNTOLD}.get)
    source.start(inbox.put, inbox.room)
    _until(lambda: inner.waits.is_set() and len(inbox._events) >= 20)
    yield source, inbox
    inner.stop()
    inbox.close()
    source.stop()
    inner.thread.join(PATIENCE)


@pytest.mark.guarantee("1.4")
def test_a_runtime_does_not_wait_for_a_loop_that_is_behind(behind: tuple[CniSource, Inbox]) -> None:
    source, inbox = behind
    told: list[Sandbox | None] = []
    runtime = threading.Thread(
        target=lambda: told.append(source.began(Sandbox("c1", WEB, "u1", (V4,)))), daemon=True
    )
    runtime.start()
    runtime.join(PATIENCE)
    assert [found and found.addresses for found in told] == [(V4,)]
    events: list[Event] = inbox.take(0.0).events
    assert len(events) <= 22
    assert any(isinstance(e, Upsert) and isinstance(e.object, Pod) and e.object.addresses for e in events)


@pytest.mark.guarantee("1.4")
def test_what_is_answered_about_a_new_pod_does_not_wait_for_a_loop_that_is_behind(
    behind: tuple[CniSource, Inbox],
) -> None:
    source, inbox = behind
    before = inbox.told
    source.began(Sandbox("c2", UNTOLD.key, UNTOLD.uid, (V4,)))
    _until(lambda: inbox.told == before + 1)
    told = [e.object for e in inbox.take(0.0).events if isinstance(e, Upsert)]
    assert [o.addresses for o in told if isinstance(o, Pod) and o.key == UNTOLD.key] == [(V4,)]


@pytest.mark.guarantee("1.5")
def test_what_a_plugin_gave_just_now_does_not_wait_for_a_loop_that_is_behind(
    behind: tuple[CniSource, Inbox], tmp_path: Path
) -> None:
    """What follows in the folder may be that another pod's network was taken away."""
    source, inbox = behind
    before = inbox.told
    args = [("K8S_POD_NAMESPACE", WEB.namespace), ("K8S_POD_NAME", WEB.name), ("K8S_POD_UID", "u1")]
    cached = {"kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "cniArgs": args}
    result = {"ips": [{"address": "10.1.0.2/24"}], "interfaces": [{"name": "no-such-link"}]}
    file = tmp_path / "net-c1-eth0"
    file.write_text(json.dumps({**cached, "result": result}))
    _until(lambda: source.state().results == 1 and inbox.told == before + 1)
    file.unlink()
    _until(lambda: source.state().results == 0 and inbox.told == before + 2)


def _until(what: Callable[[], bool]) -> None:
    limit, asleep = time.monotonic() + PATIENCE, threading.Event()
    while not what():
        assert time.monotonic() < limit
        asleep.wait(0.005)
