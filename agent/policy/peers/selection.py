"""Which policies select which of this node's pods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from agent.kube.mode import Mode
from agent.kube.model import Key, NetworkPolicy
from agent.net import Direction, Family, family_of
from agent.policy.graph import Identity, PodRecord
from agent.policy.program import PodId, Tier, network_policies

_DIRECTIONS = tuple(Direction)


class _LocalGroup:
    """The targets in one group, and what the policies of their namespace mean for them.

    ``isolating``: how many policies that select them name each direction, ``auditing``: how many of those
    that are audited. ``enforced``: those that select them and are compiled. Of the others nothing is kept
    here, however many there are.
    """

    __slots__ = ("auditing", "enforced", "isolating", "pods", "tiers")

    def __init__(self) -> None:
        self.pods: set[Key] = set()
        self.isolating = dict.fromkeys(_DIRECTIONS, 0)
        self.auditing = dict.fromkeys(_DIRECTIONS, 0)
        self.enforced: dict[Key, NetworkPolicy] = {}
        self.tiers: dict[Direction, tuple[Tier, ...]] = {}
        """The policies that judge in a direction, or are audited in it, sorted, once somebody asked."""

    def count(self, policy: NetworkPolicy, by: int) -> bool:
        """Count a policy that selects the targets; return whether one of its kind begins to, or ends."""
        turned = False
        counts = self.auditing if policy.mode() is Mode.AUDIT else self.isolating
        for direction in _DIRECTIONS:
            if policy.rules(direction) is not None:
                before = counts[direction]
                counts[direction] = before + by
                turned = turned or (before == 0) is not (before + by == 0)
        return turned


class Selection:
    """Keeps, for each target (a local live pod that owns an address), the policies that select it.

    Handles: a policy added, changed and deleted, compiled and not compiled, a target added, changed and
    deleted, in any order. A policy is matched once for each group of targets in its own namespace. Whether
    it is audited its ``mode`` says, without the namespace (:class:`agent.policy.staging.Staging`).
    """

    def __init__(self) -> None:
        self.targets: dict[Key, PodRecord] = {}
        self._policies: dict[str, dict[Key, NetworkPolicy]] = {}
        self._identities: dict[str, dict[Identity, _LocalGroup]] = {}
        self._enforced: dict[Key, NetworkPolicy] = {}
        self._reach: Counter[Key] = Counter()
        self._families: Counter[Family] = Counter()
        self._addresses: dict[Key, tuple[bytes, ...]] = {}
        self._dirty: set[Key] = set()
        self._moved: set[Key] = set()

    def set_policy(self, key: Key, policy: NetworkPolicy | None) -> bool:
        """Take a policy in force (None: it is gone); return whether that changed anything."""
        in_namespace = self._policies.get(key.namespace, {})
        old = in_namespace.get(key)
        if old == policy:
            return False
        if policy is not None:
            self._policies.setdefault(key.namespace, in_namespace)[key] = policy
        else:
            del in_namespace[key]
            if not in_namespace:
                del self._policies[key.namespace]
        for group, local in self._identities.get(key.namespace, {}).items():
            before = old is not None and old.pod_selector.matches(group.labels)
            after = policy is not None and policy.pod_selector.matches(group.labels)
            if not before and not after:
                continue
            turned = before and old is not None and local.count(old, -1)
            turned = (after and policy is not None and local.count(policy, 1)) or turned
            self._reach[key] += after - before
            enforced = self._enforced.get(key)
            if enforced is not None:
                if after:
                    local.enforced[key] = enforced
                else:
                    local.enforced.pop(key, None)
            if turned or enforced is not None:
                local.tiers = {}
                self._dirty |= local.pods
        self._moved.add(key)
        if not self._reach[key]:
            del self._reach[key]
        return True

    def set_enforced(self, key: Key, policy: NetworkPolicy | None) -> None:
        """Take the version of a policy that is enforced (None: none is)."""
        if policy is not None:
            self._enforced[key] = policy
        elif self._enforced.pop(key, None) is None:
            return
        wanted = self.policy(key)
        for group, local in self._identities.get(key.namespace, {}).items():
            if policy is None:
                if local.enforced.pop(key, None) is None:
                    continue
            elif wanted is not None and wanted.pod_selector.matches(group.labels):
                local.enforced[key] = policy
            else:
                continue
            local.tiers = {}
            self._dirty |= local.pods

    def set_target(self, key: Key, record: PodRecord | None, addresses: tuple[bytes, ...] = ()) -> None:
        """Take a version of a target and the addresses that it owns (None: it is none any more)."""
        old = self.targets.get(key)
        if old is not None and old.group is not None and (record is None or record.group is not old.group):
            self._leave(key, old.group)
        self._families.subtract(map(family_of, self._addresses.pop(key, ())))
        if record is None or record.group is None:
            self.targets.pop(key, None)
        else:
            self.targets[key] = record
            self._addresses[key] = addresses
            self._families.update(map(family_of, addresses))
            self._join(key, record.group)
        self._dirty.add(key)

    def families(self) -> tuple[Family, ...]:
        """Return the families in which targets have addresses."""
        return tuple(family for family in Family if self._families[family] > 0)

    def policy(self, key: Key) -> NetworkPolicy | None:
        """Return a policy in force."""
        return self._policies.get(key.namespace, {}).get(key)

    def enforced(self, key: Key) -> NetworkPolicy | None:
        """Return the version of a policy that is enforced."""
        return self._enforced.get(key)

    def all_enforced(self) -> list[Key]:
        """Return the policies that are enforced."""
        return list(self._enforced)

    def reach(self, key: Key) -> int:
        """Return how many groups of targets a policy selects."""
        return self._reach[key]

    def judging(self, target: PodRecord, direction: Direction) -> tuple[Tier, ...] | None:
        """Return the tiers of compiled policies that isolate a target in a direction.

        None when no policy, compiled or not, isolates it there: then it is not judged.
        """
        local = self._local(target)
        if local is None or not local.isolating[direction]:
            return None
        return self._tiers(local, direction, Mode.ENFORCE)

    def auditing(self, target: PodRecord, direction: Direction) -> tuple[Tier, ...] | None:
        """Return the tiers of compiled policies that are audited for a target in a direction.

        None when there is no such policy, or when others isolate the target there: beside these, audited
        ones can only allow more, so they would deny nothing.
        """
        local = self._local(target)
        if local is None or local.isolating[direction] or not local.auditing[direction]:
            return None
        return self._tiers(local, direction, Mode.AUDIT)

    def _local(self, target: PodRecord) -> _LocalGroup | None:
        group = target.group
        return self._identities.get(group.namespace, {}).get(group) if group is not None else None

    def _tiers(self, local: _LocalGroup, direction: Direction, mode: Mode) -> tuple[Tier, ...]:
        """Return the tiers of a direction: a group has those of one mode at a time."""
        found = local.tiers.get(direction)
        if found is None:
            named = (k for k, p in local.enforced.items() if p.rules(direction) is not None)
            chosen = (key for key in named if (p := self.policy(key)) is not None and p.mode() is mode)
            found = local.tiers[direction] = network_policies(tuple(sorted(chosen)))
        return found

    def targets_of(self, keys: Iterable[Key]) -> dict[PodId, list[Key]]:
        """Return which of these policies select each target, in each direction that they name."""
        found: dict[PodId, list[Key]] = {}
        for key in keys:
            policy = self.policy(key)
            for group, local in self._identities.get(key.namespace, {}).items():
                if policy is None or not policy.pod_selector.matches(group.labels):
                    continue
                named = [direction for direction in _DIRECTIONS if policy.rules(direction) is not None]
                for pod in local.pods:
                    for direction in named:
                        found.setdefault(PodId(direction, pod), []).append(key)
        return found

    def selected_by(self, policy: NetworkPolicy) -> set[PodId]:
        """Return the targets that a policy selects, in force or not, in each direction that it names."""
        named = [direction for direction in _DIRECTIONS if policy.rules(direction) is not None]
        return {
            PodId(direction, pod)
            for group, local in self._identities.get(policy.namespace, {}).items()
            if policy.pod_selector.matches(group.labels)
            for pod in local.pods
            for direction in named
        }

    def take_dirty(self) -> set[Key]:
        """Return the targets, present or past, whose record or policies changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def take_moved(self) -> set[Key]:
        """Return the policies that changed, or select other groups of targets, since the last call."""
        moved, self._moved = self._moved, set()
        return moved

    def _join(self, key: Key, group: Identity) -> None:
        in_namespace = self._identities.setdefault(group.namespace, {})
        local = in_namespace.get(group)
        if local is None:
            local = in_namespace[group] = _LocalGroup()
            for one, policy in self._policies.get(group.namespace, {}).items():
                if policy.pod_selector.matches(group.labels):
                    local.count(policy, 1)
                    self._reach[one] += 1
                    self._moved.add(one)
                    enforced = self._enforced.get(one)
                    if enforced is not None:
                        local.enforced[one] = enforced
        local.pods.add(key)

    def _leave(self, key: Key, group: Identity) -> None:
        in_namespace = self._identities[group.namespace]
        local = in_namespace[group]
        local.pods.discard(key)
        if local.pods:
            return
        for one, policy in self._policies.get(group.namespace, {}).items():
            if policy.pod_selector.matches(group.labels):
                self._reach[one] -= 1
                self._moved.add(one)
                if not self._reach[one]:
                    del self._reach[one]
        del in_namespace[group]
        if not in_namespace:
            del self._identities[group.namespace]

    def sizes(self) -> dict[str, int]:
        return {
            "targets": len(self.targets),
            "policies by namespace": sum(map(len, self._policies.values())) + len(self._policies),
            "policies that select": len(self._reach),
            "policies enforced": len(self._enforced),
            "addresses of targets": len(self._addresses),
            "local groups": sum(map(len, self._identities.values())) + len(self._identities),
        }
