"""Of how many isolated pods the link is known, so that they are judged by it too."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.dataplane.podlinks import PodLink
from agent.policy.lower.lowered import LoweredProgram

_SHOWN = 5


class LinkCounts(msgspec.Struct, frozen=True):
    """How many isolated pods have a link that is known, how many have none, and some of these by name."""

    known: int = 0
    unknown: int = 0
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = self.known + self.unknown
        if not total:
            return ""
        if not self.unknown:
            return "known for the isolated pod" if total == 1 else f"known for all {total} isolated pods"
        if total == 1:
            return f"not known for the isolated pod {self.without[0]}, which is judged by its addresses alone"
        more = ", ..." if self.unknown > len(self.without) else ""
        without = f"{', '.join(self.without)}{more}: they are judged by their addresses alone"
        if not self.known:
            return f"not known for any of the {total} isolated pods, {without}"
        return f"known for {self.known} of {total} isolated pods; not for {without}"


NO_LINKS = LinkCounts()


def count(program: LoweredProgram, links: Iterable[PodLink]) -> LinkCounts:
    """Count the isolated pods of a program."""
    linked = {link.pod for link in links}
    isolated = {pod.pod for pod in program.pods}
    without = sorted(isolated - linked)
    return LinkCounts(len(isolated & linked), len(without), tuple(map(str, without[:_SHOWN])))
