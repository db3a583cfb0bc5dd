"""Objects as an API server sends them: bytes to values, holding only the fields used.

Decoding goes straight from the bytes into msgspec structs that name the fields used; everything else
is skipped unread. What repeats across a cluster's pods is shared between them: texts, whole label sets
and port lists, because there may be 100,000 pods. The shared dicts must never be changed.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import msgspec

from agent.kube import shapes
from agent.kube.convert import CONVERSIONS, UNDECODABLE, time_text
from agent.kube.events import UNKNOWN, Delete, Invalid, Problem, Upsert
from agent.kube.mode import NO_MODE, ModeSaid, mode_of
from agent.kube.model import (
    Key,
    Kind,
    NetworkPolicy,
    Object,
)
from agent.kube.origin import deletion, origin_of
from agent.kube.policy import closing, read_policy, staged
from agent.kube.shallow import shallow


class Status(msgspec.Struct, frozen=True, gc=False):
    """What an API server says of a request that failed (``Status``, meta/v1)."""

    code: int = 0
    reason: str = ""
    message: str = ""


class Decoded(NamedTuple):
    """One object of a list or a watch, and the resourceVersion it has."""

    key: Key
    resource_version: str
    event: Upsert | Invalid | Delete


class Page(NamedTuple):
    """One page of a list, as it is: whether it proves anything is for who asked to say.

    ``unreadable`` counts items whose name could not even be read, ``nameless`` those that do not say which
    object they are: no uid, no namespace where there must be one, or of another kind. ``remaining`` is how
    many objects the server says come after this page, 0 where it says nothing. ``has_items``: it has an array
    of items, however short.
    """

    items: list[Decoded]
    resource_version: str
    continuation: str
    unreadable: int = 0
    nameless: int = 0
    kind: str = ""
    api_version: str = ""
    remaining: int = 0
    has_items: bool = True


class Bookmark(NamedTuple):
    """The watch has told everything up to here."""

    resource_version: str


class Unreadable(NamedTuple):
    """A line of a watch that is not an event; ``why`` says what is wrong with it."""

    why: str


_OBJECTS: dict[Kind, Any] = {
    Kind.POD: msgspec.json.Decoder(shapes.Pod),
    Kind.NAMESPACE: msgspec.json.Decoder(shapes.Namespace),
    Kind.NODE: msgspec.json.Decoder(shapes.Node),
    Kind.POLICY: msgspec.json.Decoder(shapes.Policy),
}
_LISTS: dict[Kind, Any] = {
    Kind.POD: msgspec.json.Decoder(shapes.List[shapes.Pod]),
    Kind.NAMESPACE: msgspec.json.Decoder(shapes.List[shapes.Namespace]),
    Kind.NODE: msgspec.json.Decoder(shapes.List[shapes.Node]),
    Kind.POLICY: msgspec.json.Decoder(shapes.List[shapes.Policy]),
}
_RAW_LIST = msgspec.json.Decoder(shapes.List[msgspec.Raw])
_LINE = msgspec.json.Decoder(shapes.WatchLine)
_BARE = msgspec.json.Decoder(shapes.Bare)
_NAMED = msgspec.json.Decoder(shapes.Named)
_IDENTITY = msgspec.json.Decoder(shapes.Identity)
_ENVELOPE = msgspec.json.Decoder(shapes.Envelope)
_ANNOTATED = msgspec.json.Decoder(shapes.Annotated)
_SPEC = msgspec.json.Decoder(shapes.Spec)
_SELECTING = msgspec.json.Decoder(shapes.Selecting)
_STATUS = msgspec.json.Decoder(Status)


_CLUSTER_SCOPED = frozenset({Kind.NAMESPACE, Kind.NODE})


def decode_page(kind: Kind, body: bytes) -> Page:
    """Decode one page of a list.

    An object that cannot be understood becomes Invalid and takes no other with it. Raises
    msgspec.DecodeError when the body is not a list at all.
    """
    try:
        whole = _LISTS[kind].decode(body)
    except RecursionError:
        cut = shallow(body)
        if cut == body:
            raise msgspec.DecodeError("nested too deeply") from None
        return decode_page(kind, cut)
    except UNDECODABLE:
        return _page_by_item(kind, body)
    decoded: list[Decoded] = []
    unreadable = nameless = 0
    for item in whole.items or ():
        meta = item.metadata
        if not meta.name:
            unreadable += 1
            continue
        # Who wrote is told of pods only as they change: a list may hold 100,000 of them.
        decoded.append(_decoded(kind, item, told=kind is not Kind.POD))
        if not (meta.uid and (meta.namespace or kind in _CLUSTER_SCOPED) and item.kind in ("", kind.value)):
            nameless += 1
    return _page(whole, decoded, unreadable, nameless)


def _page_by_item(kind: Kind, body: bytes) -> Page:
    try:
        raw = _RAW_LIST.decode(body)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
    except RecursionError:
        cut = shallow(body)
        if cut == body:
            raise msgspec.DecodeError("nested too deeply") from None
        return decode_page(kind, cut)
    found = [_decode_object(kind, item) for item in raw.items or ()]
    decoded = [item for item in found if item is not None]
    nameless = sum(
        not is_named(kind, identity_of(item))
        for item, one in zip(raw.items or (), found, strict=True)
        if one is not None
    )
    return _page(raw, decoded, len(found) - len(decoded), nameless)


def _page(read: shapes.List[Any], items: list[Decoded], unreadable: int, nameless: int) -> Page:
    meta = read.metadata
    return Page(
        items,
        meta.resource_version,
        meta.continuation,
        unreadable,
        nameless,
        read.kind,
        read.api_version,
        meta.remaining or 0,
        read.items is not None,
    )


def identity_of(raw: bytes | msgspec.Raw) -> shapes.Identity | None:
    """Return which object this is, as far as it says; None when that cannot be read."""
    try:
        return _IDENTITY.decode(raw)
    except UNDECODABLE:
        return None


def is_named(kind: Kind, identity: shapes.Identity | None) -> bool:
    """Whether an object of a kind says which one it is: by its name, its uid and, if any, its namespace."""
    if identity is None or identity.kind not in ("", kind.value):
        return False
    meta = identity.metadata
    return bool(meta.name and meta.uid and (meta.namespace or kind in _CLUSTER_SCOPED))


def decode_envelope(body: bytes) -> shapes.Envelope | None:
    """Return what an answer says it is; None when it is no JSON object."""
    try:
        return _ENVELOPE.decode(body)
    except UNDECODABLE:
        return None


def open_line(line: bytes) -> shapes.WatchLine | Unreadable:
    """Return the type of a watch's line and its object, not yet decoded. Never raises."""
    try:
        return _LINE.decode(line)
    except RecursionError:
        cut = shallow(line)
        return open_line(cut) if cut != line else Unreadable("it is nested too deeply")
    except UNDECODABLE as error:
        return Unreadable(str(error))


def decode_change(kind: Kind, envelope: shapes.WatchLine) -> Decoded | Bookmark | Status | Unreadable:
    """Decode what a line of a watch says; a Status is an ERROR event. Never raises."""
    try:
        if envelope.type == "ERROR":
            return _STATUS.decode(envelope.object)
        if envelope.type == "BOOKMARK":
            return Bookmark(_BARE.decode(envelope.object).metadata.resource_version)
        if envelope.type == "DELETED":
            meta = _NAMED.decode(envelope.object).metadata
            key = _key(kind, meta)
            return Decoded(key, _version(envelope.object), Delete(kind, key, deletion(meta.deleted)))
    except UNDECODABLE as error:
        return Unreadable(str(error))
    decoded = _decode_object(kind, envelope.object)
    return Unreadable("an object without a readable name") if decoded is None else decoded


def decode_status(body: bytes) -> Status:
    """Decode the body of a failed request; an empty Status when it is none. Never raises."""
    try:
        return _STATUS.decode(body)
    except UNDECODABLE:
        return Status()


def object_from(kind: Kind, body: bytes) -> Object:
    """Return the object that valid JSON bytes hold.

    Raises ValueError when they cannot be understood.
    """
    decoded = _decode_object(kind, body)
    if decoded is None:
        raise ValueError("no readable metadata.name")
    if isinstance(decoded.event, Upsert):
        return decoded.event.object
    assert isinstance(decoded.event, Invalid)  # noqa: S101 - the only other thing decoding an object gives
    raise ValueError("; ".join(f"{p.field}: {p.message}" for p in decoded.event.problems))


def read_stored(kind: Kind, body: bytes) -> Upsert | Invalid | None:
    """Read an object that a server has stored, as its list or watch would be read; None without a name."""
    decoded = _decode_object(kind, body)
    if decoded is None or isinstance(decoded.event, Delete):
        return None
    return decoded.event


def _decode_object(kind: Kind, raw: bytes | msgspec.Raw) -> Decoded | None:
    """Return an object, as Invalid when it cannot be understood; None when it has no readable name."""
    try:
        wire = _OBJECTS[kind].decode(raw)
    except UNDECODABLE as error:
        try:
            meta = _NAMED.decode(raw).metadata
        except UNDECODABLE:
            return None
        if not meta.name:
            return None
        key = _key(kind, meta)
        closed = _closed(key, raw) if kind is Kind.POLICY else None
        return _refused(kind, key, _version(raw), error, closed)
    return _decoded(kind, wire) if wire.metadata.name else None


def _version(raw: bytes | msgspec.Raw) -> str:
    """Return an object's resourceVersion, "" when that cannot be read."""
    identity = identity_of(raw)
    return identity.metadata.resource_version if identity is not None else ""


def _closed(key: Key, raw: bytes | msgspec.Raw) -> NetworkPolicy | None:
    """Return what closes the pods that an unreadable policy selects, if so much of it can be read."""
    try:
        reading = read_policy(key, _SPEC.decode(raw).spec, strict=False)
    except UNDECODABLE:
        try:
            selector = _SELECTING.decode(raw).spec.selector
        except UNDECODABLE:
            return None
        # Which directions it names is in what cannot be read.
        reading = read_policy(
            key, {"podSelector": selector, "policyTypes": ["Ingress", "Egress"]}, strict=False
        )
    reading = staged(reading, _mode(raw))
    return reading.closed if reading.policy is None else closing(reading.policy)


def _mode(raw: bytes | msgspec.Raw) -> ModeSaid:
    """Return what an unreadable policy's annotation says, nothing where that cannot be read either."""
    try:
        annotations = _ANNOTATED.decode(raw).metadata.annotations
    except UNDECODABLE:
        return NO_MODE
    return _said(annotations)


def _said(annotations: shapes.ModeAnnotation | None) -> ModeSaid:
    if annotations is None or annotations.mode is msgspec.UNSET:
        return NO_MODE
    return mode_of(annotations.mode or "")


def _decoded(kind: Kind, wire: shapes.Wire, *, told: bool = True) -> Decoded:
    """Return what a decoded object means; ``told``: and who wrote it."""
    meta = wire.metadata
    origin = origin_of(meta.managed) if told else UNKNOWN
    if isinstance(wire, shapes.Policy):
        key = _key(kind, meta)
        reading = staged(read_policy(key, wire.spec, strict=False), _said(wire.metadata.annotations))
        if reading.policy is not None:
            generation = wire.metadata.generation or 0
            created = time_text(meta.created)
            policy = msgspec.structs.replace(reading.policy, created=created, generation=generation)
            return Decoded(key, meta.resource_version, Upsert(kind, policy, origin))
        refused = Invalid(kind, key, reading.problems, reading.closed, origin)
        return Decoded(key, meta.resource_version, refused)
    try:
        value = CONVERSIONS[kind](wire)
    except UNDECODABLE as error:
        return _refused(kind, _key(kind, meta), meta.resource_version, error)
    return Decoded(value.key, meta.resource_version, Upsert(kind, value, origin))


def _refused(
    kind: Kind, key: Key, version: str, error: Exception, closed: NetworkPolicy | None = None
) -> Decoded:
    # msgspec ends its messages with the path: "Expected `int`, got `str` - at `$.spec.x`".
    message, _, path = str(error).partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".")
    problem = Problem(field, f"{message}; correct the object in the cluster")
    return Decoded(key, version, Invalid(kind, key, (problem,), closed))


def _key(kind: Kind, meta: shapes.Meta | shapes.NameOnly) -> Key:
    if kind in _CLUSTER_SCOPED:
        return Key("", meta.name)
    return Key(sys.intern(meta.namespace), meta.name)
