"""``/flows`` over a real connection: the last reports, and live ones."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import NoReturn

import pytest

from agent.commands.watch import not_logged, show, wanted_of
from agent.dataplane.logged import Decided
from agent.observe.client import UnreachableError
from agent.observe.flows.client import follow
from agent.observe.flows.flow import as_json
from agent.observe.flows.hub import ANY, Flows, Wanted
from agent.observe.flows.routes import flow_routes
from agent.observe.server import StatusServer
from tests.lab.cluster import wait_until
from tests.patience import PATIENCE
from tests.unit.observe.flows.test_hub import UNLOGGED, flow


class Serving:
    def __init__(self) -> None:
        self.flows = Flows()
        self.server = StatusServer("127.0.0.1", 0, self.nothing, self.nothing, more=flow_routes(self.flows))
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"

    def nothing(self) -> NoReturn:
        raise AssertionError("nobody asks for this")

    def get(self, query: str) -> list[bytes]:
        with urllib.request.urlopen(f"{self.url}/flows{query}", timeout=PATIENCE) as answer:  # noqa: S310
            return list(answer.read().splitlines())


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.flows.close()
    serving.server.stop()


def test_the_last_reports_are_lines_of_json(serving: Serving) -> None:
    for number in range(3):
        serving.flows.put(flow(number))
    serving.flows.put(flow(9, Decided.ALLOWED, "shop/other"))
    lines = [json.loads(line) for line in serving.get("?limit=2&verdict=denied")]
    assert [line["number"] for line in lines] == [1, 2]
    assert len(serving.get("")) == 4
    assert len(serving.get("?pod=shop/other")) == 1
    assert len(serving.get("?policy=shop/none")) == 0


@pytest.mark.parametrize(
    "query", ["?verdict=maybe", "?limit=-1", "?limit=x", f"?limit={'9' * 5000}", "?limit=%C2%B2", "?pod=db"]
)
def test_a_question_that_cannot_be_read_is_refused(serving: Serving, query: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        serving.get(query)


def test_a_client_follows_after_the_last_ones(serving: Serving) -> None:
    serving.flows.put(flow(1))
    serving.flows.put(flow(2))
    lines = follow(serving.url, ANY, 1)
    assert next(lines) == as_json(flow(2))
    serving.flows.put(flow(3))
    assert next(lines) == as_json(flow(3))
    serving.flows.close()
    assert list(lines) == []


def test_a_browser_is_sent_events(serving: Serving) -> None:
    url = f"{serving.url}/flows?follow=1&limit=1"
    request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})  # noqa: S310
    serving.flows.put(flow(1))
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        assert answer.headers["Content-Type"] == "text/event-stream"
        lines = [answer.readline() for _ in range(4)]
    assert lines == [b":\n", b"\n", b"data: " + as_json(flow(1)) + b"\n", b"\n"]


def test_who_leaves_follows_no_longer(serving: Serving) -> None:
    lines = follow(serving.url, ANY, 0)
    thread = threading.Thread(target=lambda: next(lines, None))
    thread.start()
    wait_until(lambda: bool(serving.flows._followers))
    serving.flows.put(flow(1))
    thread.join(PATIENCE)
    lines.close()
    for number in range(100):
        serving.flows.put(flow(number))
        if not serving.flows._followers:
            break
        threading.Event().wait(0.1)
    assert not serving.flows._followers


def test_no_agent_is_said_and_a_wrong_url(serving: Serving) -> None:
    for url, why in (("http://127.0.0.1:1", "no agent answers"), ("ftp://x", "give it as http")):
        with pytest.raises(UnreachableError, match=why):
            next(follow(url, ANY, 0))
    serving.server.stop()


def test_what_is_watched_is_chosen_by_options() -> None:
    one = {"denied": False, "allowed": False, "audited": False}
    assert wanted_of(**one | {"denied": True}, pod="db", policy="") == Wanted(Decided.DENIED, "default/db")
    two = one | {"denied": True, "allowed": True}
    assert wanted_of(**two, pod="", policy="a/b") == Wanted(policy="a/b")
    assert wanted_of(**one | {"allowed": True}, pod="", policy="").verdict is Decided.ALLOWED
    assert wanted_of(**one | {"audited": True}, pod="", policy="").verdict is Decided.WOULD_DENY


def test_lines_are_printed_for_people_or_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [as_json(flow(1)), b"no json", b'{"event":"too slow"}', as_json(UNLOGGED)]
    show(lines, as_json=False)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "12:00:00 denied ingress TCP shop/web (10.0.0.1) to shop/db (10.0.0.2) port 80: because"
    )
    assert printed[1:] == [
        "some reports came too fast and were left out",
        "12:00:00 not logged: 7 packets, too many",
    ]
    show(lines, as_json=True)
    assert capsys.readouterr().out.encode().splitlines() == lines


@pytest.mark.parametrize(
    ("verdict", "denied", "allowed", "words"),
    [
        (Decided.DENIED, "off", "all", "--log-denied off: shown are connections of pods and namespaces with"),
        (Decided.ALLOWED, "all", "off", "--log-allowed off: shown"),
        (None, "off", "off", "--log-denied and --log-allowed off: shown"),
        (Decided.DENIED, "sampled", "off", ""),
        (None, "sampled", "off", ""),
        (Decided.WOULD_DENY, "off", "off", ""),
    ],
)
def test_who_waits_for_what_is_not_logged_is_told(
    verdict: Decided | None, denied: str, allowed: str, words: str
) -> None:
    settings = json.dumps({"log_denied": denied, "log_allowed": allowed}).encode()
    told = not_logged(settings, Wanted(verdict))
    assert [words in note for note in told] == [True] * bool(words)
    assert all("netpol-agent.io/log-" in note for note in told)
    assert not_logged(b"no settings", Wanted(verdict)) == []
    assert not_logged(b"{}", Wanted(verdict)) == []


@pytest.mark.parametrize("as_json_lines", [False, True])
def test_lines_that_cannot_be_printed_end_it(
    as_json_lines: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit) as ended:
        show([as_json(flow(1))], as_json=as_json_lines)
    assert ended.value.code == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
