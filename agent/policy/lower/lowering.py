"""The policies in force in the form of sets, kept up to date, and which sets come and go with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agent.net import Family
from agent.policy.lower.lowered import Delta, LoweredPolicy, LoweredProgram, SetId, SetKind
from agent.policy.lower.policy import Lowered, lower_policy, without
from agent.policy.lower.sets import Hidden, Sets
from agent.policy.program import PolicyId, PolicyProgram

EMPTY_SETS = 256
"""A namespace that asks for more sets than this has none for peers that match nobody now."""


class _Left(NamedTuple):
    """The sets that a lowered policy was made of, and those its program asked for, until it changed."""

    shown: set[SetId]
    asked: set[SetId] | frozenset[SetId]


class Lowering:
    """Keeps ``LoweredProgram.policies`` and, by way of :class:`Sets`, ``LoweredProgram.sets``.

    Handles: a policy's program that comes, changes and goes; the same program in other families, or asked for
    anew because one of its sets has gained members; in any order. A policy costs as much as itself.
    """

    def __init__(self, lowered: LoweredProgram, sets: Sets) -> None:
        self._lowered = lowered
        self._sets = sets
        self._hidden: dict[PolicyId, frozenset[SetId]] = {}
        """The sets that policies ask for and that are not made, since they have nobody in them."""
        self._hiding: dict[SetId, set[PolicyId]] = {}
        """The same, by set."""
        self._outgoing: list[_Left] = []

    def put(
        self,
        policy_id: PolicyId,
        program: PolicyProgram,
        families: tuple[Family, ...],
        asked_in_all: int,
        delta: Delta,
        lowered: Lowered | None = None,
    ) -> None:
        """Take a policy's program, in the families in which it is to have rules; note what that changes.

        ``asked_in_all``: how many sets the policies of its namespace ask for. ``lowered``: what
        :func:`lower_policy` makes of it, where that is known.
        """
        if lowered is None:
            lowered = lower_policy(program, policy_id.direction, families)
        for set_id, definition in lowered.sets.items():
            self._sets.acquire(set_id, definition)
        asked = set(lowered.sets)
        spared = self._spared(asked) if asked_in_all > EMPTY_SETS else set[SetId]()
        new = without(lowered.policy, spared)
        old = self._lowered.policies.get(policy_id)
        self._let_go(policy_id, old)
        shown = _sets_of(new)
        for set_id in shown:
            if self._sets.show(set_id):
                delta.sets_added.add(set_id)
        self._hide(policy_id, asked - shown)
        self._lowered.policies[policy_id] = new
        if new != old:
            delta.policies.add(policy_id)

    def remove(self, policy_id: PolicyId, delta: Delta) -> None:
        """Forget a policy, known or not; note what that changes."""
        old = self._lowered.policies.pop(policy_id, None)
        if old is not None:
            self._let_go(policy_id, old)
            delta.policies.add(policy_id)

    def stirred(self) -> Iterator[PolicyId]:
        """Yield the policies that were lowered without a set that has members now; some more than once."""
        for set_id in self._sets.gaining() if self._hiding else ():
            yield from self._hiding.get(set_id, ())

    def drop(self, delta: Delta) -> list[Hidden]:
        """Let go of the sets that no policy asks for any more; return those of pods, as they were before.

        To be called once in a step, after every policy: so a set that passes from one to another never goes.
        """
        dropped: list[Hidden] = []
        for left in self._outgoing:
            for set_id in left.shown:
                hidden = self._sets.hide(set_id)
                if hidden is not None:
                    delta.sets_removed.add(set_id)
                    if set_id.kind is not SetKind.NETWORKS:
                        dropped.append(hidden)
            for set_id in left.asked:
                self._sets.release(set_id)
        self._outgoing.clear()
        return dropped

    def _spared(self, asked: set[SetId]) -> set[SetId]:
        """Return the sets that are not made, since they have nobody in them.

        A set that is there makes the first member's way to the kernel short: so a namespace has them while
        they are few.
        """
        return {set_id for set_id in asked if self._sets.has_nobody(set_id)}

    def _let_go(self, policy_id: PolicyId, old: LoweredPolicy | None) -> None:
        if old is None:
            return
        shown = _sets_of(old)
        hidden = self._hidden.pop(policy_id, frozenset())
        for set_id in hidden:
            self._hiding[set_id].discard(policy_id)
            if not self._hiding[set_id]:
                del self._hiding[set_id]
        self._outgoing.append(_Left(shown, shown | hidden))

    def _hide(self, policy_id: PolicyId, hidden: set[SetId]) -> None:
        if hidden:
            self._hidden[policy_id] = frozenset(hidden)
            for set_id in hidden:
                self._hiding.setdefault(set_id, set()).add(policy_id)

    def sizes(self) -> dict[str, int]:
        return {"sets not made": len(self._hidden) + len(self._hiding), "sets let go": len(self._outgoing)}


def _sets_of(policy: LoweredPolicy) -> set[SetId]:
    return {set_id for rules in policy for rule in rules for set_id in rule.sets()}
