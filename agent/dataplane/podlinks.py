"""Which of this node's interfaces is which pod's link, and which addresses the pod has behind it.

A pod's link is the near end of a veth pair: a port of a bridge, or an interface that the pod's address is
routed to. Where it is routed, the node's own route names it, which no pod can change. Else the kernel says
in which network namespace the other end is (IFLA_LINK_NETNSID), and which addresses are there: a dump of
addresses with IFA_TARGET_NETNSID (rtnetlink(7), Linux 4.20), which needs CAP_NET_ADMIN and neither a mount
nor a process of the pod. A container with NET_ADMIN writes these addresses, so they are claims: see
:func:`resolve`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import select
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from agent.kernel.links import LinkChanges
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import (
    ADDRESS_GROUPS,
    ROUTE_GROUPS,
    read_addresses_elsewhere,
    read_hardware_address,
    read_links,
    read_own_addresses,
    read_route,
)
from agent.kube.model import Key

_SOL_NETLINK, _LISTEN_ALL_NSID = 270, 8

MOST_OTHERS = 16
"""How many further addresses of a pod are taken in, of each family; from more it can neither send nor be
reached while it is isolated."""

MOST_READ = 1000
"""How many addresses inside a pod are read: one that has more is not to take the agent's time."""

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Sender(NamedTuple):
    """Who sends frames by a link: read only where frames are guarded.

    ``number`` is the link's index here, ``hardware`` the hardware address at its other end, and ``near`` are
    the IPv6 link-local addresses there. All but the index is what the pod says, and none is this node's own:
    ``hardware`` is empty where it is.
    """

    number: int
    hardware: bytes
    near: tuple[bytes, ...]


class PodLink(NamedTuple):
    """A link of this node's pods.

    ``bridge`` is the bridge of which it is a port, empty where it is routed; ``shared``: that bridge has
    ports besides those of pods. ``pod`` is whose link it is, None where that is not clear: then ``addresses``
    are those of all pods that it may be of. They are what the API knows, sorted. ``others`` are further
    addresses behind it, of which nobody but the pod itself says that they are its own. ``sender``: None where
    it was not asked for, or the kernel does not tell.
    """

    name: str
    bridge: str
    shared: bool
    pod: Key | None
    addresses: tuple[bytes, ...]
    others: tuple[bytes, ...] = ()
    sender: Sender | None = None


class Veth(NamedTuple):
    """The near end of a pair: its name, the other's index and namespace, and the bridge's index or 0."""

    name: str
    peer: int
    namespace: int
    bridge: int


Inside = Mapping[int, Mapping[int, frozenset[bytes]]]
"""Of a namespace, for each interface in it, the addresses."""


class HeldAddress(NamedTuple):
    """Whose link an interface was found to be, by which addresses."""

    pod: Key
    addresses: frozenset[bytes]


class Interfaces(NamedTuple):
    """The interfaces of this namespace by index; ``shared`` are bridges with ports that are no pod's."""

    veths: Mapping[int, Veth]
    names: Mapping[int, str]
    shared: frozenset[int]


def resolve(
    veths: Mapping[int, Veth],
    inside: Inside,
    routes: Mapping[bytes, Set[int]],
    owners: Mapping[bytes, Key],
    held: Mapping[tuple[int, str], HeldAddress],
) -> tuple[dict[int, Key], dict[int, set[Key]]]:
    """Say whose link each veth is: those that are one pod's, and those that may be of any of some pods.

    A route decides. Then who had it first: a link stays a pod's as long as both are there, whatever is
    claimed later. Of the rest, a link is a pod's that claims this pod alone, if no other link claims only
    the same. So a pod that adds another's address inside moves nobody's link, and does not lose its own.
    """
    found: dict[int, Key] = {}
    routed: dict[int, set[Key]] = {}
    for address, owner in owners.items():
        for index in routes.get(address, ()):
            if index in veths and not veths[index].bridge:
                routed.setdefault(index, set()).add(owner)
    # To a link that several pods are routed to, one of them forwards for the others.
    found |= {index: next(iter(pods)) for index, pods in routed.items() if len(pods) == 1}
    taken = {pod for pods in routed.values() for pod in pods}
    for (index, name), (pod, addresses) in held.items():
        there = index in veths and veths[index].name == name and index not in routed
        if there and pod not in taken and any(owners.get(address) == pod for address in addresses):
            found[index] = pod
            taken.add(pod)
    claims = {
        index: _claims(veth, veths, inside, owners)
        for index, veth in veths.items()
        if index not in found and index not in routed
    }
    claims = {index: pods for index, pods in claims.items() if pods}
    open_claims = {index: pods - taken for index, pods in claims.items()}
    while True:
        alone: dict[Key, list[int]] = {}
        for index, pods in open_claims.items():
            if len(pods) == 1:
                alone.setdefault(next(iter(pods)), []).append(index)
        settled = {indexes[0]: pod for pod, indexes in alone.items() if len(indexes) == 1}
        if not settled:
            break
        found |= settled
        gone = set(settled.values())
        open_claims = {i: pods - gone for i, pods in open_claims.items() if i not in settled}
    return found, {index: pods for index, pods in claims.items() if index not in found}


def _claims(veth: Veth, veths: Mapping[int, Veth], inside: Inside, owners: Mapping[bytes, Key]) -> set[Key]:
    """Return the pods that have an address at the other end or, where no other link leads there, near it."""
    there = inside.get(veth.namespace, {})
    near = {owners[address] for address in there.get(veth.peer, ()) if address in owners}
    if near or sum(other.namespace == veth.namespace for other in veths.values()) > 1:
        return near
    return {owners[address] for addresses in there.values() for address in addresses if address in owners}


class LinkFinder:
    """Finds the links of pods in the network namespace of the thread that calls it, and remembers them.

    A look takes about 70 µs for each pod. ``senders``: say of each link who sends by it; an address of this
    node then counts as nobody's further one.
    """

    def __init__(self, *, senders: bool = False) -> None:
        self._senders = senders
        self._held: dict[tuple[int, str], HeldAddress] = {}
        self.inside: frozenset[bytes] = frozenset()
        """All addresses, but those that mean nothing beyond a link, that the last look found in pods."""

    def find(self, owners: Mapping[bytes, Key]) -> tuple[PodLink, ...]:
        """Return the links of pods with these addresses, sorted by name. Raises OSError."""
        interfaces = _interfaces()
        veths = interfaces.veths
        inside, crowded = _inside({veth.namespace for veth in veths.values()})
        self.inside = frozenset(filter(_crosses, _all(inside.values())))
        found, unclear = resolve(veths, inside, _host_routes(owners), owners, self._held)
        by_pod: dict[Key, set[bytes]] = {}
        for address, pod in owners.items():
            by_pod.setdefault(pod, set()).add(address)
        self._held = {
            (index, veths[index].name): HeldAddress(pod, frozenset(by_pod[pod]))
            for index, pod in found.items()
        }
        # A pod that hides its address among many may be any of those that have no link.
        without = by_pod.keys() - set(found.values())
        for index, veth in veths.items():
            if veth.bridge and veth.namespace in crowded and index not in found:
                unclear[index] = unclear.get(index, set()) | without
        of_pods = {veths[index].namespace for index in (*found, *unclear)}
        # Of a namespace that is no pod's: nobody's claim is good there.
        strangers = _all(addresses for namespace, addresses in inside.items() if namespace not in of_pods)
        asked: Mapping[int, Sender] = {}
        if self._senders:
            own_addresses = _own_addresses()
            strangers |= own_addresses
            asked = _senders((*found, *unclear), veths, inside, own_addresses, interfaces.names)
        links = []
        for index, veth in veths.items():
            pods = {found[index]} if index in found else unclear.get(index, set())
            bridge = interfaces.names.get(veth.bridge, "")
            if not pods or not _NAME_CHARACTERS.issuperset(veth.name + bridge):
                continue
            own = set().union(*(by_pod[pod] for pod in pods))
            others: list[bytes] = []
            if index in found:
                others = _usable(_all([inside.get(veth.namespace, {})]) - own - strangers)
            links.append(
                PodLink(
                    veth.name,
                    bridge,
                    veth.bridge in interfaces.shared,
                    found.get(index),
                    _sorted(own),
                    tuple(others),
                    asked.get(index),
                )
            )
        return tuple(sorted(links))


def _all(namespaces: Iterable[Mapping[int, frozenset[bytes]]]) -> set[bytes]:
    return {a for interfaces in namespaces for addresses in interfaces.values() for a in addresses}


def _sorted(addresses: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(addresses, key=lambda a: (len(a), a)))


def _usable(addresses: Iterable[bytes]) -> list[bytes]:
    """Return the addresses that a packet can cross a router with, some of each family."""
    found: dict[int, list[bytes]] = {4: [], 16: []}
    for packed in sorted(set(addresses)):
        if len(found[len(packed)]) < MOST_OTHERS and _crosses(packed):
            found[len(packed)].append(packed)
    return found[4] + found[16]


def _own_addresses() -> set[bytes]:
    with NetlinkSocket(ROUTE) as netlink:
        return set(read_own_addresses(netlink))


def _senders(
    indexes: Iterable[int],
    veths: Mapping[int, Veth],
    inside: Inside,
    own_addresses: Set[bytes],
    names: Iterable[int],
) -> dict[int, Sender]:
    """Return who sends by each link whose other end the kernel shows, which it does since Linux 4.20."""
    found: dict[int, Sender] = {}
    with NetlinkSocket(ROUTE) as netlink:
        own_hardware: set[bytes] = set()
        for index in names:
            with contextlib.suppress(OSError):  # gone since
                own_hardware.add(read_hardware_address(netlink, index))
        for index in indexes:
            veth = veths[index]
            if veth.namespace not in inside:
                continue
            with contextlib.suppress(OSError):
                hardware = read_hardware_address(netlink, veth.peer, veth.namespace)
                near = [
                    address
                    for address in inside[veth.namespace].get(veth.peer, ())
                    if address not in own_addresses and ipaddress.ip_address(address).is_link_local
                ]
                usable = b"" if hardware in own_hardware else hardware
                found[index] = Sender(index, usable, _sorted(a for a in near if len(a) == 16))
    return found


def _crosses(packed: bytes) -> bool:
    """Whether a packet with an address can cross a router."""
    address = ipaddress.ip_address(packed)
    useless = address.is_loopback or address.is_link_local or address.is_multicast
    return not useless and not address.is_unspecified


def _interfaces() -> Interfaces:
    with NetlinkSocket(ROUTE) as netlink:
        links = {link.number: link for link in read_links(netlink)}
    # A port of another kind of master (a VRF, a bond) is routed, or none of a pod.
    bridges = {
        link.number: link.master
        for link in links.values()
        if link.master in links and links[link.master].kind == "bridge"
    }
    veths = {
        link.number: Veth(link.name, link.lower, link.namespace, bridges.get(link.number, 0))
        for link in links.values()
        if link.kind == "veth" and link.lower and link.namespace is not None and link.namespace >= 0
    }
    names = {link.number: link.name for link in links.values()}
    shared = frozenset(bridge for port, bridge in bridges.items() if port not in veths)
    return Interfaces(veths, names, shared)


def _host_routes(addresses: Iterable[bytes]) -> dict[bytes, Set[int]]:
    """Return the interface that each address alone is routed to, without a router between. Raises OSError.

    A wider route says nothing: an address without a route of its own leaves by the node's uplink, which is a
    veth, too, where the node is a container.
    """
    found: dict[bytes, Set[int]] = {}
    with NetlinkSocket(ROUTE) as netlink:
        for address in addresses:
            try:
                route = read_route(netlink, address)
            except TimeoutError:
                raise
            except OSError:  # no route at all
                continue
            if route.direct and route.destination == address:
                found[address] = set(route.interfaces)
    return found


def _inside(namespaces: Iterable[int]) -> tuple[Inside, Set[int]]:
    """Return the addresses in namespaces, and which have more than are read; none before Linux 4.20."""
    found: dict[int, Mapping[int, frozenset[bytes]]] = {}
    crowded: set[int] = set()
    pending = list(namespaces)
    while pending:
        with NetlinkSocket(ROUTE) as netlink:
            try:
                netlink.check_strictly()
            except OSError:
                # It does not know what is asked, and would answer with this namespace's addresses.
                return {}, crowded
            while pending:
                namespace = pending.pop()
                addresses = _addresses(netlink, namespace)
                found[namespace] = _by_interface(addresses)
                if len(addresses) >= MOST_READ:
                    # What is left of the answer goes with the socket.
                    crowded.add(namespace)
                    break
    return found, crowded


def _addresses(netlink: NetlinkSocket, namespace: int) -> list[tuple[int, bytes]]:
    """Return addresses of a namespace, each with its interface; none where it is gone."""
    found: list[tuple[int, bytes]] = []
    with contextlib.suppress(OSError):
        found += itertools.islice(read_addresses_elsewhere(netlink, namespace), MOST_READ)
    return found


def _by_interface(addresses: Iterable[tuple[int, bytes]]) -> Mapping[int, frozenset[bytes]]:
    found: dict[int, set[bytes]] = {}
    for index, address in addresses:
        found.setdefault(index, set()).add(address)
    return {index: frozenset(some) for index, some in found.items()}


class PodLinkChanges(LinkChanges):
    """Tells when links and routes of this namespace change, and addresses here and in those of pods.

    ``everywhere``: it hears of the latter, for which the kernel wants CAP_NET_BROADCAST
    (NETLINK_LISTEN_ALL_NSID, netlink(7)).
    """

    def __init__(self) -> None:
        super().__init__(ROUTE_GROUPS | ADDRESS_GROUPS)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
        except OSError:
            self.everywhere = False
        else:
            self.everywhere = True

    def wait_with(self, other: int, seconds: float) -> bool:
        """Wait until something changes, another file can be read or the time is over; whether it changed."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(other, select.POLLIN)
        ready = {number for number, _ in poll.poll(seconds * 1000)}
        return self._socket.fileno() in ready and self.drain()
