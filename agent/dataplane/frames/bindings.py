"""Which senders belong to which link: a pure function of the links that were found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.dataplane.podlinks import PodLink, Sender
from agent.net import Family, family_of


class Binding(NamedTuple):
    """As whom a link may send. ``number`` is its index, ``addresses`` are of both families."""

    name: str
    number: int
    hardware: frozenset[bytes]
    addresses: frozenset[bytes]

    def of(self, family: Family) -> frozenset[bytes]:
        """Return the addresses of one family."""
        return frozenset(address for address in self.addresses if family_of(address) is family)


Held = Mapping[int, frozenset[bytes]]
"""What each link, by its index, was allowed to send as: hardware and IP addresses."""


def bindings(links: Iterable[PodLink], held: Held) -> dict[int, Binding]:
    """Return as whom each link may send, by its index; links whose sender is not known are left out.

    A pod may send from the addresses that the API gives it, from those inside it that are nobody else's, and
    under its own hardware address. A container with NET_ADMIN writes all but the first. So on one bridge a
    hardware or link-local address stays with the link that was allowed it first, for as long as that link
    says it is its own.
    """
    known = [(link, link.sender) for link in links if link.sender is not None]
    claims = {sender.number: _claims(sender) for _, sender in known}
    holders: dict[tuple[str, bytes], set[int]] = {}
    for link, sender in known:
        # Where pods are routed, each is alone with the node.
        for claim in claims[sender.number] & held.get(sender.number, frozenset()) if link.bridge else ():
            holders.setdefault((link.bridge, claim), set()).add(sender.number)
    found: dict[int, Binding] = {}
    for link, sender in known:
        number = sender.number
        granted = {claim for claim in claims[number] if number in holders.get((link.bridge, claim), {number})}
        hardware = granted & {sender.hardware}
        addresses = (granted - hardware).union(link.addresses, link.others)
        found[number] = Binding(link.name, number, frozenset(hardware), frozenset(addresses))
    return found


def _claims(sender: Sender) -> frozenset[bytes]:
    """Return what a pod alone says that is its own, of what nobody else can have on the same bridge."""
    return frozenset((sender.hardware, *sender.near)) - {b""}
