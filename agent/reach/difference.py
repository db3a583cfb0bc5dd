"""What differs between two matrices: connections that were added, removed or changed."""

from __future__ import annotations

from typing import NamedTuple

from agent.reach.ends import End
from agent.reach.matrix import Cell, Matrix
from agent.reach.ports import ALL, Ports


class Change(NamedTuple):
    """What one pair of ends could open before, and can after; None where it is nothing."""

    source: End
    destination: End
    before: Cell | None
    after: Cell | None

    @property
    def kind(self) -> str:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


class Difference(NamedTuple):
    """Changes in the order of ends; how many connections are the same; ends that one side alone has."""

    changes: tuple[Change, ...]
    same: int
    new: tuple[End, ...] = ()
    gone: tuple[End, ...] = ()
    ports: Ports = ALL

    def of(self, kind: str) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.kind == kind)


def difference(before: Matrix, after: Matrix, order: tuple[End, ...]) -> Difference:
    """Compare two matrices of the same ends, which ``order`` has in the order to tell them."""
    found: list[Change] = []
    same = 0
    for source in order:
        for destination in order:
            one, other = (_open(side.cells.get((source, destination))) for side in (before, after))
            if one is None and other is None:
                continue
            if one is not None and other is not None and one.said == other.said:
                same += 1
            else:
                found.append(Change(source, destination, one, other))
    had, have = ({*side.sources, *side.destinations} for side in (before, after))
    return Difference(
        tuple(found),
        same,
        tuple(end for end in order if end in have and end not in had and not end.outside),
        tuple(end for end in order if end in had and end not in have and not end.outside),
        before.ports,
    )


def _open(cell: Cell | None) -> Cell | None:
    return cell if cell is not None and cell.some else None
