"""What a tunnel listens on, as the kernel says: recorded of VXLAN, composed as its sources do of the rest."""

from __future__ import annotations

import socket
import struct

import pytest

from agent.kernel.netlink import attribute
from agent.kernel.rtnetlink import link_of
from agent.kernel.tunnels import BOTH, KINDS, Tunnel, fou_of, l2tp_of, tunnel_of
from agent.net import Family

V4, V6 = frozenset({Family.V4}), frozenset({Family.V6})
HERE, THERE = socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.2")
HERE6, THERE6 = (socket.inet_pton(socket.AF_INET6, f"2001:db8::{n}") for n in (1, 2))
GROUP, GROUP6 = socket.inet_aton("239.1.1.1"), socket.inet_pton(socket.AF_INET6, "ff05::1")
TAIL = "0c002100f7ffffff000000ff"

RECORDED = {
    "as flannel makes it": (
        "08000100010000000800030003000000080004000a000001050005000000000005001c00000000000500060000000000"
        "05001d000000000008001a00000000000800200000000000050007000000000005000b000000000005000c0000000000"
        "05000d000000000005000e00000000000500190000000000080008002c010000080009000000000006000f0021180000"
        f"0500120001000000050013000000000005001400000000000500150000000000050016000000000008000a0000000000{TAIL}",
        Tunnel("t", "vxlan", V4, frozenset({8472})),
    ),
    "to one remote address": (
        "080001000200000014001000fd000000000000000000000000000002080003000300000014001100fd00000000000000"
        f"000000000000000105001900000000000600 0f0012b50000{TAIL}".replace(" ", ""),
        Tunnel("t", "vxlan", V6, frozenset({4789}), remote=bytes.fromhex("fd" + 29 * "0" + "2")),
    ),
    "external": (
        f"08000100000000000500050000000000050019000100000006000f0021190000{TAIL}",
        Tunnel("t", "vxlan", BOTH, frozenset({8473})),
    ),
    "of a multicast group": (
        f"080001000500000008000200ef010101080003000300000005001900000000000600 0f0012b60000{TAIL}".replace(
            " ", ""
        ),
        Tunnel("t", "vxlan", V4, frozenset({4790})),
    ),
}


@pytest.mark.parametrize(("recorded", "found"), RECORDED.values(), ids=RECORDED)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_vxlan_device(recorded: str, found: Tunnel, up: bool) -> None:
    """Down, too: it is about to come up."""
    assert tunnel_of("t", "vxlan", bytes.fromhex(recorded), up=up, elsewhere=False) == found


def port(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("!H", number))


COMPOSED: dict[str, tuple[str, bytes, Tunnel]] = {
    "vxlan without a port": ("vxlan", b"", Tunnel("t", "vxlan", BOTH, frozenset({8472}))),
    "geneve": (
        "geneve",
        attribute(1, struct.pack("=I", 7)) + attribute(2, THERE) + port(5, 6081),
        Tunnel("t", "geneve", V4, frozenset({6081}), remote=THERE),
    ),
    "geneve over IPv6": (
        "geneve",
        attribute(7, THERE6) + port(5, 6000),
        Tunnel("t", "geneve", V6, frozenset({6000}), remote=THERE6),
    ),
    "geneve, external": (
        "geneve",
        port(5, 6081) + attribute(6, b""),
        Tunnel("t", "geneve", BOTH, frozenset({6081})),
    ),
    "bareudp": ("bareudp", port(1, 6635) + port(2, 0x8847), Tunnel("t", "bareudp", BOTH, frozenset({6635}))),
    "amt": (
        "amt",
        attribute(1, b"\0\0\0\0") + port(2, 2268) + port(3, 2269),
        Tunnel("t", "amt", BOTH, frozenset({2268, 2269})),
    ),
    "gtp": ("gtp", attribute(3, b"\0\4\0\0"), Tunnel("t", "gtp", BOTH, frozenset({2152, 3386}))),
    "pfcp": ("pfcp", b"", Tunnel("t", "pfcp", BOTH, frozenset({8805}))),
    **{
        kind: (
            kind,
            attribute(6, HERE) + attribute(7, THERE),
            Tunnel("t", kind, V4, protocols=frozenset({47}), remote=THERE),
        )
        for kind in ("gre", "gretap", "erspan")
    },
    **{
        kind: (
            kind,
            attribute(6, HERE6) + attribute(7, THERE6),
            Tunnel("t", kind, V6, protocols=frozenset({47}), remote=THERE6),
        )
        for kind in ("ip6gre", "ip6gretap", "ip6erspan")
    },
    "gre, external": (
        "gre",
        attribute(6, bytes(4)) + attribute(7, bytes(4)) + attribute(18, b""),
        Tunnel("t", "gre", V4, protocols=frozenset({47})),
    ),
    "gre to a group": (
        "gre",
        attribute(6, HERE) + attribute(7, GROUP),
        Tunnel("t", "gre", V4, protocols=frozenset({47})),
    ),
    "ip6gre to a group": (
        "ip6gre",
        attribute(6, HERE6) + attribute(7, GROUP6),
        Tunnel("t", "ip6gre", V6, protocols=frozenset({47})),
    ),
    "ipip": (
        "ipip",
        attribute(2, HERE) + attribute(3, THERE),
        Tunnel("t", "ipip", V4, protocols=frozenset({4, 137}), remote=THERE),
    ),
    "sit": (
        "sit",
        attribute(2, HERE) + attribute(3, bytes(4)),
        Tunnel("t", "sit", V4, protocols=frozenset({4, 41, 137})),
    ),
    "ip6tnl": (
        "ip6tnl",
        attribute(2, HERE6) + attribute(3, THERE6),
        Tunnel("t", "ip6tnl", V6, protocols=frozenset({4, 41, 137}), remote=THERE6),
    ),
}


@pytest.mark.parametrize(("kind", "data", "found"), COMPOSED.values(), ids=COMPOSED)
def test_a_device_of_every_kind(kind: str, data: bytes, found: Tunnel) -> None:
    assert tunnel_of("t", kind, data, up=True, elsewhere=False) == found
    moved = tunnel_of("t", kind, data, up=True, elsewhere=True)
    assert moved == found._replace(elsewhere=True)


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _, _ in COMPOSED.values()} == KINDS - {"l2tpeth"}


@pytest.mark.parametrize("kind", ["gre", "ip6gre", "ipip", "sit", "ip6tnl"])
def test_what_is_there_with_its_module_and_down_takes_nothing(kind: str) -> None:
    """tunl0, gre0, sit0, ip6tnl0."""
    assert tunnel_of("t", kind, b"", up=False, elsewhere=False) is None


@pytest.mark.parametrize("kind", ["wireguard", "xfrm", "vti", "vti6", "ovpn", "macsec", "veth", "bridge", ""])
def test_what_asks_for_a_key_and_what_is_no_tunnel(kind: str) -> None:
    assert tunnel_of("t", kind, b"", up=True, elsewhere=False) is None


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            port(1, 5555) + attribute(2, b"\2") + attribute(3, b"\4") + attribute(4, b"\1"),
            Tunnel("", "fou", V4, frozenset({5555})),
        ),
        (
            port(1, 6080) + attribute(2, b"\x0a") + attribute(4, b"\2") + attribute(9, THERE6),
            Tunnel("", "fou", V6, frozenset({6080}), remote=THERE6),
        ),
        (port(1, 6080) + attribute(8, THERE), Tunnel("", "fou", V4, frozenset({6080}), remote=THERE)),
    ],
    ids=["FOU", "GUE over IPv6", "FOU of one peer"],
)
def test_a_port_of_fou(message: bytes, found: Tunnel) -> None:
    assert fou_of(message) == found


def native(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("=H", number))


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (native(2, 0) + attribute(25, THERE) + native(26, 1701), (frozenset({1701}), frozenset(), THERE)),
        (native(2, 1) + attribute(32, THERE6), (frozenset(), frozenset({115}), THERE6)),
    ],
    ids=["over UDP", "over IP"],
)
def test_a_tunnel_of_l2tp(message: bytes, found: tuple[frozenset[int], frozenset[int], bytes | None]) -> None:
    ports, protocols, remote = found
    assert l2tp_of(message) == Tunnel("", "l2tp", BOTH, ports, protocols, remote)


def test_an_interface_is_read_from_the_kernels_message() -> None:
    info = attribute(1, b"vxlan\0") + attribute(2, bytes.fromhex(RECORDED["as flannel makes it"][0]))
    header = struct.pack("=iII", 7, 0x1043, 0)
    name = attribute(3, b"flannel.1\0")
    link = link_of(header + name + attribute(5, struct.pack("=i", 3)) + attribute(18, info))
    assert (link.number, link.name, link.kind, link.lower, link.up) == (7, "flannel.1", "vxlan", 3, True)
    moved = link_of(header + name + attribute(5, struct.pack("=i", 3)) + attribute(37, bytes(4)))
    assert (moved.lower, moved.namespace) == (3, 0)
