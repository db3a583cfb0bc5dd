"""What happens to objects, as sources tell it and the inventory takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.kube.model import Key, Kind, NetworkPolicy, Object


class Origin(NamedTuple):
    """Who changed an object last, as the source tells it; empty where it does not.

    ``manager`` is the program that wrote, by the name that it gave itself, ``operation`` how: ``Apply`` or
    ``Update`` (``managedFields``, meta/v1). ``at`` is when, RFC 3339 text.
    """

    manager: str = ""
    operation: str = ""
    at: str = ""


UNKNOWN = Origin()


class Upsert(NamedTuple):
    """An object was added or changed; this is the whole of it now."""

    kind: Kind
    object: Object
    origin: Origin = UNKNOWN


class Delete(NamedTuple):
    """An object is gone. API servers do not say who deleted it."""

    kind: Kind
    key: Key
    origin: Origin = UNKNOWN


class Problem(NamedTuple):
    """One thing wrong with an object: the field's path, what is wrong, and the remedy."""

    field: str
    message: str


class Invalid(NamedTuple):
    """An object exists that cannot be used as it is.

    The last good version stays in force. Where there is none, ``closed`` is used, when the namespace and
    podSelector could be read: a policy that isolates the pods it selects and allows nothing. An invalid
    namespace has one when it asks for its pods to be isolated.
    """

    kind: Kind
    key: Key
    problems: tuple[Problem, ...]
    closed: NetworkPolicy | None = None
    origin: Origin = UNKNOWN

    def meanwhile(self, good: bool | None) -> str:
        """Say what holds until the object is right; ``good``: whether a good one came before, if known."""
        kept = "the last good version stays in force"
        if good:
            return kept
        without = "it is ignored until it is right"
        if self.closed is not None:
            whose = "the pods it selects" if self.kind is Kind.POLICY else "its pods"
            without = f"{whose} are closed until it is right"
        return without if good is False else f"{kept}, and where there is none, {without}"


class Synced(NamedTuple):
    """Every object of a kind that existed when the source started has been told.

    ``here``: every one on this node has; it is told before, if at all.
    """

    kind: Kind
    here: bool = False


Event = Upsert | Delete | Invalid | Synced

Sink = Callable[[Sequence[Event]], None]
"""Where a source puts its events, in order; thread-safe and never blocking."""

Room = Callable[[], None]
"""Waits while too many events wait. Who calls it holds no lock that another thread may need meanwhile."""


def enough() -> None:
    """Wait for nothing: there is always room."""


def after_room(room: Room, sink: Sink) -> Sink:
    """Return a sink that waits for room each time, for a thread that tells and does nothing else."""

    def put(events: Sequence[Event]) -> None:
        room()
        sink(events)

    return put
