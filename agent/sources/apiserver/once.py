"""A cluster's objects read once from its API server: what ``explain --kubeconfig`` is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import urllib3

from agent.decoding import UndecodableError, decode
from agent.kube.model import Kind
from agent.sources.apiserver.answers import ExpiredError, raise_for
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.faults import PATHS, RequestFailedError, failure, refusal
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.sources.apiserver.proof import UnprovenError
from agent.words import one_line

_PAGE = 500
_READ_SECONDS = 30.0


class _Wanted(NamedTuple):
    """What is listed: its kind and version as each object says it, and whether there is no answer without."""

    path: str
    kind: str
    version: str = "v1"
    needed: bool = True


_ALL = (
    _Wanted(PATHS[Kind.NAMESPACE], "Namespace"),
    _Wanted(PATHS[Kind.POD], "Pod"),
    _Wanted(PATHS[Kind.POLICY], "NetworkPolicy", "networking.k8s.io/v1"),
    _Wanted(PATHS[Kind.NODE], "Node", needed=False),
    _Wanted("/api/v1/services", "Service", needed=False),
)


class ReadError(Exception):
    """Objects that are needed cannot be read; the message says why, and what to do."""


class Dump(NamedTuple):
    """All objects as one document, a ``List`` as kubectl prints it, and what could not be read."""

    text: bytes
    notes: tuple[str, ...]


def read_cluster(connection: Connection) -> Dump:
    """List what policies depend on, and Services and nodes where that is permitted. Raises ReadError."""
    items: list[bytes] = []
    notes: list[str] = []
    for wanted in _ALL:
        try:
            items += _items(connection, wanted)
        except RequestFailedError as error:
            if wanted.needed:
                raise ReadError(refusal(_kind(wanted), "list", error)) from None
            said = one_line(error.status.message or error.status.reason)
            notes.append(f"{wanted.kind}s could not be read, so nothing is said of them: {said}")
        except (UndecodableError, ExpiredError) as error:
            raise ReadError(f"{wanted.path}: the answer cannot be read: {error}; ask again") from None
        except (urllib3.exceptions.HTTPError, OSError, ConfigurationError, UnprovenError) as error:
            raise ReadError(failure(error, connection.address)) from None
    text = b'{"apiVersion":"v1","kind":"List","items":[%s]}' % b",".join(items)
    return Dump(text, tuple(notes))


def _kind(wanted: _Wanted) -> Kind:
    return next(kind for kind, path in PATHS.items() if path == wanted.path)


class _Meta(msgspec.Struct, frozen=True, rename={"continuation": "continue"}):
    continuation: str = ""


class _List(msgspec.Struct, frozen=True):
    items: tuple[msgspec.Raw, ...] | None = None
    metadata: _Meta = _Meta()


def _items(connection: Connection, wanted: _Wanted) -> Iterator[bytes]:
    query = {"limit": str(_PAGE)}
    # In a list of one kind the objects do not say which they are.
    head = f'{{"apiVersion":"{wanted.version}","kind":"{wanted.kind}",'.encode()
    while True:
        response = connection.get(wanted.path, query, _READ_SECONDS)
        try:
            raise_for(response)
            page = decode(response.read(), _List)
        finally:
            response.release_conn()
        yield from (head + bytes(item).lstrip()[1:] for item in page.items or ())
        if not page.metadata.continuation:
            return
        query["continue"] = page.metadata.continuation
