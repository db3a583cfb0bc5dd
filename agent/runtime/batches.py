"""A batch of events in portions, so that each is a change of the kernel of the simplest kind."""

from __future__ import annotations

from collections.abc import Callable

from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import Key, Kind, Pod

MOST = 8
"""Into how many portions a batch is cut at most. With more turns than that, less work for each counts."""


def portions(events: list[Event], is_here: Callable[[Key], bool], node: str) -> list[list[Event]]:
    """Cut events, in their order, where pods of other nodes and everything else take turns.

    What pods of other nodes do changes members of sets; all else, chains. Where both change in one step, that
    may have to be made by switching to new sets, which takes long in a large cluster. ``is_here`` says of a
    pod that is known whether it is on this ``node``.
    """
    cut: list[list[Event]] = []
    far_before: bool | None = None
    for event in events:
        far = is_far(event, is_here, node)
        if far is not far_before:
            if len(cut) == MOST:
                return [events]
            cut.append([])
            far_before = far
        cut[-1].append(event)
    return cut or [events]


def is_far(event: Event, is_here: Callable[[Key], bool], node: str) -> bool:
    """Whether an event is about a pod of another node."""
    if isinstance(event, Upsert):
        found = event.object
        return isinstance(found, Pod) and found.node != node and not is_here(found.key)
    return isinstance(event, Delete) and event.kind is Kind.POD and not is_here(event.key)
