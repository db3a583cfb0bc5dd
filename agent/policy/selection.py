"""Which policies select which of this node's pods."""

from __future__ import annotations

from agent.kube.model import Direction, Key, NetworkPolicy
from agent.policy.graph import Group, PodRecord


class _LocalGroup:
    """The targets in one group, and the policies of their namespace that select them."""

    __slots__ = ("pods", "policies")

    def __init__(self, policies: dict[Key, NetworkPolicy]) -> None:
        self.pods: set[Key] = set()
        self.policies = policies


class Selection:
    """Keeps, for each target (a local live pod that owns an address), the policies that select it.

    Handles: a policy added, changed and deleted, a target added, changed and deleted, in any order. A
    policy is matched once for each group of targets in its own namespace.
    """

    def __init__(self) -> None:
        self.targets: dict[Key, PodRecord] = {}
        self._policies: dict[str, dict[Key, NetworkPolicy]] = {}
        self._groups: dict[str, dict[Group, _LocalGroup]] = {}
        self._dirty: set[Key] = set()

    def set_policy(self, key: Key, policy: NetworkPolicy | None) -> bool:
        """Take a policy in force (None: it is gone); return whether that changed anything."""
        in_namespace = self._policies.get(key.namespace, {})
        if in_namespace.get(key) == policy:
            return False
        if policy is not None:
            self._policies.setdefault(key.namespace, in_namespace)[key] = policy
        else:
            del in_namespace[key]
            if not in_namespace:
                del self._policies[key.namespace]
        for group, local in self._groups.get(key.namespace, {}).items():
            if policy is not None and policy.pod_selector.matches(group.labels):
                local.policies[key] = policy
                self._dirty |= local.pods
            elif local.policies.pop(key, None) is not None:
                self._dirty |= local.pods
        return True

    def set_target(self, key: Key, record: PodRecord | None) -> None:
        """Take a version of a target (None: it is none any more)."""
        old = self.targets.get(key)
        if old is not None and old.group is not None and (record is None or record.group is not old.group):
            self._leave(key, old.group)
        if record is None or record.group is None:
            self.targets.pop(key, None)
        else:
            self.targets[key] = record
            self._join(key, record.group)
        self._dirty.add(key)

    def policy(self, key: Key) -> NetworkPolicy | None:
        """Return a policy in force."""
        return self._policies.get(key.namespace, {}).get(key)

    def selecting(self, target: PodRecord, direction: Direction) -> tuple[Key, ...]:
        """Return the policies that select a target and name a direction, sorted."""
        group = target.group
        local = self._groups.get(group.namespace, {}).get(group) if group is not None else None
        if local is None:
            return ()
        return tuple(
            sorted(key for key, policy in local.policies.items() if policy.rules(direction) is not None)
        )

    def take_dirty(self) -> set[Key]:
        """Return the targets, present or past, whose record or policies changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def _join(self, key: Key, group: Group) -> None:
        in_namespace = self._groups.setdefault(group.namespace, {})
        local = in_namespace.get(group)
        if local is None:
            policies = self._policies.get(group.namespace, {})
            local = in_namespace[group] = _LocalGroup(
                {k: policy for k, policy in policies.items() if policy.pod_selector.matches(group.labels)}
            )
        local.pods.add(key)

    def _leave(self, key: Key, group: Group) -> None:
        in_namespace = self._groups[group.namespace]
        local = in_namespace[group]
        local.pods.discard(key)
        if not local.pods:
            del in_namespace[group]
            if not in_namespace:
                del self._groups[group.namespace]

    def sizes(self) -> dict[str, int]:
        return {
            "targets": len(self.targets),
            "policies by namespace": sum(map(len, self._policies.values())) + len(self._policies),
            "local groups": sum(map(len, self._groups.values())) + len(self._groups),
        }
