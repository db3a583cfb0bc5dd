"""The cluster's pods: their groups, their addresses and the sets that these are in."""

from __future__ import annotations

import msgspec

from agent.kube.model import Key, Pod
from agent.policy.addresses.ownership import Ownership
from agent.policy.graph import Identity, PodRecord, with_one, without_one
from agent.policy.lower.sets import Sets
from agent.policy.peers.active_selectors import ActiveSelectors
from agent.policy.peers.identities import Identities
from agent.policy.touched import Touched


class Inventory:
    """Keeps every pod and moves it from one version to the next through the stages.

    Handles: a pod added, changed in every way, recreated under its name and deleted, known or not. A pod
    that has no address, is finished or uses its host's network is kept but takes part in nothing.
    """

    def __init__(
        self, node: str, identities: Identities, selectors: ActiveSelectors, ownership: Ownership, sets: Sets
    ) -> None:
        self._node = node
        self._identities = identities
        self._selectors = selectors
        self._ownership = ownership
        self._sets = sets
        self.records: dict[Key, PodRecord] = {}

    def set_pod(self, key: Key, pod: Pod | None, touched: Touched) -> None:
        """Take a pod (None: it is gone) and note what that changed."""
        old = self.records.get(key)
        if pod is None:
            if old is not None:
                del self.records[key]
                self._move(key, old, None, touched)
        elif old is None or old.pod != pod:
            new = self._record(pod, old)
            self.records[key] = new
            self._move(key, old, new, touched)

    def _record(self, pod: Pod, old: PodRecord | None) -> PodRecord:
        local = pod.node == self._node
        if not pod.judged:
            return PodRecord(pod, None, local)
        if old is not None and old.group is not None and old.pod.labels == pod.labels:
            group = old.group
        else:
            group, is_new = self._identities.join(pod.namespace, pod.labels)
            if is_new:
                self._selectors.add_group(group)
        if pod.labels is not group.labels:
            # Labels are most of what a pod takes in memory; pods that look the same share them.
            pod = msgspec.structs.replace(pod, labels=group.labels)
        record = PodRecord(pod, group, local)
        group.pods = with_one(group.pods, record)
        self._identities.count(group.namespace, 1)
        return record

    def _move(self, key: Key, old: PodRecord | None, new: PodRecord | None, touched: Touched) -> None:
        replaced = old is not None and old.local and (new is None or new.pod.uid != old.pod.uid)
        if replaced and old is not None:
            touched.deleted.add(old.identity)
        if old is not None and old.group is None:
            old = None
        if new is not None and new.group is None:
            new = None
        # A finished pod's containers may run on for a while: some programs write that phase ahead of it.
        if old is not None and old.local and (replaced or new is None):
            touched.gone.append(old)
        if (old is not None and old.local) or (new is not None and new.local):
            touched.pods.add(key)
        self._sets.replace_ports(old, new)
        for transfer in self._ownership.replace(old, new):
            touched.transfer(transfer)
            address, before, after = transfer
            if before is not None and after is not None and before.is_like(after):
                continue
            if before is not None:
                self._sets.leave(before, address)
            if after is not None:
                self._sets.enter(after, address)
        if old is not None and old.group is not None:
            self._leave_group(old, old.group)

    def _leave_group(self, record: PodRecord, group: Identity) -> None:
        group.pods = without_one(group.pods, record)
        self._identities.count(group.namespace, -1)
        if not group.pods:
            self._selectors.remove_group(group)
            self._identities.discard(group)
