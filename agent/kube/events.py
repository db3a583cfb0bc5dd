"""What happens to objects, as sources tell it and the inventory takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agent.kube.model import Key, Kind, NetworkPolicy, Object


class Upsert(NamedTuple):
    """An object was added or changed; this is the whole of it now."""

    kind: Kind
    object: Object


class Delete(NamedTuple):
    """An object is gone."""

    kind: Kind
    key: Key


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


class Synced(NamedTuple):
    """Every object of a kind that existed when the source started has been told."""

    kind: Kind


Event = Upsert | Delete | Invalid | Synced

Sink = Callable[[Sequence[Event]], None]
"""Where a source puts its events, in order; thread-safe and never blocking for long."""
