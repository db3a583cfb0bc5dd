"""Events as short as the tests of the loop need them."""

from __future__ import annotations

from agent.kube.events import Event, Synced, Upsert
from agent.kube.model import Kind, NetworkPolicy, Pod


def pod(number: int) -> Event:
    """A pod of this node."""
    return Upsert(
        Kind.POD, Pod("default", f"p{number}", str(number), {}, "here", (bytes((10, 0, 0, number)),))
    )


def far(number: int) -> Event:
    """A pod of another node."""
    return Upsert(Kind.POD, Pod("default", f"f{number}", "", {}, "there", (bytes((10, 0, 1, number)),)))


def deny(name: str = "deny") -> Event:
    """A policy that allows nothing into any pod."""
    return Upsert(Kind.POLICY, NetworkPolicy("default", name, ingress=()))


OWN_PODS: list[Event] = [pod(1), Synced(Kind.POD, here=True)]
POLICIES: list[Event] = [deny(), Synced(Kind.POLICY), Synced(Kind.NAMESPACE)]
