"""The page without a browser: who gets it, its parts, and what becomes of names; with one: ``tests/page``."""

from __future__ import annotations

import contextlib
import http.client
import urllib.parse
from collections.abc import Iterator

import pytest

from agent.clock import moment
from agent.fault import Fault
from agent.kube.model import Namespace, NetworkPolicy, Pod, Rule
from agent.observe.cuts import CutPeer, CutsStatus, CutStatus
from agent.observe.page.accept import wants_html
from agent.observe.page.pages import A_PAGE, part_of
from agent.observe.routes import Request
from tests.build import packed
from tests.page.stage import HOSTILE, Stage, flow
from tests.patience import PATIENCE


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("application/json, TEXT/HTML;q=0.5", True),
        ("*/*", False),
        ("", False),
        ("text/html;q=0, text/plain", False),
        ("text/htmlx", False),
    ],
)
def test_only_who_names_html_gets_it(accept: str, html: bool) -> None:
    assert wants_html(accept) is html


@pytest.mark.parametrize(
    ("query", "first", "number", "pages"),
    [
        ({}, 0, 1, 3),
        ({"page": ["3"]}, 100, 3, 3),
        ({"page": ["99"]}, 100, 3, 3),
        ({"page": ["0"]}, 0, 1, 3),
        ({"page": ["-1"]}, 0, 1, 3),
        ({"page": ["²"]}, 0, 1, 3),
        ({"page": ["9" * 5000]}, 100, 3, 3),
        ({"q": ["POD-11"]}, 11, 1, 1),
        ({"q": ["none"]}, None, 1, 1),
    ],
)
def test_parts_of_a_long_table(
    query: dict[str, list[str]], first: int | None, number: int, pages: int
) -> None:
    rows = list(range(2 * A_PAGE + 1))
    found = part_of(rows, [f"shop/pod-{row}" for row in rows], Request("/pods", query))
    assert (found.number, found.pages) == (number, pages)
    assert next(iter(found.rows), None) == first


@pytest.mark.parametrize(
    "path", ["/pod?name=db", "/pod", "/policy?name=a/b/c", "/denied?pod=db", "/denied?policy=shop/"]
)
def test_a_name_without_a_namespace_is_not_understood(hostile: Stage, path: str) -> None:
    code, text = get(hostile, path)
    assert (code, "give it as NAMESPACE/NAME" in text) == (400, True)


@pytest.fixture
def hostile() -> Iterator[Stage]:
    key = ("shop", HOSTILE)
    stage = Stage(
        [
            Namespace("shop"),
            Pod(*key, labels={"app": HOSTILE}, node="here", addresses=(packed("10.0.0.9"),)),
            NetworkPolicy(*key, ingress=(Rule(),)),
        ],
        who=HOSTILE,
    )
    stage.faults = (Fault(HOSTILE, HOSTILE),)
    cut = CutStatus(
        moment(1.0),
        f"shop/{HOSTILE}",
        "ingress",
        2,
        {"TCP": 2},
        (HOSTILE,),
        (f"shop/{HOSTILE}",),
        (f"policy shop/{HOSTILE}",),
        (CutPeer("shop/peer", 1, HOSTILE),),
    )
    stage.cuts = CutsStatus(2, {"TCP": 2}, 2, 0, (cut,))
    stage.flows.put(flow(1, f"shop/{HOSTILE}", why=HOSTILE))
    yield stage
    stage.close()


@pytest.mark.parametrize(
    "path", ["/", "/pods", "/policies", "/denied", "/changes", "/health", "/grid", "/pod", "/policy", "/ask"]
)
def test_what_tenants_wrote_is_escaped(hostile: Stage, path: str) -> None:
    named = urllib.parse.quote(f"shop/{HOSTILE}")
    query = f"?name={named}&q={named}&from={named}&to=shop/x&port=1&pod={named}&since={named}"
    for asked in (path, path + query):
        code, text = get(hostile, asked)
        assert code in (200, 400, 404)
        assert "<img" not in text
        assert text.count("<script") == (path == "/denied")
        assert "<h1>" in text


def test_what_was_cut_is_told_with_its_pod_and_no_other(hostile: Stage) -> None:
    told = "2 connections cut, ingress (2 TCP)"
    assert told in get(hostile, "/")[1]
    assert told in get(hostile, f"/pod?name={urllib.parse.quote(f'shop/{HOSTILE}')}")[1]
    assert told not in get(hostile, "/pod?name=shop/other")[1]
    assert "1 connection cut by policies of shop/" in get(hostile, "/pod?name=shop/peer")[1]


def get(stage: Stage, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", stage.server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": "text/html"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_busy_agent_is_told_as_a_page(hostile: Stage) -> None:
    hostile.busy = True
    code, text = get(hostile, "/pods")
    assert code == 503
    assert "The agent is busy" in text
    assert get(hostile, "/health")[0] == 200
