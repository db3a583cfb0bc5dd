"""Which pod an address belongs to."""

from __future__ import annotations

from typing import NamedTuple

from agent.policy.graph import PodRecord


class Transfer(NamedTuple):
    """An address whose owner changed; None: nobody. The two may be versions of one pod."""

    address: bytes
    before: PodRecord | None
    after: PodRecord | None


class Ownership:
    """Gives each address to the live pod that was given it last, by what the node's network plugin says.

    Where that says nothing: to the one that started last, then the one created last, then by uid.

    Handles: a pod added, changed and deleted, several pods claiming an address, in any order. When the
    owner goes, the next claimant gets the address.
    """

    def __init__(self) -> None:
        self.owners: dict[bytes, PodRecord] = {}
        self._claimants: dict[bytes, set[PodRecord]] = {}
        """Those of addresses that more than one pod claims."""

    def replace(self, old: PodRecord | None, new: PodRecord | None) -> list[Transfer]:
        """Take one version of a live pod for another (None: none); return what changed hands."""
        before = old.pod.addresses if old is not None else ()
        after = new.pod.addresses if new is not None else ()
        addresses = before if before == after else before + after
        if len(addresses) > 1:
            addresses = tuple(dict.fromkeys(addresses))
        return [
            transfer
            for address in addresses
            if (transfer := self._move(address, old, new if address in after else None)) is not None
        ]

    def _move(self, address: bytes, old: PodRecord | None, new: PodRecord | None) -> Transfer | None:
        owner = self.owners.get(address)
        if owner is None or (owner is old and address not in self._claimants):
            winner = new
        else:
            claimants = self._claimants.pop(address, None) or {owner}
            if old is not None:
                claimants.discard(old)
            if new is not None:
                claimants.add(new)
            if len(claimants) > 1:
                self._claimants[address] = claimants
            winner = max(claimants, key=lambda record: _rank(record, address), default=None)
        if winner is owner:
            return None
        if winner is None:
            del self.owners[address]
        else:
            self.owners[address] = winner
        return Transfer(address, owner, winner)

    def claimants(self, address: bytes) -> tuple[PodRecord, ...]:
        """Return the live pods that claim an address, its owner among them."""
        owner = self.owners.get(address)
        return tuple(self._claimants.get(address, () if owner is None else (owner,)))

    def owned(self, record: PodRecord) -> tuple[bytes, ...]:
        """Return the addresses that a pod owns, in its own order, each once."""
        owners = self.owners
        return tuple(dict.fromkeys(a for a in record.pod.addresses if owners.get(a) is record))

    def sizes(self) -> dict[str, int]:
        return {"owners": len(self.owners), "contested addresses": len(self._claimants)}


def _rank(record: PodRecord, address: bytes) -> tuple[int, str, str, str, str, str]:
    pod = record.pod
    # Namespace and name only make the order total: objects from files may have no uid.
    return pod.given_at(address), pod.started, pod.created, pod.uid, pod.namespace, pod.name
