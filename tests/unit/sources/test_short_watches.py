"""Watches that end soon after they began, each time: when they are begun anew, and when all is listed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from agent.sources.apiserver import refusals
from tests.unit.sources.scripted import (
    GONE,
    Answer,
    Running,
    Script,
    bookmark,
    line,
    page,
    pause_long,
    pod,
    refuse,
    stream,
    wait,
)

LOST = line("ERROR", {"kind": "Status", "code": 500, "message": "lost"})


@pytest.mark.parametrize(
    "end", [GONE, LOST, b"garbage\n", b'{"type":'], ids=["410", "500", "garbage", "half a line"]
)
def test_watches_that_tell_something_and_fail_do_not_have_all_listed_again_and_again(
    script: Script, running: Callable[..., Running], end: bytes
) -> None:
    script.lists = [page(2, pod("a", 1))]
    script.watches = [stream(bookmark(2), end, pause=0.1, hold=0.0)]
    began = time.monotonic()
    running()
    time.sleep(3.0)
    asked = Counter("watch" in query for query in script.asked)
    # After 0.2 s, 0.4 s, 0.8 s and 1.6 s at most, each cut by up to a half.
    assert 2 <= asked[False] <= 3 + time.monotonic() - began


def test_the_list_that_follows_an_error_that_a_watch_tells_of_waits_ever_longer(
    script: Script, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike one that follows a watch that is refused: a list was good, and is dear."""
    script.lists = [page(2, pod("a", 1))]
    script.watches = [stream(bookmark(2), LOST, pause=0.0, hold=0.0)]
    pause_long(monkeypatch)
    running()
    wait(lambda: len(script.asked) == 2)
    time.sleep(max(refusals.SOON_SECONDS) + 0.5)
    assert len(script.asked) == 2


def test_refused_watches_do_not_have_a_list_wait(
    script: Script, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come about each second, so that a list would wait for half a minute when it is wanted."""
    monkeypatch.setattr(refusals, "SOON_SECONDS", (0.01, 0.02))
    script.lists = [page(1)]
    # A list follows three of them, and then six.
    script.watches = [*[refuse(400)] * 9, refuse(410)]
    began = time.monotonic()
    running()
    wait(lambda: sum("watch" not in query for query in script.asked) == 4)
    assert time.monotonic() - began < 10.0


@pytest.mark.parametrize("told", [[], [bookmark(2)]], ids=["nothing", "something"])
def test_a_server_that_ends_each_watch_soon_is_asked_about_each_second(
    script: Script, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, told: list[bytes]
) -> None:
    """Neither more often, nor so late that an event waits."""
    early: Answer = stream(*told, hold=0.0)
    script.lists = [page(1)]
    script.watches = [*[early] * 5, stream(line("ADDED", pod("a", 5)))]
    pause_long(monkeypatch)
    began = time.monotonic()
    found = running()
    wait(lambda: len(found.events) == 2)
    assert time.monotonic() - began >= 2.5
    assert len(script.asked) == 7


def test_a_watch_that_gets_no_answer_is_begun_anew_soon(
    script: Script, running: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs little, as one that is refused does."""
    script.lists = [page(1)]
    cut: Answer = lambda handler, _: setattr(handler, "close_connection", True)  # noqa: E731
    script.watches = [cut, cut, stream(line("ADDED", pod("a", 5)))]
    pause_long(monkeypatch)
    found = running()
    wait(lambda: len(found.events) == 2)
    assert len(script.asked) == 4
