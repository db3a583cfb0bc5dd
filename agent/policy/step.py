"""A step's end: from what the events touched to the program and the delta."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.kube.model import Key
from agent.net import Direction, member_address
from agent.policy.addresses.former_owners import FormerOwners
from agent.policy.addresses.known import moves
from agent.policy.addresses.ownership import Ownership
from agent.policy.addresses.quarantine import Quarantine
from agent.policy.enforcement import Enforcement
from agent.policy.graph import PodIdentity, PodRecord
from agent.policy.lower.lowered import Delta
from agent.policy.lower.sets import Hidden, Sets
from agent.policy.peers.selection import Selection
from agent.policy.program import PodId, PodProgram, Program, Verdict
from agent.policy.touched import Touched

_DIRECTIONS = tuple(Direction)
"""Iterating the enumeration itself costs more than most steps do."""


class Stepper:
    """Moves the program to what the stages hold now, once a step.

    Handles: targets and policies that changed, addresses that changed hands, closed addresses claimed and
    due. Only what was touched is looked at.
    """

    def __init__(
        self,
        program: Program,
        records: Mapping[Key, PodRecord],
        ownership: Ownership,
        sets: Sets,
        enforcement: Enforcement,
        selection: Selection,
        quarantine: Quarantine,
    ) -> None:
        self._program = program
        self._records = records
        self._ownership = ownership
        self._sets = sets
        self._enforcement = enforcement
        self._selection = selection
        self._quarantine = quarantine
        self._former_owners = FormerOwners()
        """Addresses that concerned this node when their pods went."""

    def step(self, touched: Touched, now: float, *, pods_synced: bool, most: int | None = None) -> Delta:
        """Bring the program up to date and return what the step changed.

        ``most``: how much work compiling may be, see :meth:`Enforcement.step`.
        ``pods_synced``: every pod that existed at start was known before the step ended, so that whoever
        claims an address found in the kernel may be another pod than the one it was closed for.
        """
        delta = Delta()
        orphans = self._orphans(touched.gone) if touched.gone else {}
        for key in touched.pods:
            self._update_target(key)
        dropped = self._enforcement.step(delta, most)
        for key in self._selection.take_dirty():
            for direction in _DIRECTIONS:
                self._update_pod(PodId(direction, key), delta)
                self._update_audited(PodId(direction, key), delta)
        delta.members = self._sets.take_changes()
        if self._program.known is not None and touched.owners:
            admitted, expelled = moves(touched.owners, self._ownership.owners, touched.departed)
            delta.admitted, delta.expelled = admitted, expelled
            self._program.known -= expelled
            self._program.known |= admitted
        if touched.departed:
            self._release(touched, delta, dropped, now)
        if self._former_owners:
            self._former_owners.expire(now)
            self._release_taken(touched, delta)
        if orphans or self._quarantine:
            self._update_closed(touched, orphans, delta, now, pods_synced=pods_synced)
        for direction in _DIRECTIONS:
            both = delta.isolated[direction] & delta.opened[direction]
            delta.isolated[direction] -= both
            delta.opened[direction] -= both
        if delta.members:
            self._tell_local(touched, delta)
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

    def _update_target(self, key: Key) -> None:
        record = self._records.get(key)
        owned = self._ownership.owned(record) if record is not None and record.local else ()
        if record is not None and record.group is not None and owned:
            self._selection.set_target(key, record, owned)
        elif key in self._selection.targets:
            self._selection.set_target(key, None)

    def _update_pod(self, pod_id: PodId, delta: Delta) -> None:
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

    def _update_audited(self, pod_id: PodId, delta: Delta) -> None:
        direction, key = pod_id
        audited = self._program.audited
        record = self._selection.targets.get(key)
        tiers = self._selection.auditing(record, direction) if record is not None else None
        if record is None or tiers is None:
            if audited.pop(pod_id, None) is not None:
                delta.audited.add(pod_id)
            return
        new = PodProgram(self._ownership.owned(record), tiers, Verdict.ALLOW)
        if audited.get(pod_id) != new:
            audited[pod_id] = new
            delta.audited.add(pod_id)

    def _release(self, touched: Touched, delta: Delta, dropped: list[Hidden], now: float) -> None:
        owners = self._ownership.owners
        left = {member_address(m) for membership in delta.members.values() for m in membership.removed}
        left.update(*(hidden.had(touched.departed.keys()) for hidden in dropped))
        for address, pods in touched.departed.items():
            owner = owners.get(address)
            if owner is not None and pods == {owner.identity}:
                continue
            before = touched.owners[address]
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

    def _release_taken(self, touched: Touched, delta: Delta) -> None:
        """Release addresses that a pod left in an earlier step and that another pod has now."""
        for address in touched.owners:
            owner = self._ownership.owners.get(address)
            if owner is None:
                continue
            pods = self._former_owners.take(address)
            if pods is not None and pods != {owner.identity}:
                delta.released.add(address)

    def _update_closed(
        self,
        touched: Touched,
        orphans: dict[bytes, tuple[PodIdentity, list[Direction]]],
        delta: Delta,
        now: float,
        *,
        pods_synced: bool,
    ) -> None:
        owners = self._ownership.owners
        for address in touched.owners:
            owner = owners.get(address)
            if owner is not None and address in self._quarantine:
                pod, directions = self._quarantine.open(address)
                for direction in directions:
                    delta.opened[direction].add(address)
                # Its last pod went in an earlier step, but may have run and had connections until now.
                if pod != owner.identity if pod is not None else pods_synced:
                    delta.released.add(address)
        for pod in touched.deleted:
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

    def _tell_local(self, touched: Touched, delta: Delta) -> None:
        owners = self._ownership.owners
        for added, removed in delta.members.values():
            for member in (*added, *removed):
                address = member_address(member)
                if address is None:
                    continue
                owner = owners.get(address)
                before = touched.owners.get(address, owner)
                if (owner is not None and owner.local) or (before is not None and before.local):
                    delta.local.add(address)

    def sizes(self) -> dict[str, int]:
        return {
            "vacated": len(self._former_owners),
        }
