"""Who may read metrics: what the API server decides, and how long that holds."""

from __future__ import annotations

import pytest

from agent.observe.authorize import AWAY_SECONDS, REMEMBERED, REMEMBERED_SECONDS, Authorizer
from agent.observe.routes import TEXT, Request, Response, Route
from agent.sources.apiserver.review import Access, ReviewError


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
        return self.route.answer(Request("/metrics", {}, "", authorization))


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
