"""Who changed an object last, and when: what ``managedFields`` says of it (meta/v1)."""

from __future__ import annotations

import msgspec

from agent.kube import shapes
from agent.kube.convert import UNDECODABLE
from agent.kube.events import UNKNOWN, Origin

_ENTRIES = msgspec.json.Decoder(list[shapes.ManagedEntry] | None)
_TEXT = msgspec.json.Decoder(str | None)


def origin_of(managed: msgspec.Raw) -> Origin:
    """Return who wrote last. Of two that wrote within the same second, who wrote more than a status.

    What cannot be read, or is not there, is no reason to refuse an object: then nobody is named.
    """
    if not len(managed):
        return UNKNOWN
    try:
        entries = _ENTRIES.decode(managed)
    except UNDECODABLE:
        return UNKNOWN
    if not entries:
        return UNKNOWN
    last = entries[0]
    for entry in entries:
        if (entry.at, not entry.subresource) > (last.at, not last.subresource):
            last = entry
    return Origin(last.manager, last.operation, last.at)


def deletion(raw: msgspec.Raw) -> Origin:
    """Return when an object was to be gone, as its ``deletionTimestamp`` says."""
    if not len(raw):
        return UNKNOWN
    try:
        return Origin(at=_TEXT.decode(raw) or "")
    except UNDECODABLE:
        return UNKNOWN
