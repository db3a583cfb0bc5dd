"""The routes of the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.observe.routes import Request, Response, Route, Routes, index

if TYPE_CHECKING:
    from agent.observe.page.sources import Sources

Page = Callable[["Sources", Request], Response]


def page_routes(sources: Callable[[], Sources], others: Callable[[], Routes]) -> dict[str, Route]:
    """Return the page's routes. ``others``: all routes, for clients that take no HTML at ``/``.

    What makes pages is loaded with the first that is asked for.
    """

    def route(name: str) -> Route:
        def answer(request: Request) -> Response:
            from agent.observe.page import pages
            from agent.observe.page.render import page

            made: Page = getattr(pages, name)
            told = sources()
            try:
                return made(told, request)
            except TimeoutError as error:
                return page(
                    "busy.html",
                    503,
                    why=str(error),
                    node=told.node,
                    version=told.version,
                    ready=False,
                    warned=False,
                    here="",
                )

        return Route(answer, large=True)

    def front(request: Request) -> Response:
        from agent.observe.page.accept import wants_html

        return overview.answer(request) if wants_html(request.accept) else index(others())

    overview = route("overview")
    named = {"/ask": "ask", "/changes": "changes", "/denied": "denied", "/grid": "grid", "/health": "checks"}
    plain = {f"/{name}": name for name in ("pods", "pod", "policies", "policy")}
    return {
        "/": Route(front, "a page, in a browser"),
        **{path: route(name) for path, name in {**plain, **named}.items()},
    }
