"""Pages of a list: each told once and in order, the next one on its way while one is looked at."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

import pytest

from agent.kube.model import Kind
from agent.kube.wire import Status
from agent.sources.apiserver.faults import RequestFailedError
from agent.sources.apiserver.listing import pages
from tests.patience import PATIENCE


def body(name: str, token: str = "", *, metadata_first: bool = True, annotation: str = "") -> bytes:
    meta = {"name": name, "namespace": "x", "uid": f"uid-{name}", "annotations": {"a": annotation}}
    items = {"items": [{"metadata": meta}]}
    metadata = {"metadata": {"resourceVersion": "5", "continue": token}}
    whole = {"kind": "PodList", "apiVersion": "v1"} | (
        metadata | items if metadata_first else items | metadata
    )
    return json.dumps(whole, separators=(",", ":")).encode()


class Server:
    def __init__(self, **answers: bytes | Exception) -> None:
        self.answers = answers
        self.asked: list[Mapping[str, str]] = []
        self.threads: list[threading.Thread] = []
        self.told = threading.Event()

    def get(self, query: Mapping[str, str]) -> bytes:
        self.asked.append(query)
        self.threads.append(threading.current_thread())
        if len(self.asked) > 1:
            self.told.set()
        answer = self.answers[query.get("continue", "first")]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("metadata_first", [True, False])
def test_every_page_is_told_once_in_order(metadata_first: bool) -> None:
    server = Server(
        first=body("a", "t1", metadata_first=metadata_first),
        t1=body("b", "t2", metadata_first=metadata_first),
        t2=body("c"),
    )
    found = list(pages(Kind.POD, server.get, {}))
    assert [item.key.name for page in found for item in page.items] == ["a", "b", "c"]
    assert [query.get("continue") for query in server.asked] == [None, "t1", "t2"]


def test_the_next_page_is_on_its_way_before_one_is_looked_at() -> None:
    server = Server(first=body("a", "t1"), t1=body("b"))
    found = pages(Kind.POD, server.get, {})
    next(found)
    assert server.told.wait(PATIENCE)
    assert server.threads[1] is not threading.current_thread()
    assert server.threads[1].daemon


def test_what_only_looks_like_a_token_is_none() -> None:
    server = Server(first=body("a", annotation='"continue":"no"', metadata_first=False))
    assert len(list(pages(Kind.POD, server.get, {}))) == 1
    assert len(server.asked) == 1


def test_a_page_that_fails_fails_the_list() -> None:
    server = Server(first=body("a", "t1"), t1=RequestFailedError(500, Status(500)))
    found = pages(Kind.POD, server.get, {})
    assert [item.key.name for item in next(found).items] == ["a"]
    with pytest.raises(RequestFailedError):
        next(found)
