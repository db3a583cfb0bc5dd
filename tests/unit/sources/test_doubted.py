"""Lists that say that everything is gone, or that time goes back: what is told of them, and when."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from agent.kube.events import Delete, Event, Synced, Upsert
from agent.sources.apiserver.identity import ClusterIdentity, Records
from agent.sources.apiserver.seen import Seen
from tests.patience import PATIENCE
from tests.unit.sources.scripted import (
    Running,
    Script,
    begin_stream,
    bookmark,
    line,
    page,
    pod,
    refuse,
    stream,
    wait,
)

SECONDS = 30.0


class Moments:
    """A clock that stands until it is told the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def moments() -> Moments:
    return Moments()


class Later:
    """A watch that tells some lines at once, and others when it is allowed to."""

    def __init__(self, at_once: bytes, then: bytes) -> None:
        self.go = threading.Event()
        self._parts = at_once, then

    def __call__(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        del query
        at_once, then = self._parts
        begin_stream(handler)
        for part in (at_once, then):
            if part is then:
                self.go.wait(PATIENCE)
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            handler.wfile.flush()
        self.go.clear()
        self.go.wait(3)


def names(events: list[Event]) -> list[str]:
    told = []
    for event in events:
        match event:
            case Upsert():
                told.append(event.object.name)
            case Delete():
                told.append(f"-{event.key.name}")
            case Synced():
                told.append("synced")
    return told


def fault(found: Running) -> str:
    return found.reflector.state().fault


def wake(found: Running) -> None:
    """End the pause that it is in, or is about to begin."""
    found.reflector._contact.lost("only to wake it")
    found.reflector._contact.served()


def test_all_that_are_gone_at_once_stay_until_a_second_list_says_so_and_what_is_new_is_told(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    watch = Later(line("ADDED", pod("c", 10)), bookmark(12))
    script.lists = [page(3, pod("a", 1), pod("b", 2)), page(9, pod("n", 8))]
    script.watches = [stream(hold=0.0), refuse(410), watch, stream(bookmark(14))]
    found = running(clock=moments)
    wait(lambda: len(found.events) == 5)
    # One that the list has, and one of the watch that goes on meanwhile.
    assert names(found.events) == ["a", "b", "synced", "n", "c"]
    assert (
        "the list of pods lacks all 2 that were there; what is in force stays until a second list, 30 s"
        in fault(found)
    )
    wait(lambda: found.reflector.state().objects == 4)
    state = found.reflector.state()
    assert (state.synced, state.current) == (True, False)
    script.lists = [page(13, pod("n", 8), pod("c", 10))]
    moments.now += SECONDS
    watch.go.set()
    wait(lambda: len(found.events) == 7)
    assert set(names(found.events[5:])) == {"-a", "-b"}
    wait(lambda: fault(found) == "" and found.reflector.state().current)
    # The list that confirms is read from the store, not from what a server has at hand.
    asked = [query for query in script.asked if "watch" not in query]
    assert "resourceVersion" in asked[1]
    assert "resourceVersion" not in asked[2]


def test_a_connection_that_breaks_meanwhile_makes_it_no_sooner(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    script.lists = [page(3, pod("a", 1)), page(9)]
    script.watches = [refuse(410)]
    found = running(clock=moments)
    wait(lambda: len([query for query in script.asked if "watch" not in query]) >= 5)
    assert names(found.events) == ["a", "synced"]
    moments.now += SECONDS
    wake(found)
    wait(lambda: names(found.events) == ["a", "synced", "-a"])


def test_a_second_list_that_has_them_all_changes_nothing(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    script.lists = [page(3, pod("a", 1), pod("b", 2)), page(9), page(9, pod("a", 1), pod("b", 2))]
    script.watches = [refuse(410), refuse(410), stream(bookmark(12))]
    found = running(clock=moments)
    wait(lambda: found.reflector.state().resource_version == "12")
    assert names(found.events) == ["a", "b", "synced"]
    assert fault(found) == ""


def test_what_a_watch_says_was_deleted_is_gone_at_once_were_it_all_there_was(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    """Who deletes the only policy that there is waits for nothing."""
    deleted = b"".join(line("DELETED", pod(name, version)) for name, version in (("a", 4), ("b", 5)))
    script.lists = [page(3, pod("a", 1), pod("b", 2))]
    script.watches = [stream(deleted)]
    found = running(clock=moments)
    wait(lambda: names(found.events) == ["a", "b", "synced", "-a", "-b"])
    assert fault(found) == ""


def test_what_a_watch_says_was_deleted_while_it_is_in_doubt_is_gone_at_once(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    script.lists = [page(3, pod("a", 1), pod("b", 2)), page(9)]
    deleted = b"".join(line("DELETED", pod(name, version)) for name, version in (("a", 10), ("b", 11)))
    script.watches = [refuse(410), stream(deleted)]
    found = running(clock=moments)
    wait(lambda: names(found.events) == ["a", "b", "synced", "-a", "-b"])
    assert fault(found) == ""


def test_a_watch_that_is_silent_is_ended_when_it_is_time_for_the_second_list(
    script: Script, running: Callable[..., Running]
) -> None:
    script.lists = [page(3, pod("a", 1)), page(9), page(11)]
    script.watches = [refuse(410), stream(bookmark(10))]
    found = running(confirm_empty=0.3)
    wait(lambda: names(found.events) == ["a", "synced", "-a"])


def test_an_older_list_changes_nothing_until_a_second_one_is_older_too(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    """What was restored may allow what is denied now: so what it has is not told, either."""
    script.lists = [page(50, pod("a", 1), pod("b", 2)), page(20, pod("a", 1), pod("old", 3))]
    script.watches = [refuse(410), stream(bookmark(60))]
    found = running(clock=moments)
    wait(lambda: "the list of pods is older than what was told before" in fault(found))
    assert names(found.events) == ["a", "b", "synced"]
    moments.now += SECONDS
    wake(found)
    # All of it is told anew: versions may have been given out again.
    wait(lambda: names(found.events) == ["a", "b", "synced", "a", "old", "-b"])
    wait(lambda: fault(found) == "")


def test_a_list_that_is_not_older_any_more_is_told_at_once(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    """One of several servers had lost its data."""
    script.lists = [page(50, pod("a", 1), pod("b", 2)), page(20), page(51, pod("a", 1))]
    script.watches = [refuse(410), stream(bookmark(60))]
    found = running(clock=moments)
    wait(lambda: "is older than what was told before" in fault(found))
    wake(found)
    wait(lambda: names(found.events) == ["a", "b", "synced", "-b"])
    wait(lambda: fault(found) == "")


def test_a_cluster_that_was_restored_and_has_caught_up_has_all_told_anew(
    script: Script, running: Callable[..., Running]
) -> None:
    """It is not older than what was told, and the same versions may be of other objects."""
    behind = line("ERROR", {"kind": "Status", "code": 504, "message": "Too large resource version"})
    script.lists = [page(9, pod("a", 8)), page(10, pod("a", 8))]
    script.watches = [stream(behind, hold=0.0), stream(bookmark(12))]
    found = running()
    wait(lambda: names(found.events) == ["a", "synced", "a"])


class Behind:
    """A server whose store is at a version; it takes watches from later ones, and tells them nothing."""

    def __init__(self, version: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.version = version
        self.clock = clock

    def who(self, _: float) -> bytes:
        meta = {"name": "kube-system", "uid": "one", "resourceVersion": "1"}
        whole = {"kind": "NamespaceList", "apiVersion": "v1", "items": [{"metadata": meta}]}
        return json.dumps({**whole, "metadata": {"resourceVersion": str(self.version)}}).encode()

    def identity(self) -> ClusterIdentity:
        return ClusterIdentity(self.who, lambda: "", Records(None), clock=self.clock)


def test_a_watch_that_a_restored_server_takes_and_tells_nothing_has_all_listed_anew(
    script: Script, running: Callable[..., Running], moments: Moments
) -> None:
    """API servers answer 200 to a watch from a version that they have not reached."""
    server = Behind(9, moments)
    script.lists = [page(9, pod("a", 8))]
    script.watches = [stream(hold=0.3), stream(hold=3.0)]
    found = running(clock=moments, identity=server.identity())
    wait(lambda: found.reflector.heard and names(found.events) == ["a", "synced"])
    server.version = 5
    script.lists = [page(5, pod("n", 4))]
    wait(lambda: "is older than what was told before" in fault(found))
    assert names(found.events) == ["a", "synced"]
    moments.now += SECONDS
    wake(found)
    wait(lambda: "n" in names(found.events))


def test_a_kind_whose_store_is_its_own_is_watched_on_however_far_the_others_are(
    script: Script, running: Callable[..., Running]
) -> None:
    script.lists = [page(9, pod("a", 8))]
    script.watches = [stream(bookmark(12))]
    script.lists.append(page(15, pod("a", 8), more="more"))
    found = running(identity=Behind(5).identity())
    wait(lambda: found.reflector.state().resource_version == "12")
    assert names(found.events) == ["a", "synced"]
    assert [query.get("limit") for query in script.asked if "watch" not in query] == ["500", "1"]


def test_a_restart_finds_an_empty_list_where_there_was_something(
    script: Script, running: Callable[..., Running], moments: Moments, tmp_path: Path
) -> None:
    script.lists, script.watches = [page(3, pod("a", 1))], [stream()]
    before = running(tmp_path / "Pod")
    wait(lambda: names(before.events) == ["a", "synced"])
    before.stop()
    script.lists, script.watches = [page(9)], [refuse(410)]
    found = running(tmp_path / "Pod", clock=moments)
    wait(lambda: "is empty, and there were some before this agent started" in fault(found))
    assert found.events == []
    assert not found.reflector.state().synced
    moments.now += SECONDS
    wake(found)
    wait(lambda: names(found.events) == ["synced"])


def test_a_restart_finds_an_older_list(
    script: Script, running: Callable[..., Running], moments: Moments, tmp_path: Path
) -> None:
    Seen(tmp_path / "Pod").note(90)
    script.lists, script.watches = [page(9, pod("a", 1))], [stream()]
    found = running(tmp_path / "Pod", clock=moments)
    wait(lambda: "is older than what was told before" in fault(found))
    assert found.events == []
    moments.now += SECONDS
    wake(found)
    wait(lambda: names(found.events) == ["a", "synced"])
    assert Seen(tmp_path / "Pod").latest == 9


def test_on_a_node_that_holds_nothing_the_first_list_is_believed(
    script: Script, running: Callable[..., Running], moments: Moments, tmp_path: Path
) -> None:
    seen = Seen(tmp_path / "Pod")
    seen.note(90)
    seen.note_some(True)
    script.lists, script.watches = [page(9)], [stream()]
    found = running(tmp_path / "Pod", clock=moments, anything=True)
    wait(lambda: names(found.events) == ["synced"])
    assert fault(found) == ""


def test_whether_there_was_anything_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "Pod"
    assert not Seen(path).some
    Seen(path).note(7)
    Seen(path).note_some(True)
    assert (Seen(path).latest, Seen(path).some) == (7, True)
    Seen(path).note_some(False)
    assert (Seen(path).latest, Seen(path).some) == (7, False)


def test_what_a_former_version_remembered_is_read(tmp_path: Path) -> None:
    (tmp_path / "Pod").write_text(f"{12:020}")
    assert (Seen(tmp_path / "Pod").latest, Seen(tmp_path / "Pod").some) == (12, False)
