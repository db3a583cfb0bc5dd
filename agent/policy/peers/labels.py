"""Indexes between labels and selectors, both ways, and the canonical text of a selector.

Neither index decides whether a selector matches: each narrows the question to few candidates, through one
requirement that a match needs. The caller asks :meth:`Selector.matches` of those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

from agent.kube.model import Operator, Requirement, Selector

K = TypeVar("K")
V = TypeVar("V")

_BARE = re.compile(r"[A-Za-z0-9._/-]+")

_FEW_VALUES = 8
"""An In requirement with more values is indexed by its key alone, so that a selector takes little room."""


def quoted(text: str) -> str:
    """Return text as it is when it is plain, else as a JSON string: it can be read in one way only."""
    return text if _BARE.fullmatch(text) else json.dumps(text)


def selector_text(selector: Selector) -> str:
    """Return the canonical text of a selector: two selectors have the same text only when they are equal."""
    return ",".join(sorted(_requirement_text(r) for r in selector.requirements)) or "*"


def _requirement_text(requirement: Requirement) -> str:
    key = quoted(requirement.key)
    values = ",".join(map(quoted, requirement.values))
    match requirement.operator:
        case Operator.IN if len(requirement.values) == 1:
            return f"{key}={values}"
        case Operator.IN:
            return f"{key} in ({values})"
        case Operator.NOT_IN:
            return f"{key} notin ({values})"
        case Operator.EXISTS:
            return key
        case Operator.DOES_NOT_EXIST:
            return f"!{key}"


class Multimap(Generic[K, V]):
    """Distinct values under each key. Values are not dicts themselves.

    Most keys of a label index have one value, so that one is held bare: a set of its own would cost more than
    all else that is kept for a pod. Several are the keys of a dict, which takes half of what a set does.
    ``add`` and ``remove`` are idempotent; a key goes with its last value.
    """

    __slots__ = ("_values", "total")

    def __init__(self) -> None:
        self._values: dict[K, V | dict[V, None]] = {}
        self.total = 0
        """The number of (key, value) pairs."""

    def add(self, key: K, value: V) -> None:
        found = self._values.get(key)
        if found is None:
            self._values[key] = value
        elif isinstance(found, dict):
            if value in found:
                return
            found[value] = None
        elif found == value:
            return
        else:
            self._values[key] = {found: None, value: None}
        self.total += 1

    def remove(self, key: K, value: V) -> None:
        found = self._values.get(key)
        if isinstance(found, dict):
            if value not in found:
                return
            del found[value]
            if len(found) == 1:
                (self._values[key],) = found
        elif found is not None and found == value:
            del self._values[key]
        else:
            return
        self.total -= 1

    def get(self, key: K) -> Collection[V]:
        """Return the values under a key; not to be kept, nor iterated while the map changes."""
        found = self._values.get(key)
        if found is None:
            return ()
        return found if isinstance(found, dict) else (found,)

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Candidates(NamedTuple, Generic[V]):
    """What an index offers: how many, and an iterator over them, each once."""

    number: int
    things: Iterator[V]


class LabelIndex(Generic[V]):
    """Labelled things, found by selector. A thing is added and removed with the same labels."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[str, Multimap[str, V]] = {}

    def add(self, labels: dict[str, str], thing: V) -> None:
        for key, value in labels.items():
            by_value = self._by_key.get(key)
            if by_value is None:
                by_value = self._by_key[key] = Multimap()
            by_value.add(value, thing)

    def remove(self, labels: dict[str, str], thing: V) -> None:
        for key, value in labels.items():
            by_value = self._by_key.get(key)
            if by_value is not None:
                by_value.remove(value, thing)
                if not by_value:
                    del self._by_key[key]

    def candidates(self, selector: Selector) -> Candidates[V] | None:
        """Return everything that may match, by the requirement that leaves the fewest.

        None when no requirement demands a label: then anything may match.
        """
        best: tuple[int, Multimap[str, V], tuple[str, ...] | None] | None = None
        for key, operator, values in selector.requirements:
            if operator is not Operator.IN and operator is not Operator.EXISTS:
                continue
            by_value = self._by_key.get(key)
            if by_value is None:
                return Candidates(0, iter(()))
            wanted = values if operator is Operator.IN else None
            count = by_value.total if wanted is None else sum(len(by_value.get(v)) for v in wanted)
            if best is None or count < best[0]:
                best = count, by_value, wanted
        if best is None:
            return None
        count, by_value, wanted = best
        keys = by_value if wanted is None else wanted
        return Candidates(count, chain.from_iterable(map(by_value.get, keys)))

    def within(self, selector: Selector, things: Collection[V]) -> Collection[V]:
        """Return those of some things, all of them in the index, that may match.

        By every requirement of one value: what is left is found without asking each thing for its labels.
        """
        for key, operator, values in selector.requirements:
            if operator is Operator.IN and len(values) == 1:
                by_value = self._by_key.get(key)
                things = _common(things, by_value.get(values[0]) if by_value is not None else ())
        return things

    def __len__(self) -> int:
        return sum(by_value.total for by_value in self._by_key.values())


def _common(some: Collection[V], others: Collection[V]) -> Collection[V]:
    """Return what is in both: in the time that the fewer take."""
    if isinstance(some, dict) and isinstance(others, dict):
        return some.keys() & others.keys()
    few, many = (some, others) if len(some) <= len(others) else (others, some)
    return [thing for thing in few if thing in many]


class SelectorIndex(Generic[V]):
    """Things that have a selector, found by labels. A thing is added and removed with the same selector."""

    __slots__ = ("_anywhere", "_by_key", "_by_label")

    def __init__(self) -> None:
        self._by_label: Multimap[tuple[str, str], V] = Multimap()
        self._by_key: Multimap[str, V] = Multimap()
        self._anywhere: set[V] = set()

    def add(self, selector: Selector, thing: V) -> None:
        anchor = _anchor(selector)
        if anchor is None:
            self._anywhere.add(thing)
        elif isinstance(anchor, str):
            self._by_key.add(anchor, thing)
        else:
            for label in anchor:
                self._by_label.add(label, thing)

    def remove(self, selector: Selector, thing: V) -> None:
        anchor = _anchor(selector)
        if anchor is None:
            self._anywhere.discard(thing)
        elif isinstance(anchor, str):
            self._by_key.remove(anchor, thing)
        else:
            for label in anchor:
                self._by_label.remove(label, thing)

    def candidates(self, labels: dict[str, str]) -> list[V]:
        """Return everything whose selector may match the labels, each once."""
        found = list(self._anywhere)
        if self._by_label or self._by_key:
            for label in labels.items():
                found.extend(self._by_label.get(label))
                found.extend(self._by_key.get(label[0]))
        return found

    def __len__(self) -> int:
        return self._by_label.total + self._by_key.total + len(self._anywhere)


def _anchor(selector: Selector) -> list[tuple[str, str]] | str | None:
    """Return what a match cannot do without: one of few labels, or a key; None: nothing."""
    fewest: Requirement | None = None
    by_key: str | None = None
    for requirement in selector.requirements:
        if requirement.operator is Operator.IN:
            by_key = requirement.key
            if fewest is None or len(requirement.values) < len(fewest.values):
                fewest = requirement
        elif requirement.operator is Operator.EXISTS:
            by_key = requirement.key
    if fewest is not None and len(fewest.values) <= _FEW_VALUES:
        return [(fewest.key, value) for value in fewest.values]
    return by_key
