"""A mapping with changes that are not made yet: so a plan costs what it changes, not what there is."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Overlay(Generic[K, V]):
    """A mapping as it is to be. It reads what is there, and keeps apart what is to be other.

    ``base`` stays as it is until :meth:`make`. ``changes``: by key what is to be there; None: nothing.
    """

    __slots__ = ("base", "changes")

    def __init__(self, base: dict[K, V]) -> None:
        self.base = base
        self.changes: dict[K, V | None] = {}

    def get(self, key: K) -> V | None:
        """Return what is to be there, if anything is."""
        return self.changes[key] if key in self.changes else self.base.get(key)

    def put(self, key: K, value: V) -> None:
        """Have a value be there; a key that is new, or was taken away, comes last."""
        if self.changes.get(key) is None:
            self.changes.pop(key, None)
        self.changes[key] = value

    def pop(self, key: K) -> V | None:
        """Have nothing be there; return what was to be."""
        found = self.get(key)
        if found is not None:
            self.changes[key] = None
        return found

    def whole(self) -> dict[K, V]:
        """Return all that is to be there: this takes as long as there is much."""
        found = dict(self.base)
        _change(found, self.changes)
        return found

    def make(self) -> None:
        """Make the changes."""
        _change(self.base, self.changes)


def _change(base: dict[K, V], changes: dict[K, V | None]) -> None:
    for key, value in changes.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = value
