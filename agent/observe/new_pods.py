"""What is closed until a pod is known to have it: in which networks, and which addresses are so now."""

from __future__ import annotations

import msgspec

_SHOWN = 5


class NewPodsStatus(msgspec.Struct, frozen=True):
    """Where new pods are closed: in which networks, how many addresses pods are known to have there.

    ``closed`` are addresses inside pods of this node that no pod is known to have; ``late``: how many of them
    have been so for longer than a start takes.
    """

    networks: tuple[str, ...]
    known: int
    closed: tuple[str, ...] = ()
    late: int = 0

    def __str__(self) -> str:
        if not self.networks:
            return "nothing is closed: which networks this node's pods have is not known"
        where = f"new pods are closed in {', '.join(self.networks)}"
        if not self.closed:
            return f"{where}; no address inside a pod is closed now"
        shown = ", ".join(self.closed[:_SHOWN]) + (", ..." if len(self.closed) > _SHOWN else "")
        number = "1 address" if len(self.closed) == 1 else f"{len(self.closed)} addresses"
        return f"{where}; {number} closed, which no pod is known to have: {shown}"


def reason(address: str) -> str:
    """Say why an unknown address is closed."""
    return (
        f"{address} is in a network of this node's pods, and no pod is known to have it: closed until one is "
        "(--new-pods deny)"
    )
