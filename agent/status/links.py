"""Of how many isolated pods the link is known, so that they are judged by it too."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.dataplane.podlinks import PodLink
from agent.policy.program import Program

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
            return "known of the isolated pod" if total == 1 else f"known of all {total} isolated pods"
        more = ", ..." if self.unknown > len(self.without) else ""
        return f"known of {self.known} of {total} isolated pods; not of {', '.join(self.without)}{more}"


NO_LINKS = LinkCounts()


def count(program: Program, links: Iterable[PodLink]) -> LinkCounts:
    """Count the isolated pods of a program."""
    linked = {link.pod for link in links}
    isolated = {pod.pod for pod in program.pods}
    without = sorted(isolated - linked)
    return LinkCounts(len(isolated & linked), len(without), tuple(map(str, without[:_SHOWN])))
