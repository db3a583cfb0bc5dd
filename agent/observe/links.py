"""Of how many isolated pods the link is known, so that they are judged by it too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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


class Guarded(NamedTuple):
    """Of how many pods frames are guarded, where that is wanted: ``without`` are those of which not, by name.

    ``begun``: whether that has been tried yet.
    """

    pods: int
    without: tuple[str, ...] = ()
    begun: bool = True

    @property
    def whole(self) -> bool:
        """Whether that is so for all."""
        return self.begun and not self.without

    def __str__(self) -> str:
        if not self.begun:
            return "not guarded yet"
        if not self.without:
            return "guarded for the pod" if self.pods == 1 else f"guarded for all {self.pods} pods"
        named = ", ".join(self.without[:_SHOWN]) + (", ..." if len(self.without) > _SHOWN else "")
        return f"guarded for {self.pods - len(self.without)} of {self.pods} pods; no link is known of {named}"


def count(program: LoweredProgram, links: Iterable[PodLink]) -> LinkCounts:
    """Count the isolated pods of a program."""
    linked = {link.pod for link in links}
    isolated = {pod.pod for pod in program.pods}
    without = sorted(isolated - linked)
    return LinkCounts(len(isolated & linked), len(without), tuple(map(str, without[:_SHOWN])))
