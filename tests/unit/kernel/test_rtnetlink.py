"""Numbers and messages of rtnetlink, held against pyroute2's."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from pyroute2 import netlink as netlink_api
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl import ifinfmsg as flags
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent.dataplane import podlinks
from agent.kernel import netlink, rtnetlink
from agent.kernel.rtnetlink import Link, Route, link_of, route_of
from agent.kernel.tunnels import BOTH, Tunnel, tunnel_of
from agent.net import Family

V4, V6 = frozenset({Family.V4}), frozenset({Family.V6})
HERE, THERE = socket.inet_aton("192.0.2.1"), socket.inet_aton("192.0.2.2")
THERE6 = socket.inet_pton(socket.AF_INET6, "2001:db8::2")
BEHIND_FAMILY = 20
"""The bytes of a message's header and of the family's four."""

OURS = {
    name: value
    for name, value in vars(rtnetlink).items()
    if name.startswith(("RTM_", "RTMGRP_", "RTN_", "IFF_", "IFLA_", "IFA_", "RTA_"))
}


def attributes_of(layout: Any) -> dict[str, int]:
    """Return the numbers of a message's attributes in pyroute2: their places, where it writes none."""
    entries = enumerate(layout.nla_map)
    return {entry[-2]: entry[0] if len(entry) == 3 else place for place, entry in entries}


THEIRS: Mapping[str, int] = {
    **vars(rtnl),
    **rtnl.rtypes,
    **vars(flags),
    **attributes_of(ifinfmsg),
    **attributes_of(ifinfmsg.ifinfo),
    **attributes_of(ifinfmsg.ifinfo.bridge_data),
    **attributes_of(ifaddrmsg),
    **attributes_of(rtmsg),
}


@pytest.mark.parametrize("name", OURS)
def test_numbers_are_the_kernels(name: str) -> None:
    assert OURS[name] == THEIRS[name]


def test_those_of_every_netlink_are() -> None:
    assert netlink_api.NLA_F_NESTED == netlink.NESTED
    assert netlink_api.NLA_F_NET_BYTEORDER == netlink.NET_ORDER
    assert netlink_api.NLM_F_EXCL == netlink.F_EXCL
    assert netlink_api.NETLINK_GET_STRICT_CHK == netlink._NETLINK_GET_STRICT_CHK
    assert netlink_api.NETLINK_LISTEN_ALL_NSID == podlinks._LISTEN_ALL_NSID


Attributes = Sequence[tuple[str, object]]


def link(*attributes: tuple[str, object], kind: str = "", data: Attributes = (), up: bool = True) -> Link:
    """Return what is read of an interface that pyroute2 encodes."""
    message = ifinfmsg()
    message["index"], message["flags"] = 7, flags.IFF_UP if up else 0
    info: list[tuple[str, object]] = [("IFLA_INFO_KIND", kind)] if kind else []
    info += [("IFLA_INFO_DATA", {"attrs": list(data)})] if data else []
    told = [("IFLA_IFNAME", "eth0"), *attributes]
    message["attrs"] = [*told, ("IFLA_LINKINFO", {"attrs": info})] if info else told
    message.encode()
    return link_of(bytes(message.data)[BEHIND_FAMILY:])


def test_an_interface() -> None:
    assert link() == Link(7, "eth0")
    assert link(up=False) == Link(7, "eth0", up=False)
    assert link(("IFLA_MASTER", 3), ("IFLA_LINK", 2), kind="vlan") == Link(7, "eth0", "vlan", 3, 2)
    assert link(("IFLA_LINK", 2), ("IFLA_LINK_NETNSID", 0), kind="veth") == Link(7, "eth0", "veth", 0, 2, 0)
    assert link(("IFLA_OPERSTATE", "UP")) == Link(7, "eth0", carrying=True)
    assert link(("IFLA_OPERSTATE", "UNKNOWN")) == Link(7, "eth0")


@pytest.mark.parametrize(
    ("kind", "data", "found"),
    [
        ("vxlan", [("IFLA_VXLAN_PORT", 4789)], Tunnel("eth0", "vxlan", BOTH, frozenset({4789}))),
        (
            "vxlan",
            [("IFLA_VXLAN_PORT", 4789), ("IFLA_VXLAN_GROUP", "192.0.2.2")],
            Tunnel("eth0", "vxlan", V4, frozenset({4789}), remote=THERE),
        ),
        (
            "vxlan",
            [("IFLA_VXLAN_PORT", 1), ("IFLA_VXLAN_GROUP6", "2001:db8::2")],
            Tunnel("eth0", "vxlan", V6, frozenset({1}), remote=THERE6),
        ),
        ("vxlan", [("IFLA_VXLAN_LOCAL", "192.0.2.1")], Tunnel("eth0", "vxlan", V4, frozenset({8472}))),
        ("vxlan", [("IFLA_VXLAN_LOCAL6", "2001:db8::1")], Tunnel("eth0", "vxlan", V6, frozenset({8472}))),
        (
            "vxlan",
            [("IFLA_VXLAN_LOCAL", "192.0.2.1"), ("IFLA_VXLAN_COLLECT_METADATA", 1)],
            Tunnel("eth0", "vxlan", BOTH, frozenset({8472})),
        ),
        (
            "geneve",
            [("IFLA_GENEVE_REMOTE", "192.0.2.2"), ("IFLA_GENEVE_PORT", 6000)],
            Tunnel("eth0", "geneve", V4, frozenset({6000}), remote=THERE),
        ),
        (
            "geneve",
            [("IFLA_GENEVE_REMOTE6", "2001:db8::2")],
            Tunnel("eth0", "geneve", V6, frozenset({6081}), remote=THERE6),
        ),
        (
            "gre",
            [("IFLA_GRE_LOCAL", "192.0.2.1"), ("IFLA_GRE_REMOTE", "192.0.2.2")],
            Tunnel("eth0", "gre", V4, protocols=frozenset({47}), remote=THERE),
        ),
        (
            "ipip",
            [("IFLA_IPIP_LOCAL", "192.0.2.1"), ("IFLA_IPIP_REMOTE", "192.0.2.2")],
            Tunnel("eth0", "ipip", V4, protocols=frozenset({4, 137}), remote=THERE),
        ),
        (
            "sit",
            [("IFLA_SIT_REMOTE", "192.0.2.2")],
            Tunnel("eth0", "sit", V4, protocols=frozenset({4, 41, 137}), remote=THERE),
        ),
        (
            "ip6tnl",
            [("IFLA_IP6TNL_REMOTE", "2001:db8::2")],
            Tunnel("eth0", "ip6tnl", V6, protocols=frozenset({4, 41, 137}), remote=THERE6),
        ),
        (
            "ip6gre",
            [("IFLA_IP6GRE_REMOTE", "2001:db8::2")],
            Tunnel("eth0", "ip6gre", V6, protocols=frozenset({47}), remote=THERE6),
        ),
    ],
)
def test_a_tunnel(kind: str, data: Attributes, found: Tunnel) -> None:
    told = link(kind=kind, data=data)
    assert tunnel_of(told.name, told.kind, told.data, up=told.up, elsewhere=False) == found


def route(*attributes: tuple[str, object], kind: str = "unicast", family: int = socket.AF_INET) -> Route:
    """Return what is read of a route that pyroute2 encodes."""
    message = rtmsg()
    message["family"], message["type"] = family, rtnl.rt_type[kind]
    message["attrs"] = list(attributes)
    message.encode()
    return route_of(bytes(message.data)[BEHIND_FAMILY:])


def hop(interface: int, gateway: str) -> dict[str, object]:
    return {"oif": interface, "attrs": [("RTA_GATEWAY", gateway)]}


def test_a_route() -> None:
    to = ("RTA_DST", "192.0.2.1")
    assert route(("RTA_OIF", 3)) == Route(b"", (3,), direct=True)
    assert route(to, ("RTA_OIF", 3)) == Route(HERE, (3,), direct=True)
    assert route(to, ("RTA_OIF", 3), ("RTA_GATEWAY", "192.0.2.2")) == Route(HERE, (3,), direct=False)
    assert route(to, ("RTA_OIF", 3), kind="local").interfaces == ()
    assert route(to, kind="blackhole").interfaces == ()
    many = ("RTA_MULTIPATH", [hop(3, "192.0.2.2"), hop(4, "192.0.2.3")])
    assert route(to, many) == Route(HERE, (3, 4), direct=False)
    six = route(("RTA_DST", "2001:db8::2"), ("RTA_OIF", 3), family=socket.AF_INET6)
    assert six == Route(THERE6, (3,), direct=True)
