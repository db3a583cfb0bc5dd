"""Which of our sets are in the kernel, as far as they were read or written: shapes, sizes, garbage."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from agent.kernel.ipset_shapes import SetContent, SetShape


def alike(held: SetShape, wanted: SetShape) -> bool:
    """Whether a set holds what another one would, as long as that: not how many members it has room for."""
    return held[:2] == wanted[:2] and bool(held.timeout) is bool(wanted.timeout)


@dataclass
class SetTable:
    """Our sets in the kernel by name, each with its shape and, kept up by every write, its size.

    ``garbage`` are sets that nothing needs any more, to be destroyed when no rule refers to them.
    ``doubtful`` are those of which a change has failed since they were read or made: their members may be
    others than they are to be. ``versions`` has the number of the last write of each set that we wrote, one
    number from its beginning on and another from its end on: who reads a set on another thread knows whether
    it was written meanwhile.
    """

    shapes: dict[str, SetShape] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    garbage: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    versions: dict[str, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @contextlib.contextmanager
    def written(self, names: Collection[str]) -> Iterator[None]:
        """Give a write of some sets its numbers, around it."""
        self.versions.update(dict.fromkeys(names, next(self._numbers)))
        try:
            yield
        finally:
            self.versions.update(dict.fromkeys(names, next(self._numbers)))

    def version(self, name: str) -> int:
        """Return the number of a set's last write; 0 where it was never written. Safe on any thread."""
        return self.versions.get(name, 0)

    def take(self, found: Mapping[str, SetContent]) -> None:
        """Take what was read for what is in the kernel."""
        self.shapes = {name: content.shape for name, content in found.items()}
        self.sizes = {name: len(content.members) for name, content in found.items()}
        # Addresses are withdrawn on another thread, which gives sets numbers meanwhile.
        for name in self.versions.copy():
            if name not in found:
                self.versions.pop(name, None)
        self.garbage.clear()
        self.doubtful.clear()

    def made(self, name: str, shape: SetShape, size: int) -> None:
        """Note that a set has been made."""
        self.garbage.discard(name)
        self.doubtful.discard(name)
        self.shapes[name] = shape
        self.sizes[name] = size

    def gone(self, name: str) -> None:
        """Note that a set has been destroyed."""
        self.garbage.discard(name)
        self.doubtful.discard(name)
        self.shapes.pop(name, None)
        self.sizes.pop(name, None)
        self.versions.pop(name, None)

    def fits(self, name: str, shape: SetShape) -> bool:
        """Whether garbage can take the place of a set of a shape, as it is."""
        held = self.shapes.get(name)
        if name not in self.garbage or held is None:
            return False
        return alike(held, shape) and held.maxelem >= shape.maxelem
