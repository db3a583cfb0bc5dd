"""Lists: in pages, that expire, that are too old, or that take long."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

from agent.kube.events import Delete, Synced, Upsert
from agent.kube.model import Key, Kind
from agent.sources.apiserver import reflector
from tests.unit.sources.scripted import (
    GONE,
    Running,
    Script,
    page,
    pause_long,
    pod,
    refuse,
    stream,
    wait,
)


def test_pages_are_followed_and_the_watch_begins_where_the_list_ended(
    script: Script, running: Callable[[], Running]
) -> None:
    script.lists = [page(2, pod("a", 1), more="next"), page(2, pod("b", 2))]
    script.watches = [stream()]
    found = running()
    wait(lambda: len(script.asked) == 3)
    assert script.asked[0] == {"limit": "500"}
    assert script.asked[1] == {"limit": "500", "continue": "next"}
    watch = script.asked[2]
    assert (watch["resourceVersion"], watch["allowWatchBookmarks"]) == ("2", "true")
    assert 300 <= int(watch["timeoutSeconds"]) <= 600
    assert [type(e) for e in found.events] == [Upsert, Upsert, Synced]


def test_a_continue_token_that_expired_begins_the_list_anew_and_deletes_nothing_before(
    script: Script, running: Callable[[], Running]
) -> None:
    script.lists = [page(1, pod("a", 1), more="next"), refuse(410), page(3, pod("a", 1), pod("b", 2))]
    script.watches = [stream()]
    found = running()
    wait(lambda: len(script.asked) == 4)
    assert [type(e) for e in found.events] == [Upsert, Upsert, Synced]


def test_a_list_whose_second_page_has_expired_is_asked_to_be_consistent(
    script: Script, running: Callable[..., Running]
) -> None:
    """What a server has at hand may be so old that its store cannot give the rest of it any more."""
    script.lists = [page(5, pod("a", 1), more="next"), refuse(410), page(9, pod("a", 1), pod("b", 2))]
    script.watches = [stream(hold=0.0), stream(GONE), stream()]
    found = running(anything=True)
    wait(lambda: len([q for q in script.asked if "watch" in q]) == 3)
    lists = [query.get("resourceVersion") for query in script.asked if "watch" not in query]
    # Once it is listed, the next list need not be.
    assert lists == ["1", None, None, "9"]
    assert found.reflector.state().objects == 2


def test_lists_that_expire_again_and_again_before_their_end_are_asked_for_in_one_piece(
    script: Script, running: Callable[..., Running]
) -> None:
    """Where reading the pages takes longer than the store keeps what it has replaced."""
    begun = page(5, pod("a", 1), more="next")
    script.lists = [begun, refuse(410), begun, refuse(410), page(9, pod("a", 1), pod("b", 2))]
    script.watches = [stream()]
    found = running()
    wait(lambda: len(script.asked) == 6)
    assert [query.get("limit") for query in script.asked] == ["500"] * 4 + [None, None]
    assert [type(e) for e in found.events] == [Upsert, Upsert, Synced]


def test_a_list_that_is_too_old_for_a_watch_at_once_is_asked_to_be_consistent(
    script: Script, running: Callable[..., Running]
) -> None:
    """Another server may have answered, whose cache is behind: with the same list, it would go on."""
    script.lists = [page(5, pod("a", 1)), page(9, pod("a", 1))]
    script.watches = [refuse(410), stream()]
    running(anything=True)
    wait(lambda: len(script.asked) == 4)
    assert [query.get("resourceVersion") for query in script.asked] == ["1", "5", None, "9"]


def test_a_list_that_took_long_and_failed_is_not_asked_for_again_at_once(
    script: Script, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        time.sleep(0.2)
        refuse(500)(handler, query)

    monkeypatch.setattr(reflector, "_HEALTHY_SECONDS", 0.1)
    pause_long(monkeypatch)
    script.lists = [page(1, pod("a", 1), more="next"), late, page(1)]
    script.watches = [stream()]
    found = running()
    wait(lambda: found.reflector.state().fault)
    time.sleep(0.3)
    assert len([query for query in script.asked if query.get("limit") != "1"]) == 2


def test_pods_of_the_node_are_told_before_the_others(script: Script, running: Callable[..., Running]) -> None:
    script.lists = [page(3, pod("here", 1)), page(4, pod("here", 1), pod("far", 2))]
    script.watches = [stream()]
    found = running(first="spec.nodeName=n")
    wait(lambda: len(found.events) == 4 and len(script.asked) == 3)
    here, near, far, synced = found.events
    assert isinstance(here, Upsert)
    assert isinstance(far, Upsert)
    assert (here.object.name, near) == ("here", Synced(Kind.POD, here=True))
    assert (far.object.name, synced) == ("far", Synced(Kind.POD))
    selectors = [query.get("fieldSelector") for query in script.asked]
    assert selectors == ["spec.nodeName=n", None, None]
    # In pages, older servers read every pod of the cluster from their store to find those of one node.
    assert [query.get("limit") for query in script.asked] == [None, "500", None]


def test_one_that_went_while_the_others_were_read_is_told_as_gone(
    script: Script, running: Callable[..., Running]
) -> None:
    script.lists = [page(3, pod("here", 1), pod("stays", 2)), page(4, pod("stays", 2))]
    script.watches = [stream()]
    found = running(first="spec.nodeName=n")
    wait(lambda: len(found.events) == 5)
    assert found.events[3:] == [Delete(Kind.POD, Key("x", "here")), Synced(Kind.POD)]
