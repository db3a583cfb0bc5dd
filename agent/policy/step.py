"""The end of a step: from what the events touched to the program and its delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.kube.model import Key, NetworkPolicy
from agent.net import Direction, Family, Member, member_address
from agent.policy.addresses.former_owners import FormerOwners
from agent.policy.addresses.ownership import Ownership
from agent.policy.addresses.quarantine import Quarantine
from agent.policy.budget.census import Census
from agent.policy.budget.ledger import Ledger
from agent.policy.budget.limits import Budgets
from agent.policy.budget.turns import Turns
from agent.policy.graph import PodIdentity, PodRecord
from agent.policy.lower.lowered import Delta, LoweredPolicy, LoweredProgram, SetId, SetKind
from agent.policy.lower.policy import compile_policy, without
from agent.policy.lower.sets import Sets
from agent.policy.peers.active_selectors import ActiveSelectors
from agent.policy.peers.identities import Identities
from agent.policy.peers.selection import Selection
from agent.policy.program import PodId, PodProgram, PolicyId
from agent.policy.touched import Touched

_DIRECTIONS = tuple(Direction)
"""Iterating the enumeration itself costs more than most steps do."""


EMPTY_SETS = 256
"""A namespace that asks for more sets than this has none for peers that match nobody now."""


class _Left(NamedTuple):
    """The sets that a program was made of and the policy asked for, until it changed."""

    shown: set[SetId]
    asked: set[SetId] | frozenset[SetId]


class Stepper:
    """Moves the program to what the stages hold now, once a step.

    Handles: targets and policies that changed, addresses that changed hands, closed addresses claimed and
    due. Only what was touched is looked at. A policy is compiled while at least one target is selected by
    it and its namespace's budget has room for it.

    A policy that has to be compiled may have to wait for a later step: its pods are isolated meanwhile, and
    what it allows follows. One that is edited is enforced as it was until then, unless it has come to select
    other pods or to name other directions.
    """

    def __init__(
        self,
        program: LoweredProgram,
        records: Mapping[Key, PodRecord],
        ownership: Ownership,
        sets: Sets,
        selection: Selection,
        lingering: Quarantine,
        groups: Identities,
        terms: ActiveSelectors,
        budgets: Budgets,
    ) -> None:
        self._program = program
        self._records = records
        self._ownership = ownership
        self._sets = sets
        self._selection = selection
        self._quarantine = lingering
        self._identities = groups
        self._selectors = terms
        self._census = Census(groups, terms, sets.named, selection.families)
        self.ledger = Ledger(budgets, self._census.most)
        self.turns = Turns()
        """Policies that wait to be compiled."""
        self._hidden: dict[PolicyId, frozenset[SetId]] = {}
        """The sets that policies ask for and that are not made, since they have nobody in them."""
        self._hiding: dict[SetId, set[PolicyId]] = {}
        """The same, by set."""
        self._families: tuple[Family, ...] = ()
        """Those in which targets have addresses: in another no packet comes to a policy's rules."""
        self._former_owners = FormerOwners()
        """Addresses that concerned this node when their pods went."""

    def settle(self, journal: Touched, now: float, *, pods_synced: bool, most: int | None = None) -> Delta:
        """Bring the program up to date and return what the step changed.

        ``most``: how much work compiling may be, in rules; None: any. What is left over waits for its turn.
        ``pods_synced``: every pod that existed at start was known before the step ended, so that whoever
        claims an address found in the kernel may be another pod than the one it was closed for.
        """
        delta = Delta()
        orphans = self._orphans(journal.gone) if journal.gone else {}
        for key in journal.touched:
            self._settle_target(key)
        dropped = self._settle_policies(delta, most)
        for key in self._selection.take_dirty():
            for direction in _DIRECTIONS:
                self._settle_pod(PodId(direction, key), delta)
        delta.members = self._sets.take_changes()
        if journal.departed:
            self._settle_released(journal, delta, dropped, now)
        if self._former_owners:
            self._former_owners.expire(now)
            self._settle_vacated(journal, delta)
        if orphans or self._quarantine:
            self._settle_closed(journal, orphans, delta, now, pods_synced=pods_synced)
        for direction in _DIRECTIONS:
            both = delta.isolated[direction] & delta.opened[direction]
            delta.isolated[direction] -= both
            delta.opened[direction] -= both
        if delta.members:
            self._settle_local(journal, delta)
        return delta

    def _orphans(self, gone: Iterable[PodRecord]) -> dict[bytes, tuple[PodIdentity, list[Direction]]]:
        """Return where pods that went were isolated, and how; the program is still the old one."""
        found: dict[bytes, tuple[PodIdentity, list[Direction]]] = {}
        for record in gone:
            for direction in _DIRECTIONS:
                pod = self._program.pods.get(PodId(direction, record.pod.key))
                for address in pod.addresses if pod is not None else ():
                    if address in record.pod.addresses:
                        found.setdefault(address, (record.identity, []))[1].append(direction)
        return found

    def _settle_target(self, key: Key) -> None:
        record = self._records.get(key)
        owned = self._ownership.owned(record) if record is not None and record.local else ()
        if record is not None and record.group is not None and owned:
            self._selection.set_target(key, record, owned)
        elif key in self._selection.targets:
            self._selection.set_target(key, None)

    def _settle_pod(self, pod_id: PodId, delta: Delta) -> None:
        direction, key = pod_id
        record = self._selection.targets.get(key)
        policies = self._selection.selecting(record, direction) if record is not None else None
        new = None
        if record is not None and policies is not None:
            new = PodProgram(self._ownership.owned(record), policies)
        old = self._program.pods.get(pod_id)
        if new == old:
            return
        delta.pods.add(pod_id)
        if new is not None:
            self._program.pods[pod_id] = new
            delta.isolated[direction].update(new.addresses)
        else:
            del self._program.pods[pod_id]
        if old is not None:
            delta.opened[direction].update(old.addresses)

    def _settle_policies(self, delta: Delta, most: int | None) -> list[set[Member]]:
        """Compile what changed and has its turn; return the members that sets which went had before."""
        selection, outgoing = self._selection, list[_Left]()
        families = selection.families()
        if families != self._families:
            self.ledger.doubt()
        changed = self._admit(selection.take_moved())
        for key in changed:
            policy = selection.policy(key)
            if policy is None or not selection.reach(key) or key in self.ledger.excess:
                self.turns.discard(key)
                self._enforce(key, None, delta, outgoing)
            elif selection.enforced(key) != policy:
                self.turns.put(key, _work(self.ledger, key))
        if families != self._families:
            self._families = families
            for key in selection.all_enforced():
                self.turns.put(key, _work(self.ledger, key))
        for set_id in self._sets.gaining() if self._hiding else ():
            for policy_id in self._hiding.get(set_id, ()):
                self.turns.put(policy_id.policy, _work(self.ledger, policy_id.policy))
        for key in self.turns.take(most):
            self._enforce(key, selection.policy(key), delta, outgoing)
        for key in changed:
            if key in self.turns:
                held, policy = selection.enforced(key), selection.policy(key)
                if held is not None and (policy is None or not _selects_alike(held, policy)):
                    # It would allow to pods for which nobody ever meant it.
                    self._enforce(key, None, delta, outgoing)
        # Only now, so that a set which passes from one policy to another never goes.
        dropped: list[set[Member]] = []
        for left in outgoing:
            for set_id in left.shown:
                members = self._sets.hide(set_id)
                if members is not None:
                    delta.sets_removed.add(set_id)
                    if set_id.kind is not SetKind.NETWORKS:
                        dropped.append(members)
            for set_id in left.asked:
                self._sets.release(set_id)
        return dropped

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
        changed = moved | self.ledger.settle()
        self._census.forget()
        return changed

    def _enforce(self, key: Key, policy: NetworkPolicy | None, delta: Delta, outgoing: list[_Left]) -> None:
        """Have a policy enforced as it is now, or not at all; note the sets that it lets go of."""
        if policy is None and self._selection.enforced(key) is None:
            return
        for direction in _DIRECTIONS:
            policy_id = PolicyId(direction, key)
            old = self._program.policies.get(policy_id)
            compiled = compile_policy(policy, direction, self._families) if policy is not None else None
            if compiled is None and old is None:
                continue
            new = None
            asked = set(compiled.sets) if compiled is not None else set[SetId]()
            if compiled is not None:
                for set_id in asked:
                    self._sets.acquire(set_id, compiled.sets[set_id])
                new = without(compiled.program, self._spared(key, asked))
            self._let_go(policy_id, old, outgoing)
            shown = set[SetId]()
            if new is not None:
                shown = _sets_of(new)
                for set_id in shown:
                    if self._sets.show(set_id):
                        delta.sets_added.add(set_id)
                self._program.policies[policy_id] = new
            else:
                del self._program.policies[policy_id]
            self._hide(policy_id, asked - shown)
            if new != old:
                delta.policies.add(policy_id)
        self._selection.set_enforced(key, policy)

    def _spared(self, key: Key, asked: set[SetId]) -> set[SetId]:
        """Return the sets of a policy that are not made, since they have nobody in them.

        A set that is there makes the first member's way to the kernel short: so a namespace has them while
        they are few.
        """
        if self.ledger.sets_of(key.namespace) <= EMPTY_SETS:
            return set()
        return {set_id for set_id in asked if self._sets.has_nobody(set_id)}

    def _let_go(self, policy_id: PolicyId, old: LoweredPolicy | None, outgoing: list[_Left]) -> None:
        if old is None:
            return
        shown = _sets_of(old)
        hidden = self._hidden.pop(policy_id, frozenset())
        for set_id in hidden:
            self._hiding[set_id].discard(policy_id)
            if not self._hiding[set_id]:
                del self._hiding[set_id]
        outgoing.append(_Left(shown, shown | hidden))

    def _hide(self, policy_id: PolicyId, hidden: set[SetId]) -> None:
        if hidden:
            self._hidden[policy_id] = frozenset(hidden)
            for set_id in hidden:
                self._hiding.setdefault(set_id, set()).add(policy_id)

    def _settle_released(
        self, journal: Touched, delta: Delta, dropped: list[set[Member]], now: float
    ) -> None:
        owners = self._ownership.owners
        left = {member_address(m) for membership in delta.members.values() for m in membership.removed}
        left.update(member_address(m) for members in dropped for m in members)
        for address, pods in journal.departed.items():
            owner = owners.get(address)
            if owner is not None and pods == {owner.identity}:
                continue
            before = journal.owners[address]
            was_local = before is not None and before.local
            if (
                address in left
                or was_local
                or (owner is not None and (owner.local or self._sets.concerns(owner, address)))
            ):
                delta.released.add(address)
                if owner is None:
                    self._former_owners.leave(address, frozenset(pods), now, local=was_local)
                    if not was_local:
                        delta.vacant.add(address)

    def _settle_vacated(self, journal: Touched, delta: Delta) -> None:
        """Release addresses that a pod left in an earlier step and that another pod has now."""
        for address in journal.owners:
            owner = self._ownership.owners.get(address)
            if owner is None:
                continue
            pods = self._former_owners.take(address)
            if pods is not None and pods != {owner.identity}:
                delta.released.add(address)

    def _settle_closed(
        self,
        journal: Touched,
        orphans: dict[bytes, tuple[PodIdentity, list[Direction]]],
        delta: Delta,
        now: float,
        *,
        pods_synced: bool,
    ) -> None:
        owners = self._ownership.owners
        for address in journal.owners:
            owner = owners.get(address)
            if owner is not None and address in self._quarantine:
                pod, directions = self._quarantine.open(address)
                for direction in directions:
                    delta.opened[direction].add(address)
                # Its last pod went in an earlier step, but may have run and had connections until now.
                if pod != owner.identity if pod is not None else pods_synced:
                    delta.released.add(address)
        for pod in journal.deleted:
            self._quarantine.renew(pod, now)
        for address in self._quarantine.due(now):
            _, directions = self._quarantine.open(address)
            delta.released.add(address)
            delta.vacant.discard(address)
            for direction in directions:
                delta.opened[direction].add(address)
        for address, (pod, directions) in orphans.items():
            if address not in owners and self._quarantine.close(address, directions, pod, now):
                for direction in directions:
                    delta.isolated[direction].add(address)

    def _settle_local(self, journal: Touched, delta: Delta) -> None:
        owners = self._ownership.owners
        for added, removed in delta.members.values():
            for member in (*added, *removed):
                address = member_address(member)
                if address is None:
                    continue
                owner = owners.get(address)
                before = journal.owners.get(address, owner)
                if (owner is not None and owner.local) or (before is not None and before.local):
                    delta.local.add(address)

    def sizes(self) -> dict[str, int]:
        return {
            "sets not made": len(self._hidden) + len(self._hiding),
            "waiting": len(self.turns),
            "vacated": len(self._former_owners),
            **self.ledger.sizes(),
        }


def _sets_of(program: LoweredPolicy) -> set[SetId]:
    return {set_id for rules in program for rule in rules for set_id in rule.sets()}


_NETWORKS_OF_A_RULE = 10
"""So many networks take as long as one rule of the kernel, and a set as long as two."""

_SELECTORS_OF_A_RULE = 5
"""So many labels that selectors name, or named ports, take as long as one rule, though no pod has them."""

_MEMBERS_OF_A_RULE = 50
"""So many pods of a set take as long as one rule, at most."""


def _work(ledger: Ledger, key: Key) -> int:
    """Return how long a policy takes, from its text to the kernel, in rules."""
    one = ledger.cost(key)
    members = ledger.members(key) // _MEMBERS_OF_A_RULE
    selectors = one.cost.selectors // _SELECTORS_OF_A_RULE
    return one.rules + 2 * len(one.cost.sets) + one.cost.networks // _NETWORKS_OF_A_RULE + selectors + members


def _selects_alike(one: NetworkPolicy, other: NetworkPolicy) -> bool:
    """Whether two versions of a policy select the same pods and name the same directions."""
    return one.pod_selector == other.pod_selector and all(
        (one.rules(direction) is None) is (other.rules(direction) is None) for direction in _DIRECTIONS
    )
