"""From the manifests of many files to one set of objects, and from one such set to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from agent.kube.events import UNKNOWN, Delete, Event, Invalid, Origin, Upsert
from agent.kube.manifest import Manifest
from agent.kube.model import Key, Kind, Namespace, Object
from agent.kube.validate import METADATA_NAME
from agent.sources.manifests.lastgood import ObjectId

_ORDER = (Kind.NAMESPACE, Kind.NODE, Kind.POD, Kind.POLICY)


class Wanted(NamedTuple):
    """What holds for one object: its last good value, and what is wrong with the present one."""

    value: Object | None
    invalid: Invalid | None = None


class Held(NamedTuple):
    """One file's part: its objects as they are written, and the last good version of each."""

    manifests: tuple[Manifest, ...]
    good: Mapping[ObjectId, Manifest]


class DesiredObjects(NamedTuple):
    """The objects that hold, and faults by kind, one line for each object that is wrong.

    ``places`` says of each object of a manifest the path and line where it is.
    """

    objects: dict[ObjectId, Wanted]
    faults: dict[Kind, tuple[str, ...]]
    places: Mapping[ObjectId, str] = MappingProxyType({})

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the faults of every kind."""
        return tuple(line for lines in self.faults.values() for line in lines)


def combine(files: Mapping[str, Held]) -> DesiredObjects:
    """Combine files: the first path in sort order holds an object; a namespace that is used is implied."""
    objects: dict[ObjectId, Wanted] = {}
    places: dict[ObjectId, str] = {}
    faults: dict[Kind, list[str]] = {kind: [] for kind in _ORDER}
    for path in sorted(files):
        held = files[path]
        for manifest in held.manifests:
            identity = (manifest.kind, manifest.key)
            place = f"{path} line {manifest.line}" if manifest.line else path
            where = f"{place}: {manifest.kind} {manifest.key}"
            if identity in places:
                faults[manifest.kind].append(
                    f"{where}: already in {places[identity]}, which holds; remove one of the two"
                )
                continue
            places[identity] = place
            good = held.good.get(identity)
            value = good.value if good is not None else None
            if manifest.value is not None:
                objects[identity] = Wanted(manifest.value)
                continue
            faults[manifest.kind] += [
                f"{where}: {p.field}: {p.message}" if p.field else f"{where}: {p.message}"
                for p in manifest.problems
            ]
            invalid = Invalid(manifest.kind, manifest.key, manifest.problems, manifest.closed)
            objects[identity] = Wanted(value, invalid)
    for namespace in sorted({key.namespace for kind, key in objects if key.namespace}):
        identity = (Kind.NAMESPACE, Key("", namespace))
        if identity not in objects:
            objects[identity] = Wanted(Namespace(namespace, {METADATA_NAME: namespace}))
    return DesiredObjects(objects, {kind: tuple(lines) for kind, lines in faults.items()}, places)


def changes(
    told: Mapping[ObjectId, Wanted],
    wanted: Mapping[ObjectId, Wanted],
    places: Mapping[ObjectId, str] = MappingProxyType({}),
) -> list[Event]:
    """Return the events from what was told to what is wanted: additions first, removals last.

    ``places`` says where each object is written: that is what is told of who changed it.
    """
    events: list[Event] = []
    for identity in _sorted(wanted):
        kind, _ = identity
        before, now = told.get(identity, Wanted(None)), wanted[identity]
        if now.value is not None and (now.value != before.value or (before.invalid and not now.invalid)):
            place = places.get(identity)
            events.append(Upsert(kind, now.value, UNKNOWN if place is None else Origin(place)))
        if now.invalid is not None and now.invalid != before.invalid:
            events.append(now.invalid)
    events += [Delete(*identity) for identity in reversed(_sorted(told)) if identity not in wanted]
    return events


def values(wanted: Mapping[ObjectId, Wanted]) -> tuple[Object, ...]:
    """Return the objects that hold where nothing came before, in a fixed order: an invalid policy closed."""
    found: list[Object] = []
    for identity in _sorted(wanted):
        value, invalid = wanted[identity]
        if value is not None:
            found.append(value)
        elif invalid is not None and invalid.closed is not None:
            found.append(invalid.closed)
    return tuple(found)


def _sorted(identities: Iterable[ObjectId]) -> list[ObjectId]:
    return sorted(identities, key=lambda identity: (_ORDER.index(identity[0]), identity[1]))
