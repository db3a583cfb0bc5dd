"""Manifests: YAML and JSON text to objects, as a create would read them.

YAML means what it means to Kubernetes: YAML 1.1 booleans, times as plain strings, no sexagesimal
numbers, mapping keys as strings; a key written twice is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import msgspec
import yaml

from agent.kube import wire
from agent.kube.events import Problem
from agent.kube.model import Key, Kind, NetworkPolicy, Object
from agent.kube.validate import key_of, validate

_KINDS = {
    ("v1", "Pod"): Kind.POD,
    ("v1", "Namespace"): Kind.NAMESPACE,
    ("v1", "Node"): Kind.NODE,
    ("networking.k8s.io/v1", "NetworkPolicy"): Kind.POLICY,
    ("extensions/v1beta1", "NetworkPolicy"): Kind.POLICY,
}
_LISTS = {(version, f"{kind}List"): (version, kind) for version, kind in _KINDS}
_OURS = {name.lower(): name for kind in Kind for name in (kind.value, f"{kind.value}List")}
_OUR_GROUPS = ("", "networking.k8s.io", "extensions")
_NETWORKING = ("Ingress", "IngressClass", "IPAddress", "ServiceCIDR", "ClusterCIDR")


class UnreadableError(Exception):
    """A text that cannot be read whole; its message says where, why, and the remedy."""


class Manifest(NamedTuple):
    """One object of a manifest: the value, or what is wrong with it.

    ``data`` is the plain data it was read from and ``line`` where its document begins. ``closed``
    isolates what an invalid policy selects.
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
    try:
        for line, data in _json(text) if is_json else _yaml(text):
            for item in _items(line, data):
                if isinstance(item, str):
                    ignored.append(item)
                else:
                    manifests.append(_manifest(line, *item))
    except RecursionError:
        raise UnreadableError("nested too deeply; write it flatter") from None
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
    if (version, kind) not in _LISTS and (version, kind) != ("v1", "List"):
        yield _entry(line, version, kind, data)
        return
    entries = data.get("items")
    if not isinstance(entries, list | None):
        raise UnreadableError(f"line {line}: items: not a list; begin each entry with '- '")
    default = _LISTS.get((version, kind))
    for index, entry in enumerate(entries or ()):
        where = f"items[{index}]."
        item_type = _type(line, entry, where, default)
        if item_type in _LISTS or item_type == ("v1", "List"):
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
    """Return a kind that is read here with its data, or the name of one that is not."""
    known = _KINDS.get((version, kind))
    if known is not None:
        return known, data
    group = version.rpartition("/")[0]
    if group in _OUR_GROUPS:
        ours = _OURS.get(kind.lower())
        if ours is not None:
            versions = " or ".join(v for v, k in (*_KINDS, *_LISTS) if k == ours)
            raise UnreadableError(
                f"line {line}: {where}kind: {version} {kind} is unknown; "
                f"write apiVersion {versions}, kind {ours}"
            )
        if group == "networking.k8s.io" and kind.removesuffix("List") not in _NETWORKING:
            raise UnreadableError(
                f"line {line}: {where}kind: {kind!r} is unknown in {version}; did you mean NetworkPolicy?"
            )
    return f"{version} {kind}"


def _manifest(line: int, kind: Kind, data: dict[str, Any]) -> Manifest:
    key = key_of(kind, data)
    if isinstance(key, Problem):
        raise UnreadableError(f"line {line}: {kind} {key.field}: {key.message}")
    validated = validate(kind, key, data)
    if validated.problems:
        return Manifest(kind, key, line, data, None, validated.problems, validated.closed)
    try:
        # The one decoder for objects from anywhere.
        value = wire.object_from(kind, msgspec.json.encode(validated.data))
    except (ValueError, TypeError, OverflowError) as error:
        problem = Problem("", f"{error}; write plain strings, numbers, lists and mappings")
        return Manifest(kind, key, line, data, None, (problem,))
    return Manifest(kind, key, line, data, value)


def _json(text: bytes) -> Iterator[tuple[int, object]]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise UnreadableError(f"key {key!r} is written twice; keep one of them")
            found[key] = value
        return found

    try:
        yield 1, json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"line {error.lineno}: {error.msg}; correct the JSON") from None
    except ValueError as error:
        raise UnreadableError(f"{error}; write the file in UTF-8") from None


_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BASE):  # type: ignore[misc]
    """A safe YAML loader that reads as Kubernetes does; resolvers and constructors are set below."""


def _mapping(loader: Any, node: yaml.MappingNode) -> Iterator[dict[str, object]]:
    found: dict[str, object] = {}
    # Given before it is filled, so that an alias inside may refer to it.
    yield found
    merged = any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value)
    own = [pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
    seen: set[str] = set()
    for key_node, _ in own:
        key = _key_text(loader, key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is written twice; keep one of them", key_node.start_mark
            )
        seen.add(key)
    if merged:
        loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        found[_key_text(loader, key_node)] = loader.construct_object(value_node, deep=True)


def _key_text(loader: Any, node: yaml.Node) -> str:
    key: Hashable = loader.construct_object(node, deep=True)
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, str | int):
        return str(key)
    raise yaml.constructor.ConstructorError(None, None, "a key is not a string; quote it", node.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":timestamp", ":int", ":float"))]
    for first, rules in _BASE.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _yaml(text: bytes) -> Iterator[tuple[int, object]]:
    try:
        loader = _Loader(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnreadableError(_yaml_trouble(error)) from None
    try:
        while loader.check_node():
            node = loader.get_node()
            yield node.start_mark.line + 1, loader.construct_document(node)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, OverflowError) as error:
        raise UnreadableError(_yaml_trouble(error)) from None
    finally:
        loader.dispose()


def _yaml_trouble(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        why = " ".join(str(error.problem or error.context).split())
        return f"{where}{why}" if "; " in why else f"{where}{why}; correct the YAML"
    return f"{' '.join(str(error).split())}; correct the YAML, in UTF-8"
