"""What one step must remember of the state before it, to tell what it changed."""

from __future__ import annotations

from agent.kube.model import Key
from agent.policy.addresses.ownership import Transfer
from agent.policy.graph import PodIdentity, PodRecord


class Touched:
    """Notes of one step about pods and addresses, taken as the events come, thrown away at its end."""

    __slots__ = ("deleted", "departed", "gone", "owners", "pods")

    def __init__(self) -> None:
        self.owners: dict[bytes, PodRecord | None] = {}
        """The owners before the step, of addresses that changed hands in it."""
        self.departed: dict[bytes, set[PodIdentity]] = {}
        """The pods that lost an address in the step, whether or not they got it back."""
        self.pods: set[Key] = set()
        """Pods, local before or after, that changed or whose addresses changed hands."""
        self.gone: list[PodRecord] = []
        """Local live pods that are live no more: finished, deleted, or their name another's."""
        self.deleted: set[PodIdentity] = set()
        """Local pods, live or not, whose object went."""

    def transfer(self, transfer: Transfer) -> None:
        """Note that an address changed hands."""
        address, before, after = transfer
        self.owners.setdefault(address, before)
        for record in (before, after):
            if record is not None and record.local:
                self.pods.add(record.pod.key)
        if before is not None and (after is None or not before.is_same_pod(after)):
            self.departed.setdefault(address, set()).add(before.identity)
