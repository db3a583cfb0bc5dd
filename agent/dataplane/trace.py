"""What becomes of one packet in the kernel as it is: the way it takes, and the rule that decides."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from agent.kube.model import Key
from agent.net import Direction, Family


class Packet(NamedTuple):
    """The first packet of a connection: packed addresses of one family, an IANA number, a port there."""

    source: bytes
    destination: bytes
    protocol: int
    port: int

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return Family.V4 if len(self.source) == 4 else Family.V6


class CountedRule(NamedTuple):
    """A rule as the kernel holds it: its chain, its text, and the packets and bytes that it has counted."""

    chain: str
    text: str
    packets: int
    bytes: int


class Fate(enum.StrEnum):
    """What the kernel does with a packet in one direction."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NOT_JUDGED = "not judged"
    UNKNOWN = "unknown"


class Trace(NamedTuple):
    """What the kernel does with a packet, why, and the rule that decides, if one does.

    ``near`` are rules that would allow it, were its address in the set that they look into.
    """

    fate: Fate
    why: str
    rule: CountedRule | None = None
    near: tuple[CountedRule, ...] = ()


class Tracer(Protocol):
    """Follows packets through the rules of this node's kernel. For any thread; changes nothing."""

    def trace(self, direction: Direction, pod: Key, packet: Packet) -> Trace:
        """Follow a packet through the chain of a pod of this node in one direction.

        Raises OSError where the kernel cannot be read. It takes some tens of milliseconds.
        """
        ...

    def rules_of(
        self, direction: Direction, policy: Key, family: Family
    ) -> tuple[tuple[int, CountedRule], ...]:
        """Return the rules of a policy, in order, each with the number of the policy's rule that it is of.

        Lines that allow nothing by themselves have the number -1. Empty where the kernel has no such chain.
        Raises OSError as :meth:`trace` does.
        """
        ...
