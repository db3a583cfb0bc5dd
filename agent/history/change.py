"""Changes of enforcement as values: as the loop tells them, and as they are kept and served."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec

from agent.clock import Moment
from agent.kube.model import Object


class Subject(enum.StrEnum):
    """What a row of the history is about."""

    POLICY = "policy"
    POD = "pod"
    NAMESPACE = "namespace"
    NODE = "node"
    REMOTE_PODS = "remote-pods"
    """Pods of other nodes, of one namespace: many changes in one row."""
    AGENT = "agent"
    OUTAGE = "outage"
    REPAIR = "repair"
    FAULT = "fault"
    BUDGET = "budget"
    HISTORY = "history"
    CONNECTIONS = "connections"
    """Connections of a pod of this node."""


class What(enum.StrEnum):
    """What happened to it."""

    ADDED = "added"
    CHANGED = "changed"
    DELETED = "deleted"
    ENABLED = "enabled"
    """A policy is enforced, and was not."""
    AUDITED = "audited"
    """A policy is audited from now on."""
    DISABLED = "disabled"
    CONFIRMED = "confirmed"
    """A person has said that a policy of others is meant to be there."""
    REFUSED = "refused"
    STARTED = "started"
    ENFORCING = "enforcing"
    STOPPED = "stopped"
    BEGUN = "begun"
    ENDED = "ended"
    MADE = "made"
    LOST = "lost"
    CUT = "cut"


class Effect(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a change did on this node.

    ``isolated_...`` and ``opened_...``: the pods of this node that became isolated in a direction, or open
    again. ``selected``: the pods of this node that a policy selects, or did until now; ``open``: those of
    them that no policy isolates, as where the policy is audited or disabled. ``policies``: those that isolate
    the pod now, for a row about a pod. The numbers of sets and of their members are of all changes that were
    made in one step; ``together`` is how many these were, 1 if it was alone.
    """

    isolated_ingress: tuple[str, ...] = ()
    isolated_egress: tuple[str, ...] = ()
    opened_ingress: tuple[str, ...] = ()
    opened_egress: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    sets_added: int = 0
    sets_removed: int = 0
    members_added: int = 0
    members_removed: int = 0
    together: int = 1
    open: tuple[str, ...] = ()

    def pods(self) -> frozenset[str]:
        """Return the pods of this node that it concerns."""
        return frozenset(
            (
                *self.isolated_ingress,
                *self.isolated_egress,
                *self.opened_ingress,
                *self.opened_egress,
                *self.selected,
            )
        )


NO_EFFECT = Effect()


def pods_of(effect: Effect) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return what became of pods, by what: in words that a line of the log or of a table takes."""
    return (
        ("isolated_ingress", effect.isolated_ingress),
        ("isolated_egress", effect.isolated_egress),
        ("opened_ingress", effect.opened_ingress),
        ("opened_egress", effect.opened_egress),
        ("selected", effect.selected),
        ("open", effect.open),
        ("policies", effect.policies),
    )


def counts_of(effect: Effect) -> tuple[tuple[str, int], ...]:
    """Return how many sets and members came and went, by what."""
    return (
        ("sets_added", effect.sets_added),
        ("sets_removed", effect.sets_removed),
        ("members_added", effect.members_added),
        ("members_removed", effect.members_removed),
    )


class Change(NamedTuple):
    """One change as the loop tells it. Times are ``time.time()`` seconds.

    ``number``: of this change in this run, from 1. ``api``: when the API server had it, None if it does not
    say; ``seen``: when this node saw it; ``kernel``: when the kernel had it, None if it has not yet.
    ``old`` and ``new``: the object before and after, for the diff. ``detail``: more lines for people.
    ``stands_for``: how many changes this one is.
    """

    number: int
    subject: Subject
    what: What
    seen: float
    namespace: str = ""
    name: str = ""
    api: float | None = None
    kernel: float | None = None
    who: str = ""
    old: Object | None = None
    new: Object | None = None
    detail: tuple[str, ...] = ()
    effect: Effect = NO_EFFECT
    stands_for: int = 1


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change as it is kept and served.

    ``object`` is ``NAMESPACE/NAME``, or the name alone where there is no namespace. ``diff`` has a line for
    each part that came (``+``) or went (``-``). ``who`` is empty where the API server does not say it.
    """

    subject: Subject
    what: What
    seen: Moment
    object: str = ""
    api: Moment | None = None
    kernel: Moment | None = None
    who: str = ""
    diff: tuple[str, ...] = ()
    detail: tuple[str, ...] = ()
    effect: Effect = NO_EFFECT
    count: int = 1


def object_text(namespace: str, name: str) -> str:
    """Return how an object is named: ``NAMESPACE/NAME``, or the one of the two that it has."""
    return f"{namespace}/{name}" if namespace and name else namespace or name
