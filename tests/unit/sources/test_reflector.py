"""Listing and watching, against a scripted server: what a real one does only rarely."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from agent.kube.events import Delete, Synced, Upsert
from agent.kube.model import Key, Kind, Pod
from agent.sources.apiserver import reflector
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.reflector import Reflector
from agent.sources.apiserver.refusals import Recovery
from agent.sources.apiserver.seen import Seen
from tests.patience import PATIENCE
from tests.unit.sources.scripted import (
    GONE,
    Answer,
    Json,
    Running,
    Script,
    begin_stream,
    bookmark,
    chunk,
    every_fault,
    line,
    page,
    pause_long,
    pod,
    refuse,
    stream,
    wait,
)


def test_a_line_in_parts_is_one_event_and_is_told_without_waiting_for_the_next(
    script: Script, running: Callable[[], Running]
) -> None:
    text = line("ADDED", pod("a", 5))
    script.lists = [page(1)]
    script.watches = [stream(text[:9], text[9:40], text[40:])]
    found = running()
    wait(lambda: len(found.events) == 2)
    wait(lambda: found.reflector.state().resource_version == "5")


def test_what_has_arrived_together_is_told_together(script: Script, running: Callable[[], Running]) -> None:
    def at_once(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        begin_stream(handler)
        handler.wfile.write(b"".join(chunk(line("ADDED", pod(f"p{n}", n + 2))) for n in range(50)))

    script.lists = [page(1)]
    script.watches = [at_once]
    found = running()
    wait(lambda: len(found.events) == 51)
    assert len(found.batches) < 51


def test_a_watch_that_ends_is_resumed_from_the_last_event_or_bookmark(
    script: Script, running: Callable[[], Running]
) -> None:
    script.lists = [page(1)]
    script.watches = [stream(line("ADDED", pod("a", 5)), hold=0.0), stream(bookmark(9), hold=0.0), stream()]
    found = running()
    wait(lambda: len(script.asked) == 4)
    assert [q.get("resourceVersion") for q in script.asked] == [None, "1", "5", "9"]
    assert found.reflector.state().fault == ""


@pytest.mark.parametrize("gone", [refuse(410), stream(GONE, hold=0.0)], ids=["status", "event"])
def test_too_old_is_listed_again_and_only_differences_are_told(
    script: Script, running: Callable[[], Running], gone: Answer
) -> None:
    script.lists = [
        page(1, pod("same", 1), pod("changed", 1), pod("gone", 1)),
        page(7, pod("same", 1), more="next"),
        page(7, pod("changed", 6), pod("new", 7)),
    ]
    script.watches = [stream(hold=0.0), gone, stream()]
    found = running()
    wait(lambda: len(script.asked) == 6)
    assert "resourceVersion" not in script.asked[0]
    assert script.asked[3] == {"limit": "500", "resourceVersion": "1", "resourceVersionMatch": "NotOlderThan"}
    assert script.asked[4] == {"limit": "500", "continue": "next"}
    assert [
        getattr(e, "object", None) and e.object.name for e in found.events[4:] if isinstance(e, Upsert)
    ] == [
        "changed",
        "new",
    ]
    assert found.events[-1] == Delete(Kind.POD, Key("x", "gone"))
    assert found.reflector.state().objects == 3


def test_failures_are_named_retried_and_clear_nothing(
    script: Script, running: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = every_fault(monkeypatch)
    script.lists = [page(1, pod("a", 1))]
    script.watches = [refuse(500), refuse(403), stream(b"garbage\n"), stream(bookmark(2))]
    found = running()
    wait(lambda: len(script.asked) >= 4)
    assert [fault[:9] for fault in faults[:2]] == ["the API s", "forbidden"]
    wait(lambda: len(faults) == 3 and found.reflector.state().fault == "")
    assert found.reflector.state().objects == 1
    assert found.reflector.state().synced


@pytest.mark.parametrize("code", [400, 404, 405, 500])
def test_a_version_whose_watch_is_refused_again_and_again_is_given_up(
    script: Script, running: Callable[[], Running], code: int
) -> None:
    script.lists = [page(1, pod("a", 1)), page(7, pod("a", 1), pod("b", 6))]
    script.watches = [*[refuse(code)] * 3, stream()]
    found = running()
    wait(lambda: len(script.asked) == 6 and not found.reflector.state().fault)
    assert found.reflector.state().objects == 2
    assert ["watch" in query for query in script.asked] == [False, True, True, True, False, True]


@pytest.mark.parametrize("code", [401, 403, 429])
def test_a_refusal_that_is_not_of_the_version_lists_nothing_anew(
    script: Script, running: Callable[[], Running], code: int
) -> None:
    script.lists = [page(1, pod("a", 1))]
    script.watches = [*[refuse(code)] * 4, stream()]
    found = running()
    wait(lambda: len(script.asked) == 6 and not found.reflector.state().fault)
    assert ["watch" in query for query in script.asked] == [False, *[True] * 5]


def test_a_cluster_restored_from_a_backup_is_listed_anew(
    script: Script, running: Callable[..., Running]
) -> None:
    behind = line("ERROR", {"kind": "Status", "code": 504, "message": "Too large resource version"})
    script.lists = [page(9, pod("a", 8), pod("b", 9)), page(5, pod("a", 5))]
    script.watches = [refuse(504), stream(behind, hold=0.0), stream()]
    found = running(confirm_empty=0.0)
    wait(lambda: found.events[-1:] == [Delete(Kind.POD, Key("x", "b"))] and not found.reflector.state().fault)
    assert [type(e) for e in found.events] == [Upsert, Upsert, Synced, Upsert, Delete]


@pytest.mark.parametrize(
    ("first", "later", "then"),
    [
        (
            (9, "1"),
            (5, "1"),
            ["before", "after"],
        ),  # restored, and what was lost went on under the same number
        ((9, "1"), (12, "2"), ["before", "after"]),  # another of the same name, and it has caught up
        ((9, "1"), (12, "1"), ["before"]),
    ],
)
def test_the_same_version_is_the_same_object_only_where_time_and_uid_say_so(
    script: Script,
    running: Callable[..., Running],
    first: tuple[int, str],
    later: tuple[int, str],
    then: list[str],
) -> None:
    def labelled(label: str, uid: str) -> Json:
        found = pod("a", 4)
        found["metadata"] |= {"labels": {"app": label}, "uid": uid}
        return found

    script.lists = [page(first[0], labelled("before", first[1])), page(later[0], labelled("after", later[1]))]
    script.watches = [refuse(410), stream()]
    found = running(confirm_empty=0.0)
    wait(lambda: len(script.asked) == 4)
    pods = [e.object for e in found.events if isinstance(e, Upsert) and isinstance(e.object, Pod)]
    assert [each.labels["app"] for each in pods] == then
    assert not [e for e in found.events if isinstance(e, Delete)]


def test_a_watch_that_is_never_answered_is_given_up_sooner_than_a_silent_one(
    script: Script, running: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "_WATCH_ANSWER_SECONDS", 0.5)
    script.lists = [page(1)]
    script.watches = [lambda *_: time.sleep(2), stream(b"\n", line("ADDED", pod("a", 2)), pause=1.0)]
    found = running()
    wait(lambda: "fell silent" in found.reflector.state().fault)
    # One that is answered is not, however long it has nothing to tell.
    wait(lambda: len(found.events) == 2)
    assert len([query for query in script.asked if "watch" not in query]) == 1


def test_a_refusal_without_an_end_is_one(script: Script, running: Callable[[], Running]) -> None:
    ended = threading.Event()

    def endless(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        handler.send_response(500)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not ended.is_set():
                handler.wfile.write(b"<p>" * 10_000)
                ended.wait(0.01)

    script.lists = [endless, page(1, pod("a", 1))]
    script.watches = [stream()]
    found = running()
    try:
        wait(lambda: found.reflector.state().synced)
    finally:
        ended.set()


@pytest.mark.parametrize(
    "parts", [[b"\n"] * 1000, [b'{"type":'] + [b" "] * 1000], ids=["blank", "never ends"]
)
def test_a_watch_of_which_no_whole_line_comes_is_silent(
    script: Script, running: Callable[[], Running], monkeypatch: pytest.MonkeyPatch, parts: list[bytes]
) -> None:
    monkeypatch.setattr(reflector, "SILENCE_SECONDS", 0.5)
    script.lists = [page(1)]
    script.watches = [stream(*parts, pause=0.1), stream(line("ADDED", pod("a", 2)))]
    found = running()
    wait(lambda: len(found.events) == 2)
    assert found.reflector.state().fault == ""
    assert len([query for query in script.asked if "watch" not in query]) == 1


def test_a_watch_that_has_nothing_to_tell_is_begun_anew_at_once_and_is_no_fault(
    script: Script, running: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often: an API server may have no bookmarks to send, and an event must not wait for a pause."""
    monkeypatch.setattr(reflector, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(reflector, "_HEALTHY_SECONDS", 0.05)
    pause_long(monkeypatch)
    faults = every_fault(monkeypatch)
    script.lists = [page(1)]
    script.watches = [stream()] * 4 + [stream(line("ADDED", pod("a", 2)), pause=1.0)]
    found = running()
    wait(lambda: len(found.events) == 2)
    assert faults == []


def test_watches_that_are_ended_with_nothing_told_are_begun_anew_at_once_if_they_lasted(
    script: Script, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may end what was silent for a minute, each time; an event must not wait for a pause."""
    monkeypatch.setattr(reflector, "_HEALTHY_SECONDS", 0.1)
    pause_long(monkeypatch)
    script.lists = [page(1)]
    script.watches = [stream(hold=0.2)] * 4 + [stream(line("ADDED", pod("a", 2)))]
    found = running()
    wait(lambda: len(found.events) == 2)
    assert len(script.asked) == 6


def test_retry_after_is_obeyed(script: Script, running: Callable[[], Running]) -> None:
    asked: list[float] = []

    def timed(answer: Answer) -> Answer:
        def timing(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
            asked.append(time.monotonic())
            answer(handler, query)

        return timing

    script.lists = [timed(refuse(429, Retry_After="1")), timed(page(1))]
    script.watches = [stream()]
    running()
    wait(lambda: len(script.asked) == 3)
    assert asked[1] - asked[0] >= 1.0


def test_a_list_that_was_given_ends_what_was_learnt_from_those_that_failed(
    script: Script, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Recovery] = []
    monkeypatch.setattr(Recovery, "listed", lambda recovery: given.append(recovery))
    script.lists = [page(1)]
    script.watches = [stream()]
    running()
    wait(lambda: len(given) == 1)


def test_a_sink_that_fails_does_not_end_the_watch(script: Script, kubeconfig: Path) -> None:
    script.lists = [page(1, pod("a", 1))]
    script.watches = [stream()]
    calls = []

    def sink(events: Any) -> None:
        calls.append(events)
        if len(calls) == 1:
            raise RuntimeError("once")

    found = Reflector(Kind.POD, Connection(str(kubeconfig)), sink, Seen(None))
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    wait(lambda: found.state().synced)
    found.stop()
    thread.join(PATIENCE)
    assert [type(e) for call in calls for e in call] == [Upsert, Upsert, Synced]


def test_a_restart_asks_for_nothing_older_than_was_told_before(
    script: Script, running: Callable[..., Running], tmp_path: Path
) -> None:
    seen = tmp_path / "state/seen/Pod"
    script.lists = [page(3, pod("a", 2)), page(8, pod("a", 2))]
    script.watches = [stream(line("MODIFIED", pod("a", 7))), stream()]
    first = running(seen, anything=True)
    wait(lambda: len(first.events) == 3)
    assert script.asked[0] == {"limit": "500", "resourceVersion": "1", "resourceVersionMatch": "NotOlderThan"}
    first.stop()
    asked = len(script.asked)
    second = running(seen, anything=True)
    wait(lambda: second.reflector.state().synced)
    assert script.asked[asked] == {
        "limit": "500",
        "resourceVersion": "7",
        "resourceVersionMatch": "NotOlderThan",
    }


def test_a_server_that_was_not_told_so_much_is_asked_to_read_its_store(
    script: Script, running: Callable[..., Running], tmp_path: Path
) -> None:
    Seen(tmp_path / "Pod").note(90)
    script.lists = [refuse(504), page(4, pod("a", 2), more="next"), page(4, pod("b", 3))]
    script.watches = [stream()]
    found = running(tmp_path / "Pod", confirm_empty=0.0)
    wait(lambda: found.reflector.state().synced)
    assert script.asked[0]["resourceVersion"] == "90"
    assert script.asked[1] == {"limit": "500"}
    # It is another cluster, or one restored from a backup.
    assert Seen(tmp_path / "Pod").latest == 4


def test_what_cannot_be_remembered_is_told_and_keeps_nothing_from_working(
    script: Script, running: Callable[..., Running], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    script.lists = [page(4, pod("a", 2))]
    script.watches = [stream()]
    found = running(tmp_path / "file/Pod")
    wait(lambda: found.reflector.state().synced)
    assert script.asked[0] == {"limit": "500"}
