"""Tunnels that this node takes packets out of, and what they listen on (rtnetlink(7), generic netlink).

A tunnel takes what anybody sends to it, with no proof of who did, and the node forwards what was inside as if
another node had sent it. Which packets are a tunnel's can be told by a UDP port or an IP protocol: attributes
are those of ``linux/if_link.h``, ``linux/if_tunnel.h``, ``linux/fou.h`` and ``linux/l2tp.h``.

Not among them is what proves its senders or takes nothing without a key: WireGuard, OpenVPN in the kernel,
MACsec, and what hands packets to IPsec (xfrm, vti).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from agent.kernel.netlink import GENERIC, Message, NetlinkSocket, attributes
from agent.net import Family

BOTH = frozenset(Family)
_V4, _V6 = frozenset({Family.V4}), frozenset({Family.V6})

GRE, L2TP = 47, 115
IPV4_IN_IP, IPV6_IN_IP, MPLS_IN_IP = 4, 41, 137
"""IP protocol numbers (IANA)."""
_INNER = frozenset({IPV4_IN_IP, IPV6_IN_IP, MPLS_IN_IP})

GTP_PORTS = frozenset({2152, 3386})
"""3GPP TS 29.281 and TS 29.060: the kernel is given sockets, and these are what they are bound to."""
PFCP_PORT = 8805
"""3GPP TS 29.244."""


class Tunnel(NamedTuple):
    """Something that takes packets out of others.

    ``name`` is its interface, empty where it has none of its own. ``families`` are those of the packets
    outside, which are told by one of the UDP ``ports`` or of the IP ``protocols``. ``remote`` is the one
    address that it is told to talk to, where there is one. ``elsewhere``: it listens in another network
    namespace.
    """

    name: str
    kind: str
    families: frozenset[Family]
    ports: frozenset[int] = frozenset()
    protocols: frozenset[int] = frozenset()
    remote: bytes | None = None
    elsewhere: bool = False


class _Udp(NamedTuple):
    """Where a kind of tunnel over UDP says its port and its addresses; 0: it has no such attribute."""

    ports: Mapping[int, int]
    """Attribute of a port, in network order, to what the kernel takes where none is given; 0: none."""
    remote4: int = 0
    remote6: int = 0
    local4: int = 0
    local6: int = 0
    metadata: int = 0


_UDP = {
    "vxlan": _Udp({15: 8472}, remote4=2, remote6=16, local4=4, local6=17, metadata=25),
    "geneve": _Udp({5: 6081}, remote4=2, remote6=7, metadata=6),
    "bareudp": _Udp({1: 0}),
    "amt": _Udp({2: 2268, 3: 2268}),
}
_FIXED = {"gtp": GTP_PORTS, "pfcp": frozenset({PFCP_PORT})}


class _Ip(NamedTuple):
    """Which IP protocols a kind of tunnel takes, in packets of which family, and where its remote is."""

    family: Family
    protocols: frozenset[int]
    remote: int


_GRE_REMOTE, _IPTUN_REMOTE = 7, 3
_IP = {
    **dict.fromkeys(("gre", "gretap", "erspan"), _Ip(Family.V4, frozenset({GRE}), _GRE_REMOTE)),
    **dict.fromkeys(("ip6gre", "ip6gretap", "ip6erspan"), _Ip(Family.V6, frozenset({GRE}), _GRE_REMOTE)),
    "ipip": _Ip(Family.V4, frozenset({IPV4_IN_IP, MPLS_IN_IP}), _IPTUN_REMOTE),
    # It takes IPv4 in IPv4 as well, if told to.
    "sit": _Ip(Family.V4, _INNER, _IPTUN_REMOTE),
    "ip6tnl": _Ip(Family.V6, _INNER, _IPTUN_REMOTE),
}

KINDS = frozenset({*_UDP, *_FIXED, *_IP, "l2tpeth"})
"""The kinds of interface, as the kernel names them, by which packets come in that were inside others."""

FOR_STRANGERS = frozenset({"gtp", "pfcp", "amt", "l2tp"})
"""The kinds whose other ends are no nodes by nature: base stations, gateways, routers of a provider."""


def tunnel_of(name: str, kind: str, data: bytes | memoryview, *, up: bool, elsewhere: bool) -> Tunnel | None:
    """Return the tunnel that an interface is; None where it is none, or takes nothing.

    ``data`` is its IFLA_INFO_DATA. The kernel gives packets to no interface that is down. But one over UDP
    counts all the same, since it is about to come up; of the others some are there as soon as their module is
    loaded (tunl0, gre0, sit0, ip6tnl0), and stay down where nobody uses them.
    """
    fields = dict(attributes(data))
    if kind in _UDP:
        asked = _UDP[kind]
        ports = frozenset(_port(fields.get(number), default) for number, default in asked.ports.items()) - {0}
        remote = _first(fields, (asked.remote4, asked.remote6))
        return Tunnel(name, kind, _families(asked, fields), ports, remote=remote, elsewhere=elsewhere)
    if kind in _FIXED:
        return Tunnel(name, kind, BOTH, _FIXED[kind], elsewhere=elsewhere)
    if kind in _IP and up:
        family, protocols, number = _IP[kind]
        remote = _first(fields, [number])
        families = frozenset({family})
        return Tunnel(name, kind, families, protocols=protocols, remote=remote, elsewhere=elsewhere)
    return None


def _port(value: memoryview | None, default: int) -> int:
    return int.from_bytes(value, "big") if value is not None else default


def _families(asked: _Udp, fields: Mapping[int, memoryview]) -> frozenset[Family]:
    """Return in which families it listens: both, unless an address of its own or a remote one says."""
    metadata = fields.get(asked.metadata) if asked.metadata else None
    # VXLAN says it by a byte, Geneve by the attribute being there.
    if metadata is not None and (not metadata or any(metadata)):
        return BOTH
    if fields.keys() & {asked.remote4, asked.local4} - {0}:
        return _V4
    return _V6 if fields.keys() & {asked.remote6, asked.local6} - {0} else BOTH


def _unicast(address: memoryview | None) -> bytes | None:
    """Return an address if it is that of one host."""
    packed = b"" if address is None else bytes(address)
    if not any(packed) or len(packed) not in (4, 16):
        return None
    multicast = packed[0] == 0xFF if len(packed) == 16 else packed[0] >= 224
    return None if multicast else packed


_CONTROL, _GETFAMILY = 0x10, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_FOU_GET, _FOU_PORT, _FOU_FAMILY, _FOU_PEERS = 3, 1, 2, (8, 9)
_L2TP_TUNNEL_GET, _L2TP_ENCAPSULATION, _L2TP_PORT, _L2TP_PEERS, _L2TP_OVER_IP = 4, 2, 26, (25, 32), 1


def without_interface(kinds: Container[str]) -> list[Tunnel]:
    """Return the tunnels that are no interfaces: FOU and GUE ports, and L2TP's. Raises OSError.

    ``kinds`` of interfaces that there are: L2TP without one of Ethernet carries PPP, which asks who calls.
    Asking for a generic family by its name would have its module loaded, so all are listed.
    """
    found: list[Tunnel] = []
    with NetlinkSocket(GENERIC) as netlink:
        families = dict(map(_generic_family, netlink.dump(Message(_CONTROL, _GETFAMILY, b""))))
        asked = [("fou", _FOU_GET, fou_of)]
        if "l2tpeth" in kinds:
            asked.append(("l2tp", _L2TP_TUNNEL_GET, l2tp_of))
        for name, command, read in asked:
            if name in families:
                found += map(read, netlink.dump(Message(families[name], command, b"")))
    return found


def _generic_family(message: memoryview) -> tuple[str, int]:
    fields = dict(attributes(message))
    return bytes(fields[_FAMILY_NAME]).rstrip(b"\0").decode(), _native(fields.get(_FAMILY_ID))


def fou_of(message: memoryview | bytes) -> Tunnel:
    """Return a port of FOU or GUE, from the kernel's answer to FOU_CMD_GET after its header."""
    fields = dict(attributes(message))
    family = _V6 if bytes(fields.get(_FOU_FAMILY, b"")) == bytes([socket.AF_INET6]) else _V4
    ports = frozenset({_port(fields.get(_FOU_PORT), 0)} - {0})
    return Tunnel("", "fou", family, ports, remote=_first(fields, _FOU_PEERS))


def l2tp_of(message: memoryview | bytes) -> Tunnel:
    """Return a tunnel of L2TP, from the kernel's answer to L2TP_CMD_TUNNEL_GET after its header."""
    fields = dict(attributes(message))
    remote = _first(fields, _L2TP_PEERS)
    if _native(fields.get(_L2TP_ENCAPSULATION)) == _L2TP_OVER_IP:
        return Tunnel("", "l2tp", BOTH, protocols=frozenset({L2TP}), remote=remote)
    return Tunnel("", "l2tp", BOTH, frozenset({_native(fields.get(_L2TP_PORT))} - {0}), remote=remote)


def _first(fields: Mapping[int, memoryview], numbers: Iterable[int]) -> bytes | None:
    return next((found for number in numbers if (found := _unicast(fields.get(number)))), None)


def _native(value: memoryview | None) -> int:
    return 0 if value is None else int.from_bytes(value, sys.byteorder)
