"""Which policies are enforced as written: they have targets, room in the budgets, and had their turn."""

from __future__ import annotations

import msgspec

from agent.kube.mode import Mode
from agent.kube.model import Key, NetworkPolicy
from agent.net import Direction, Family
from agent.policy.budget.census import Census
from agent.policy.budget.ledger import Ledger
from agent.policy.budget.limits import Budgets
from agent.policy.budget.turns import Turns
from agent.policy.compile import compile_policy
from agent.policy.graph import PodRecord
from agent.policy.lower.cost import work_of
from agent.policy.lower.lowered import Delta
from agent.policy.lower.lowering import Lowering
from agent.policy.lower.preparing import Preparing
from agent.policy.lower.sets import Hidden, Sets
from agent.policy.peers.active_selectors import ActiveSelectors
from agent.policy.peers.identities import Identities
from agent.policy.peers.selection import Selection
from agent.policy.program import PolicyId, PolicyProgram

_DIRECTIONS = tuple(Direction)

_MANY_MEMBERS = 4_000
"""The sets of a policy with more are filled in several steps: 10,000 members take some 10 ms, and as long to
match their pods."""
_MANY_NETWORKS = 2_000
"""A policy with more is lowered in a step of its own: 10,000 networks take some 15 ms."""
_MEMBERS_AT_ONCE, _FORGOTTEN_AT_ONCE = 10, 30
"""Members that are filled, or else forgotten, at once, for each rule that a step may compile."""


class Enforcement:
    """Keeps ``Program.policies``, and has each of them lowered.

    Handles: a policy that comes, changes, goes, selects other targets or none, is over budget or no longer;
    targets in another family; a set that was spared and has members now. A policy is compiled while at least
    one target is selected by it and its namespace's budget has room for it.

    A policy that has to be compiled may have to wait for a later step: its pods are isolated meanwhile, and
    what it allows follows. One that is edited is enforced as it was until then, unless it has come to select
    other pods or to name other directions, or was audited: what it said then, nobody has enforced yet.
    """

    def __init__(
        self,
        policies: dict[PolicyId, PolicyProgram],
        lowering: Lowering,
        sets: Sets,
        selection: Selection,
        identities: Identities,
        selectors: ActiveSelectors,
        budgets: Budgets,
    ) -> None:
        self._policies = policies
        self._lowering = lowering
        self._sets = sets
        self._selection = selection
        self._identities = identities
        self._selectors = selectors
        self._census = Census(identities, selectors, sets.named, selection.families)
        self.ledger = Ledger(budgets, self._census.most)
        self._preparing = Preparing(sets)
        self.turns = Turns()
        """Policies that wait to be compiled."""
        self._families: tuple[Family, ...] = ()
        """Those in which targets have addresses: in another no packet comes to a policy's rules."""

    def step(self, delta: Delta, most: int | None) -> list[Hidden]:
        """Compile what changed and has its turn; return the sets that went, as they were before.

        ``most``: how much work compiling may be, in rules; None: any. What is left over waits for its turn.
        """
        selection = self._selection
        families = selection.families()
        if families != self._families:
            self.ledger.doubt()
        changed = self._admit(selection.take_moved())
        for key in changed:
            policy = selection.policy(key)
            if policy is None or not selection.reach(key) or key in self.ledger.excess:
                self.turns.discard(key)
                self._preparing.let_go(key)
                self._enforce(key, None, delta)
            elif (held := selection.enforced(key)) is not None and _says_alike(held, policy):
                # Audited or not: that changes which pods ask it, not what it says.
                if held != policy:
                    selection.set_enforced(key, policy)
            elif held != policy:
                self.turns.put(key, _work(self.ledger, key))
        if families != self._families:
            self._families = families
            for key in selection.all_enforced():
                self.turns.put(key, _work(self.ledger, key))
        for policy_id in self._lowering.stirred():
            self.turns.put(policy_id.policy, _work(self.ledger, policy_id.policy))
        # In one step both would take twice as long, and the memory is needed for those that are filled.
        forgetting = self._sets.unforgotten > 0
        for key in self.turns.take(most):
            if most is None or self._is_prepared(key, 0 if forgetting else _MEMBERS_AT_ONCE * most):
                self._enforce(key, selection.policy(key), delta)
                self._preparing.let_go(key)
        for key in changed:
            if key in self.turns:
                held, policy = selection.enforced(key), selection.policy(key)
                if held is not None and (policy is None or not _may_stand_in(held, policy)):
                    # It would allow to pods for which nobody ever meant it.
                    self._enforce(key, None, delta)
        dropped = self._lowering.drop(delta)
        if forgetting or most is None:
            self._sets.forget(None if most is None else _FORGOTTEN_AT_ONCE * most)
        return dropped

    @property
    def waiting(self) -> int:
        """How many policies wait to be compiled, or sets to be forgotten."""
        return len(self.turns) or self._sets.unforgotten

    def waits_for(self, target: PodRecord) -> bool:
        """Whether a policy that selects a target waits to be compiled."""
        group = target.group
        if group is None or not self.turns.waits_in(group.namespace):
            return False
        waiting = (key for key in self.turns if key.namespace == group.namespace)
        policies = (self._selection.policy(key) for key in waiting)
        return any(found is not None and found.pod_selector.matches(group.labels) for found in policies)

    def _is_large(self, key: Key) -> bool:
        networks = self.ledger.cost(key).cost.networks
        return networks > _MANY_NETWORKS or self.ledger.members(key) > _MANY_MEMBERS

    def _is_prepared(self, key: Key, most: int) -> bool:
        """Prepare a part of a policy that is large: so many members, or another part; 0: nothing.

        Return whether all is prepared, else it waits again.
        """
        policy = self._selection.policy(key)
        if policy is None or not self._is_large(key):
            return True
        left, of = self._preparing.go_on(key, policy, self._families, most)
        if left:
            self.turns.put(key, max(1, _work(self.ledger, key) * left // of))
        return not left

    def _admit(self, moved: set[Key]) -> set[Key]:
        """Hold policies that changed against the budgets; return all that may have to change with them."""
        moved_by = self._sets.touched + self._selectors.matched
        self.ledger.recount(moved_by, self._identities.stirred, self._identities.total)
        for key in moved:
            policy, reach = self._selection.policy(key), self._selection.reach(key)
            if policy is None or not reach:
                self.ledger.remove(key)
            else:
                self.ledger.put(key, policy, reach)
        changed = moved | self.ledger.decide()
        self._census.forget()
        return changed

    def _enforce(self, key: Key, policy: NetworkPolicy | None, delta: Delta) -> None:
        """Have a policy enforced as it is now, or not at all."""
        if policy is None and self._selection.enforced(key) is None:
            return
        for direction in _DIRECTIONS:
            policy_id = PolicyId(direction, key)
            new = compile_policy(policy, direction) if policy is not None else None
            if new is not None:
                self._policies[policy_id] = new
                asked = self.ledger.sets_of(key.namespace)
                known = self._preparing.lowered(key, policy, self._families, direction) if policy else None
                self._lowering.put(policy_id, new, self._families, asked, delta, known)
            elif self._policies.pop(policy_id, None) is not None:
                self._lowering.remove(policy_id, delta)
        self._selection.set_enforced(key, policy)

    def sizes(self) -> dict[str, int]:
        return {"waiting": len(self.turns), **self._preparing.sizes(), **self.ledger.sizes()}


def _work(ledger: Ledger, key: Key) -> int:
    """Return how long a policy takes, from its text to the kernel, in rules."""
    one = ledger.cost(key)
    return work_of(one.cost, one.rules, ledger.members(key))


def _says_alike(one: NetworkPolicy, other: NetworkPolicy) -> bool:
    """Whether two versions of a policy are the same but for their modes."""
    return msgspec.structs.replace(one, staging=other.staging) == other


def _may_stand_in(held: NetworkPolicy, policy: NetworkPolicy) -> bool:
    """Whether an earlier version may be enforced until a policy is compiled.

    It must select the same pods and name the same directions, and must not have been audited: its rules
    would allow beside those of policies that are enforced.
    """
    return (
        (held.mode() is Mode.ENFORCE or policy.mode() is Mode.AUDIT)
        and held.pod_selector == policy.pod_selector
        and all((held.rules(d) is None) is (policy.rules(d) is None) for d in _DIRECTIONS)
    )
