"""Whether an answer is what was asked for: a whole list of one kind, or a line of a watch that can be read.

What an API server does not name may be gone, so only an answer that is beyond doubt may say so (API concepts,
"Retrieving large results sets in chunks" and "Efficient detection of changes"). A proxy, a server that is
starting, or another program at the address answers 200 with something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.kube import wire
from agent.kube.model import Kind
from agent.kube.wire import Bookmark, Decoded, Page, Status, Unreadable
from agent.words import one_line

_GROUPS = {kind: "networking.k8s.io/v1" if kind is Kind.POLICY else "v1" for kind in Kind}
_EMPTY_PAGES = 20
"""So many empty pages in a row are a list without an end. A server that filters may send a few."""
_SHOWN = 200

LATEST = (1 << 63) - 1
"""The highest resourceVersion that there can be."""


class UnprovenError(Exception):
    """An answer proves nothing; the text says in what it is not what was asked for."""


class EndedEarlyError(UnprovenError):
    """A list had fewer objects than its first pages announced. In one piece it announces nothing."""


class PagesProof:
    """Looks at the pages of one list, in order."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._version = ""
        self._tokens: set[str] = set()
        self._expected = 0
        self._empty = 0

    def take(self, page: Page) -> None:
        """Look at the next page. Raises UnprovenError when the list proves nothing."""
        _prove_page(self._kind, page)
        if self._version and page.resource_version != self._version:
            raise UnprovenError(
                f"one page of a list has resourceVersion {self._version}, another {page.resource_version}"
            )
        self._version = page.resource_version
        if page.continuation in self._tokens:
            raise UnprovenError("a continue token of the list came twice, so that it would never end")
        if page.continuation:
            self._tokens.add(page.continuation)
        self._empty = 0 if page.items else self._empty + 1
        if self._empty > _EMPTY_PAGES:
            raise UnprovenError(f"{self._empty} empty pages of a list in a row")
        self._expected = max(0, self._expected - len(page.items))
        if not page.continuation and (page.remaining or self._expected):
            missing = max(page.remaining, self._expected)
            raise EndedEarlyError(f"the list ended {missing} objects early, without a continue token")
        self._expected = page.remaining


def _prove_page(kind: Kind, page: Page) -> None:
    wanted = f"{kind.value}List"
    if page.kind != wanted:
        raise UnprovenError(f"asked for a {wanted}, the answer {_called(page.kind)}")
    if page.api_version != _GROUPS[kind]:
        raise UnprovenError(f"the {wanted} has apiVersion {page.api_version!r}, not {_GROUPS[kind]!r}")
    if not number(page.resource_version):
        raise UnprovenError(f"the {wanted} has resourceVersion {page.resource_version!r}, which is no number")
    if not page.has_items:
        raise UnprovenError(f"the {wanted} has no array of items")
    nameless = page.unreadable + page.nameless
    if nameless:
        raise UnprovenError(f"{nameless} items of the {wanted} do not say which {kind.value} they are")


def _called(kind: str) -> str:
    return f"is a {one_line(kind, _SHOWN)}" if kind else "does not say its kind"


def not_a_list(kind: Kind, body: bytes) -> UnprovenError:
    """Say what a body is that could not be decoded as a list at all."""
    wanted = f"{kind.value}List"
    envelope = wire.decode_envelope(body)
    if envelope is None:
        return UnprovenError(f"asked for a {wanted}, the answer is not whole JSON ({len(body)} bytes)")
    if envelope.kind == "Status":
        said = f" (code {envelope.code}: {one_line(envelope.message, _SHOWN)})"
        return UnprovenError(f"asked for a {wanted}, the answer is a Status{said}")
    if envelope.kind != wanted:
        return UnprovenError(f"asked for a {wanted}, the answer {_called(envelope.kind)}")
    return UnprovenError(f"the fields of the {wanted} are not those of a list")


def prove_content(content_type: str | None) -> None:
    """Raise UnprovenError unless an answer says that it is JSON. A watch's may have parameters."""
    media = (content_type or "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise UnprovenError(f"the answer is {(content_type or 'of no type')[:_SHOWN]}, not application/json")


class Line(NamedTuple):
    """A line of a watch that is what it says. ``version`` is 0 for a Status."""

    change: Decoded | Bookmark | Status
    version: int


def prove_line(kind: Kind, line: bytes, after: int) -> Line:
    """Read a line of a watch that has told everything up to a version.

    Raises UnprovenError: then what this line has to tell is known only after listing again.
    """
    opened = wire.open_line(line)
    if isinstance(opened, Unreadable):
        raise UnprovenError(f"a line of the watch is no event: {opened.why}")
    if opened.type not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"):
        raise UnprovenError(f"a line of the watch has the unknown type {opened.type[:_SHOWN]!r}")
    identity = wire.identity_of(opened.object)
    if identity is None:
        raise UnprovenError(f"the object of a line ({opened.type}) of the watch cannot be read")
    change = wire.decode_change(kind, opened)
    if isinstance(change, Unreadable):
        raise UnprovenError(f"a line ({opened.type}) of the watch: {change.why}")
    if isinstance(change, Status):
        if not change.code:
            raise UnprovenError("an ERROR of the watch does not say what is wrong")
        return Line(change, 0)
    if identity.kind != kind.value or identity.api_version != _GROUPS[kind]:
        what = f"{identity.api_version} {identity.kind}".strip() or "object without a kind"
        raise UnprovenError(f"the watch of {kind.value} told of a {what[:_SHOWN]}")
    if isinstance(change, Decoded) and not wire.is_named(kind, identity):
        raise UnprovenError(f"a line ({opened.type}) of the watch does not say which {kind.value} it is of")
    version = number(identity.metadata.resource_version)
    if not version:
        raise UnprovenError(
            f"a line ({opened.type}) of the watch has resourceVersion "
            f"{identity.metadata.resource_version!r}, which is no number"
        )
    # Servers before 1.11 gave a deleted object the version of its last change.
    if version < after and opened.type != "DELETED":
        raise UnprovenError(f"the watch went back from resourceVersion {after} to {version}")
    return Line(change, max(version, after))


class Lines(NamedTuple):
    """What lines of a watch tell, in order, up to ``version``: and why no further, where they did not all."""

    items: list[Decoded]
    version: int
    status: Status | None = None
    problem: UnprovenError | None = None


def prove_lines(kind: Kind, lines: Iterable[bytes], after: int) -> Lines:
    """Read lines of a watch up to the first that is an error or cannot be read. Never raises."""
    items: list[Decoded] = []
    for line in lines:
        try:
            change, version = prove_line(kind, line, after)
        except UnprovenError as error:
            return Lines(items, after, problem=error)
        if isinstance(change, Status):
            return Lines(items, after, status=change)
        after = version
        if isinstance(change, Decoded):
            items.append(change)
    return Lines(items, after)


def number(version: str) -> int:
    """Return a resourceVersion as the number that it is on every Kubernetes API server; 0 when it is none.

    It is etcd's revision, a signed 64-bit number that begins at 1. A greater one would be remembered, and
    refused by every server that is asked for it.
    """
    found = int(version) if version.isascii() and version.isdigit() and len(version) <= 20 else 0
    return found if found <= LATEST else 0
