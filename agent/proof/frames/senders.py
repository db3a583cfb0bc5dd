"""As whom each pod may send by its link, worked out for a proof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.dataplane.podlinks import PodLink
from agent.kube.model import Key


class Own(NamedTuple):
    """A link, by its index and name, whose it is, and the addresses that it may send from."""

    number: int
    name: str
    pod: Key | None
    hardware: frozenset[bytes]
    v4: frozenset[bytes]
    v6: frozenset[bytes]


def senders(links: Iterable[PodLink], holders: Mapping[int, Iterable[bytes]]) -> list[Own]:
    """Return as what each link may send, but for those of which the kernel does not tell who sends.

    Of pods of one bridge that say the same hardware or link-local address of themselves, only those have it
    that the agent says had it first: ``holders``, by the index of their links.
    """
    known = [(link, link.sender) for link in links if link.sender is not None]
    said = {sender.number: {sender.hardware, *sender.near} - {b""} for _, sender in known}
    claimants: dict[tuple[str, bytes], list[int]] = {}
    for link, sender in known:
        for address in said[sender.number] if link.bridge else ():
            claimants.setdefault((link.bridge, address), []).append(sender.number)
    found = []
    for link, sender in known:
        number = sender.number
        taken = {
            address
            for address in said[number]
            if len(others := claimants.get((link.bridge, address), ())) > 1
            and address not in holders.get(number, ())
            and any(address in holders.get(other, ()) for other in others)
        }
        hardware = {sender.hardware} - {b""} - taken
        addresses = {*link.addresses, *link.others, *sender.near} - (taken - {*link.addresses, *link.others})
        found.append(
            Own(
                number,
                link.name,
                link.pod,
                frozenset(hardware),
                frozenset(address for address in addresses if len(address) == 4),
                frozenset(address for address in addresses if len(address) == 16),
            )
        )
    return found
