"""The end of a step: from what the events touched to the program and its delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.kube.model import Key, NetworkPolicy
from agent.net import Direction, Family, Member, member_address
from agent.policy.addresses.former_owners import FormerOwners
from agent.policy.addresses.ownership import Ownership
from agent.policy.addresses.quarantine import Quarantine
from agent.policy.budget.census import Census
from agent.policy.budget.ledger import Ledger
from agent.policy.budget.limits import Budgets
from agent.policy.budget.turns import Turns
from agent.policy.compile import compile_policy
from agent.policy.graph import PodIdentity, PodRecord
from agent.policy.lower.cost import work_of
from agent.policy.lower.lowered import Delta
from agent.policy.lower.lowering import Lowering
from agent.policy.lower.sets import Sets
from agent.policy.peers.active_selectors import ActiveSelectors
from agent.policy.peers.identities import Identities
from agent.policy.peers.selection import Selection
from agent.policy.program import PodId, PodProgram, PolicyId, Program
from agent.policy.touched import Touched

_DIRECTIONS = tuple(Direction)
"""Iterating the enumeration itself costs more than most steps do."""


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
        program: Program,
        records: Mapping[Key, PodRecord],
        ownership: Ownership,
        sets: Sets,
        lowering: Lowering,
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
        self._lowering = lowering
        self._selection = selection
        self._quarantine = lingering
        self._identities = groups
        self._selectors = terms
        self._census = Census(groups, terms, sets.named, selection.families)
        self.ledger = Ledger(budgets, self._census.most)
        self.turns = Turns()
        """Policies that wait to be compiled."""
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
        tiers = self._selection.judging(record, direction) if record is not None else None
        new = None
        if record is not None and tiers is not None:
            new = PodProgram(self._ownership.owned(record), tiers)
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
        selection = self._selection
        families = selection.families()
        if families != self._families:
            self.ledger.doubt()
        changed = self._admit(selection.take_moved())
        for key in changed:
            policy = selection.policy(key)
            if policy is None or not selection.reach(key) or key in self.ledger.excess:
                self.turns.discard(key)
                self._enforce(key, None, delta)
            elif selection.enforced(key) != policy:
                self.turns.put(key, _work(self.ledger, key))
        if families != self._families:
            self._families = families
            for key in selection.all_enforced():
                self.turns.put(key, _work(self.ledger, key))
        for policy_id in self._lowering.stirred():
            self.turns.put(policy_id.policy, _work(self.ledger, policy_id.policy))
        for key in self.turns.take(most):
            self._enforce(key, selection.policy(key), delta)
        for key in changed:
            if key in self.turns:
                held, policy = selection.enforced(key), selection.policy(key)
                if held is not None and (policy is None or not _selects_alike(held, policy)):
                    # It would allow to pods for which nobody ever meant it.
                    self._enforce(key, None, delta)
        return self._lowering.drop(delta)

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

    def _enforce(self, key: Key, policy: NetworkPolicy | None, delta: Delta) -> None:
        """Have a policy enforced as it is now, or not at all."""
        if policy is None and self._selection.enforced(key) is None:
            return
        policies = self._program.policies
        for direction in _DIRECTIONS:
            policy_id = PolicyId(direction, key)
            new = compile_policy(policy, direction) if policy is not None else None
            if new is not None:
                policies[policy_id] = new
                asked = self.ledger.sets_of(key.namespace)
                self._lowering.put(policy_id, new, self._families, asked, delta)
            elif policies.pop(policy_id, None) is not None:
                self._lowering.remove(policy_id, delta)
        self._selection.set_enforced(key, policy)

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
            "waiting": len(self.turns),
            "vacated": len(self._former_owners),
            **self.ledger.sizes(),
        }


def _work(ledger: Ledger, key: Key) -> int:
    """Return how long a policy takes, from its text to the kernel, in rules."""
    one = ledger.cost(key)
    return work_of(one.cost, one.rules, ledger.members(key))


def _selects_alike(one: NetworkPolicy, other: NetworkPolicy) -> bool:
    """Whether two versions of a policy select the same pods and name the same directions."""
    return one.pod_selector == other.pod_selector and all(
        (one.rules(direction) is None) is (other.rules(direction) is None) for direction in _DIRECTIONS
    )
