"""Manifests: YAML and JSON text to objects, as a create would read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from agent.kube import kinds, wire
from agent.kube.events import Problem
from agent.kube.model import Key, Kind, NetworkPolicy, Object
from agent.kube.text import UnreadableError, json_documents, yaml_documents
from agent.kube.validate import key_of, validate


class Manifest(NamedTuple):
    """One object of a manifest: the value, or what is wrong with it.

    ``data`` is what was read of its plain data and ``line`` where its document begins. ``closed``
    isolates what an invalid policy selects, or the pods of an invalid namespace that asks for it.
    """

    kind: Kind
    key: Key
    line: int
    data: dict[str, Any]
    value: Object | None = None
    problems: tuple[Problem, ...] = ()
    closed: NetworkPolicy | None = None


class Reading(NamedTuple):
    """What a text holds. ``ignored`` names the kinds in it that are not read here."""

    manifests: tuple[Manifest, ...]
    ignored: tuple[str, ...] = ()


def read_text(text: bytes, *, is_json: bool = False) -> Reading:
    """Read every object of a YAML or JSON text.

    Raises UnreadableError when the text cannot be parsed, or when it cannot be told which object an
    entry is; an object that is known but not valid is returned with its problems.
    """
    manifests: list[Manifest] = []
    ignored: list[str] = []
    for line, data in json_documents(text) if is_json else yaml_documents(text):
        for item in _items(line, data):
            if isinstance(item, str):
                ignored.append(item)
            else:
                manifests.append(_manifest(line, *item))
    return Reading(tuple(manifests), tuple(dict.fromkeys(ignored)))


def read_data(kind: Kind, data: object) -> Manifest | None:
    """Read again the plain data of a manifest that was kept; None when it is not what it was."""
    if not isinstance(data, dict):
        return None
    try:
        manifest = _manifest(0, kind, data)
    except UnreadableError:
        return None
    return manifest if manifest.value is not None else None


def _items(line: int, data: object) -> Iterator[tuple[Kind, dict[str, Any]] | str]:
    """Give each object of a document; a text names a kind that is ignored."""
    if data is None:
        return
    version, kind = _type(line, data)
    assert isinstance(data, dict)  # noqa: S101 - _type has refused all else
    if (version, kind) not in kinds.LISTS and (version, kind) != kinds.LIST:
        yield _entry(line, version, kind, data)
        return
    entries = data.get("items")
    if not isinstance(entries, list | None):
        raise UnreadableError(f"line {line}: items: not a list; begin each entry with '- '")
    default = kinds.LISTS.get((version, kind))
    for index, entry in enumerate(entries or ()):
        where = f"items[{index}]."
        item_type = _type(line, entry, where, default)
        if item_type in kinds.LISTS or item_type == kinds.LIST:
            raise UnreadableError(f"line {line}: {where}kind: a list in a list; write its items themselves")
        yield _entry(line, *item_type, entry, where)


def _type(
    line: int, data: object, where: str = "", default: tuple[str, str] | None = None
) -> tuple[str, str]:
    if not isinstance(data, dict):
        raise UnreadableError(
            f"line {line}: {where.rstrip('.') or 'document'}: not a mapping; write an object"
        )
    found = []
    for index, field in enumerate(("apiVersion", "kind")):
        value = data.get(field)
        if value is None and default is not None:
            value = default[index]
        if not isinstance(value, str) or not value:
            raise UnreadableError(f"line {line}: {where}{field}: missing; say what the object is")
        found.append(value)
    return found[0], found[1]


def _entry(
    line: int, version: str, kind: str, data: dict[str, Any], where: str = ""
) -> tuple[Kind, dict[str, Any]] | str:
    """Return a kind that is read here with its data, or the name of one that is not.

    Raises UnreadableError for a kind like one of ours in a version that is not known: passed over, it
    would open what it is there to close.
    """
    known = kinds.READ.get((version, kind))
    if known is not None:
        return known, data
    ours = kinds.meant(version, kind)
    if ours is None:
        return f"{version} {kind}"
    field, given = ("apiVersion", version) if kind == ours else ("kind", f"{version} {kind}")
    raise UnreadableError(
        f"line {line}: {where}{field}: {given!r}{_named(data)} is unknown, and may be a {ours}; "
        f"{kinds.remedy(version, ours)}"
    )


def _named(data: dict[str, Any]) -> str:
    """Return `` of namespace/name`` as far as an entry says it."""
    meta = data.get("metadata")
    names = [meta.get(field) for field in ("namespace", "name")] if isinstance(meta, dict) else []
    said = "/".join(name for name in names if isinstance(name, str) and name)
    return f" of {said}" if said else ""


def _manifest(line: int, kind: Kind, data: dict[str, Any]) -> Manifest:
    key = key_of(kind, data)
    if isinstance(key, Problem):
        raise UnreadableError(f"line {line}: {kind} {key.field}: {key.message}")
    validated = validate(kind, key, data)
    read = validated.data
    if validated.problems:
        return Manifest(kind, key, line, read, None, validated.problems, validated.closed)
    try:
        # The one decoder for objects from anywhere.
        value = wire.object_from(kind, msgspec.json.encode(read))
    except (ValueError, TypeError, OverflowError) as error:
        problem = Problem("", f"{error}; write plain strings, numbers, lists and mappings")
        return Manifest(kind, key, line, read, None, (problem,))
    return Manifest(kind, key, line, read, value)
