"""Manifests: YAML and JSON text to objects, as a create would read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import msgspec

from agent.kube import kinds, wire
from agent.kube.documents import documents, is_a_template, tool_of
from agent.kube.events import Invalid, Problem, Upsert
from agent.kube.facts import Fact, facts_of
from agent.kube.model import Key, Kind, NetworkPolicy, Object, Pod
from agent.kube.text import UnreadableError
from agent.kube.validate import key_of, validate
from agent.kube.workloads import Workload, workload_of

_WRONG = 5
"""So many entries of a text for which it cannot be read are named; the rest are counted."""

_NAMES = ("metadata.name", "metadata.namespace")


class Manifest(NamedTuple):
    """One object of a manifest: the value, or what is wrong with it.

    ``data`` is what was read of its plain data and ``line`` where its document begins. ``closed``
    isolates what an invalid policy selects, or the pods of an invalid namespace that asks for it.
    ``stored``: it was read as a server has stored it; ``problems`` beside a value are then what a create
    would refuse.
    """

    kind: Kind
    key: Key
    line: int
    data: dict[str, Any]
    value: Object | None = None
    problems: tuple[Problem, ...] = ()
    closed: NetworkPolicy | None = None
    stored: bool = False


class Entry(NamedTuple):
    """One object of a text, where it stands: what it says it is, and its data.

    ``document`` counts documents from 0 and ``where`` is its place in lists (``items[2].``). ``manifest`` is
    None for a kind that is not read here. ``wrong`` says why it cannot be told which object it is. A file of
    a tool that holds no objects is one entry whose ``version`` is empty.
    """

    document: int
    line: int
    where: str
    version: str
    kind: str
    data: Mapping[str, Any]
    manifest: Manifest | None = None
    wrong: str = ""


class Reading(NamedTuple):
    """What a text holds. ``ignored`` names the kinds in it that are not read here, and whose file it is.

    ``facts`` and ``workloads`` are filled from a dump only. The kinds of workloads are among those ignored,
    too: no policy is enforced for a template.
    """

    manifests: tuple[Manifest, ...]
    ignored: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    workloads: tuple[Workload, ...] = ()


def read_text(text: bytes, *, is_json: bool = False, name: str = "", dump: bool = False) -> Reading:
    """Read every object of a YAML or JSON text, a file's of this name.

    ``dump``: it may have come from a cluster. Objects that a server has stored (they have a uid and a
    resourceVersion) are then read as leniently as from that server, and what else there is to know of
    addresses is gathered. Raises UnreadableError when the text cannot be parsed, or when it cannot be told
    which object an entry is; an object that is known but not valid is returned with its problems.
    """
    manifests: list[Manifest] = []
    ignored: list[str] = []
    facts: list[Fact] = []
    workloads: list[Workload] = []
    wrong: list[str] = []
    for entry in read_entries(text, is_json=is_json, name=name, dump=dump):
        if entry.wrong:
            wrong.append(entry.wrong)
        elif entry.manifest is not None:
            manifests.append(entry.manifest)
        else:
            ignored.append(f"{entry.version} {entry.kind}" if entry.version else entry.kind)
        if dump:
            facts += facts_of(entry.kind, entry.data)
            made = workload_of(entry.line, entry.version, entry.kind, entry.data, read_pod)
            workloads += [made] if made is not None else []
    if wrong:
        more = f"; and {len(wrong) - _WRONG} more" if len(wrong) > _WRONG else ""
        raise UnreadableError("; ".join(wrong[:_WRONG]) + more)
    return Reading(tuple(manifests), tuple(dict.fromkeys(ignored)), tuple(facts), tuple(workloads))


def read_entries(
    text: bytes, *, is_json: bool = False, name: str = "", dump: bool = False
) -> Iterator[Entry]:
    """Give each object of a text where it stands, those of other kinds and those that are wrong among them.

    Arguments are those of :func:`read_text`. Raises UnreadableError when the text cannot be parsed.
    """
    found = documents(text, is_json=is_json, name=name)
    if not found and (tool := tool_of(name)):
        yield Entry(0, 1, "", "", f"{PurePath(name).name} of {tool}", {})
    for document, (line, data) in enumerate(found):
        try:
            for version, kind, entry, where in _entries(line, data):
                manifest, wrong = None, ""
                try:
                    ours = _kind(line, version, kind, entry, where)
                    manifest = _manifest(line, ours, entry, dump=dump) if ours is not None else None
                except UnreadableError as error:
                    wrong = str(error)
                yield Entry(document, line, where, version, kind, entry, manifest, wrong)
        except UnreadableError as error:
            yield Entry(document, line, "", "", "", {}, None, str(error))


def read_data(kind: Kind, data: object) -> Manifest | None:
    """Read again the plain data of a manifest that was kept; None when it is not what it was."""
    if not isinstance(data, dict):
        return None
    try:
        manifest = _manifest(0, kind, data)
    except UnreadableError:
        return None
    return manifest if manifest.value is not None else None


def _entries(line: int, data: object) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Give each object of a document with its apiVersion and kind, and where it stands in lists.

    A list in a list is read as kubectl reads it: its items are.
    """
    waiting = [iter([(data, "")] if data is not None else [])]
    defaults: list[tuple[str, str] | None] = [None]
    while waiting:
        entry, where = next(waiting[-1], (None, None))
        if where is None:
            waiting.pop()
            defaults.pop()
            continue
        version, kind = _type(line, entry, where, defaults[-1])
        assert isinstance(entry, dict)  # noqa: S101 - _type has refused all else
        if (version, kind) not in kinds.LISTS and (version, kind) != kinds.LIST:
            yield version, kind, entry, where
            continue
        waiting.append(_items(line, kind, entry, where))
        defaults.append(kinds.LISTS.get((version, kind)))


def _items(line: int, kind: str, data: dict[str, Any], where: str) -> Iterator[tuple[object, str]]:
    """Give each entry of a list, and where it stands."""
    entries = data.get("items")
    if "spec" in data and "items" not in data:
        # Taken for an empty list, a policy with a slip in its kind would be open.
        single = kind.removesuffix("List") or "that of the object"
        raise UnreadableError(
            f"line {line}: {where}kind: {kind!r} is a list, and this has no items; write {single}"
        )
    if not isinstance(entries, list | None):
        raise UnreadableError(f"line {line}: {where}items: not a list; begin each entry with '- '")
    for index, entry in enumerate(entries or ()):
        yield entry, f"{where}items[{index}]."


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


def _kind(line: int, version: str, kind: str, data: dict[str, Any], where: str) -> Kind | None:
    """Return the kind of an object that is read here; None for another's.

    Raises UnreadableError for a kind like one of ours in a version that is not known, and for an answer
    that stands where objects should be: passed over, these would open what they are there to close.
    """
    if (version, kind) in kinds.ANSWERS:
        # Passed over, it would take away all that the answer should have held.
        said = data.get("message")
        why = f" ({said})" if isinstance(said, str) and said.isprintable() else ""
        raise UnreadableError(
            f"line {line}: {where}kind: {kind!r} is an API server's answer that holds no objects{why}; "
            "take them from the server again"
        )
    known = kinds.READ.get((version, kind))
    ours = None if known is not None else kinds.meant(version, kind)
    if ours is None:
        return known
    if kind == ours:
        raise UnreadableError(
            f"line {line}: {where}apiVersion: {version!r}{_named(data)} is unknown: it has no {ours}; "
            f"{kinds.remedy(version, ours)}"
        )
    raise UnreadableError(
        f"line {line}: {where}kind: {f'{version} {kind}'!r}{_named(data)} is unknown, and may be a {ours}; "
        f"{kinds.remedy(version, ours)}"
    )


def _named(data: dict[str, Any]) -> str:
    """Return `` of namespace/name`` as far as an entry says it."""
    meta = data.get("metadata")
    names = [meta.get(field) for field in ("namespace", "name")] if isinstance(meta, dict) else []
    said = "/".join(name for name in names if isinstance(name, str) and name)
    return f" of {said}" if said else ""


def _manifest(line: int, kind: Kind, data: dict[str, Any], *, dump: bool = False) -> Manifest:
    key = key_of(kind, data)
    if isinstance(key, Problem):
        raise UnreadableError(f"line {line}: {kind} {key.field}: {key.message}")
    if "{{" in str(key):
        raise is_a_template(line)
    validated = validate(kind, key, data)
    read = validated.data
    # No server has ever stored a name that is none; printed, it could be anything.
    is_named = not any(problem.field in _NAMES for problem in validated.problems)
    if dump and validated.problems and is_named and _is_stored(data):
        return _stored(line, kind, key, data, validated.problems)
    if validated.problems:
        return Manifest(kind, key, line, read, None, validated.problems, validated.closed)
    try:
        # The one decoder for objects from anywhere.
        value = wire.object_from(kind, msgspec.json.encode(read))
    except (ValueError, TypeError, OverflowError) as error:
        problem = Problem("", f"{error}; write plain strings, numbers, lists and mappings")
        return Manifest(kind, key, line, read, None, (problem,))
    return Manifest(kind, key, line, read, value)


def read_pod(data: Mapping[str, Any]) -> tuple[Pod | None, tuple[Problem, ...]]:
    """Read the pod of a workload's template as a manifest's pod is read, with what is wrong with it."""
    try:
        found = _manifest(0, Kind.POD, dict(data), dump=True)
    except UnreadableError as error:
        return None, (Problem("metadata.name", str(error)),)
    return (found.value if isinstance(found.value, Pod) else None), found.problems


def _is_stored(data: dict[str, Any]) -> bool:
    """Whether a server has stored an object: it has given it a uid and a version (ObjectMeta, meta/v1)."""
    meta = data.get("metadata")
    given = [meta.get(field) for field in ("uid", "resourceVersion")] if isinstance(meta, dict) else [None]
    return all(isinstance(text, str) and text for text in given)


def _stored(line: int, kind: Kind, key: Key, data: dict[str, Any], problems: tuple[Problem, ...]) -> Manifest:
    """Read an object as its server would tell it; ``problems`` are what its create would refuse."""
    try:
        told = wire.read_stored(kind, msgspec.json.encode(data))
    except (ValueError, TypeError, OverflowError):
        told = None
    if isinstance(told, Upsert):
        return Manifest(kind, key, line, data, told.object, problems, stored=True)
    if isinstance(told, Invalid):
        return Manifest(kind, key, line, data, None, told.problems, told.closed, stored=True)
    return Manifest(kind, key, line, data, None, problems, stored=True)
