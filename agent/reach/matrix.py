"""The matrix: for each pair of ends what may be opened from the one to the other."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.kube.model import Key
from agent.net import Direction, Family
from agent.reach.admits import Rules
from agent.reach.ends import End, Place
from agent.reach.known import Standing
from agent.reach.ports import ALL, NONE, Ports

_FAMILY_TEXTS = {Family.V4: "IPv4", Family.V6: "IPv6", None: "no address"}


class InFamily(NamedTuple):
    """What may be opened in one family: ``every`` between every pair of pods, ``some`` between some pair.

    ``family`` is None where no pod of either end has an address, as in files.
    """

    family: Family | None
    every: Ports
    some: Ports

    def __str__(self) -> str:
        if self.every == self.some:
            return str(self.some)
        rest = self.some - self.every
        return f"{self.every}; some pods: {rest}" if self.every else f"some pods: {rest}"


class Cell(NamedTuple):
    """What may be opened from one end to the other, in each family that both have.

    Without any family nothing can be: the ends have no family of addresses in common.
    """

    families: tuple[InFamily, ...]

    @property
    def some(self) -> Ports:
        """What may be opened between some pair, in some family."""
        return functools.reduce(Ports.__or__, (one.some for one in self.families), NONE)

    @property
    def every(self) -> Ports:
        """What may be opened between every pair, in every family that there is."""
        return functools.reduce(Ports.__and__, (one.every for one in self.families), ALL if self else NONE)

    @property
    def said(self) -> tuple[object, ...]:
        """What tells it from others: the families, where they differ; else what holds in all of them."""
        alike = {one[1:] for one in self.families}
        return tuple(alike) if len(alike) == 1 else self.families

    def __bool__(self) -> bool:
        return bool(self.families)

    def __str__(self) -> str:
        said = {str(one) for one in self.families}
        if len(said) < 2:
            return said.pop() if said else "none"
        return "; ".join(f"{_FAMILY_TEXTS[one.family]}: {one}" for one in self.families)


@dataclass(frozen=True)
class Matrix:
    """Who may reach whom.

    A pair without a cell has nothing between it that a policy could judge: a pod and itself, or two ends that
    are no pods. ``ports`` are those that are looked at.
    """

    sources: tuple[End, ...]
    destinations: tuple[End, ...]
    cells: Mapping[tuple[End, End], Cell]
    ports: Ports = ALL


def matrix(
    rules: Rules,
    sources: Mapping[End, Place],
    destinations: Mapping[End, Place],
    ports: Ports = ALL,
) -> Matrix:
    """Say of each pair of ends which of some ports may be opened."""
    pairs: dict[tuple[Standing, Standing], tuple[tuple[Family | None, Ports], ...]] = {}
    seen: dict[object, Cell] = {}
    cells: dict[tuple[End, End], Cell] = {}

    def between(source: Standing, destination: Standing) -> tuple[tuple[Family | None, Ports], ...]:
        found = pairs.get((source, destination))
        if found is None:
            found = pairs[source, destination] = tuple(_between(rules, source, destination, ports))
        return found

    rows = {end: _alike(rules, place) for end, place in sources.items()}
    columns = {end: _alike(rules, place) for end, place in destinations.items()}
    for source, from_ in rows.items():
        for destination, to in columns.items():
            if source.outside and destination.outside:
                continue
            # Replicas are many; what is between two ends depends on how their pods stand only, unless it is
            # a pod and itself.
            own = bool(from_.pods.keys() & to.pods.keys())
            asked = None if own else (*from_.pods, None, *from_.parts, None, *to.pods, None, *to.parts)
            cell = seen.get(asked) if asked is not None else None
            if cell is None:
                cell = _cell(said for one in _pairs(from_, to) for said in between(*one))
                if not cell and _is_itself(from_, to):
                    continue
                if asked is not None:
                    seen[asked] = cell
            cells[source, destination] = cell
    return Matrix(tuple(sources), tuple(destinations), cells, ports)


def _alike(rules: Rules, place: Place) -> Place:
    """Return a place with the pods together that no policy tells apart."""
    pods: dict[Standing, frozenset[Key]] = {}
    for standing, keys in place.pods.items():
        same = rules.alike(standing)
        pods[same] = pods.get(same, frozenset()) | keys
    return dataclasses.replace(place, pods=pods)


def _pairs(source: Place, destination: Place) -> Iterator[tuple[Standing, Standing]]:
    """Give how two ends stand, for each pair of different pods; addresses that are no pods look alike."""
    for one, mine in _standings(source):
        for other, its in _standings(destination):
            alone = len(mine) == 1 and mine == its and not mine & source.many
            if not alone or not mine:
                yield one, other


def _standings(place: Place) -> Iterable[tuple[Standing, frozenset[object]]]:
    if not place.pods:
        return [(Standing(-1, place.parts), frozenset())]
    return [(standing, frozenset(keys)) for standing, keys in place.pods.items()]


def _is_itself(source: Place, destination: Place) -> bool:
    return bool(source.pods.keys() & destination.pods.keys())


def _between(
    rules: Rules, source: Standing, destination: Standing, ports: Ports
) -> Iterator[tuple[Family | None, Ports]]:
    """Give what may be opened for each pair of parts that are of one family.

    A pod without an address may have one in any family. An end with the look -1 is no pod's: nothing there is
    judged.
    """
    egress = rules.row(source.look, Direction.EGRESS) if source.look >= 0 else None
    ingress = rules.row(destination.look, Direction.INGRESS) if destination.look >= 0 else None
    parts = rules.known.parts
    for one in source.parts:
        for other in destination.parts:
            mine, its = parts[one].family, parts[other].family
            if mine is None or its is None or mine is its:
                allowed = egress[other] if egress is not None else ALL
                if ingress is not None:
                    allowed = allowed & ingress[one]
                yield mine or its, allowed if ports == ALL else allowed & ports


def _cell(found: Iterable[tuple[Family | None, Ports]]) -> Cell:
    every: dict[Family | None, Ports] = {}
    some: dict[Family | None, Ports] = {}
    for family, allowed in found:
        if family in every:
            every[family] &= allowed
            some[family] |= allowed
        else:
            every[family] = some[family] = allowed
    ordered = sorted(every, key=lambda family: family or 0)
    return Cell(tuple(InFamily(family, every[family], some[family]) for family in ordered))


def ordered(places: Sequence[Mapping[End, Place]]) -> list[End]:
    """Return the ends of several clusters as people read them: by namespace and name, the internet last."""
    return sorted(
        {end for one in places for end in one},
        key=lambda end: (
            end.outside,
            end.outside and end.name == "internet",
            end.namespace,
            end.name,
            end.kind,
        ),
    )
