"""Who may read metrics: what the API server decides, and how long that holds."""

from __future__ import annotations

import contextlib
import http.client
import threading

import pytest

from agent.observe.authorize import AWAY_SECONDS, REMEMBERED, REMEMBERED_SECONDS, Authorizer
from agent.observe.listener import STATUS_AT_ONCE
from agent.observe.routes import TEXT, Request, Response, Route
from agent.observe.server import RouteServer
from agent.sources.apiserver.review import Access, ReviewError
from tests.lab.cluster import wait_until
from tests.patience import PATIENCE
from tests.unit.observe.serving import connections_of


class Server:
    """Stands in for the API server; counts what it is asked."""

    def __init__(self) -> None:
        self.says: Access | ReviewError = Access.ALLOWED
        self.asked: list[str] = []
        self.now = 1_000.0
        authorizer = Authorizer(self._review, lambda: self.now)
        self.route = authorizer.guard(Route(lambda _: Response(200, TEXT, b"figures"), large=True))

    def _review(self, token: str) -> Access:
        self.asked.append(token)
        if isinstance(self.says, ReviewError):
            raise self.says
        return self.says

    def get(self, authorization: str = "Bearer abc") -> Response:
        request = Request("/metrics", {}, "", authorization)
        assert self.route.refuse is not None
        return self.route.refuse(request) or self.route.answer(request)


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_token_that_may_read_is_let_in_and_asked_about_once_a_minute(server: Server) -> None:
    for _ in range(3):
        assert server.get() == Response(200, TEXT, b"figures")
    assert server.asked == ["abc"]
    server.now += REMEMBERED_SECONDS
    assert server.get("bearer   abc ").code == 200
    assert server.asked == ["abc", "abc"]


@pytest.mark.parametrize(("says", "code"), [(Access.UNKNOWN, 401), (Access.FORBIDDEN, 403)])
def test_others_are_told_why_not_and_that_holds_for_a_minute_too(
    server: Server, says: Access, code: int
) -> None:
    server.says = says
    assert server.get().code == code
    server.says = Access.ALLOWED
    assert server.get().code == code
    server.now += REMEMBERED_SECONDS
    assert server.get().code == 200


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "abc"])
def test_without_a_bearer_token_nobody_is_asked(server: Server, given: str) -> None:
    answer = server.get(given)
    assert answer.code == 401
    assert dict(answer.headers)["WWW-Authenticate"].startswith("Bearer")
    assert server.asked == []


def test_while_the_api_server_is_away_only_who_was_let_in_is(server: Server) -> None:
    assert server.get().code == 200
    server.says = ReviewError("no answer")
    server.now += REMEMBERED_SECONDS
    assert server.get().code == 200
    assert server.get("Bearer other").code == 503
    server.now += AWAY_SECONDS
    answer = server.get()
    assert (answer.code, answer.body) == (503, b"cannot tell who may read this: no answer\n")


def test_who_was_refused_is_not_let_in_while_it_is_away(server: Server) -> None:
    server.says = Access.FORBIDDEN
    server.get()
    server.says = ReviewError("no answer")
    server.now += REMEMBERED_SECONDS
    assert server.get().code == 503


def test_what_is_remembered_is_bounded(server: Server) -> None:
    for number in range(REMEMBERED + 1):
        server.get(f"Bearer {number}")
    asked = len(server.asked)
    server.get(f"Bearer {REMEMBERED}")
    assert len(server.asked) == asked
    server.get("Bearer 0")
    assert len(server.asked) == asked + 1


def test_tokens_that_anybody_sends_push_out_nobody_who_was_let_in(server: Server) -> None:
    server.get("Bearer prometheus")
    server.says = Access.UNKNOWN
    for number in range(2 * REMEMBERED):
        server.get(f"Bearer {number}")
    asked = len(server.asked)
    assert server.get("Bearer prometheus").code == 200
    assert len(server.asked) == asked


def test_who_is_not_let_in_takes_no_place_from_those_who_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, block = threading.Semaphore(0), threading.Event()

    def review(token: str) -> Access:
        if token.isalpha():
            return Access.ALLOWED
        asking.release()
        block.wait(120)
        return Access.UNKNOWN

    route = Authorizer(review).guard(Route(lambda _: Response(200, TEXT, b"figures"), large=True))
    server = RouteServer("127.0.0.1", 0, {"/metrics": route})
    server.start()

    def get(token: str) -> int:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        ) as client:
            client.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
            return client.getresponse().status

    codes: list[int] = []
    try:
        assert get("prometheus") == 200
        connections = connections_of(server)
        monkeypatch.setattr(connections, "_seconds", 3600.0)
        wait_until(lambda: not connections)
        others = [
            threading.Thread(target=lambda n=n: codes.append(get(str(n)))) for n in range(2 * STATUS_AT_ONCE)
        ]
        for other in others:
            other.start()
        assert asking.acquire(timeout=PATIENCE)
        # One is asked about; the rest wait for their turn, none of them for so long that it would be cut.
        wait_until(lambda: len(connections) == len(others))
        assert get("prometheus") == 200
        block.set()
        for other in others:
            other.join()
        assert codes == [401] * len(others)
    finally:
        block.set()
        server.stop()
