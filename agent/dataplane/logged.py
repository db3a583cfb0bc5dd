"""What a rule says of the packets that it logs: the verdict, and of which direction it is."""

from __future__ import annotations

import enum
from typing import NamedTuple

from agent.net import Direction


class Decided(enum.StrEnum):
    """What the rules have decided of a packet."""

    DENIED = "denied"
    ALLOWED = "allowed"
    WOULD_DENY = "would-deny"
    """It passes. It would be denied, if the audited policies were enforced."""


class Cause(enum.StrEnum):
    """What a packet was denied by, where not by the policies of the pod that has its address."""

    LINK = "link"
    """It came by the link of a pod, or was to leave by one, that does not have the address."""
    FURTHER = "further"
    """By the policies of the pod behind whose link the address is, though the API does not know it."""
    UNKNOWN = "unknown"
    """It has an address of this node's pods that no pod is known to have."""


class Judged(NamedTuple):
    """A verdict of one direction.

    The pod that was judged has the packet's destination address on ingress, and its source address on egress;
    where there is a ``cause``, it is the one whose ``link`` is named, if one is.
    """

    verdict: Decided
    direction: Direction
    cause: Cause | None = None
    link: str = ""

    @property
    def prefix(self) -> str:
        """What the rule writes before the packet: at most 63 bytes, without a space, so never quoted."""
        link = f"-{self.link}" if self.link else ""
        by = f"-{self.cause}{link}" if self.cause is not None else ""
        return f"{_BEGINNING}{self.verdict}-{self.direction}{by}"


class LogCount(NamedTuple):
    """How many packets the rules of one direction of a pod have denied, and how many of these they logged.

    Of an audited pod: how many would be denied.
    """

    denied: int
    logged: int

    def plus(self, other: LogCount) -> LogCount:
        return LogCount(self.denied + other.denied, self.logged + other.logged)


_BEGINNING = "netpol-"
_JUDGED = {one.prefix: one for one in (Judged(v, d) for v in Decided for d in Direction)}


def judged_by(prefix: str) -> Judged | None:
    """Return what a prefix says; None where it is not one of this agent's."""
    found = _JUDGED.get(prefix)
    if found is not None or not prefix.startswith(_BEGINNING):
        return found
    for known, judged in _JUDGED.items():
        if prefix == f"{known}-{Cause.UNKNOWN}" and judged.verdict is Decided.DENIED:
            return judged._replace(cause=Cause.UNKNOWN)
        for cause in Cause:
            before = f"{known}-{cause}-"
            if prefix.startswith(before) and judged.verdict is Decided.DENIED:
                return judged._replace(cause=cause, link=prefix.removeprefix(before))
    return None
