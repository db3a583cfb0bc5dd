"""What is no list deletes nothing, and a line that cannot be read leads to listing again: by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from agent.kube.events import Delete, Synced, Upsert
from agent.kube.model import Key, Kind
from agent.kube.wire import decode_status
from agent.sources.apiserver.faults import RequestFailedError, refusal
from agent.sources.apiserver.proof import not_a_list, number
from tests.unit.sources.scripted import (
    Answer,
    Json,
    Running,
    Script,
    bookmark,
    every_fault,
    line,
    page,
    pod,
    refuse,
    stream,
    wait,
)


def raw(data: bytes, content: str | None = "application/json", length: int | None = None) -> Answer:
    """Answer 200 with a body as it is; ``length`` is what Content-Length says of it."""

    def answer(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        handler.send_response(200)
        if content is not None:
            handler.send_header("Content-Type", content)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def said(body: Json, **more: Any) -> Answer:
    return raw(json.dumps({**body, **more}).encode())


def pods(*items: Json, **meta: Any) -> Json:
    metadata = {"resourceVersion": "9", **meta}
    return {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": list(items)}


def without(data: Json, *path: str) -> Json:
    copy: Json = json.loads(json.dumps(data))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return copy


A, B = pod("a", 1), pod("b", 2)
WHOLE = json.dumps(pods(A, B)).encode()

NO_LISTS: dict[str, tuple[Answer, str]] = {
    "an empty object": (said({}), "asked for a PodList, the answer does not say its kind"),
    "a Status with code 500": (
        said({"kind": "Status", "apiVersion": "v1", "code": 500, "message": "etcd is away", "items": []}),
        "the answer is a Status",
    ),
    "an error with items": (said({"error": "no upstream", "items": []}), "does not say its kind"),
    "another kind's list without items": (said(pods(), kind="NetworkPolicyList"), "is a NetworkPolicyList"),
    "a list of lists": (said(pods(), kind="List"), "the answer is a List"),
    "another group's list": (said(pods(), apiVersion="example.org/v1"), "has apiVersion 'example.org/v1'"),
    "a list without apiVersion": (said(without(pods(), "apiVersion")), "has apiVersion ''"),
    "items null and no resourceVersion": (
        said({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": None}),
        "resourceVersion ''",
    ),
    "items null": (said(pods(), items=None), "has no array of items"),
    "no items at all": (said(without(pods(), "items")), "has no array of items"),
    "items an object": (said(pods(), items={}), "the fields of the PodList are not those of a list"),
    "items a text": (said(pods(), items="none"), "the fields of the PodList are not those of a list"),
    "no metadata": (said(without(pods(), "metadata")), "resourceVersion ''"),
    "no resourceVersion": (said(pods(resourceVersion="")), "resourceVersion ''"),
    "a resourceVersion that is no number": (said(pods(resourceVersion="latest")), "resourceVersion 'latest'"),
    "resourceVersion 0": (said(pods(resourceVersion="0")), "resourceVersion '0'"),
    "a resourceVersion below 0": (said(pods(resourceVersion="-9")), "resourceVersion '-9'"),
    "foreign digits": (said(pods(resourceVersion="٩")), "which is no number"),
    "a number as resourceVersion": (said(pods(resourceVersion=9)), "fields of the PodList are not those"),
    "an item without a name": (
        said(pods(without(A, "metadata", "name"))),
        "1 items of the PodList do not say",
    ),
    "an item whose name is a number": (
        said(pods({"metadata": {"name": 5, "namespace": "x", "uid": "u"}})),
        "1 items of the PodList do not say",
    ),
    "an item without a namespace": (said(pods(without(A, "metadata", "namespace"))), "do not say which Pod"),
    "an item without a uid": (said(pods(without(A, "metadata", "uid"))), "do not say which Pod"),
    "an item without metadata": (said(pods({"spec": {}})), "do not say which Pod"),
    "an item that is null": (said(pods(None)), "do not say which Pod"),  # type: ignore[arg-type]
    "an item of another kind": (said(pods({**A, "kind": "Node"})), "do not say which Pod"),
    "an object named twice": (said(pods(A, A)), "names an object twice"),
    "no JSON": (raw(b"<html>welcome</html>"), "is not whole JSON"),
    "an array": (raw(b"[]"), "is not whole JSON"),
    "null": (raw(b"null"), "is not whole JSON"),
    "nothing": (raw(b""), "is not whole JSON (0 bytes)"),
    "HTML by its type": (raw(WHOLE, "text/html; charset=utf-8"), "is text/html; charset=utf-8, not"),
    "no content type": (raw(WHOLE, None), "is of no type, not application/json"),
    "protobuf by its type": (raw(WHOLE, "application/vnd.kubernetes.protobuf"), "not application/json"),
    "a body cut off": (raw(WHOLE[:-20], length=len(WHOLE)), "the answer ended before its end"),
    "a body cut off and of the length it says": (raw(WHOLE[:-20]), "is not whole JSON"),
    "two bodies": (raw(WHOLE + WHOLE), "is not whole JSON"),
    "204": (refuse(204), "HTTP 204"),
    "206": (refuse(206), "HTTP 206"),
    "a redirect": (refuse(302, Location="http://127.0.0.1:1/"), "HTTP 302"),
}


@pytest.mark.parametrize("name", NO_LISTS)
def test_what_is_no_list_changes_nothing_is_named_and_is_asked_for_again(
    script: Script, running: Callable[..., Running], name: str
) -> None:
    bad, words = NO_LISTS[name]
    script.lists = [page(3, A, B), bad]
    script.watches = [refuse(410), stream(bookmark(12))]
    found = running()
    wait(lambda: words in found.reflector.state().fault)
    told = list(found.events)
    assert [type(event) for event in told] == [Upsert, Upsert, Synced]
    state = found.reflector.state()
    assert (state.objects, state.synced, state.current) == (2, True, False)
    # It is tried again, and a list is believed: of it only what changed is told.
    script.lists = [page(11, A)]
    wait(lambda: found.reflector.state().fault == "")
    assert found.events[len(told) :] == [Delete(Kind.POD, Key("x", "b"))]
    assert found.reflector.state().current


def more(first: Json, then: Json) -> list[Answer]:
    first = {**first, "metadata": {**first["metadata"], "continue": "next"}}
    return [said(first), said(then)]


PAGES: dict[str, tuple[list[Answer], str]] = {
    "another version": (more(pods(A), pods(B, resourceVersion="10")), "has resourceVersion 9, another 10"),
    "another kind": (more(pods(A), {**pods(B), "kind": "NodeList"}), "is a NodeList"),
    "no items": (more(pods(A), {**pods(B), "items": None}), "has no array of items"),
    "a Status": (more(pods(A), {"kind": "Status", "code": 500, "message": "no"}), "the answer is a Status"),
    "the same token again": (more(pods(A), {**pods(B, **{"continue": "next"})}), "came twice"),
    "the first page again": (more(pods(A), pods(A)), "names an object twice"),
    "an end half way": (more(pods(A, remainingItemCount=7), pods(B)), "ended 6 objects early"),
    "an end where more is announced": ([said(pods(A, remainingItemCount=7))], "ended 7 objects early"),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_that_are_not_one_list_change_nothing(
    script: Script, running: Callable[..., Running], name: str
) -> None:
    answers, words = PAGES[name]

    def asked(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        """Answer by what is asked for: where a connection breaks, an answer is lost."""
        answers["continue" in query and len(answers) - 1](handler, query)

    script.lists = [page(3, A, B), asked]
    script.watches = [refuse(410), stream(bookmark(12))]
    found = running()
    wait(lambda: words in found.reflector.state().fault)
    assert [type(event) for event in found.events] == [Upsert, Upsert, Synced]
    assert found.reflector.state().objects == 2


def test_pages_without_end_are_given_up(script: Script, running: Callable[..., Running]) -> None:
    tokens = iter(range(10_000))

    def empty(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        said(pods(**{"continue": f"t{next(tokens)}"}))(handler, query)

    script.lists = [page(3, A), empty]
    script.watches = [refuse(410)]
    found = running()
    wait(lambda: "empty pages of a list in a row" in found.reflector.state().fault)
    assert found.reflector.state().objects == 1


def test_a_list_that_ends_early_is_asked_for_in_one_piece(
    script: Script, running: Callable[..., Running]
) -> None:
    """What is left is an estimate by the API's word: a server may give a wrong one for ever."""
    short = more(pods(A, remainingItemCount=7), pods(B))
    script.lists = [*short, page(9, A, B)]
    script.watches = [stream()]
    found = running()
    wait(lambda: found.reflector.state().synced)
    assert "limit" in script.asked[0]
    assert "limit" not in script.asked[2]


def change(of: str, name: str, version: str | None, **changed: Any) -> bytes:
    found = {**pod(name, 0), **changed}
    if version is None:
        found = without(found, "metadata", "resourceVersion")
    else:
        found["metadata"]["resourceVersion"] = version
    return line(of, found)


Z = pod("z", 6)
NAMELESS = without(Z, "metadata", "name")


def error(**status: Any) -> bytes:
    return line("ERROR", {"kind": "Status", **status})


BAD_LINES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"garbage\n", "is no event"),
    "an empty object": (b"{}\n", "is no event"),
    "a list": (json.dumps(pods(A)).encode() + b"\n", "is no event"),
    "an unknown type": (line("REPLACED", pod("z", 6)), "the unknown type 'REPLACED'"),
    "a type in lower case": (line("deleted", pod("a", 6)), "the unknown type 'deleted'"),
    "another kind": (change("ADDED", "z", "6", kind="Node"), "told of a v1 Node"),
    "another kind deleted": (change("DELETED", "a", "6", kind="Secret"), "told of a v1 Secret"),
    "another group": (change("ADDED", "z", "6", apiVersion="example.org/v1"), "told of a example.org/v1 Pod"),
    "no kind": (line("ADDED", without(pod("z", 6), "kind")), "told of a v1"),
    "no resourceVersion": (change("ADDED", "z", None), "which is no number"),
    "a resourceVersion that is no number": (change("MODIFIED", "a", "new"), "which is no number"),
    "a resourceVersion of 0": (change("DELETED", "a", "0"), "which is no number"),
    "a version that goes back": (change("ADDED", "z", "2"), "went back from resourceVersion 5 to 2"),
    "a bookmark without version": (change("BOOKMARK", "", None), "no number"),
    "a bookmark of another kind": (
        line("BOOKMARK", {"kind": "Node", "apiVersion": "v1", "metadata": {"resourceVersion": "99"}}),
        "told of a v1 Node",
    ),
    "a bookmark that goes back": (bookmark(2), "went back"),
    "an object without a name": (line("ADDED", NAMELESS), "without a readable name"),
    "a deleted object without a name": (line("DELETED", NAMELESS), "does not say"),
    "an object without a namespace": (line("DELETED", without(Z, "metadata", "namespace")), "does not say"),
    "an object without a uid": (line("DELETED", without(Z, "metadata", "uid")), "does not say"),
    "an object that is null": (line("DELETED", None), "cannot be read"),  # type: ignore[arg-type]
    "an error that is a 500": (error(code=500, message="lost"), "HTTP 500: lost"),
    "an error that is a 504": (error(code=504, message="ahead"), "HTTP 504"),
    "an error without a code": (error(), "does not say what is wrong"),
    "an error that is a pod": (line("ERROR", pod("a", 6)), "does not say what is wrong"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_of_a_watch_that_cannot_be_read_leads_to_listing_again_never_past_it(
    script: Script, running: Callable[..., Running], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, words = BAD_LINES[name]
    faults = every_fault(monkeypatch)
    before, after = line("ADDED", pod("c", 5)), line("DELETED", pod("a", 7))
    script.lists = [page(3, A, B), page(9, A, pod("c", 5))]
    script.watches = [stream(before + bad + after, hold=0.0), stream(bookmark(12))]
    found = running()
    wait(lambda: len(script.asked) == 4)
    assert any(words in fault for fault in faults), faults
    assert "watch" not in script.asked[2]
    wait(lambda: found.reflector.state().fault == "")
    names = [event.object.name if isinstance(event, Upsert) else event for event in found.events]
    # What came before it is told, and what came after it only as the list says. Of a server that is behind,
    # the same versions may be of other objects, so that all are told again.
    anew = ["a", "c"] if "504" in name else []
    assert names == ["a", "b", Synced(Kind.POD), "c", *anew, Delete(Kind.POD, Key("x", "b"))]


NO_WATCHES: dict[str, tuple[Answer, str]] = {
    "an object without an end of line": (raw(b"{}"), "ended in the middle of a line"),
    "a line cut off": (raw(line("DELETED", pod("a", 5))[:-9]), "ended in the middle of a line"),
    "HTML": (raw(b"<html>\n", "text/html"), "is text/html"),
    "a list": (raw(WHOLE), "ended in the middle of a line"),
}


@pytest.mark.parametrize("name", NO_WATCHES)
def test_what_is_no_watch_is_a_fault_until_one_tells_something(
    script: Script, running: Callable[..., Running], name: str
) -> None:
    bad, words = NO_WATCHES[name]
    script.lists = [page(3, A, B)]
    script.watches = [bad]
    found = running()
    wait(lambda: words in found.reflector.state().fault)
    # The list is answered well in between: that says nothing of the watch.
    wait(lambda: len(script.asked) > 5)
    assert words in found.reflector.state().fault
    assert not found.reflector.state().current
    script.watches = [stream(bookmark(12))]
    wait(lambda: found.reflector.state().fault == "")
    assert [type(event) for event in found.events] == [Upsert, Upsert, Synced]


def test_a_version_that_no_store_can_have_is_none() -> None:
    """Asked for it, a server answers 400 to every list, and it would be remembered across restarts."""
    assert number(str((1 << 63) - 1)) == (1 << 63) - 1
    assert number(str(1 << 63)) == number("9" * 20) == 0


def test_what_a_server_says_reaches_nobodys_terminal() -> None:
    body = b'{"kind": "Status", "code": 500, "message": "\\u001b[2Jgone\\nfor good"}'
    assert "(code 500: [2Jgone for good)" in str(not_a_list(Kind.POD, body))
    refused = RequestFailedError(500, decode_status(body))
    assert "\x1b" not in f"{refused} {refusal(Kind.POD, 'list', refused)}"
    assert "[2Jgone for good" in str(refused)
