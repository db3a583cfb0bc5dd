"""The pages of a list, the next one being fetched while one is decoded."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

import msgspec

from agent.kernel.thread import start
from agent.kube.model import Kind
from agent.kube.wire import Page, decode_page
from agent.sources.apiserver.answers import raise_for
from agent.sources.apiserver.connect import Getting
from agent.sources.apiserver.faults import PATHS, RequestFailedError
from agent.sources.apiserver.proof import PagesProof, not_a_list, number

PAGE = 500
"""Objects asked for in one page of a list."""

_TOO_LARGE = 504
"""How a version that the server has not reached is refused."""

_CONTINUE = re.compile(rb'"continue":"([^"\\]+)"')
_HEAD = 1024
"""In how many bytes of a list its metadata is, which servers write before the items."""


def pages(
    kind: Kind,
    get: Callable[[Mapping[str, str]], bytes],
    not_older: Mapping[str, str],
    *,
    whole: bool = False,
) -> Iterator[Page]:
    """Yield a list's pages, all of one version, each proven to be one (:mod:`agent.sources.apiserver.proof`).

    ``get`` takes a request's query and returns the answer's body; ``not_older`` is what of the query says how
    old the answer may be; ``whole``: all is asked for in one page. Raises what ``get`` raises, and
    UnprovenError.
    """
    proof = PagesProof(kind)
    body = _first(get, {} if whole else {"limit": str(PAGE)}, not_older)
    while True:
        token = _continuation(body)
        coming = _ahead(get, token) if token else None
        page = _page(kind, body)
        proof.take(page)
        if coming is None and page.continuation:
            coming = _ahead(get, page.continuation)
        yield page
        if coming is None:
            return
        body = coming.result()


def version_reached(connection: Getting, kind: Kind, seconds: float) -> int:
    """Ask how far the server's store of a kind has got: of which version a list is, from one page of it.

    ``seconds``: how long an answer may take. Raises UnprovenError, RequestFailedError, and what a connection
    raises.
    """
    response = connection.get(PATHS[kind], {"limit": "1"}, seconds)
    try:
        raise_for(response)
        page = _page(kind, response.read())
    finally:
        response.release_conn()
    PagesProof(kind).take(page)
    return number(page.resource_version)


def _page(kind: Kind, body: bytes) -> Page:
    try:
        return decode_page(kind, body)
    except msgspec.DecodeError:
        raise not_a_list(kind, body) from None


def _first(
    get: Callable[[Mapping[str, str]], bytes], query: Mapping[str, str], not_older: Mapping[str, str]
) -> bytes:
    try:
        return get({**query, **not_older})
    except RequestFailedError as error:
        if error.code != _TOO_LARGE or not not_older:
            raise
    # Nobody has told this server so much, or it cannot know: it has to read its store.
    return get(query)


def _ahead(get: Callable[[Mapping[str, str]], bytes], token: str) -> Future[bytes]:
    """Begin to fetch the next page, on a thread that keeps no process from ending."""
    coming: Future[bytes] = Future()

    def fetch() -> None:
        try:
            # The token says of which version the rest is.
            coming.set_result(get({"limit": str(PAGE), "continue": token}))
        except Exception as error:
            coming.set_exception(error)

    try:
        start(threading.Thread(target=fetch, name="list", daemon=True))
    except RuntimeError:
        # The system has no more threads to give.
        fetch()
    return coming


def _continuation(body: bytes) -> str:
    """Return the token for the next page as far as it is seen without decoding; "" when it is not."""
    found = _CONTINUE.search(body, 0, _HEAD)
    items = body.find(b'"items":', 0, _HEAD)
    return found[1].decode() if found and (items < 0 or found.start() < items) else ""
