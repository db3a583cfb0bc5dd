"""By which of its interfaces a node meets the network outside, and by which its pods (rtnetlink(7)).

A packet's addresses are what its sender wrote; the interface by which it came in is not. So this is how a pod
that pretends to be another node is told from one. Interfaces are sorted by their kind:

- a veth, tun, tap or netkit device is a pod's, unless it is the node's own way out, as a container's eth0 is:
  the default route leads there, or the node has an address on it within a network with room for others;
- a bridge is as its ports are; where there are both, the port by which a packet came in decides;
- what a tunnel brings comes from whoever sent to the tunnel, so it is neither;
- what is stacked on another, such as a VLAN, is what that is; all else is the network outside.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from agent.kernel import tunnels as tunnelling
from agent.kernel.links import POD_KINDS
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import Address, Link, read_addresses, read_links
from agent.kernel.tunnels import Tunnel
from agent.kernel.uplinks import interfaces_to
from agent.net import Network

_SCOPE_LINK = 253
"""RT_SCOPE_LINK: it and all above mean nothing beyond the link."""
_FAR = (socket.inet_pton(socket.AF_INET, "240.0.0.1"), socket.inet_pton(socket.AF_INET6, "4000::1"))
"""Addresses that nobody has (RFC 1112, section 4; RFC 4291, section 4): a default route alone leads there."""

_PRINTABLE = re.compile(r"[A-Za-z0-9_.:@-]+")
"""Names that rules can hold: iptables takes one that ends with + for all that begin so."""
_STACKED = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"})
_IDLE = frozenset({"dummy", "ifb", "nlmon"})
_SWITCH = "openvswitch"
_ROOM: Mapping[int, int] = {socket.AF_INET: 29, socket.AF_INET6: 125}
"""The longest prefix of a network with room for more than two ends."""


class Surroundings(NamedTuple):
    """What the firewall depends on besides the program.

    ``underlay``: the interfaces by which packets from the network outside come in. ``ports`` are ports of
    bridges that lead there; ``mixed`` the bridges that have such ports and pods' as well. ``carried``: the
    interfaces by which packets come in that were inside others, each with the tunnels that bring them; those
    of programs, which the kernel knows nothing of, bring them by the interface alone. ``lost``: interfaces to
    which the default route leads and that are not of the underlay. ``bridges``: the networks in which the
    node has an address on a bridge that pods may be attached to.
    """

    tunnels: frozenset[Tunnel] = frozenset()
    underlay: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()
    carried: Mapping[str, frozenset[Tunnel]] = {}
    lost: frozenset[str] = frozenset()
    bridges: frozenset[Network] = frozenset()


def is_printable(name: str) -> bool:
    """Whether rules can hold an interface's name."""
    return _PRINTABLE.fullmatch(name) is not None


NONE = Surroundings()


def look() -> Surroundings:
    """Look at the calling thread's network namespace. Raises OSError.

    Takes 15 µs for each interface.
    """
    with NetlinkSocket(ROUTE) as netlink:
        links = list(read_links(netlink))
        addresses = _addresses(netlink)
    more = tunnelling.without_interface({link.kind for link in links})
    default = frozenset[int]().union(*interfaces_to(_FAR).values())
    return sort(links, {at.interface for at in addresses}, default, more, addresses)


class Lookout:
    """Tells when the surroundings of the thread that asks have changed."""

    def __init__(self, every: float, now: Callable[[], float] = time.monotonic) -> None:
        """``every``: seconds after which it looks though it is told of nothing."""
        self._every = every
        self._now = now
        self._due = now()
        self._known: Surroundings | None = None

    def changed(self, told: bool) -> bool:
        """Whether they have since it last looked, the first look included; ``told``: the kernel said so.

        Nobody is told of routes, nor of ports of FOU: these change seldom, and are found by looking again.
        Raises OSError.
        """
        if not told and self._now() < self._due:
            return False
        self._due = self._now() + self._every
        before, self._known = self._known, look()
        return self._known != before


def sort(
    links: Collection[Link],
    addressed: Collection[int] = (),
    default: Collection[int] = (),
    more: Iterable[Tunnel] = (),
    addresses: Iterable[Address] = (),
) -> Surroundings:
    """Tell interfaces apart.

    ``addressed``: the indexes of those with an address of the node's within a network with room for others;
    ``default``: of those to which a default route leads; ``more``: tunnels that are no interfaces;
    ``addresses``: those of the node.
    """
    known = _Known(links, addressed, default)
    by_index = known.by_index
    named = [link for link in links if _PRINTABLE.fullmatch(link.name)]
    ports = [link for link in named if known.bridged(link) and known.leads_outside(link)]
    masters = {port.master for port in ports}
    underlay = {link for link in named if not known.bridged(link) and known.outside(link)}
    mixed = {link for link in named if link.number in masters and link not in underlay}
    carried = {link.name: found for link in links if (found := known.brings(link))}
    carried |= {link.name: frozenset() for link in links if link.kind == "tun"}
    return Surroundings(
        frozenset([*(tunnel for tunnel in known.tunnel_at.values() if tunnel is not None), *more]),
        _names(underlay),
        _names(ports),
        _names(mixed),
        carried,
        _names(link for link in links if link.number in default and link not in underlay | mixed),
        frozenset(_network(at) for at in addresses if _is_pods_bridge(by_index.get(at.interface), underlay)),
    )


class _Known:
    """What is asked of the interfaces together.

    Methods, since functions within a function that call each other would be left to the garbage collector.
    """

    def __init__(self, links: Collection[Link], addressed: Collection[int], default: Collection[int]) -> None:
        self._addressed = addressed
        self._default = default
        self.by_index = {link.number: link for link in links}
        self.tunnel_at = {link.number: _tunnel(link) for link in links if link.kind in tunnelling.KINDS}
        self._slaves: dict[int, list[Link]] = {}
        for link in links:
            if link.master:
                self._slaves.setdefault(link.master, []).append(link)

    def _lower(self, link: Link) -> Link | None:
        """Return what an interface is stacked on, in this namespace."""
        here = link.kind in _STACKED and link.namespace is None
        return self.by_index.get(link.lower) if here else None

    def outside(self, link: Link) -> bool:
        """Whether an interface leads to the network outside."""
        if link.kind in POD_KINDS:
            return link.number in self._addressed or link.number in self._default
        if link.kind == _SWITCH:
            return link.number in self._default
        if link.kind in ("bridge", "vrf"):
            ports = self._slaves.get(link.number, [])
            return any(map(self.leads_outside, ports)) and not any(port.kind in POD_KINDS for port in ports)
        if (below := self._lower(link)) is not None:
            return self.outside(below)
        return link.kind not in tunnelling.KINDS and link.kind not in _IDLE and link.name != "lo"

    def leads_outside(self, port: Link) -> bool:
        """Whether a port leads there, and is no pod's."""
        return port.kind not in POD_KINDS and self.outside(port)

    def brings(self, link: Link) -> frozenset[Tunnel]:
        """Return the tunnels whose packets come in by an interface."""
        own = self.tunnel_at.get(link.number)
        found = {own} if own is not None else set()
        below = self._slaves.get(link.number, []) if link.kind in ("bridge", "vrf", "bond", "team") else []
        if (stacked_on := self._lower(link)) is not None:
            below = [stacked_on]
        return frozenset(found).union(*map(self.brings, below))

    def bridged(self, link: Link) -> bool:
        """Whether an interface is a port of a bridge."""
        return link.master in self.by_index and self.by_index[link.master].kind == "bridge"


def _is_pods_bridge(link: Link | None, underlay: Collection[Link]) -> bool:
    return link is not None and link.kind == "bridge" and link not in underlay


def _network(at: Address) -> Network:
    """Return the network that an interface's address lies in."""
    bits = 8 * len(at.address)
    number = int.from_bytes(at.address, "big") >> (bits - at.prefix_length) << (bits - at.prefix_length)
    return Network(number.to_bytes(len(at.address), "big"), at.prefix_length)


def _names(links: Iterable[Link]) -> frozenset[str]:
    return frozenset(link.name for link in links)


def _tunnel(link: Link) -> Tunnel | None:
    elsewhere = link.namespace is not None
    return tunnelling.tunnel_of(link.name, link.kind, link.data, up=link.up, elsewhere=elsewhere)


def _addresses(netlink: NetlinkSocket) -> list[Address]:
    """Return the node's addresses within networks with room for others; link-local ones aside."""
    return [
        address
        for address in read_addresses(netlink)
        if address.scope < _SCOPE_LINK and address.prefix_length <= _ROOM.get(address.family, 0)
    ]
